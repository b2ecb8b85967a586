"""Distillation: one loop for every student, resumable bit for bit.

A step takes crops of a scene, runs each student on them, and compares a random part of its rows
with the teacher's, which are read by row index from where they lie (memory or a mapped file).
Everything random comes from generators whose states are in the checkpoint, so a run that was
stopped and resumed ends in the same bits as one that was not (same machine and thread count).
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from xmodal.atomic import write_json
from xmodal.errors import BackendError, DataError, UsageError
from xmodal.train.checkpoint import checkpoint_path
from xmodal.train.crops import Augment, nearest
from xmodal.train.data import (
    Batch,
    Distill,
    DistillOp,
    Piece,
    Student,
    TrainScene,
    as_points,
    bad_rows,
    take_rows,
)
from xmodal.train.inference import StudentOp, predict, run_student
from xmodal.train.state import TrainingState
from xmodal.train.stopping import StopSignals
from xmodal.train.threads import torch_threads
from xmodal.values import Points

__all__ = [
    "Augment",
    "Distill",
    "DistillOp",
    "Student",
    "StudentOp",
    "TrainOptions",
    "TrainResult",
    "fit",
    "predict",
    "run_student",
]

Progress = Callable[[int, int], None]
# Enough to tell a thousand directions apart.
_START_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train.

    Attributes:
        steps: Number of steps.
        crop_points: Points of all crops of a step together; bounds its memory and time.
        crops: Places of the scene that a step sees. More of them make a step's gradient speak for
            the whole room, fewer show each point more of its surroundings.
        loss_rows: Points of the crops that are compared with the teacher.
        lr: Peak learning rate of AdamW; linear warm-up, then half a cosine down to 0.
        warmup_steps: Steps of the warm-up.
        weight_decay: Of matrices and kernels; vectors (biases, norms) have none.
        grad_clip: Largest norm of all gradients together.
        seed: Of everything random.
        augment: What is varied from crop to crop.
        log_every: Steps between records in the log.
        checkpoint_every: Steps between checkpoints; there is always one at the end.
        keep_checkpoints: How many of the newest checkpoints stay.
        device: Where to train.
        threads: Threads of a torch operation on the CPU, 0 for torch's own setting. Training is
            thousands of short operations that end in a barrier. Two threads took 0.18 s a step
            instead of 0.28 s on two idle cores, but 8 s to 20 s beside another program that kept
            them busy; one thread took 0.41 s there. One also gives the same bits on every number of
            cores.
    """

    steps: int = 800
    crop_points: int = 16384
    crops: int = 4
    loss_rows: int = 4096
    lr: float = 1e-2
    warmup_steps: int = 30
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    seed: int = 0
    augment: Augment = field(default_factory=Augment)
    log_every: int = 10
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        counts = ("steps", "crop_points", "crops", "loss_rows", "log_every", "checkpoint_every")
        for name in (*counts, "keep_checkpoints"):
            if getattr(self, name) < 1:
                msg = f"{name} must be at least 1, not {getattr(self, name)}"
                raise ValueError(msg)
        limits = (self.weight_decay, self.warmup_steps, self.threads)
        if not 0 < self.lr < math.inf or not self.grad_clip > 0 or not min(limits) >= 0:
            msg = "lr and grad_clip must be above 0, weight_decay, warmup_steps, threads 0 or more"
            raise ValueError(msg)

    def learning_rate(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class TrainResult:
    """What `fit` did.

    Attributes:
        steps: Steps done in all, earlier runs included.
        seconds: Time of this call.
        history: Log records of this call.
        checkpoint: Folder of the last checkpoint.
    """

    steps: int
    seconds: float
    history: list[dict[str, Any]]
    checkpoint: Path


def fit(
    students: Mapping[str, Student],
    losses: Sequence[Distill],
    scenes: Sequence[Mapping[str, Points]],
    options: TrainOptions,
    out: Path,
    *,
    resume: bool | Literal["auto"] = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train students on their teachers' rows.

    Ctrl-C or SIGTERM finishes the step, writes a checkpoint and exits with 130 or 143.

    Args:
        students: By node name. Their modules are trained in place.
        losses: Distillation edges between nodes.
        scenes: Per scene, the points of each cloud and teacher node. Rows may lie in a mapped file
            and in half precision; only rows of a crop are ever read.
        options: How to train.
        out: Run folder; gets `checkpoints/` and `log.jsonl`.
        resume: Go on from the newest checkpoint in `out` (start anew when there is none). With
            `auto`, a damaged one is skipped for the one before it, which is said in the log.
        progress: Called with (steps done, steps in all).

    Raises:
        UsageError: If checkpoints exist and `resume` is off, or they were trained otherwise.
        CheckpointError: If a checkpoint cannot be read or written, or does not fit.
        DataError: If scenes lack a node or observed rows, or the loss is not finite.
        BackendError: If memory runs out.
    """
    loop = _Loop(students, losses, scenes, options, out)
    first = loop.state.start(resume)
    if first == 0:
        loop.start_from_teachers()
    began, history = time.monotonic(), list[dict[str, Any]]()
    loop.log({"event": "train", "step": first, "steps": options.steps, "seed": options.seed})
    if progress is not None:
        progress(first, options.steps)
    path = checkpoint_path(out / "checkpoints", first)
    with StopSignals() as stop, torch_threads(options.threads):
        for step in range(first, options.steps):
            record = loop.step(step)
            done = step + 1
            last = done == options.steps
            if last or done % options.log_every == 0:
                record["rows_per_s"] = round(loop.points_seen / (time.monotonic() - began))
                history.append(record)
                loop.log({"event": "step", **record})
            # Read once: a signal that comes after this line waits for the next step's checkpoint.
            code = stop.exit_code
            if last or code is not None or done % options.checkpoint_every == 0:
                path = loop.state.save(done)
            if progress is not None:
                progress(done, options.steps)
            if code is not None and not last:
                loop.log({"event": "stopped", "step": done})
                raise SystemExit(code)
    for student in students.values():
        student.net.eval()
    return TrainResult(options.steps, time.monotonic() - began, history, path)


class _Loop:
    """One run: what stays the same from step to step."""

    def __init__(
        self,
        students: Mapping[str, Student],
        losses: Sequence[Distill],
        scenes: Sequence[Mapping[str, Points]],
        options: TrainOptions,
        out: Path,
    ) -> None:
        self.students, self.losses, self.options, self.out = students, losses, options, out
        self.scenes = [TrainScene(i, nodes, students, losses) for i, nodes in enumerate(scenes)]
        if not self.scenes or not students or {edge.student for edge in losses} != set(students):
            raise UsageError(
                "training",
                wanted="at least one scene, and a distillation edge for every student",
                got=f"{len(self.scenes)} scenes, students {sorted(students)}, edges to "
                f"{sorted({edge.student for edge in losses})}",
                fix="give every student a teacher, or leave it out",
            )
        seen = np.array([len(scene.centres) for scene in self.scenes], dtype=np.float64)
        self.scene_share = seen / seen.sum()
        self.began, self.points_seen = time.monotonic(), 0
        modules: dict[str, nn.Module] = {name: s.net for name, s in students.items()}
        modules |= {
            f"{e.teacher}->{e.student}:{i}": e.net
            for i, e in enumerate(losses)
            if e.net is not None
        }
        for module in modules.values():
            module.to(options.device).train()
        self.parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        self.rng = np.random.default_rng(options.seed)
        random.seed(options.seed)
        torch.manual_seed(options.seed)
        self.state = TrainingState(
            modules,
            _optimiser(self.parameters, options),
            rng=self.rng,
            identity=_identity(students, losses, self.scenes, options),
            folder=out / "checkpoints",
            keep=options.keep_checkpoints,
            log=self.log,
        )

    def log(self, record: dict[str, Any]) -> None:
        """Append a record to the run's log."""
        self.out.mkdir(parents=True, exist_ok=True)
        record = {**record, "t_s": round(time.monotonic() - self.began, 3)}
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def start_from_teachers(self) -> None:
        """Set last layers from samples of rows, where teacher and student share their columns."""
        rng = np.random.default_rng([self.options.seed, 1])
        for name, student in self.students.items():
            teachers = [e.teacher for e in self.losses if e.student == name and e.net is None]
            if teachers:
                num = -(-_START_ROWS // len(self.scenes))
                rows = [scene.sample_rows(teachers[0], num, rng) for scene in self.scenes]
                student.net.start_from(torch.cat(rows))

    def step(self, step: int) -> dict[str, Any]:
        """One update of all students; the record for the log."""
        lr = self.options.learning_rate(step)
        batch = self._draw()
        try:
            parts = self._losses(batch)
            total = torch.stack(
                [edge.op.weight * part for edge, part in zip(self.losses, parts, strict=True)]
            ).sum()
            self.state.optimiser.zero_grad(set_to_none=True)
            total.backward()
            norm = nn.utils.clip_grad_norm_(self.parameters, self.options.grad_clip)
        except (MemoryError, RuntimeError) as error:
            if _is_memory(error):
                raise _too_large(self.options) from error
            raise
        if not (math.isfinite(total.item()) and math.isfinite(norm.item())):
            raise self._not_finite(step, batch, total.item(), norm.item())
        for group in self.state.optimiser.param_groups:
            group["lr"] = lr
        self.state.optimiser.step()
        self.points_seen += sum(len(piece.rows) for piece in batch.pieces.values())
        record: dict[str, Any] = {"step": step + 1, "loss": total.item(), "lr": lr}
        record["grad_norm"] = norm.item()
        if len(parts) > 1:
            names = [f"{edge.teacher} -> {edge.student}" for edge in self.losses]
            record["losses"] = {n: p.item() for n, p in zip(names, parts, strict=True)}
        return record

    def _draw(self) -> Batch:
        """Choose a scene, places in it, and for each student the rows to see and to compare."""
        rng, options = self.rng, self.options
        scene = self.scenes[int(rng.choice(len(self.scenes), p=self.scene_share))]
        centres = scene.centres[rng.integers(len(scene.centres), size=options.crops)]
        pieces: dict[str, Piece] = {}
        for name, student in self.students.items():
            xyz, each = scene.nodes[student.cloud].xyz, max(1, options.crop_points // options.crops)
            crops = [nearest(xyz, centre, each) for centre in centres]
            rows = torch.cat(crops)
            offsets = torch.tensor([0, *accumulate(len(crop) for crop in crops)])
            candidates = scene.observed[name][rows].nonzero().squeeze(1).numpy()
            chosen = np.sort(rng.permutation(candidates)[: options.loss_rows])
            pieces[name] = Piece(rows, offsets, torch.from_numpy(chosen))
        return Batch(scene, pieces)

    def _losses(self, batch: Batch) -> list[Tensor]:
        """Run each student on its piece and compare it with each of its teachers."""
        device, augment = self.options.device, self.options.augment
        given: dict[str, Points] = {}
        for name, student in self.students.items():
            piece = batch.pieces[name]
            xyz = augment.positions(batch.scene.nodes[student.cloud].xyz[piece.rows], self.rng)
            inputs = augment.inputs(batch.scene.inputs[name][piece.rows], self.rng)
            encoded = student.net.encode(xyz.to(device), piece.offsets, inputs.to(device))
            rows = student.net.decode(encoded, piece.chosen.to(device))
            given[name] = as_points(xyz[piece.chosen].to(device), rows=rows)
        parts: list[Tensor] = []
        for edge in self.losses:
            piece = batch.pieces[edge.student]
            teacher = take_rows(batch.scene.nodes[edge.teacher], piece.rows[piece.chosen], device)
            parts.append(edge.op(teacher, given[edge.student], **_projection(edge)))
        return parts

    def _not_finite(self, step: int, batch: Batch, loss: float, norm: float) -> DataError:
        """Leave behind what is needed to look at the step again, and say what happened."""
        file = self.out / f"failed-step-{step + 1:08d}.json"
        rows = {name: p.rows[p.chosen].tolist() for name, p in batch.pieces.items()}
        where = {"step": step + 1, "seed": self.options.seed, "scene": batch.scene.index}
        write_json(file, {**where, "loss": str(loss), "grad_norm": str(norm), "rows": rows})
        bad = [
            f"{edge.teacher} row {int(row)}"
            for edge in self.losses
            for row in bad_rows(batch.scene.nodes[edge.teacher], rows[edge.student])
        ]
        return DataError(
            f"step {step + 1}, scene {batch.scene.index}",
            wanted="a finite loss and gradient",
            got=f"loss {loss}, gradient norm {norm}; "
            + (f"not finite: {', '.join(bad[:3])}" if bad else "all teacher rows are finite"),
            fix="lift those rows again" if bad else f"lower lr; the rows of the step are in {file}",
        )


def _optimiser(parameters: list[nn.Parameter], options: TrainOptions) -> torch.optim.AdamW:
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=options.lr)


def _identity(
    students: Mapping[str, Student],
    losses: Sequence[Distill],
    scenes: Sequence[TrainScene],
    options: TrainOptions,
) -> dict[str, Any]:
    """What must not change between a run and its resumption."""
    free = ("log_every", "checkpoint_every", "keep_checkpoints", "device", "threads")
    settings = {key: value for key, value in asdict(options).items() if key not in free}
    return {
        "options": settings,
        "students": {name: f"{s.op} on {s.cloud}" for name, s in students.items()},
        "losses": [f"{e.teacher} -> {e.student}: {e.op}" for e in losses],
        "points": [{name: len(p.xyz) for name, p in s.nodes.items()} for s in scenes],
    }


def _projection(edge: Distill) -> dict[str, nn.Module]:
    """The `net` of an edge as an argument, for edges that have one."""
    return {} if edge.net is None else {"net": edge.net}


def _is_memory(error: Exception) -> bool:
    # The CPU allocator of torch raises a bare RuntimeError with this text.
    return isinstance(
        error, (MemoryError, torch.OutOfMemoryError)
    ) or "can't allocate memory" in str(error)


def _too_large(options: TrainOptions) -> BackendError:
    return BackendError(
        "training",
        wanted=f"memory for crops of {options.crop_points} points",
        got="the machine ran out of memory; the last checkpoint is intact",
        fix="lower crop_points or loss_rows, and go on with --resume",
    )
