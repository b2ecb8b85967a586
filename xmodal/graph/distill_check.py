"""What makes a distillation wrong: teacher and student that do not meet row by row."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from xmodal.config.validation import adapter
from xmodal.edges import op_class, op_names
from xmodal.graph.parts import Cells, Grid, has_weights, projects
from xmodal.graph.plan import Draft, Plan, Support, spaces, support
from xmodal.graph.ports import SENSORS, Kind, Misfit, assign, ports_of


def check_distill(plan: Plan) -> None:
    """Note distill edges whose ends differ in kind, support, width or space."""
    for draft in plan.drafts:
        if draft.verb != "distill":
            continue
        if draft.target in draft.sources:
            fix = "name the lifted teacher as the source"
            plan.note_edge(draft, "a teacher and a student", "a node that teaches itself", fix)
            continue
        for source in draft.sources:
            if plan.nodes.get(source) is not None and plan.nodes.get(draft.target) is not None:
                _check_pair(plan, draft, source)


def _check_pair(plan: Plan, draft: Draft, source: str) -> None:
    teacher_kind, student_kind = plan.kind(source), plan.kind(draft.target)
    here, there = support(plan, source), support(plan, draft.target)
    if teacher_kind != student_kind and not _takes_both(draft, teacher_kind, student_kind):
        got = f"`{source}` is {teacher_kind}, `{draft.target}` is {student_kind}"
        plan.note_edge(draft, "equal kinds", got, _lift_to_insert(plan, source, draft.target))
        return
    if not _draws(plan, draft):
        return
    if here is not None and there is not None and here != there:
        got = f"`{source}` on {_named(here)}, `{draft.target}` on {_named(there)}"
        fix = _lift_to_insert(plan, source, draft.target)
        plan.note_edge(draft, "equal supports, row by row", got, fix)
        return
    width, own = plan.channels(source), plan.channels(draft.target)
    if width is None and plan.producer(source) is None:
        fix = "distill from a node that a teacher or a lift makes"
        plan.note_edge(draft, "a teacher with features", f"`{source}`, a sensor", fix)
    elif width is not None and own is not None and width != own and not projects(draft.op):
        plan.note_edge(
            draft,
            "equal channels, or a projection between them",
            f"`{source}` has {width}, `{draft.target}` has {own}",
            f"write channels: {width} at `{draft.target}`, or add `project: linear` to this edge",
        )
    _check_space(plan, draft, source)


def _draws(plan: Plan, draft: Draft) -> bool:
    """Whether the student shapes splats where the loss renders them; noted if it does not."""
    made_by = plan.producer(draft.target)
    if not getattr(draft.op, "draws", False) or made_by is None or made_by.op is None:
        return True
    if getattr(made_by.op, "draws", False):
        return True
    plan.note_edge(
        draft,
        f"a student that shapes splats, as `{getattr(draft.op, 'op', '')}` renders them",
        f"`{draft.target}`, made by `{made_by.op.op}`",
        f"make `{draft.target}` with {{op: gaussian_head}} or {{op: splat_scene}}",
    )
    return False


def _takes_both(draft: Draft, teacher: Kind | None, student: Kind | None) -> bool:
    """Whether the loss is made for a teacher of another kind, such as sets of the student's points.

    A loss from one kind to another says so in its ports; most have the same kind on both.
    """
    if draft.op is None or teacher is None or student is None:
        return False
    ports = ports_of(type(draft.op)).inputs
    if len(ports) != 2 or ports[0].kinds == ports[1].kinds:
        return False
    return teacher in ports[0].kinds and student in ports[1].kinds


def _check_space(plan: Plan, draft: Draft, source: str) -> None:
    takes: tuple[str, ...] | None = getattr(draft.op, "teacher_spaces", None)
    if draft.op is None or takes is None:
        return
    for teacher, space in spaces(plan, source):
        if space in takes:
            continue
        name = getattr(teacher.op, "op", "")
        fits = [other for other in op_names("distill") if space in _default_spaces(other)]
        fix = f"use {{op: {fits[0]}}}" if fits else "use another loss"
        if hasattr(draft.op, f"allow_{space}"):
            fix += f", or add `allow_{space}: true` if you mean it"
        plan.note_edge(
            draft,
            f"teacher rows in the space {' or '.join(takes)} for `{draft.op.op}`",
            f"{space} rows of `{name}`",
            fix,
            key="op",
        )


def _default_spaces(name: str) -> tuple[str, ...]:
    """Spaces that a distill op takes when nothing but its name is given."""
    try:
        op = adapter(op_class("distill", name)).validate_python({"op": name})
    except ValidationError:
        return ()
    return getattr(op, "teacher_spaces", ())


def _named(where: Support) -> str:
    if isinstance(where, Grid):
        return f"the grid of {where.range_m} m in cells of {where.cell_m} m"
    if isinstance(where, Cells):
        return f"voxels of {where.voxel_m} m"
    return f"`{where}`"


def _lift_to_insert(plan: Plan, source: str, student: str) -> str:
    """The line to add under `lift` that would bring the teacher to the student's support."""
    target = plan.kind(student)
    there = support(plan, student)
    # what can be lifted: the teacher itself, or else what the teacher was lifted from
    made_by = plan.producer(source)
    starts = [source, *(made_by.sources if made_by is not None else ())]
    geometry = [there] if isinstance(there, str) and there in plan.nodes else []
    helpers = [n for n in plan.nodes if plan.kind(n) in SENSORS and plan.kind(n) != target]
    for start in starts:
        for name in op_names("lift"):
            ports = ports_of(op_class("lift", name))
            if target not in ports.gives or plan.kind(start) is None or start in geometry:
                continue
            if any(port.many for port in ports.inputs):
                continue  # weighs teachers that stand on the same points already
            extra = [n for n in helpers if n not in (start, *geometry)]
            for sources in _tries(start, extra, geometry):
                kinds: list[Kind] = [kind for n in sources if (kind := plan.kind(n)) is not None]
                if not isinstance(assign(ports.inputs, kinds), Misfit):
                    new = f"{start}_on_{geometry[0] if geometry else student}"
                    return (
                        f"lift the teacher first: add `{', '.join(sources)} -> {new}: "
                        f"{{op: {name}}}` under lift, and distill from `{new}`"
                    )
    return (
        f"add a lift from `{source}` to {target} on the geometry of `{student}`, and distill that"
    )


def _tries(start: str, extra: list[str], geometry: list[str]) -> Iterator[list[str]]:
    """Sources to try for a lift: with all sensors, with one of them, with none."""
    yield [start, *extra, *geometry]
    for one in extra:
        yield [start, one, *geometry]
    yield [start, *geometry]


def check_students(plan: Plan) -> None:
    """Note students without a teacher, and distill edges without anything to train."""
    taught = [draft for draft in plan.drafts if draft.verb == "distill"]
    reached = {made_by.target for draft in taught for made_by in plan.upstream(draft.target)}
    for draft in plan.flow:
        if draft.target not in plan.nodes or draft.target in reached:
            continue
        if draft.op is not None and has_weights(draft.op):
            if any(d.target not in plan.nodes for d in taught):
                continue  # a misspelt target is reported already, and likely meant this one
            plan.note_edge(
                draft,
                f"a teacher for the student `{draft.target}`",
                "no distill edge that reaches it",
                f"add `TEACHER -> {draft.target}: {{op: ...}}` under distill",
            )
    _check_one_space(plan, taught)
    for draft in taught:
        above = plan.upstream(draft.target)
        node = plan.nodes.get(draft.target)
        unmade = node is not None and node.channels is not None and not above
        if node is None or unmade or any(d.op is None for d in above):
            continue  # reported already, as a node or an op that is wrong
        if not any(has_weights(d.op) for d in above):
            plan.note_edge(
                draft,
                "a student with weights as the target",
                f"`{draft.target}`, which has nothing to train",
                f"make `{draft.target}` with a student: add `... -> {draft.target}: "
                "{op: sparse_unet}` under encode",
            )


def _check_one_space(plan: Plan, taught: list[Draft]) -> None:
    """A student's head gives rows in one space, so its teachers must agree on it."""
    first: dict[str, tuple[Draft, str]] = {}
    for draft in taught:
        if projects(draft.op):
            continue
        for source in draft.sources:
            for teacher, space in spaces(plan, source):
                other, known = first.setdefault(draft.target, (teacher, space))
                if known != space:
                    plan.note_edge(
                        draft,
                        f"teachers of `{draft.target}` that agree on the space of their rows",
                        f"{space} rows of `{teacher.target}`, {known} rows of `{other.target}`",
                        "give each teacher a student of its own, or add a projection",
                    )
