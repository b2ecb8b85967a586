"""Training over recordings: windows of streams, students that give one row for each recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from xmodal.edges.distill.kl import Kl
from xmodal.edges.encode.clip_student import rows_of_clips
from xmodal.edges.encode.fusion import FusionOp
from xmodal.errors import DataError, UsageError
from xmodal.recordings.inputs import Clips
from xmodal.recordings.ragged import take_samples
from xmodal.train.averages import MovingAverages
from xmodal.train.data import Distill
from xmodal.train.dropping import TeacherDropping, shown_rows
from xmodal.train.forward import uses_bf16
from xmodal.train.modulation import AdaptiveModulation, modulated
from xmodal.train.options import Average, TrainOptions
from xmodal.train.phases import Learner, Phase, with_sources
from xmodal.train.pooling import rows_and_maps
from xmodal.train.recorded import Recorded, Rows, detached, in_common, moved
from xmodal.train.task import Memory, Place, head_of

_OF_SCENES = (
    "crop_points", "crops", "loss_rows", "loss_sets", "min_set_points", "balance_scenes", "augment",
)  # fmt: skip
# Names of recordings that a message shows.
_SHOWN = 4


@dataclass(frozen=True, eq=False)
class Draw:
    """Recordings of one step.

    Attributes:
        places: Their numbers.
        at: Where in each recording its window lies, in [0, 1), the same for all its streams.
        seed: Of what is varied.
    """

    places: Int[Tensor, " B"]
    at: Float[Tensor, " B"]
    seed: int


class ClipTask:
    """Batches of recordings, a random window of each, of which students learn.

    Raises:
        DataError: If a node is missing, or has not a row for each recording.
        UsageError: If an option has no effect on recordings.
    """

    unused = _OF_SCENES

    def __init__(
        self,
        recorded: Recorded,
        students: Mapping[str, Learner],
        losses: Sequence[Distill],
        averages: Mapping[str, Average],
        copies: MovingAverages,
        options: TrainOptions,
    ) -> None:
        self.recorded, self.students, self.losses = recorded, students, losses
        self.averages, self.copies, self.options = averages, copies, options
        self.bf16 = uses_bf16(options)
        self._check()
        self._has = {name: self._presence(name) for name in students}
        mapped = [e for e in losses if getattr(e.op, "needs_maps", False)]
        self._mapped = {name for e in mapped for name in (e.student, *e.teachers)}
        self._modulations = self._made_modulations()
        self._dropping = TeacherDropping(options.drop_teachers, losses, self._known)
        self._candidates = np.zeros(0, dtype=np.int64)
        self._share: NDArray[np.float64] | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """The recordings, by name, and how many windows they have."""
        windows = {name: len(clips.inputs) for name, clips in self.recorded.clips.items()}
        return {"recordings": list(self.recorded.names), "windows": windows}

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """How far ahead streams of fusions usually are, for `balance: agm`."""
        return {f"balance.{name}": module for name, module in self._modulations.items()}

    @property
    def memory(self) -> Memory:
        """Windows take memory."""
        return Memory(f"{self.options.batch} recordings", "batch")

    def start(self, rng: np.random.Generator) -> None:
        """Set last layers from samples of rows, where teacher and student share their columns."""
        for name, student in self.students.items():
            for edge in () if student.warm else self.losses:
                if edge.student != name or edge.net is not None or not self._is_stored(edge):
                    continue
                rows = self.recorded.sample(edge.teacher, rng)
                if hasattr(student.net, "start_from") and rows.shape[1:] == (
                    student.net.out_channels,
                ):
                    student.net.start_from(rows)
                break
        for edge in self.losses:
            memory = getattr(edge.net, "memory", None)
            if memory is None or not self._is_stored(edge) or self.students[edge.student].warm:
                continue
            memory.start_from(self.recorded.sample(edge.teacher, rng))

    def enter(self, phase: Phase) -> list[dict[str, Any]]:
        """Draw among recordings that the stage's edges can say something of."""
        edges = [self.losses[i] for i in phase.edges]
        useful = torch.zeros(len(self.recorded.names), dtype=torch.bool)
        for edge in edges:
            known = torch.stack([self._known(teacher) for teacher in edge.teachers]).any(dim=0)
            useful |= known & self._has[edge.student]
        self._candidates = useful.nonzero().squeeze(1).numpy()
        if not len(self._candidates):
            raise DataError(
                f"{len(useful)} recording(s), edges {', '.join(edge.key for edge in edges)}",
                wanted="at least one recording with a row of the teacher and the student's stream",
                got="none",
                fix="check the labels, the streams and the splits",
            )
        self._share = self._shares()
        idle = len(useful) - len(self._candidates)
        return [{"event": "unseen_recordings", "count": idle}] if idle else []

    def draw(self, rng: np.random.Generator, *, halve: bool) -> Draw:
        """Different recordings, each with a place for its window."""
        num = max(1, self.options.batch // (2 if halve else 1))
        num = min(num, len(self._candidates))
        places = rng.choice(self._candidates, size=num, replace=False, p=self._share)
        at = torch.from_numpy(rng.random(num))
        return Draw(torch.from_numpy(places), at, int(rng.integers(2**63 - 1)))

    def losses_of(
        self, drawn: Draw, phase: Phase, rng: np.random.Generator
    ) -> tuple[dict[int, Tensor], list[Tensor]]:
        """Run students, each after those that it sees, and compare them with their teachers."""
        del rng  # what is varied comes from the draw's own seed
        generator = torch.Generator().manual_seed(drawn.seed)
        edges = [self.losses[i] for i in phase.edges]
        used = {edge.student for edge in edges} | {t for edge in edges for t in edge.teachers}
        used |= {self.averages[t].student for t in used if t in self.averages}
        made: dict[str, Rows] = {}
        for name in (n for n in self.students if n in with_sources(used, self.students)):
            vary = generator if name in phase.trained_students else None
            net = self.students[name].net
            with torch.set_grad_enabled(self._needs_gradient(name, phase, made)):
                if name in self._modulations and name in phase.trained_students:
                    made[name] = self._run_modulated(name, drawn, made, phase)
                    continue
                made[name] = self._run(name, net, drawn, made, vary)
        parts: dict[int, Tensor] = {}
        slow: dict[str, Rows] = {}
        shown = self._dropping.shown(edges, drawn.places, generator)
        for index, edge in zip(phase.edges, edges, strict=True):
            for name in edge.teachers:
                if name in self.averages and name not in slow:
                    slow[name] = self._slow(name, drawn, made, generator)
            teachers = [
                shown_rows(self._teacher(n, drawn, made, slow), shown.get((edge.student, n)))
                for n in edge.teachers
            ]
            student = made[edge.student]
            if any(in_common(teacher, student) for teacher in teachers):
                op: Any = edge.op
                parts[index] = op(*teachers, student, **head_of(edge.net))
            else:
                parts[index] = student.rows.sum() * 0.0  # no row of both in this batch
        return parts, [made[name].rows for name in made if name in phase.trained_students]

    def count(self, drawn: Draw) -> int:
        """Recordings."""
        return len(drawn.places)

    def place(self, drawn: Draw) -> Place:
        """The recordings, by name."""
        names = [self.recorded.names[i] for i in drawn.places.tolist()]
        bad = [
            f"{edge.teacher} of {names[i]}"
            for edge in self.losses
            if self._is_stored(edge)
            for i in self.recorded.bad_samples(edge.teacher, drawn.places)
        ]
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        return Place(f"recordings {shown}", {"recordings": names, "at": drawn.at.tolist()}, bad)

    # ---- what students give ---------------------------------------------------------------

    def _run(
        self,
        name: str,
        net: nn.Module,
        drawn: Draw,
        made: Mapping[str, Rows],
        vary: torch.Generator | None,
    ) -> Rows:
        """Rows of one student, varied where a generator is given."""
        student, device = self.students[name], self.options.device
        if (clips := self.recorded.clips.get(name)) is None:
            with self._precision():
                return student.op(net, *self._seen(name, drawn, made))
        window = clips.windows_at(drawn.places, drawn.at)
        has = window >= 0
        inputs = clips.inputs[window[has]]
        if vary is not None and len(inputs):
            inputs = student.op.vary(inputs, vary)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), has.cumsum(0)])
        if name in self._mapped and len(inputs):
            with self._precision():
                given = rows_and_maps(net, inputs.to(device), has.to(device))
            return replace(given, rows=given.rows.float())
        with self._precision():
            given = rows_of_clips(net, Clips(inputs, offsets))
        return replace(given, rows=given.rows.float(), offsets=given.offsets.cpu())

    def _seen(self, name: str, drawn: Draw, made: Mapping[str, Rows]) -> list[Rows]:
        """Rows of the nodes that a student sees."""
        return [
            made[s]
            if s in made
            else moved(take_samples(self.recorded.stored[s], drawn.places), self.options.device)
            for s in self.students[name].sources
        ]

    def _run_modulated(
        self, name: str, drawn: Draw, made: Mapping[str, Rows], phase: Phase
    ) -> Rows:
        """Rows of a fusion whose streams learn by how far each is ahead."""
        student = self.students[name]
        with self._precision():
            parts: tuple[Rows, ...] = student.op.responses(
                student.net, *self._seen(name, drawn, made)
            )
        judges = [self.losses[i] for i in phase.edges if self._judges(self.losses[i], name)]
        losses = [0.0] * len(parts)
        with torch.no_grad():
            for edge in judges:
                teacher = self._teacher(edge.teacher, drawn, made, {})
                for index, part in enumerate(parts):
                    if in_common(teacher, part):
                        op: Any = edge.op
                        losses[index] += op.weight * float(op(teacher, part, **head_of(edge.net)))
        valid = torch.stack([part.valid for part in parts]).any(dim=0)
        factors = self._modulations[name].factors(losses)
        rows = modulated([part.rows.float() for part in parts], factors)
        return replace(parts[0], rows=rows, valid=valid, weight=valid.to(rows.dtype))

    def _made_modulations(self) -> dict[str, AdaptiveModulation]:
        if self.options.balance != "agm":
            return {}
        found = {
            name: AdaptiveModulation(len(student.sources))
            for name, student in self.students.items()
            if isinstance(student.op, FusionOp)
            and len(student.sources) > 1
            and any(self._judges(edge, name) for edge in self.losses)
        }
        if not found:
            raise UsageError(
                "training over recordings",
                wanted="a fusion of several streams that learns classes, for `balance: agm`",
                got="none",
                fix="add `classes -> FUSION: {op: kl, project: linear}`, or choose another balance",
            )
        return found

    def _judges(self, edge: Distill, name: str) -> bool:
        """Whether an edge tells what each stream of a fusion would answer alone."""
        headed = isinstance(edge.op, Kl) and edge.op.project != "none"
        return edge.student == name and headed and self._is_stored(edge)

    def _needs_gradient(self, name: str, phase: Phase, made: Mapping[str, Rows]) -> bool:
        """Whether it learns, or one of those that it sees does."""
        above = (made[s] for s in self.students[name].sources if s in made)
        return name in phase.trained_students or any(v.rows.requires_grad for v in above)

    @torch.no_grad()
    def _slow(
        self, name: str, drawn: Draw, made: Mapping[str, Rows], generator: torch.Generator
    ) -> Rows:
        """What a moving average gives of the same window varied anew, or of all windows."""
        average, net = self.averages[name], self.copies.teacher(name)
        clips = self.recorded.clips.get(average.student)
        if average.view == "same" or clips is None:
            vary = generator if average.view == "same" else None
            return self._run(average.student, net, drawn, made, vary)
        return rows_of_clips(net, clips.take(drawn.places))

    def _teacher(
        self, name: str, drawn: Draw, made: Mapping[str, Rows], slow: Mapping[str, Rows]
    ) -> Rows:
        if name in slow:
            return slow[name]
        if name in made:
            return detached(made[name])
        return moved(take_samples(self.recorded.stored[name], drawn.places), self.options.device)

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.bf16:
            return nullcontext()
        return torch.autocast(torch.device(self.options.device).type, torch.bfloat16)

    # ---- what there is --------------------------------------------------------------------

    def _is_stored(self, edge: Distill) -> bool:
        return edge.teacher in self.recorded.stored

    def _presence(self, name: str) -> Bool[Tensor, " B"]:
        """Recordings of which a student has anything to see."""
        if (clips := self.recorded.clips.get(name)) is not None:
            return clips.offsets.diff() > 0
        return torch.stack([self._known(source) for source in self.students[name].sources]).any(0)

    def _known(self, name: str) -> Bool[Tensor, " B"]:
        """Recordings that a node says something of."""
        if name in self.averages:
            return self._presence(self.averages[name].student)
        if name in self.students:
            return self._presence(name)
        value = self.recorded.stored[name]
        says = value.valid & (value.weight > 0)
        sample = torch.arange(len(value.offsets) - 1).repeat_interleave(value.offsets.diff())
        return torch.zeros(len(value.offsets) - 1).index_add(0, sample, says.float()) > 0

    def _shares(self) -> NDArray[np.float64] | None:
        mode = self.options.balance_recordings
        if mode == "none":
            return None
        of = self.recorded.classes if mode == "class" else self.recorded.groups
        _, kind, sizes = np.unique(
            of.numpy()[self._candidates], return_inverse=True, return_counts=True
        )
        share = 1.0 / sizes[kind].astype(np.float64)
        return share / share.sum()

    def _check(self) -> None:
        recorded, num = self.recorded, len(self.recorded.names)
        known = {*recorded.stored, *self.students, *self.averages}
        needed = {t for edge in self.losses for t in edge.teachers}
        needed |= {
            s for n, v in self.students.items() if n not in recorded.clips for s in v.sources
        }
        if missing := sorted(needed - known):
            raise DataError(
                "training over recordings",
                wanted=f"rows of {', '.join(sorted(needed))}",
                got=f"no {', '.join(missing)}",
                fix="compute the frozen nodes of the graph first",
            )
        sizes = {
            n: len(v.offsets) - 1 for n, v in (*recorded.stored.items(), *recorded.clips.items())
        }
        if wrong := [f"{n} {size}" for n, size in sizes.items() if size != num]:
            raise DataError(
                "training over recordings",
                wanted=f"{num} recordings in every node",
                got=", ".join(wrong),
                fix="compute the frozen nodes again",
            )
        views = [name for name, a in self.averages.items() if a.student not in self.students]
        if views:
            raise UsageError(
                "training over recordings",
                wanted="moving averages of students",
                got=", ".join(views),
                fix="name a student",
            )
