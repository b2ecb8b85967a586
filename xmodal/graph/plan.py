"""A graph while it is put together: lookups that every check and the executor need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from xmodal.config.problems import Loc, Problem
from xmodal.config.reader import Document
from xmodal.edges import Op, Verb
from xmodal.graph.parts import Cells, Grid, Node, Space, has_teacher, has_weights, op_space
from xmodal.graph.ports import SUPPORTED, Kind, grounds

Support = str | Grid | Cells


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An edge on its way into a graph: `op` is None when the file's op was wrong by itself."""

    verb: Verb
    key: str
    sources: tuple[str, ...]
    target: str
    op: Op | None


@dataclass(kw_only=True)
class Plan:
    """All parts of a graph while it is checked; `nodes` maps to None where a node was wrong."""

    nodes: Mapping[str, Node | None]
    drafts: Sequence[Draft]
    at: Loc = ()
    document: Document | None = None
    problems: list[Problem] = field(default_factory=list[Problem])

    def note(self, loc: Loc, wanted: str, got: str, fix: str) -> None:
        """Add a problem at a place given from the top of the graph."""
        place = (*self.at, *loc)
        line = None if self.document is None else self.document.line(place)
        self.problems.append(Problem(loc=place, line=line, wanted=wanted, got=got, fix=fix))

    def note_edge(self, draft: Draft, wanted: str, got: str, fix: str, *, key: str = "") -> None:
        """Add a problem of an edge, or of one key of its op where the file has that key."""
        loc: Loc = (draft.verb, draft.key)
        if key and self.document is not None and (*self.at, *loc, key) in self.document.lines:
            loc = (*loc, key)
        self.note(loc, wanted, got, fix)

    def kind(self, name: str) -> Kind | None:
        """Kind of a node; None where the node is unknown or wrong."""
        node = self.nodes.get(name)
        return None if node is None else node.kind

    def channels(self, name: str) -> int | None:
        """Width of a node's features; None where it has none or is wrong."""
        node = self.nodes.get(name)
        return None if node is None else node.channels

    @property
    def flow(self) -> list[Draft]:
        """Edges that make values: encode and lift."""
        return [draft for draft in self.drafts if draft.verb != "distill"]

    def producer(self, name: str) -> Draft | None:
        """The edge that makes a node; None for a sensor."""
        return next((draft for draft in self.flow if draft.target == name), None)

    def upstream(self, name: str) -> list[Draft]:
        """All edges that a node's value depends on."""
        found: list[Draft] = []
        waiting = [name]
        seen: set[str] = set()
        while waiting:
            here = waiting.pop()
            if here in seen:
                continue
            seen.add(here)
            made_by = self.producer(here)
            if made_by is not None:
                found.append(made_by)
                waiting.extend(made_by.sources)
        return found


def support(plan: Plan, name: str) -> Support | None:
    """What the rows of a node belong to: a sensor's node, a grid, or None when that is unknown."""
    seen: set[str] = set()
    while name not in seen:
        seen.add(name)
        node = plan.nodes.get(name)
        if node is None:
            return None
        if isinstance(node.on, (Grid, Cells)):
            return node.on
        made_by = plan.producer(name)
        if node.kind in ("embedding", "grids"):
            return "sample"  # one row, or one map, for each sample, whatever it was made of
        if node.on is not None:
            name = node.on
        elif made_by is None:
            return name
        elif node.kind in SUPPORTED:
            bare = not getattr(made_by.op, "gives_rows", True)
            # An op that gives bare geometry, such as fitted splats, makes ground of its own.
            kinds = (node.kind,) if bare else grounds(node.kind)
            same = [s for s in made_by.sources if plan.kind(s) in kinds]
            if not same:
                return name if bare else None
            name = same[0]
        elif node.kind == "frames":
            return None  # pictures of the scene, whatever stands in it
        else:
            name = made_by.sources[0]
    return None


def spaces(plan: Plan, name: str) -> Iterator[tuple[Draft, Space]]:
    """The edges that a node's rows come from, with the space that those give: teachers, mostly.

    Going up from the node, the first edge that declares a space decides; what lies above a student
    does not, because its rows are its own.
    """
    made_by = plan.producer(name)
    if made_by is None or made_by.op is None:
        return
    space = op_space(made_by.op)
    if space is not None:
        yield made_by, space
    elif not has_teacher(made_by.op) and not has_weights(made_by.op):
        for source in made_by.sources:
            yield from spaces(plan, source)
