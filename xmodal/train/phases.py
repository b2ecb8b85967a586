"""Stages of a training, with the names in them looked up and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from xmodal.errors import UsageError
from xmodal.train.data import Distill
from xmodal.train.options import Average, Stage, TrainOptions

# First parts of names in checkpoints that are not a student's.
_RESERVED = ("average", "balance", "ema", "optimiser", "rng")


@runtime_checkable
class Learner(Protocol):
    """A network in training, of points or of recordings.

    Attributes:
        op: Its op.
        net: Its module.
        cloud: What it sees, in words; students of the same have rows that belong together.
        sources: The nodes that it sees; other students may be among them.
        warm: Whether its weights mean something already.
    """

    @property
    def op(self) -> Any: ...  # noqa: D102 - said above

    @property
    def net(self) -> Any: ...  # noqa: D102

    @property
    def cloud(self) -> str: ...  # noqa: D102

    @property
    def sources(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def warm(self) -> bool: ...  # noqa: D102


def with_sources(names: Iterable[str], students: Mapping[str, Learner]) -> frozenset[str]:
    """Students and all other students whose rows they are made from."""
    found, waiting = set[str](), [name for name in names if name in students]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(s for s in students[name].sources if s in students)
    return frozenset(found)


@dataclass(frozen=True)
class Phase:
    """What happens in a stage.

    Attributes:
        stage: The stage as it was given.
        first: Its first step, counted from 0.
        edges: Indices of the distill edges that count.
        trained_students: Students that learn.
        trained_edges: Indices of the edges whose own networks learn.
    """

    stage: Stage
    first: int
    edges: tuple[int, ...]
    trained_students: frozenset[str]
    trained_edges: frozenset[int]


def plan_phases(
    students: Mapping[str, Learner],
    losses: Sequence[Distill],
    averages: Mapping[str, Average],
    options: TrainOptions,
) -> list[Phase]:
    """Look up the names of all stages.

    Raises:
        UsageError: If a stage names what there is not, or what has no effect in it; if a student
            has no teacher; if a moving average does not fit its student or its edges.
    """
    taught = {edge.student for edge in losses}
    if not students or taught - students.keys() or students.keys() - with_sources(taught, students):
        raise UsageError(
            "training",
            wanted="a distillation edge for every student",
            got=f"students {sorted(students)}, edges to {sorted(taught)}",
            fix="give every student a teacher, or leave it out",
        )
    _check_names(students, losses, averages)
    phases: list[Phase] = []
    first = 0
    for stage in options.all_stages:
        phases.append(_phase(stage, first, students, losses))
        first += stage.steps
    return phases


def _phase(
    stage: Stage, first: int, students: Mapping[str, Learner], losses: Sequence[Distill]
) -> Phase:
    known = {edge.key for edge in losses}
    for name in stage.edges:
        if name not in known:
            raise _wrong(stage, f"edges among {sorted(known)}", name, "name an edge as it is drawn")
    edges = tuple(i for i, e in enumerate(losses) if not stage.edges or e.key in stage.edges)
    active = with_sources((losses[i].student for i in edges), students)
    keys = {losses[i].key for i in edges if losses[i].net is not None}
    _check_heirs(stage, students)
    for name in stage.train:
        if name not in active | keys:
            wanted = f"names among {sorted(active | keys)}, which an edge of this stage can train"
            exists = name in known | set(students)
            got = f"{name}, which no edge of this stage trains" if exists else name
            raise _wrong(stage, wanted, got, "name it in another stage, or activate its edge")
    everything = not stage.train
    trained_students = frozenset(n for n in active if everything or n in stage.train)
    trained_edges = frozenset(
        i
        for i in edges
        if losses[i].net is not None and (everything or losses[i].key in stage.train)
    )
    modules = [students[n].net for n in trained_students]
    modules += [net for i in trained_edges if (net := losses[i].net) is not None]
    if not any(p.requires_grad for module in modules for p in module.parameters()):
        raise _wrong(stage, "something that can learn", "no trainable weights", "name a student")
    return Phase(stage, first, edges, trained_students, trained_edges)


def _check_heirs(stage: Stage, students: Mapping[str, Learner]) -> None:
    for heir, student in stage.inherit.items():
        for name in (heir, student):
            if name not in students:
                raise _wrong(stage, f"students among {sorted(students)}", name, "name a student")
        mine, theirs = (
            {key: list(value.shape) for key, value in students[name].net.state_dict().items()}
            for name in (heir, student)
        )
        if heir == student or mine != theirs:
            raise _wrong(
                stage,
                f"a student with a network like that of `{heir}` to inherit from",
                "itself" if heir == student else f"`{student}`, whose weights differ in shape",
                "make both by the same op, with the same settings and widths",
            )


def _check_names(
    students: Mapping[str, Learner], losses: Sequence[Distill], averages: Mapping[str, Average]
) -> None:
    if clash := sorted(name for name in students if name.split("/")[0] in _RESERVED):
        raise UsageError(
            "training",
            wanted=f"students named otherwise than {', '.join(_RESERVED)}",
            got=", ".join(clash),
            fix="rename the node; these names mean something else in checkpoints",
        )
    for name, average in averages.items():
        if average.student not in students:
            got = f"{average.student}, where the students are {sorted(students)}"
            raise UsageError(
                f"moving average {name}", wanted="a student to follow", got=got, fix="name one"
            )
    for edge in losses:
        average = averages.get(edge.teacher)
        if average is None:
            continue
        ours, theirs = students[edge.student].cloud, students[average.student].cloud
        if ours != theirs:
            raise UsageError(
                edge.key,
                wanted=f"an average of a student on {ours}",
                got=f"one on {theirs}",
                fix="teach a student that sees the same points",
            )


def _wrong(stage: Stage, wanted: str, got: str, fix: str) -> UsageError:
    return UsageError(f"stage {stage.name}", wanted=wanted, got=got, fix=fix)
