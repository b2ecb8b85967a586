"""Fusing many views on a CPU: each target row is averaged in one visit and written once.

The maps of all views stay where they are; a table of addresses stands for their concatenation,
which is never made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from numba import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray
from numpy.typing import NDArray
from torch import Tensor

from lifting.backends.jit import even_bounds, jit, run_ranges

_LARGEST = np.finfo(np.float32).max


def _float32_pointer(_context: Any, _address: Any) -> Any:
    """An integer address as a pointer that `carray` accepts."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), generate


_pointer: Any = intrinsic(_float32_pointer)


@jit
def _row(address: int, channels: int) -> NDArray[np.float32]:
    return carray(_pointer(address), (channels,))


@jit
def _mean_row(
    entries: NDArray[np.int64],
    weight: NDArray[np.float32],
    channels: int,
    mean: NDArray[np.float32],
    resultant: NDArray[np.float32],
) -> tuple[float, bool]:
    """Sums of w f and w f / |f| over a row's entries; returns sum w, and whether all is finite."""
    total, finite = 0.0, True
    mean[:] = 0
    resultant[:] = 0
    for p in range(len(entries)):
        f = _row(entries[p], channels)
        square = np.float32(0)
        for c in range(channels):
            square += f[c] * f[c]
        # Not np.isfinite: it is x - x == 0 inside, which reordered arithmetic folds to true.
        if not square <= _LARGEST:
            finite = False
        w = weight[p]
        unit = w / np.sqrt(square) if square > 0 else np.float32(0)
        for c in range(channels):
            mean[c] += w * f[c]
            resultant[c] += unit * f[c]
        total += w
    return total, finite


@jit
def _robust_row(
    entries: NDArray[np.int64],
    weight: NDArray[np.float32],
    tuning: float,
    mean: NDArray[np.float32],
    scratch: NDArray[np.float32],
    distance: NDArray[np.float32],
) -> None:
    """Replace a row's mean by one whose weights fall with the distance from that mean."""
    channels = len(mean)
    length = np.float32(0)
    for c in range(channels):
        length += mean[c] * mean[c]
    spread, total = 0.0, 0.0
    for p in range(len(entries)):
        f = _row(entries[p], channels)
        dot, square = np.float32(0), np.float32(0)
        for c in range(channels):
            dot += f[c] * mean[c]
            square += f[c] * f[c]
        norms = np.sqrt(np.float64(square) * np.float64(length))
        cosine = dot / norms if norms > 0 else 0.0
        distance[p] = max(0.0, 1.0 - cosine)
        spread += weight[p] * distance[p]
        total += weight[p]
    scale = tuning * spread / total
    if scale <= 0:
        return
    scratch[:] = 0
    robust_total = 0.0
    for p in range(len(entries)):
        f = _row(entries[p], channels)
        off = distance[p] / scale
        w = np.float32(weight[p] / (1.0 + off * off))
        for c in range(channels):
            scratch[c] += w * f[c]
        robust_total += w
    for c in range(channels):
        mean[c] = scratch[c] / np.float32(robust_total)


@jit
def _fuse(
    crow: NDArray[np.int64],
    entries: NDArray[np.int64],
    weight: NDArray[np.float32],
    tuning: float,
    rows: NDArray[np.float32],
    figures: NDArray[np.float64],
    begin: int,
    end: int,
) -> None:
    """Average target rows `begin` to `end`; a row with a bad feature gets the weight NaN."""
    channels = rows.shape[1]
    scratch = np.empty(channels, np.float32)
    longest = 0
    for i in range(begin, end):
        longest = max(longest, crow[i + 1] - crow[i])
    distance = np.empty(longest, np.float32)
    for i in range(begin, end):
        here = slice(crow[i], crow[i + 1])
        mean = rows[i]
        total, finite = _mean_row(entries[here], weight[here], channels, mean, scratch)
        if not finite:
            figures[i, 0] = np.nan
            continue
        square = 0.0
        for c in range(channels):
            square += scratch[c] * scratch[c]
        figures[i, 0] = total
        figures[i, 1] = 0
        if total <= 0:
            continue
        figures[i, 1] = max(0.0, 1.0 - np.sqrt(square) / total)
        inverse = np.float32(1.0 / total)
        for c in range(channels):
            mean[c] *= inverse
        if tuning > 0 and crow[i + 1] - crow[i] > 1:
            _robust_row(entries[here], weight[here], tuning, mean, scratch, distance)


@jit
def _count_runs(crow: NDArray[np.int64], view: NDArray[np.int64], count: NDArray[np.int64]) -> None:
    for i in range(len(count)):
        count[i] = 0
        for p in range(crow[i], crow[i + 1]):
            if p == crow[i] or view[p] != view[p - 1]:
                count[i] += 1


def fuse_views(
    crow: Int64[Tensor, " M1"],
    view: Int64[Tensor, " nnz"],
    col: Int64[Tensor, " nnz"],
    weight: Float32[Tensor, " nnz"],
    maps: list[Float32[Tensor, "R C"]],
    *,
    tuning: float,
    out: Float32[Tensor, "M C"],
) -> tuple[Float64[Tensor, "M 2"], Int64[Tensor, " M"], int]:
    """Weighted mean over the entries of each row, which may lie in different maps.

    Args:
        crow: Row pointers.
        view: Map of each entry; the entries of a row are grouped by map.
        col: Row of its map.
        weight: Positive weight of each entry.
        maps: Contiguous maps on the CPU, equally wide. Indices are trusted.
        tuning: Tuning constant of the robust second pass; 0 for the plain mean.
        out: Written: the means; rows without entries are zero.

    Returns:
        Per target the sum of weights and the disagreement, and the number of maps; then a target
        whose features are not finite, or -1. With such a target the rest is meaningless.
    """
    base = torch.tensor([rows.data_ptr() for rows in maps], dtype=torch.int64)
    # Each entry's address: the kernel then needs neither view nor column.
    entries = base[view] + col * (out.shape[1] * out.element_size())
    figures = torch.empty(out.shape[0], 2, dtype=torch.float64)
    count = torch.empty(out.shape[0], dtype=torch.int64)
    _count_runs(crow.numpy(), view.numpy(), count.numpy())
    run_ranges(
        _fuse,
        even_bounds(out.shape[0], (col.numel() + out.shape[0]) * out.shape[1]),
        crow.numpy(),
        entries.numpy(),
        weight.numpy(),
        tuning,
        out.numpy(),
        figures.numpy(),
    )
    bad = torch.nonzero(figures[:, 0].isnan())
    return figures, count, int(bad[0]) if len(bad) else -1


def merge_pattern(
    row: Int64[Tensor, " nnz"], num: int
) -> tuple[Int64[Tensor, " M1"], Int64[Tensor, " nnz"]]:
    """Row pointers, and the stable order of entries by row."""
    from lifting.backends.numba_csr import sort_index

    return sort_index(row, num)
