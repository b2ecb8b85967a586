"""Neighbours of a sorted sparse grid on a CPU, by walking along the sorted keys."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from lifting.backends.jit import jit


@jit
def _walk(
    keys: NDArray[np.int64],
    shifts: NDArray[np.int64],
    reach: int,
    pairs: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> None:
    """Pairs of the offsets in rows of z: for each key those within `reach` of `key + shift`.

    The wanted keys rise with the key, so one pointer walks along the keys once per row of offsets.

    Args:
        keys: Rising keys of the cells.
        shifts: Key step to the middle of each row of offsets, all below zero or zero.
        reach: Cells to either side of the middle. The row of shift zero is the cell's own and has
            only the side below it.
        pairs: Written: sources and targets of each offset.
        counts: Written: number of pairs of each offset.
    """
    side = 2 * reach + 1
    counts[:] = 0
    for r in range(len(shifts)):
        length = side if shifts[r] != 0 else reach
        first = 0
        for i in range(len(keys)):
            lowest = keys[i] + shifts[r] - reach
            while keys[first] < lowest:
                first += 1
            j = first
            while keys[j] - lowest < length:
                k = r * side + keys[j] - lowest
                pairs[k, 0, counts[k]] = j
                pairs[k, 1, counts[k]] = i
                counts[k] += 1
                j += 1


def half_neighbours(
    keys: Int[Tensor, " V"], shifts: Int[Tensor, " R"], reach: int
) -> list[tuple[Int[Tensor, " P"], Int[Tensor, " P"]]]:
    """Sources and targets of each offset that comes before the middle one.

    Args:
        keys: Rising keys of the cells.
        shifts: Key step to the middle of each row of offsets along z, in order, the last one zero.
        reach: Cells to either side of the middle of a row.
    """
    num = len(shifts) * (2 * reach + 1) - reach - 1
    # Only the pages that are written cost memory.
    pairs, counts = np.empty((num, 2, len(keys)), np.int32), np.empty(num, np.int64)
    _walk(keys.numpy(), shifts.numpy(), reach, pairs, counts)
    return [
        (torch.from_numpy(pair[0, :count]), torch.from_numpy(pair[1, :count]))
        for pair, count in zip(pairs, counts, strict=True)
    ]
