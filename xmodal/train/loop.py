"""Distillation: one loop for every student, resumable bit for bit.

A step takes crops of a scene, runs each student on them, and compares a random part of its rows
with the teacher's, which are read by row index from where they lie (memory or a mapped file).
Everything random comes from generators whose states are in the checkpoint, so a run that was
stopped and resumed ends in the same bits as one that was not (same machine and thread count).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xmodal.errors import CheckpointError
from xmodal.train.averages import fit_student
from xmodal.train.checkpoint import checkpoint_path
from xmodal.train.crops import Augment
from xmodal.train.data import Distill, DistillOp, Student
from xmodal.train.inference import StudentOp, predict, run_student
from xmodal.train.options import Average, Stage, TrainOptions
from xmodal.train.phases import Learner
from xmodal.train.recorded import Recorded
from xmodal.train.replay import Replay, replay
from xmodal.train.scenes import Scene
from xmodal.train.stopping import StopSignals
from xmodal.train.threads import torch_threads
from xmodal.train.trainer import Trainer

__all__ = [
    "Augment",
    "Average",
    "Distill",
    "DistillOp",
    "Replay",
    "Stage",
    "Student",
    "StudentOp",
    "TrainOptions",
    "TrainResult",
    "fit",
    "fit_student",
    "predict",
    "replay",
    "run_student",
]

Progress = Callable[[int, int], None]


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
    students: Mapping[str, Learner],
    losses: Sequence[Distill],
    samples: Sequence[Scene] | Recorded,
    options: TrainOptions,
    out: Path,
    *,
    resume: bool | Literal["auto"] = False,
    progress: Progress | None = None,
    averages: Mapping[str, Average] | None = None,
) -> TrainResult:
    """Train students on their teachers' rows.

    Ctrl-C or SIGTERM finishes the step, writes a checkpoint and exits with 130 or 143.

    Args:
        students: By node name. Their modules are trained in place; with `ema_decay` they end with
            the averaged weights.
        losses: Distillation edges between nodes.
        samples: Recordings; or, per scene, the points of each cloud and teacher node, or a
            teacher's sets of points. Rows may lie in a mapped file, in half precision, or in a
            store that decodes them; only rows of a crop are ever read.
        options: How to train.
        out: Run folder; gets `checkpoints/` and `log.jsonl`.
        resume: Go on from the newest checkpoint in `out` (start anew when there is none). With
            `auto`, a damaged one is skipped for the one before it, which is said in the log.
        progress: Called with (steps done, steps in all).
        averages: Teachers that are moving averages of students, by node name.

    Raises:
        UsageError: If checkpoints exist and `resume` is off, or they were trained otherwise; if
            names in stages or averages do not fit.
        CheckpointError: If a checkpoint cannot be read or written, or does not fit.
        DataError: If scenes lack a node or observed rows, or the loss is not finite.
        BackendError: If memory runs out, for pieces of half the size too.
    """
    trainer = Trainer(students, losses, samples, averages or {}, options, out)
    first, total = _begin(trainer, resume), options.total_steps
    began, history = time.monotonic(), list[dict[str, Any]]()
    trainer.log({"event": "train", "step": first, "steps": total, "seed": options.seed})
    if progress is not None:
        progress(first, total)
    path = checkpoint_path(out / "checkpoints", first)
    with StopSignals() as stop, torch_threads(options.threads):
        for step in range(first, total):
            record = trainer.step(step)
            done = step + 1
            last = done == total
            if last or done % options.log_every == 0:
                record["rows_per_s"] = round(trainer.points_seen / (time.monotonic() - began))
                history.append(record)
                trainer.log({"event": "step", **record})
            # Read once: a signal that comes after this line waits for the next step's checkpoint.
            code = stop.exit_code
            if last or code is not None or done % options.checkpoint_every == 0:
                path = _save(trainer, done, must=last or code is not None) or path
            if progress is not None:
                progress(done, total)
            if code is not None and not last:
                trainer.log({"event": "stopped", "step": done})
                raise SystemExit(code)
    trainer.finish()
    return TrainResult(total, time.monotonic() - began, history, path)


def _begin(trainer: Trainer, resume: bool | Literal["auto"]) -> int:
    """Start anew or go on; the number of steps already done."""
    checkpoint = trainer.state.open(resume)
    if checkpoint is None:
        trainer.start_from_teachers()
        trainer.enter(0)
        return 0
    step, options = int(checkpoint.meta["step"]), trainer.options
    trainer.enter(step)
    begins = step == options.stage_at(step)[1]
    trainer.state.restore(checkpoint, optimiser=not begins)
    return step


def _save(trainer: Trainer, step: int, *, must: bool) -> Path | None:
    """Write a checkpoint; None if it could not be written and that is no reason to stop."""
    try:
        return trainer.state.save(step)
    except CheckpointError as error:
        if must or trainer.options.on_save_error == "stop":
            raise
        trainer.log({"event": "checkpoint_not_written", "step": step, "error": str(error)})
        return None
