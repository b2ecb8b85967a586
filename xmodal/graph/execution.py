"""Running a graph: each node from its sources, nothing twice, views lazily."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xmodal.errors import DataError
from xmodal.graph.parts import Edge
from xmodal.graph.ports import Kind, Misfit, assign, ports_of

if TYPE_CHECKING:
    from torch import nn

    from xmodal.graph.graph import Graph
    from xmodal.teachers import Teacher
    from xmodal.values import Image, Value, Views


@dataclass(frozen=True)
class Execution:
    """One way of running a graph: with these modules and teachers, and this cache."""

    graph: Graph
    nets: Mapping[str, nn.Module]
    teachers: Mapping[str, Teacher]
    wrap: Callable[[Edge, Teacher, Views[Image]], Views[Any]] | None = None
    extras: Callable[[Edge], Mapping[str, Any]] | None = None

    def __call__(
        self, values: Mapping[str, Value | Views[Any]], targets: Sequence[str] | None
    ) -> dict[str, Value | Views[Any]]:
        """Compute the targets; see `Graph.run`."""
        done = dict(values)
        needed = self._needed(done, targets)
        for edge in self.graph.order():
            if edge.target in needed and edge.target not in done:
                done[edge.target] = self._edge(edge, done)
        return done

    def _needed(self, given: Mapping[str, Any], targets: Sequence[str] | None) -> set[str]:
        makers = {edge.target: edge for edge in self.graph.order()}
        unknown = sorted(set(targets or ()) - self.graph.nodes.keys())
        if unknown:
            raise KeyError(f"graph {self.graph.name} has no nodes {unknown}")
        if targets is None:
            targets = self._possible(given)
        waiting, needed = list(targets), set[str]()
        while waiting:
            name = waiting.pop()
            if name in given or name in needed:
                continue
            if name not in makers:
                raise DataError(
                    f"graph {self.graph.name}, sensor `{name}`",
                    wanted=f"{self.graph.nodes[name].kind} from the scene",
                    got=f"only {', '.join(sorted(given)) or 'nothing'}",
                    fix="choose a scene that has this sensor, or a graph without it",
                )
            needed.add(name)
            waiting.extend(makers[name].sources)
        return needed

    def _possible(self, given: Mapping[str, Any]) -> list[str]:
        """All nodes that do not wait for a student without a module."""
        missing: set[str] = set()
        possible: list[str] = []
        for edge in self.graph.order():
            lacks = edge.has_weights and edge.target not in self.nets
            if edge.target not in given and (lacks or missing & set(edge.sources)):
                missing.add(edge.target)
            else:
                possible.append(edge.target)
        return possible

    def _edge(self, edge: Edge, done: Mapping[str, Any]) -> Any:
        ports = ports_of(type(edge.op))
        kinds: list[Kind] = [self.graph.nodes[name].kind for name in edge.sources]
        fitted = assign(ports.inputs, kinds)
        assert not isinstance(fitted, Misfit)  # the graph was checked
        arguments: list[Any] = []
        for port, mine in zip(ports.inputs, fitted, strict=True):
            inputs = [done[edge.sources[index]] for index in mine]
            arguments.extend(inputs if inputs or port.many else [port.default])
        if edge.is_teacher:
            teacher = self.teachers.get(edge.target) or self._load(edge)
            if self.wrap is not None and len(ports.inputs) == 1:
                return self.wrap(edge, teacher, arguments[0])
            return edge.op(teacher, *arguments)
        if edge.has_weights:
            return edge.op(self._net(edge), *arguments)
        return edge.op(*arguments, **self._extras(edge))

    def _extras(self, edge: Edge) -> dict[str, Any]:
        """What the caller offers for this call, as far as the op takes it."""
        if self.extras is None:
            return {}
        parameters = inspect.signature(type(edge.op).__call__).parameters.values()
        taken = {p.name for p in parameters if p.kind == p.KEYWORD_ONLY}
        return {name: given for name, given in self.extras(edge).items() if name in taken}

    def _load(self, edge: Edge) -> Teacher:
        op: Any = edge.op
        return op.teacher()

    def _net(self, edge: Edge) -> nn.Module:
        if edge.target not in self.nets:
            raise DataError(
                f"graph {self.graph.name}, student `{edge.target}`",
                wanted="its trained module",
                got=f"modules of {', '.join(sorted(self.nets)) or 'no student'}",
                fix="train the student first, or ask for frozen nodes only",
            )
        return self.nets[edge.target]
