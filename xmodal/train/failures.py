"""A step whose loss is not finite: what it was about, and how to look at it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmodal.atomic import write_json
from xmodal.errors import DataError
from xmodal.train.checkpoint import save_checkpoint
from xmodal.train.data import Batch, Distill, bad_rows
from xmodal.train.state import Generators, TrainingState


@dataclass(frozen=True, eq=False)
class NonFinite:
    """A step (counted from 0) with its loss, gradient norm and the first piece at fault."""

    step: int
    loss: float
    norm: float
    batch: Batch


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
        "scene": failure.batch.scene.index,
        "loss": str(failure.loss),
        "grad_norm": str(failure.norm),
        "state": file.with_suffix("").name,
        "rows": {name: piece.compared.tolist() for name, piece in failure.batch.pieces.items()},
    }
    write_json(file, record)
    return file


def name_culprit(failure: NonFinite, losses: Sequence[Distill], file: Path) -> DataError:
    """The error of a step: which teacher rows are not finite, or that all are."""
    nodes, pieces = failure.batch.scene.nodes, failure.batch.pieces
    bad = [
        f"{edge.teacher} row {row}"
        for edge in losses
        if edge.student in pieces and edge.teacher in nodes
        for row in bad_rows(nodes[edge.teacher], pieces[edge.student].compared)
    ]
    where = f"the step is in {file}, for `xmodal train --replay`"
    return DataError(
        f"step {failure.step + 1}, scene {failure.batch.scene.index}",
        wanted="a finite loss and gradient",
        got=f"loss {failure.loss}, gradient norm {failure.norm}; "
        + (f"not finite: {', '.join(bad[:3])}" if bad else "all teacher rows are finite"),
        fix=f"lift those rows again; {where}" if bad else f"lower lr; {where}",
    )
