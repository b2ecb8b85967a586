"""What makes a graph wrong, found before any tensor exists and all at once."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from xmodal.config.problems import Loc, one_of, suggest
from xmodal.edges import Verb, op_class, op_names
from xmodal.graph.distill_check import check_distill, check_students
from xmodal.graph.parts import Cells, Grid, Node, has_teacher, op_channels
from xmodal.graph.plan import Draft, Plan, support
from xmodal.graph.ports import (
    SENSORS,
    SUPPORTED,
    Kind,
    Misfit,
    Ports,
    assign,
    describe,
    gives_of,
    grounds,
    ports_of,
)

_FEATURES: tuple[Kind, ...] = (
    "feature_map", "masks", "frames", "embedding", "grids", *SUPPORTED,
)  # fmt: skip


def check(plan: Plan) -> None:
    """Note every problem of a graph in `plan.problems`."""
    _check_names(plan)
    _check_arrows(plan)
    cyclic = _check_cycle(plan)
    _check_producers(plan)
    for draft in plan.drafts:
        _check_ports(plan, draft)
        if draft.verb == "encode":
            _check_teacher(plan, draft)
        if draft.verb != "distill":
            _check_width_made(plan, draft)
    for name, node in plan.nodes.items():
        if node is not None:
            _check_support(plan, name, node)
    if not cyclic:
        check_distill(plan)
        check_students(plan)


def _check_names(plan: Plan) -> None:
    for draft in plan.drafts:
        for name in dict.fromkeys((*draft.sources, draft.target)):
            if name not in plan.nodes:
                known = list(plan.nodes)
                fix = suggest(name, known, f"declare `{name}: {{kind: ...}}` under nodes")
                plan.note_edge(draft, one_of(known), f"the unknown node `{name}`", fix)


def _check_arrows(plan: Plan) -> None:
    seen: dict[tuple[Verb, tuple[str, ...], str], Draft] = {}
    makers: dict[str, Draft] = {}
    for draft in plan.drafts:
        arrow = (draft.verb, draft.sources, draft.target)
        if arrow in seen:
            got = f"the edge again, as `{seen[arrow].key}`"
            plan.note_edge(draft, "each edge once", got, "remove one of the two")
            continue
        seen[arrow] = draft
        if len(set(draft.sources)) < len(draft.sources):
            twice = next(s for s in draft.sources if draft.sources.count(s) > 1)
            fix = "name every source once"
            plan.note_edge(draft, "different sources", f"`{twice}` more than once", fix)
        if draft.verb == "distill":
            continue
        if draft.target in makers:
            other = makers[draft.target]
            plan.note_edge(
                draft,
                f"one edge that makes `{draft.target}`",
                f"a second one, beside `{other.key}` under {other.verb}",
                "give the second result a node of its own, or remove one edge",
            )
        makers.setdefault(draft.target, draft)


def _check_cycle(plan: Plan) -> bool:
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for draft in plan.flow:
        sorter.add(draft.target, *draft.sources)
    try:
        sorter.prepare()
    except CycleError as error:
        # graphlib lists each node before those that depend on it, the first one again at the end
        path: list[str] = error.args[1]
        start = min(
            range(len(path) - 1),
            key=lambda i: (
                list(plan.nodes).index(path[i]) if path[i] in plan.nodes else len(plan.nodes)
            ),
        )
        path = [*path[start:-1], *path[: start + 1]]
        closing = next(d for d in plan.flow if d.target == path[0] and path[-2] in d.sources)
        plan.note_edge(
            closing,
            "no node that depends on itself",
            f"the cycle {' -> '.join(path)}",
            f"remove one of these edges, or let `{closing.key}` make a new node",
        )
        return True
    return False


def _check_producers(plan: Plan) -> None:
    used = {name for draft in plan.drafts for name in (*draft.sources, draft.target)}
    standing = {node.on for node in plan.nodes.values() if node and isinstance(node.on, str)}
    # a misspelt target is reported already, and meant one of the nodes that now look unmade
    misspelt = any(draft.target not in plan.nodes for draft in plan.flow)
    for name, node in plan.nodes.items():
        if node is None or (misspelt and plan.producer(name) is None and name not in used):
            continue
        produced = plan.producer(name) is not None
        if name not in used and name not in standing:
            fix = "add an edge, or remove the node"
            plan.note(("nodes", name), "a node that an edge uses", "no edge", fix)
        elif not produced and node.kind not in SENSORS:
            plan.note(
                ("nodes", name),
                f"an edge that makes `{name}`",
                f"none; {node.kind} comes from no sensor",
                f"add `... -> {name}: {{op: ...}}` under encode or lift",
            )
        elif not produced and not misspelt and (node.channels is not None or node.on is not None):
            what = "channels" if node.channels is not None else "on"
            plan.note(
                ("nodes", name),
                f"an edge that makes `{name}`, as it has `{what}`",
                "none",
                f"add `... -> {name}: {{op: ...}}`; for a sensor, write {{kind: {node.kind}}}",
            )
        elif produced and node.channels is None and _has_rows(plan, name, node.kind):
            fix = f"write {{kind: {node.kind}, channels: ...}}"
            plan.note(("nodes", name), "`channels`, the width of its features", "nothing", fix)
        elif node.channels is not None and node.kind not in _FEATURES:
            loc = ("nodes", name, "channels")
            plan.note(loc, f"no `channels` on {node.kind}", str(node.channels), "remove it")


def _has_rows(plan: Plan, name: str, kind: Kind) -> bool:
    """Whether a node that an edge makes has features; an op may give bare points, and says so."""
    made_by = plan.producer(name)
    return kind in _FEATURES and getattr(getattr(made_by, "op", None), "gives_rows", True)


def _ports(draft: Draft) -> Ports | None:
    return None if draft.op is None else ports_of(type(draft.op))


def _check_ports(plan: Plan, draft: Draft) -> None:
    ports = _ports(draft)
    names = (*draft.sources, draft.target) if draft.verb == "distill" else draft.sources
    kinds: list[Kind | None] = [plan.kind(name) for name in names]
    if ports is None or draft.op is None or None in kinds or plan.kind(draft.target) is None:
        return
    known: list[Kind] = [kind for kind in kinds if kind is not None]
    name = draft.op.op
    fits = not isinstance(assign(ports.inputs, known), Misfit)
    if draft.verb == "distill" and not fits and not set(known[:-1]) <= {known[-1]}:
        return  # unequal kinds; the check of supports names the lift that is missing
    if draft.verb == "distill" and any(d.op is None for n in names for d in plan.upstream(n)):
        return  # an op that does not exist is reported; what it would have given is a guess
    fitted = assign(ports.inputs, known)
    if isinstance(fitted, Misfit):
        if fitted.source is None:
            got, fix = f"nothing for `{fitted.port}`", "add the source to the arrow"
            got = f"{', '.join(f'`{n}` ({k})' for n, k in zip(names, known, strict=True))}, {got}"
        else:
            got = f"`{names[fitted.source]}`, which is {known[fitted.source]}"
            fix = _other_op(plan, draft, known) or "use a node of one of these kinds"
        plan.note_edge(draft, f"for `{name}`: {describe(ports.inputs)}", got, fix)
        return
    target = plan.kind(draft.target)
    gives = gives_of(draft.op)
    if draft.verb != "distill" and gives and target not in gives:
        plan.note_edge(
            draft,
            f"a target of kind {' or '.join(gives)}, which `{name}` gives",
            f"`{draft.target}`, which is {target}",
            _other_op(plan, draft, known) or f"make `{draft.target}` {{kind: {gives[0]}}}",
        )


def _other_op(plan: Plan, draft: Draft, kinds: list[Kind]) -> str | None:
    """Advice: an op of the same verb that fits this arrow as it stands."""
    target = plan.kind(draft.target)
    for name in op_names(draft.verb):
        ports = ports_of(op_class(draft.verb, name))
        gives = draft.verb == "distill" or target in ports.gives
        if gives and not isinstance(assign(ports.inputs, kinds), Misfit):
            return f"use {{op: {name}}}, or a node of one of these kinds"
    return None


def _check_teacher(plan: Plan, draft: Draft) -> None:
    if (
        draft.op is not None
        and has_teacher(draft.op)
        and getattr(draft.op, "frozen", True) is False
    ):
        got, fix = "frozen: false", "write `frozen: true`; to train a network, use a student op"
        plan.note_edge(draft, "a frozen teacher", got, fix, key="frozen")


def _check_width_made(plan: Plan, draft: Draft) -> None:
    """Channels of a node against what the op gives, or against what a lift carries over."""
    target = plan.channels(draft.target)
    if draft.op is None or target is None:
        return
    loc: Loc = ("nodes", draft.target, "channels")
    given = op_channels(draft.op)
    if given is not None and given != target:
        wanted = f"channels: {given}, the width of `{draft.op.op}`"
        plan.note(loc, wanted, str(target), f"write channels: {given}")
        return
    if draft.verb != "lift" or given is not None:
        return
    widths = {s: w for s in draft.sources if (w := plan.channels(s)) is not None}
    if all(plan.kind(source) == "labels" for source in draft.sources):
        return  # as wide as the data has classes
    if not widths and all(plan.kind(source) is not None for source in draft.sources):
        fix = "add the node that a teacher makes to the sources"
        got = f"none among {', '.join(draft.sources)}"
        plan.note_edge(draft, "a source with features to lift", got, fix)
    elif widths and target not in widths.values():
        source, width = next(iter(widths.items()))
        wanted = f"channels: {width}, as `{source}` has: a lift keeps the width"
        plan.note(loc, wanted, str(target), f"write channels: {width}")


def _check_support(plan: Plan, name: str, node: Node) -> None:
    loc: Loc = ("nodes", name, "on")
    made_by = plan.producer(name)
    if node.on is None:
        if made_by is not None and node.kind in SUPPORTED and support(plan, name) is None:
            same = [s for s in made_by.sources if plan.kind(s) in grounds(node.kind)]
            unknown = any(plan.nodes.get(s) is None for s in made_by.sources)
            if not same and not unknown:
                fix = "add `on: NODE` or, for a grid, `on: {range_m: ..., cell_m: ...}`"
                wanted = "`on`, the geometry that its rows belong to"
                plan.note(("nodes", name), wanted, "nothing", fix)
        return
    if node.kind not in SUPPORTED:
        wanted = f"no `on` on {node.kind}: only {', '.join(SUPPORTED)} stand on a geometry"
        plan.note(loc, wanted, "`on`, which would have no effect", "remove it")
        return
    grid = {"bev": Grid, "voxels": Cells}.get(node.kind)
    if not isinstance(node.on, str):
        if type(node.on) is not grid:
            wanted = "{range_m, cell_m}" if grid is Grid else "{voxel_m}" if grid else "a node"
            fix = "a bird's-eye grid has range_m and cell_m, a voxel grid voxel_m"
            plan.note(loc, wanted, f"{type(node.on).__name__.lower()} settings", fix)
        elif isinstance(node.on, Cells) and made_by is not None:
            own = getattr(made_by.op, "voxel_m", node.on.voxel_m)
            if made_by.verb == "lift" and own != node.on.voxel_m:
                wanted = f"voxel_m: {own}, as `{made_by.key}` makes"
                plan.note((*loc, "voxel_m"), wanted, str(node.on.voxel_m), f"write {own}")
        return
    _check_named_support(plan, name, node.on)


def _check_named_support(plan: Plan, name: str, on: str) -> None:
    loc: Loc = ("nodes", name, "on")
    node = plan.nodes.get(name)
    kinds: tuple[Kind, ...] = () if node is None else grounds(node.kind)
    if on not in plan.nodes:
        candidates = [other for other in plan.nodes if other != name and plan.kind(other) in kinds]
        fix = suggest(on, candidates or list(plan.nodes), "name a node of this graph")
        plan.note(loc, one_of(candidates or plan.nodes), f"the unknown node `{on}`", fix)
        return
    if plan.nodes[on] is None:
        return
    base = support(plan, on)
    if on == name or base is None:
        wanted = "a geometry that does not depend on this node"
        plan.note(loc, wanted, f"`{on}`, which leads back here", "name the sensor's node")
        return
    if plan.kind(on) not in kinds:
        fix = "name a node of the same kind, or give a grid"
        got = f"`{on}`, which is {plan.kind(on)}"
        plan.note(loc, f"a node of kind {' or '.join(kinds)}", got, fix)
        return
    made_by = plan.producer(name)
    if made_by is None or any(plan.nodes.get(s) is None for s in made_by.sources):
        return
    geometries = {s: support(plan, s) for s in made_by.sources if plan.kind(s) in kinds}
    if base not in geometries.values():
        have = ", ".join(f"`{s}`" for s in geometries) or f"no {' or '.join(kinds)}"
        plan.note(
            loc,
            f"the geometry of a source of `{made_by.key}`",
            f"`{on}`, while the edge works on {have}",
            f"add `{on}` to the sources"
            + (f", or write on: {next(iter(geometries))}" if geometries else ""),
        )
