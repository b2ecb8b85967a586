"""A step whose loss is not finite: what it was about, and how to look at it again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodal.atomic import write_json
from xmodal.errors import DataError
from xmodal.train.checkpoint import save_checkpoint
from xmodal.train.state import Generators, TrainingState
from xmodal.train.task import Place


@dataclass(frozen=True, eq=False)
class NonFinite:
    """A step (counted from 0) with its loss, gradient norm and where the first fault was."""

    step: int
    loss: float
    norm: float
    place: Place


def dump(
    out: Path, failure: NonFinite, state: TrainingState, before: Generators, seed: int
) -> Path:
    """Write a step's rows to `failed-step-N.json`, and its weights and generators beside it.

    Args:
        out: Run folder.
        failure: What happened.
        state: The run, with the weights that the step started from.
        before: Generators that the step started from.
        seed: Of the run.

    Returns:
        The JSON file; the folder of the same name without `.json` is a checkpoint's.
    """
    file = out / f"failed-step-{failure.step + 1:08d}.json"
    tensors, meta = state.describe(before)
    save_checkpoint(file.with_suffix(""), tensors, {**meta, "step": failure.step})
    record: dict[str, Any] = {
        "step": failure.step + 1,
        "seed": seed,
        "loss": str(failure.loss),
        "grad_norm": str(failure.norm),
        "state": file.with_suffix("").name,
        **failure.place.record,
    }
    write_json(file, record)
    return file


def name_culprit(failure: NonFinite, file: Path) -> DataError:
    """The error of a step: which teacher rows are not finite, or that all are."""
    bad = failure.place.bad
    where = f"the step is in {file}, for `xmodal train --replay`"
    return DataError(
        f"step {failure.step + 1}, {failure.place.name}",
        wanted="a finite loss and gradient",
        got=f"loss {failure.loss}, gradient norm {failure.norm}; "
        + (f"not finite: {', '.join(bad[:3])}" if bad else "all teacher rows are finite"),
        fix=f"compute those rows again; {where}" if bad else f"lower lr; {where}",
    )
