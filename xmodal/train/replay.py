"""A failed step, computed once more."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodal.errors import DataError
from xmodal.train.checkpoint import load_checkpoint
from xmodal.train.data import Distill
from xmodal.train.failures import NonFinite, name_culprit
from xmodal.train.options import Average, TrainOptions
from xmodal.train.phases import Learner
from xmodal.train.recorded import Recorded
from xmodal.train.scenes import Scene
from xmodal.train.threads import torch_threads
from xmodal.train.trainer import Trainer


@dataclass(frozen=True)
class Replay:
    """What a failed step gave when it was computed once more.

    Attributes:
        step: The step, counted from 1.
        where: Scene or recordings of the first piece whose loss is not finite (else of the first).
        scene: Index of that scene; None where the run is over recordings.
        loss: The loss now.
        grad_norm: The norm of its gradient now.
        parts: Mean loss of each edge, without its weight.
        same: Whether loss and norm have the same bits as then (NaN is equal to NaN).
        got: What is not finite, in words.
    """

    step: int
    where: str
    scene: int | None
    loss: float
    grad_norm: float
    parts: dict[str, float]
    same: bool
    got: str


def replay(
    file: Path,
    students: Mapping[str, Learner],
    losses: Sequence[Distill],
    samples: Sequence[Scene] | Recorded,
    options: TrainOptions,
    *,
    averages: Mapping[str, Average] | None = None,
) -> Replay:
    """Compute a failed step again, with the weights and random numbers that it had.

    Students and projections are left with those weights.

    Args:
        file: A `failed-step-N.json`, with the folder of that name beside it.
        students: As in the run.
        losses: As in the run.
        samples: As in the run.
        options: As in the run.
        averages: As in the run.

    Raises:
        DataError: If the file is no record of a step.
        CheckpointError: If its weights are damaged or do not fit.
        UsageError: If the run was another one.
    """
    record = _read(file)
    checkpoint = load_checkpoint(file.with_name(record["state"]))
    trainer = Trainer(students, losses, samples, averages or {}, options, file.parent)
    trainer.state.refuse_other_run(checkpoint)
    step = int(checkpoint.meta["step"])
    trainer.enter(step, quietly=True)
    trainer.state.restore(checkpoint, optimiser=False)
    with torch_threads(options.threads):
        found = trainer.gradients()
    batch = next((b for b, loss in found.batches if not math.isfinite(loss)), found.batches[0][0])
    place = trainer.task.place(batch)
    failure = NonFinite(step, found.loss, found.norm, place)
    trainer.finish()
    return Replay(
        step=step + 1,
        where=place.name,
        scene=place.record.get("scene"),
        loss=found.loss,
        grad_norm=found.norm,
        parts={losses[i].key: part for i, part in found.parts.items()},
        same=(str(found.loss), str(found.norm)) == (record["loss"], record["grad_norm"]),
        got=name_culprit(failure, file).got,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _no_record(file, error.strerror or "") from error
    except ValueError as error:
        raise _no_record(file, str(error)) from error
    keys = ("state", "loss", "grad_norm")
    if not isinstance(record, dict) or not all(isinstance(record.get(k), str) for k in keys):
        raise _no_record(file, f"a file without {', '.join(keys)}")
    if "/" in record["state"] or record["state"] in ("", ".", ".."):
        raise _no_record(file, f"a state outside its folder: {record['state']}")
    return record


def _no_record(file: Path, got: str) -> DataError:
    return DataError(
        str(file),
        wanted="the failed-step-N.json of a training",
        got=got,
        fix="name the file that the failed step left in its run folder",
    )
