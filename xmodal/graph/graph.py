"""The modality graph: which teacher is lifted into what, and distilled into which student.

A YAML file is the constructor call of `Graph`: `nodes`, and under `encode`, `lift` and `distill`
the edges, keyed by an arrow. A graph that exists has been checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmodal.config.problems import ConfigReportError
from xmodal.config.reader import read_yaml, write_yaml
from xmodal.config.validation import dump
from xmodal.edges import VERBS, Op
from xmodal.graph.check import check
from xmodal.graph.file import read_graph
from xmodal.graph.parts import (
    GRAPH_NAME,
    Cells,
    Edge,
    Grid,
    Node,
    Space,
    projects,
    split_arrow,
)
from xmodal.graph.plan import Draft, Plan, spaces

if TYPE_CHECKING:
    from torch import nn

    from xmodal.teachers import Teacher
    from xmodal.values import Image, Value, Views

__all__ = ["Cells", "Edge", "Graph", "Grid", "Node", "load_graph"]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A checked modality graph.

    Attributes:
        name: Short name, also for folders and figures.
        nodes: Places where values are, by name.
        encode: Networks, by arrow (`cameras -> maps`): frozen teachers, then students.
        lift: Geometry without weights, by arrow.
        distill: Losses, by arrow from teacher to student.

    Raises:
        ConfigError: With all that is wrong, if the parts do not make a graph.
    """

    name: str
    nodes: Mapping[str, Node]
    encode: Mapping[str, Op] = field(default_factory=dict[str, Op])
    lift: Mapping[str, Op] = field(default_factory=dict[str, Op])
    distill: Mapping[str, Op] = field(default_factory=dict[str, Op])

    def __post_init__(self) -> None:
        plan = Plan(nodes=dict(self.nodes), drafts=list(self._drafts()))
        self._check_texts(plan)
        if not plan.problems:
            check(plan)
        if plan.problems:
            raise ConfigReportError(f"graph {self.name!r}", plan.problems)
        object.__setattr__(self, "nodes", dict(self.nodes))
        for verb in VERBS:
            edges = {e.key: e.op for e in self.edges if e.verb == verb}
            object.__setattr__(self, verb, edges)

    def _check_texts(self, plan: Plan) -> None:
        if GRAPH_NAME.fullmatch(self.name) is None:
            fix = "write a short name, such as kitchen"
            plan.note(("name",), "letters, digits, _ and -", repr(self.name), fix)
        for verb in VERBS:
            for key in getattr(self, verb):
                if split_arrow(key) is None:
                    plan.note((verb, key), "an arrow `a, b -> c`", f"`{key}`", "write an arrow")

    def _drafts(self) -> Iterator[Draft]:
        for verb in VERBS:
            edges: Mapping[str, Op] = getattr(self, verb)
            for key, op in edges.items():
                arrow = split_arrow(key)
                if arrow is not None:
                    yield Draft(verb=verb, key=key, sources=arrow[0], target=arrow[1], op=op)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All edges in the order of the file: encode, lift, distill."""
        return tuple(
            Edge(verb=d.verb, sources=d.sources, target=d.target, op=d.op)
            for d in self._drafts()
            if d.op is not None
        )

    def order(self) -> tuple[Edge, ...]:
        """Edges that make values (encode and lift), each after those that it depends on."""
        makers = {edge.target: edge for edge in self.edges if edge.verb != "distill"}
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for edge in makers.values():
            sorter.add(edge.target, *edge.sources)
        return tuple(makers[name] for name in sorter.static_order() if name in makers)

    def losses(self) -> tuple[Edge, ...]:
        """Distillation edges in the order of the file."""
        return tuple(edge for edge in self.edges if edge.verb == "distill")

    def teachers(self) -> dict[str, Edge]:
        """Edges with a frozen teacher, by the node they make."""
        return {edge.target: edge for edge in self.order() if edge.is_teacher}

    def students(self) -> dict[str, Edge]:
        """Edges with a network that is trained, by the node they make."""
        return {e.target: e for e in self.order() if e.verb == "encode" and e.has_weights}

    def sensors(self) -> dict[str, Node]:
        """Nodes that no edge makes: the dataset gives them."""
        made = {edge.target for edge in self.edges if edge.verb != "distill"}
        return {name: node for name, node in self.nodes.items() if name not in made}

    def frozen_nodes(self) -> tuple[str, ...]:
        """Nodes that depend on frozen parts alone, in order: what can be computed once and kept."""
        trained: set[str] = set()
        frozen: list[str] = []
        for edge in self.order():
            if edge.has_weights or trained & set(edge.sources):
                trained.add(edge.target)
            else:
                frozen.append(edge.target)
        return tuple(frozen)

    def space(self, name: str) -> Space | None:
        """The space of a node's rows; of a student, what its teachers' rows are.

        Teachers that a learned projection meets do not count: the projection has that space. A
        teacher that is a student itself has the space of its own teachers. None when it cannot be
        known before the weights are read, teachers differ, or all are projected.
        """
        plan = Plan(nodes=self.nodes, drafts=list(self._drafts()))
        students, nodes = self.students(), [name]
        for node in nodes:  # grows while it is read: students may teach each other in a circle
            if node == name or node in students:
                direct = [e for e in self.losses() if e.target == node and not projects(e.op)]
                nodes += [s for edge in direct for s in edge.sources if s not in nodes]
        found: set[Space] = {space for node in nodes for _, space in spaces(plan, node)}
        return found.pop() if len(found) == 1 else None

    def build_nets(self, num_rows: int | None = None) -> dict[str, nn.Module]:
        """New modules with random weights: students by node, learned losses by arrow.

        Args:
            num_rows: Points or splats of the one scene of a run, for students whose weights belong
                to them.
        """
        nets: dict[str, nn.Module] = {}
        for edge in self.edges:
            if not edge.has_weights:
                continue
            node = self.nodes[edge.target]
            offers: dict[str, object] = {
                "channels": node.channels,
                "space": self.space(edge.target),
                "num_rows": num_rows,
                "source_channels": tuple(self.nodes[name].channels for name in edge.sources),
            }
            if edge.verb == "distill":
                offers["teacher_channels"] = self.nodes[edge.sources[0]].channels
                offers["student"] = nets.get(edge.target)
                offers["teachers"] = tuple(nets.get(name) for name in edge.sources)
            net = _build(edge.op, offers)
            if net is not None:
                nets[edge.target if edge.verb == "encode" else edge.key] = net
        return nets

    def run(
        self,
        values: Mapping[str, Value | Views[Any]],
        nets: Mapping[str, nn.Module] | None = None,
        teachers: Mapping[str, Teacher] | None = None,
        *,
        targets: Sequence[str] | None = None,
        wrap: Callable[[Edge, Teacher, Views[Image]], Views[Any]] | None = None,
        extras: Callable[[Edge], Mapping[str, Any]] | None = None,
    ) -> dict[str, Value | Views[Any]]:
        """Compute nodes from given ones; a node that is given is never computed.

        Args:
            values: Sensors by node name, and whatever else exists already.
            nets: Modules of students by node name. Without one, its node is left out.
            teachers: Loaded teachers by the node they make; the others load when they are needed.
            targets: The nodes wanted; all that can be computed if None.
            wrap: Called instead of a teacher's op with the edge, the teacher and the lazy views,
                so that the caller can keep the teacher's output on disk.
            extras: Gives the keyword-only arguments of an op's call, such as a buffer or a
                progress bar; an op that does not take one never gets it.

        Returns:
            The given and the computed values, by node name.

        Raises:
            DataError: If a sensor or a module that a target needs is not given.
        """
        from xmodal.graph.execution import Execution

        run = Execution(
            graph=self, nets=nets or {}, teachers=teachers or {}, wrap=wrap, extras=extras
        )
        return run(values, targets)

    def plain(self) -> dict[str, Any]:
        """The graph as plain data, every setting written out."""
        data: dict[str, Any] = {"name": self.name, "nodes": {}}
        for name, node in self.nodes.items():
            data["nodes"][name] = {k: v for k, v in dump(node).items() if v is not None}
        for verb in VERBS:
            edges: Mapping[str, Op] = getattr(self, verb)
            if edges:
                data[verb] = {key: {"op": op.op} | dump(op) for key, op in edges.items()}
        return data

    def to_yaml(self) -> str:
        """The graph as a YAML file; `from_yaml` of it is this graph."""
        return write_yaml(self.plain())

    @classmethod
    def from_yaml(cls, text: str, source: str = "graph.yaml") -> Graph:
        """Make a graph from the text of a YAML file; `source` names it in messages.

        Raises:
            ConfigError: With all mistakes, if there are any.
        """
        from xmodal.config.reader import parse_yaml

        return _from_document(parse_yaml(text, source))

    def upstream(self, name: str) -> set[str]:
        """A node and all nodes that it is made from."""
        makers = {edge.target: edge for edge in self.order()}
        found: set[str] = set()
        waiting = [name]
        while waiting:
            here = waiting.pop()
            if here not in found:
                found.add(here)
                waiting.extend(makers[here].sources if here in makers else ())
        return found

    def frozen_part(self, name: str | None = None) -> dict[str, Any]:
        """The frozen part as plain data: equal for two graphs whose lifted features are the same.

        Args:
            name: Only what this frozen node is made from; the whole frozen part if None.
        """
        frozen = set(self.frozen_nodes())
        if name is not None:
            frozen &= self.upstream(name)
        parts = self.plain()
        kept: dict[str, Any] = {verb: {} for verb in ("encode", "lift")}
        names: set[str] = set()
        for edge in self.order():
            if edge.target in frozen:
                kept[edge.verb][edge.key] = parts[edge.verb][edge.key]
                names |= {edge.target, *edge.sources}
        kept["nodes"] = {name: parts["nodes"][name] for name in sorted(names)}
        kept["encode"] = dict(sorted(kept["encode"].items()))
        kept["lift"] = dict(sorted(kept["lift"].items()))
        return kept

    def frozen_fingerprint(self, name: str | None = None) -> str:
        """SHA-256 over `frozen_part`."""
        return hashlib.sha256(write_yaml(self.frozen_part(name)).encode()).hexdigest()

    def summary(self) -> str:
        """The graph for people: sensors, then edges in the order they run, with widths."""
        lines = [f"graph {self.name}"]
        given = ", ".join(f"{name} ({node.kind})" for name, node in self.sensors().items())
        lines.append(f"  sensors  {given}")
        for edge in (*self.order(), *self.losses()):
            role = "teacher" if edge.is_teacher else "student" if edge.verb == "encode" else ""
            role = role if edge.has_weights or edge.is_teacher else ""
            what = f"{edge.key}: {edge.op.op}"
            node = self.nodes[edge.target]
            width = f" x {node.channels}" if node.channels is not None else ""
            gives = "loss" if edge.verb == "distill" else f"{node.kind}{width}"
            if edge.verb == "distill" and getattr(edge.op, "project", "none") != "none":
                gives += ", with a projection"
            lines.append(f"  {edge.verb:<8} {what}  ->  {gives}{f', {role}' if role else ''}")
        return "\n".join(lines)


def _build(op: Any, offers: Mapping[str, object]) -> nn.Module | None:
    """Call `op.build` with those of the offered settings that it asks for."""
    import inspect

    asked = inspect.signature(op.build).parameters
    return op.build(**{name: value for name, value in offers.items() if name in asked})


def load_graph(path: str | Path) -> Graph:
    """Read a graph from a YAML file.

    Raises:
        ConfigError: With all mistakes of the file, each with its line.
    """
    return _from_document(read_yaml(path))


def _from_document(document: Any) -> Graph:
    parts, problems = read_graph(document, document.data, ())
    if problems or parts is None:
        raise ConfigReportError(document.source, problems)
    return Graph(**parts)
