"""From the data of a YAML file to the parts of a graph, with every mistake noted at its line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, cast

from xmodal.config.problems import Loc, Problem, nearest, one_of, show, suggest
from xmodal.config.reader import Document
from xmodal.config.validation import build
from xmodal.edges import VERBS, Op, Verb, op_class, op_names
from xmodal.graph.check import check
from xmodal.graph.parts import GRAPH_NAME, NAME, Node, split_arrow
from xmodal.graph.plan import Draft, Plan

SECTIONS = ("name", "nodes", *VERBS)


class Parts(TypedDict):
    """The arguments of `Graph`."""

    name: str
    nodes: dict[str, Node]
    encode: dict[str, Op]
    lift: dict[str, Op]
    distill: dict[str, Op]


def read_graph(document: Document, data: Any, at: Loc) -> tuple[Parts | None, list[Problem]]:
    """Read the graph that stands at a place of a document.

    Args:
        document: The file, for lines and for what the reader found wrong already.
        data: The plain data of the graph.
        at: Where it stands: `()` for a graph file.

    Returns:
        The parts of the graph, None when something is wrong, and all problems of the document
        together with those of the graph.
    """
    plan = Plan(nodes={}, drafts=[], at=at, document=document)
    if not isinstance(data, dict):
        fix = "write name, nodes, encode, lift and distill"
        plan.note((), f"a mapping with the keys {', '.join(SECTIONS)}", show(data), fix)
        return None, merge(document, plan.problems)
    sections = cast("dict[str, Any]", data)
    name = _name(plan, sections)
    nodes = _nodes(plan, sections.get("nodes"))
    drafts = [draft for verb in VERBS for draft in _edges(plan, verb, sections.get(verb))]
    plan.nodes, plan.drafts = nodes, drafts
    check(plan)
    problems = merge(document, plan.problems)
    if problems:
        return None, problems
    ops: dict[Verb, dict[str, Op]] = {verb: {} for verb in VERBS}
    for draft in drafts:
        if draft.op is not None:
            ops[draft.verb][draft.key] = draft.op
    good = {key: node for key, node in nodes.items() if node is not None}
    parts = Parts(
        name=name, nodes=good, encode=ops["encode"], lift=ops["lift"], distill=ops["distill"]
    )
    return parts, []


def merge(document: Document, problems: list[Problem]) -> list[Problem]:
    """What the reader and the checks found, without what merely follows from the reader's part."""
    broken = {problem.loc for problem in document.problems}
    return [*document.problems, *(p for p in problems if p.loc not in broken)]


def _name(plan: Plan, sections: Mapping[str, Any]) -> str:
    for key in sections:
        if key not in SECTIONS:
            got, fix = f"the unknown key `{key}`", suggest(key, SECTIONS, "remove it")
            plan.note((key,), one_of(SECTIONS), got, fix)
    name = sections.get("name")
    if not isinstance(name, str) or GRAPH_NAME.fullmatch(name) is None:
        fix = "write a short name, such as `name: kitchen`"
        plan.note(("name",), "a name of letters, digits, _ and -", show(name), fix)
    return str(name)


def _nodes(plan: Plan, section: Any) -> dict[str, Node | None]:
    if not isinstance(section, dict) or not section:
        fix = "write nodes as `cameras: {kind: image}`"
        plan.note(("nodes",), "a mapping of nodes", show(section), fix)
        return {}
    nodes: dict[str, Node | None] = {}
    for name, data in cast("dict[str, Any]", section).items():
        loc: Loc = (*plan.at, "nodes", name)
        if NAME.fullmatch(name) is None:
            fix = "write a plain name, such as `lifted`"
            plan.note(("nodes", name), "a name of letters, digits and _", f"`{name}`", fix)
        assert plan.document is not None  # read_graph set it
        nodes[name] = build(Node, data, plan.document, loc, plan.problems)
    return nodes


def _edges(plan: Plan, verb: Verb, section: Any) -> list[Draft]:
    if section is None:
        return []
    if not isinstance(section, dict):
        fix = f"write edges under {verb} as `a -> b: {{op: ...}}`"
        plan.note((verb,), "a mapping of edges", show(section), fix)
        return []
    drafts: list[Draft] = []
    for key, data in cast("dict[str, Any]", section).items():
        arrow = split_arrow(key)
        op = _op(plan, verb, key, data)
        if arrow is None:
            fix = "write `source -> target` or `a, b -> c`, with node names and an ASCII arrow"
            plan.note((verb, key), "an arrow between nodes", f"`{key}`", fix)
            continue
        drafts.append(Draft(verb=verb, key=key, sources=arrow[0], target=arrow[1], op=op))
    return drafts


def _op(plan: Plan, verb: Verb, key: str, data: Any) -> Op | None:
    loc: Loc = (verb, key)
    names = op_names(verb)
    if not isinstance(data, dict) or "op" not in data:
        got = "no `op`" if isinstance(data, dict) else show(data)
        plan.note(loc, f"an op: {{op: {one_of(names)}}}", got, f"add `op: {names[0]}`")
        return None
    settings = cast("dict[str, Any]", data)
    name = settings["op"]
    if not isinstance(name, str) or name not in names:
        got = f"the unknown op `{name}`" if isinstance(name, str) else show(name)
        plan.note((*loc, "op"), one_of(names), got, _unknown_op(verb, name, names))
        return None
    assert plan.document is not None  # read_graph set it
    return build(op_class(verb, name), settings, plan.document, (*plan.at, *loc), plan.problems)


def _unknown_op(verb: Verb, name: Any, names: tuple[str, ...]) -> str:
    if not isinstance(name, str):
        return "write the name of an op"
    if any(mark in name for mark in ".:/\\"):
        return "ops are names, never import paths; packages add them by entry points (xmodal.ops)"
    others = [other for other in VERBS if other != verb and name in op_names(other)]
    if others:
        return f"`{name}` is an op of {others[0]}; move the edge there"
    found = nearest(name, names)
    if found is not None:
        return f"did you mean `{found}`?"
    return "this release has no such op; install a package that adds it, or choose another"
