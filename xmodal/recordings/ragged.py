"""Ragged values of recordings: some of their samples, and several values as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from xmodal.errors import DataError
from xmodal.values import Audio, Embedding, Grids, Imu, Labels, Skeleton, Text, Video

Stream = Audio | Imu | Skeleton | Video | Grids
Ragged = Audio | Imu | Skeleton | Video | Grids | Embedding
OfRecordings = Ragged | Labels | Text
Kept = TypeVar("Kept", Audio, Imu, Skeleton, Video, Grids, Embedding)
# Fields with one entry for each sample; all other tensors have one for each row.
_OF_SAMPLE = ("offsets", "start_s")


def num_samples(value: OfRecordings) -> int:
    """How many recordings a value is of."""
    if isinstance(value, Labels):
        return len(value.ids)
    return len(value.texts) if isinstance(value, Text) else len(value.offsets) - 1


def has_rows(value: Ragged) -> Tensor:
    """Which samples have anything."""
    return value.offsets.diff() > 0


def take_samples(value: OfRecordings, places: Sequence[int] | Tensor) -> Any:
    """Some samples of a value, in the order in which they are named.

    Args:
        value: A value of recordings.
        places: Numbers of samples.
    """
    index = torch.as_tensor(places, dtype=torch.int64)
    if isinstance(value, Labels):
        return replace(value, ids=value.ids[index])
    if isinstance(value, Text):
        return Text(texts=tuple(value.texts[i] for i in index.tolist()))
    rows = rows_of(value.offsets, index)
    changed: dict[str, Any] = {}
    for name in (f.name for f in fields(value)):
        part = getattr(value, name)
        if not isinstance(part, Tensor) or name == "offsets":
            continue
        changed[name] = part[index] if name in _OF_SAMPLE else _select(value, part, rows)
    sizes = value.offsets.diff()[index]
    changed["offsets"] = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    return replace(value, **changed)


def rows_of(offsets: Tensor, places: Tensor) -> Tensor:
    """Rows of some samples, sample after sample.

    Args:
        offsets: Where each sample begins.
        places: Numbers of samples.
    """
    sizes = offsets.diff()[places]
    starts = offsets[places].repeat_interleave(sizes)
    ends = sizes.cumsum(0)
    within = torch.arange(int(sizes.sum())) - (ends - sizes).repeat_interleave(sizes)
    return starts + within


def join(values: Sequence[Kept], where: str) -> Kept:
    """Several values of one kind as one; samples in order.

    Args:
        values: At least one.
        where: What they are of, for the message.

    Raises:
        DataError: If they differ in what all samples must share: rate, joints, width, size.
    """
    first = values[0]
    if len(values) == 1:
        return first
    changed: dict[str, Any] = {}
    for name in (f.name for f in fields(first)):
        parts = [getattr(value, name) for value in values]
        if name == "offsets":
            sizes = torch.cat([part.diff() for part in parts])
            changed[name] = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        elif all(isinstance(part, Tensor) for part in parts):
            axis = _axis(first, name)
            shapes = {(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts}
            if len(shapes) > 1:
                raise _differ(where, name, sorted(map(str, shapes)))
            changed[name] = torch.cat(parts, dim=axis)
        elif any(isinstance(part, Tensor) for part in parts):
            changed[name] = None  # not every sample has it
        elif len(set(parts)) > 1:
            raise _differ(where, name, sorted({str(part) for part in parts}))
    return replace(first, **changed)


def empty_like(value: Kept) -> Kept:
    """A sample without anything, to stand beside others."""
    return take_samples(replace(value, offsets=torch.zeros(2, dtype=torch.int64)), [0])


def _axis(value: Ragged, name: str) -> int:
    return 1 if isinstance(value, Audio) and name == "amplitudes" else 0


def _select(value: Ragged, part: Tensor, rows: Tensor) -> Tensor:
    return part[:, rows] if isinstance(value, Audio) else part[rows]


def _differ(where: str, name: str, found: list[str]) -> DataError:
    return DataError(
        where,
        wanted=f"recordings with the same {name}",
        got=", ".join(found[:4]),
        fix="bring all files to one format, or use one data set for each",
    )
