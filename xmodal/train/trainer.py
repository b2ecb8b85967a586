"""One run: what stays the same from step to step, and what a step does."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from xmodal.errors import BackendError
from xmodal.train.averages import MovingAverages
from xmodal.train.balance import Balance
from xmodal.train.clips import ClipTask
from xmodal.train.data import Distill, Student
from xmodal.train.failures import NonFinite, dump, name_culprit
from xmodal.train.options import Average, TrainOptions
from xmodal.train.phases import Learner, Phase, plan_phases
from xmodal.train.recorded import Recorded
from xmodal.train.scenes import Scene, SceneTask
from xmodal.train.state import RESUME_MAY_CHANGE, Generators, TrainingState, plain
from xmodal.train.task import Memory, Task


@dataclass(frozen=True, eq=False)
class Gradients:
    """What a step found before it changed a weight.

    Attributes:
        loss: Mean over the step's pieces of the weighted sum of losses.
        norm: Norm of the gradient before it was clipped.
        parts: Mean loss of each edge, without its weight.
        batches: The pieces and the loss of each.
        seconds: Time for drawing pieces, computing losses, and going back through them.
    """

    loss: float
    norm: float
    parts: dict[int, float]
    batches: list[tuple[Any, float]]
    seconds: dict[str, float]

    @property
    def finite(self) -> bool:
        """Whether the step may change weights."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Trainer:
    """Students, teachers, optimiser and generators of one run, over scenes or over recordings.

    Raises:
        UsageError: If there is no scene, or the names in stages and averages do not fit.
        DataError: If a scene or the recordings lack a node or rows.
    """

    def __init__(
        self,
        students: Mapping[str, Learner],
        losses: Sequence[Distill],
        samples: Sequence[Scene] | Recorded,
        averages: Mapping[str, Average],
        options: TrainOptions,
        out: Path,
    ) -> None:
        self.students, self.losses, self.options, self.out = students, losses, options, out
        self.averages = averages
        self.phases = plan_phases(students, losses, averages, options)
        for module in (s.net for s in students.values()):
            module.to(options.device)
        self.copies = MovingAverages(students, averages, options.ema_decay)
        rest = (losses, averages, self.copies, options)
        self.task: Task = (
            ClipTask(samples, students, *rest)
            if isinstance(samples, Recorded)
            else SceneTask(samples, cast("Mapping[str, Student]", students), *rest)
        )
        self.began, self.points_seen = time.monotonic(), 0
        modules: dict[str, nn.Module] = {name: s.net for name, s in students.items()}
        for index, edge in enumerate(losses):
            if edge.net is not None:
                modules[f"{edge.teacher}->{edge.student}:{index}"] = edge.net
        modules |= self.task.modules
        self.balance = Balance([float(e.op.weight) for e in losses], options.balance)
        modules["balance"] = self.balance
        self._learnable = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        self.rng = np.random.default_rng(options.seed)
        random.seed(options.seed)
        torch.manual_seed(options.seed)
        self.state = TrainingState(
            modules=modules | self.copies.modules,
            rng=self.rng,
            identity=self._identity(),
            folder=out / "checkpoints",
            keep=options.keep_checkpoints,
            log=self.log,
        )
        for module in self.state.modules.values():
            module.to(options.device)
        self.phase: Phase | None = None

    # ---- beginning and end ----------------------------------------------------------------

    def log(self, record: dict[str, Any]) -> None:
        """Append a record to the run's log."""
        self.out.mkdir(parents=True, exist_ok=True)
        record = {**record, "t_s": round(time.monotonic() - self.began, 3)}
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def start_from_teachers(self) -> None:
        """Set last layers from samples of rows, where teacher and student share their columns."""
        self.task.start(np.random.default_rng([self.options.seed, 1]))
        self.copies.start()

    def enter(self, step: int, *, quietly: bool = False) -> None:
        """Begin the stage of a step: freeze what does not learn in it, with a new optimiser."""
        index, _ = self.options.stage_at(step)
        phase = self.phases[index]
        if phase is self.phase:
            return
        self.phase = phase
        learning = [self.students[name].net for name in phase.trained_students]
        learning += [net for i in phase.trained_edges if (net := self.losses[i].net) is not None]
        learning.append(self.balance)
        inside = {p for module in learning for p in module.parameters()}
        self.parameters = [p for p in self._learnable if p in inside]
        for parameter in self._learnable:
            parameter.requires_grad_(parameter in inside)
        for name, student in self.students.items():
            student.net.train(name in phase.trained_students)
        for edge in self.losses:
            if edge.net is not None:
                edge.net.train()
        self.state.optimiser = _optimiser(self.parameters, self.options)
        records = self.task.enter(phase)
        if quietly:
            return
        if self.options.stages:
            self.log({"event": "stage", "name": phase.stage.name, "step": step})
        for record in records:
            self.log({"event": record["event"], "step": step, **record})

    def finish(self) -> None:
        """Leave students ready for inference, and every weight as free as it was."""
        for parameter in self._learnable:
            parameter.requires_grad_(True)
        self.copies.finish(self.students)
        for student in self.students.values():
            student.net.eval()

    # ---- a step ---------------------------------------------------------------------------

    def step(self, step: int) -> dict[str, Any]:
        """One update of all that learns; the record for the log."""
        self.enter(step)
        self._inherit(step)
        before = self.state.generators()
        found = self._gradients_or_halves(step, before)
        lr = self.options.learning_rate(step)
        record: dict[str, Any] = {"step": step + 1, "loss": found.loss, "lr": lr}
        if not found.finite:
            self._give_up_or_skip(step, found, before)
            return {**record, "loss": None, "skipped": True}
        optimiser = self.state.optimiser
        assert optimiser is not None, "set when the stage began"
        for group in optimiser.param_groups:
            group["lr"] = lr
        began = time.perf_counter()
        optimiser.step()
        self.copies.update(step)
        record["grad_norm"] = found.norm
        record["seconds"] = {k: round(v, 4) for k, v in found.seconds.items()}
        record["seconds"]["update"] = round(time.perf_counter() - began, 4)
        for batch, _ in found.batches:
            self.points_seen += self.task.count(batch)
        if len(found.parts) > 1:
            record["losses"] = {self.losses[i].key: part for i, part in found.parts.items()}
            if self.options.balance != "none":
                factors = self.balance.factors().tolist()
                record["factors"] = {self.losses[i].key: factors[i] for i in found.parts}
        if self.options.stages and self.phase is not None:
            record["stage"] = self.phase.stage.name
        return record

    def _inherit(self, step: int) -> None:
        # Not on entering a stage: a run that is resumed there reads its weights afterwards.
        assert self.phase is not None, "a stage has begun"
        if step == self.phase.first:
            for heir, student in self.phase.stage.inherit.items():
                self.students[heir].net.load_state_dict(self.students[student].net.state_dict())

    def gradients(self) -> Gradients:
        """Draw the pieces of a step and accumulate the gradient of their mean loss, clipped."""
        phase, optimiser = self.phase, self.state.optimiser
        assert phase is not None, "a stage has begun"
        assert optimiser is not None, "set when the stage began"
        optimiser.zero_grad(set_to_none=True)
        halved = self.state.counts.halved
        num = self.options.accumulate * (2 if halved else 1)
        sums = dict.fromkeys(phase.edges, 0.0)
        batches: list[tuple[Any, float]] = []
        seconds: dict[str, float] = {"draw": 0.0, "forward": 0.0, "backward": 0.0}
        for _ in range(num):
            marks = [time.perf_counter()]
            batch = self.task.draw(self.rng, halve=halved)
            marks.append(time.perf_counter())
            parts, shared = self.task.losses_of(batch, phase, self.rng)
            total = self._total(parts, shared)
            marks.append(time.perf_counter())
            self._backward(total, parts, num)
            batches.append((batch, total.item()))
            for index, part in parts.items():
                sums[index] += part.item() / num
            marks.append(time.perf_counter())
            for place, key in enumerate(seconds):
                seconds[key] += marks[place + 1] - marks[place]
        self._hold_back(sums)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.options.grad_clip).item()
        loss = math.fsum(value for _, value in batches) / num
        return Gradients(loss, norm, sums, batches, seconds)

    def _total(self, parts: Mapping[int, Tensor], shared: list[Tensor]) -> Tensor:
        # An edge that does not count in this stage is one that had no rows.
        none = next(iter(parts.values())).new_zeros(())
        return self.balance([parts.get(i, none) for i in range(len(self.losses))], shared)

    def _backward(self, total: Tensor, parts: Mapping[int, Tensor], num: int) -> None:
        if not total.requires_grad:
            return  # no set is left for the one edge that learns
        if self.options.balance != "harmonise":
            (total / num).backward()
            return
        weights = self.balance.factors().tolist()
        self.balance.harmonise([weights[i] * p / num for i, p in parts.items()], self.parameters)

    def _hold_back(self, losses: Mapping[int, float]) -> None:
        """Shorten gradients of students that are ahead of the others; not those of fusions."""
        if self.options.balance != "ogm":
            return
        assert self.phase is not None, "a stage has begun"
        of = {
            name: [i for i in losses if self.losses[i].student == name]
            for name in self.phase.trained_students
            if not set(self.students[name].sources) & self.students.keys()
        }
        factors = self.balance.modulation(losses, {name: own for name, own in of.items() if own})
        for name, factor in factors.items():
            for parameter in self.students[name].net.parameters():
                if parameter.grad is not None and factor < 1:
                    parameter.grad.mul_(factor)

    def _gradients_or_halves(self, step: int, before: Generators) -> Gradients:
        try:
            return self.gradients()
        except (MemoryError, RuntimeError) as error:
            if not _is_memory(error):
                raise
            refusal = _too_large(self.task.memory)
            refusal.__cause__ = error.with_traceback(None)  # its frames hold on to the tensors
        self.state.rewind(before)
        assert self.state.optimiser is not None, "set when the stage began"
        self.state.optimiser.zero_grad(set_to_none=True)
        if self.state.counts.halved:
            raise refusal
        # Half a piece twice is the same work in half the memory; more than once would not help.
        self.state.counts.halved = True
        self.log({"event": "out_of_memory", "step": step + 1, "now": "pieces of half the size"})
        return self._gradients_or_halves(step, before)

    def _give_up_or_skip(self, step: int, found: Gradients, before: Generators) -> None:
        """Leave behind what is needed to look at the step again, and stop if that is the policy."""
        after = self.state.generators()
        self.state.rewind(before)  # what losses remember must not hold what is not finite
        assert self.state.optimiser is not None, "set when the stage began"
        self.state.optimiser.zero_grad(set_to_none=True)
        batch = next((b for b, loss in found.batches if not math.isfinite(loss)), None)
        batch = found.batches[0][0] if batch is None else batch
        failure = NonFinite(step, found.loss, found.norm, self.task.place(batch))
        file = dump(self.out, failure, self.state, before, self.options.seed)
        error = name_culprit(failure, file)
        counts = self.state.counts
        if self.options.on_non_finite == "stop" or counts.skips >= self.options.max_skips:
            raise error
        counts.skips += 1
        self.state.rewind(replace(after, buffers=[]))
        self.log({"event": "skipped", "step": step + 1, "got": error.got, "file": str(file)})

    def _identity(self) -> dict[str, Any]:
        """What must not change between a run and its resumption."""
        options = asdict(self.options)
        free = {*RESUME_MAY_CHANGE, *self.task.unused}
        return plain(
            {
                "options": {k: v for k, v in options.items() if k not in free},
                "students": {
                    name: {"cloud": s.cloud, **_settings(s.op)} for name, s in self.students.items()
                },
                "losses": {f"{i} {e.key}": _settings(e.op) for i, e in enumerate(self.losses)},
                "averages": {name: asdict(average) for name, average in self.averages.items()},
                **self.task.identity,
            }
        )


def _settings(op: Any) -> dict[str, Any]:
    """The fields of an op; its name alone where it is not built from fields."""
    if not is_dataclass(op) or isinstance(op, type):
        return {"op": type(op).__name__}
    return {"op": type(op).__name__, **asdict(op)}


def _optimiser(parameters: list[nn.Parameter], options: TrainOptions) -> torch.optim.AdamW:
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    # On the CPU a fused update takes 6 ms for the tiny U-Net and others 24.
    fused = torch.device(options.device).type == "cpu"
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=options.lr, fused=fused)


def _is_memory(error: Exception) -> bool:
    # The CPU allocator of torch raises a bare RuntimeError with this text.
    return isinstance(
        error, (MemoryError, torch.OutOfMemoryError)
    ) or "can't allocate memory" in str(error)


def _too_large(memory: Memory) -> BackendError:
    return BackendError(
        "training",
        wanted=f"memory for {memory.what}, or of half as many",
        got="the machine ran out of memory; the last checkpoint is intact",
        fix=f"lower {memory.settings}, and go on with --resume",
    )
