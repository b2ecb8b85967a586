"""Fusing many views on a CPU: each target row is averaged in one visit and written once.

The maps of all views stay where they are; a table of addresses stands for their concatenation,
which is never made.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from lifting.views import ViewPart

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
def _inverse_length(f: NDArray[np.float32]) -> Any:
    """1 / |f|; 0 for any feature of length zero, infinity for one that is not finite."""
    square = np.float32(0)
    for c in range(len(f)):
        square += f[c] * f[c]
    # Not np.isfinite: it is x - x == 0 inside, which reordered arithmetic folds to true.
    if not square <= _LARGEST:
        return np.float32(np.inf)
    return np.float32(1) / np.sqrt(square) if square > 0 else np.float32(0)


@jit
def _mean_row(
    entries: NDArray[np.int64],
    weight: NDArray[np.float32],
    units: NDArray[np.float32],
    mean: NDArray[np.float32],
    resultant: NDArray[np.float32],
) -> tuple[float, bool]:
    """Sums of w f and w f / |f| over a row's entries; returns sum w, and whether all is finite."""
    channels = len(mean)
    total, largest = 0.0, np.float32(0)
    mean[:] = 0
    resultant[:] = 0
    for p in range(len(entries)):
        total += weight[p]
        largest = max(largest, units[p])
    if not largest <= _LARGEST:
        return total, False
    quads = len(entries) // 4 * 4
    # Four at a time: the sums are then read and written once for four features.
    for p in range(0, quads, 4):
        f0, f1 = _row(entries[p], channels), _row(entries[p + 1], channels)
        f2, f3 = _row(entries[p + 2], channels), _row(entries[p + 3], channels)
        w0, w1, w2, w3 = weight[p], weight[p + 1], weight[p + 2], weight[p + 3]
        u0, u1, u2, u3 = units[p], units[p + 1], units[p + 2], units[p + 3]
        for c in range(channels):
            mean[c] += w0 * f0[c] + w1 * f1[c] + w2 * f2[c] + w3 * f3[c]
            resultant[c] += u0 * f0[c] + u1 * f1[c] + u2 * f2[c] + u3 * f3[c]
    for p in range(quads, len(entries)):
        f, w, u = _row(entries[p], channels), weight[p], units[p]
        for c in range(channels):
            mean[c] += w * f[c]
            resultant[c] += u * f[c]
    return total, True


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
    merged: tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]],
    tuning: float,
    rows: NDArray[np.float32],
    figures: NDArray[np.float64],
    begin: int,
    end: int,
) -> None:
    """Average target rows `begin` to `end`; a row with a bad feature gets the weight NaN."""
    entries, weight, units = merged
    channels = rows.shape[1]
    scratch = np.empty(channels, np.float32)
    longest = 0
    for i in range(begin, end):
        longest = max(longest, crow[i + 1] - crow[i])
    distance = np.empty(longest, np.float32)
    for i in range(begin, end):
        here = slice(crow[i], crow[i + 1])
        mean = rows[i]
        total, finite = _mean_row(entries[here], weight[here], units[here], mean, scratch)
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
def _count_entries(
    targets: NDArray[np.int64],
    crow: NDArray[np.int64],
    merged: NDArray[np.int64],
    count: NDArray[np.int64],
) -> None:
    """Add one view's entries per target to `merged[1:]`, and the view itself to `count`."""
    for k in range(len(targets)):
        length = crow[k + 1] - crow[k]
        merged[targets[k] + 1] += length
        if length > 0:
            count[targets[k]] += 1


@jit
def _place_entries(
    pattern: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    weight: NDArray[np.float32],
    base: int,
    inverse: NDArray[np.float32],
    channels: int,
    cursor: NDArray[np.int64],
    merged: tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]],
) -> None:
    """Write one view's entries, as addresses of their features, behind those of earlier views.

    `inverse` holds what is known of 1 / |f|, -1 where it is not: each feature that is used is
    measured once, however many targets use it.
    """
    targets, crow, col = pattern
    entries, weights, units = merged
    for k in range(len(targets)):
        for p in range(crow[k], crow[k + 1]):
            place = cursor[targets[k]]
            cursor[targets[k]] = place + 1
            address, source = base + col[p] * 4 * channels, col[p]
            if inverse[source] < 0:
                inverse[source] = _inverse_length(_row(address, channels))
            bad = inverse[source] > _LARGEST  # even at weight zero
            entries[place], weights[place] = address, weight[p]
            units[place] = inverse[source] if bad else weight[p] * inverse[source]


def fuse_views(
    parts: Sequence[ViewPart], *, tuning: float, out: Float32[Tensor, "M C"]
) -> tuple[Float64[Tensor, "M 2"], Int64[Tensor, " M"], int]:
    """Weighted mean of what all views give to each target.

    Args:
        parts: The views, with positive weights and features of one width, on the CPU.
        tuning: Tuning constant of the robust second pass; 0 for the plain mean.
        out: Contiguous. Written: the means; targets without entries are zero.

    Returns:
        Per target the sum of weights and the disagreement, and the number of views; then a target
        whose features are not finite, or -1. With such a target the rest is meaningless.
    """
    # Held until the kernel has run: it knows the maps by their addresses only.
    maps = [part.rows.detach().float().contiguous() for part in parts]
    count = torch.zeros(out.shape[0], dtype=torch.int64)
    crow, merged = _merge(parts, maps, count)
    figures = torch.empty(out.shape[0], 2, dtype=torch.float64)
    run_ranges(
        _fuse,
        even_bounds(out.shape[0], (len(merged[0]) + out.shape[0]) * out.shape[1]),
        crow,
        merged,
        tuning,
        out.numpy(),
        figures.numpy(),
    )
    bad = np.flatnonzero(np.isnan(figures.numpy()[:, 0]))
    return figures, count, int(bad[0]) if len(bad) else -1


def _merge(
    parts: Sequence[ViewPart], maps: list[Tensor], count: Tensor
) -> tuple[NDArray[np.int64], tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]]:
    """Pointers; addresses, weights and weights / |f| of all views' entries; fills `count`."""
    patterns = [
        (part.targets.numpy(), part.operator.crow.numpy(), part.operator.col.numpy())
        for part in parts
    ]
    crow = np.zeros(len(count) + 1, np.int64)
    for targets, pointers, _ in patterns:
        _count_entries(targets, pointers, crow, count.numpy())
    np.cumsum(crow, out=crow)
    cursor = crow[:-1].copy()
    entries = np.empty(crow[-1], np.int64)
    merged = entries, np.empty(crow[-1], np.float32), np.empty(crow[-1], np.float32)
    for part, pattern, rows in zip(parts, patterns, maps, strict=True):
        weight = part.operator.weight.detach().float().contiguous().numpy()
        inverse = np.full(len(rows), -1, np.float32)
        _place_entries(pattern, weight, rows.data_ptr(), inverse, rows.shape[1], cursor, merged)
    return crow, merged
