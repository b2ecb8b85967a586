"""CSR product on a CPU: each output row is summed in place and written once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from lifting.backends.jit import even_bounds, jit, run_ranges

# Channels up to which a transposed product adds entry by entry, in any order of columns.
_NARROW = 16


@jit
def gather_sum(
    crow: NDArray[np.int64],
    col: NDArray[np.int64],
    weight: NDArray[Any],
    features: NDArray[Any],
    out: NDArray[Any],
    begin: int,
    end: int,
) -> None:
    """Rows `begin` to `end` of the product."""
    channels = features.shape[1]
    for i in range(begin, end):
        row, p, stop = out[i], crow[i], crow[i + 1]
        for c in range(channels):
            row[c] = 0
        # Four entries at a time: the output is then read and written once for all of them.
        while p + 4 <= stop:
            a, b = features[col[p]], features[col[p + 1]]
            d, e = features[col[p + 2]], features[col[p + 3]]
            wa, wb, wd, we = weight[p], weight[p + 1], weight[p + 2], weight[p + 3]
            for c in range(channels):
                row[c] += wa * a[c] + wb * b[c] + wd * d[c] + we * e[c]
            p += 4
        for last in range(p, stop):
            j, w = col[last], weight[last]
            for c in range(channels):
                out[i, c] += w * features[j, c]


@jit
def scatter_sum(
    crow: NDArray[np.int64],
    col: NDArray[np.int64],
    weight: NDArray[Any],
    rows: NDArray[Any],
    out: NDArray[Any],
    bounds: NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    """Add what the rows of pieces `first` to `last` give to the columns, to sums of each piece."""
    channels = rows.shape[1]
    for piece in range(first, last):
        total = out[piece]
        for i in range(bounds[piece], bounds[piece + 1]):
            for p in range(crow[i], crow[i + 1]):
                j, w = col[p], weight[p]
                for c in range(channels):
                    total[j, c] += w * rows[i, c]


@jit
def row_dots(
    crow: NDArray[np.int64],
    col: NDArray[np.int64],
    a: NDArray[Any],
    b: NDArray[Any],
    dots: NDArray[Any],
    begin: int,
    end: int,
) -> None:
    """<a[row], b[col]> of the entries in rows `begin` to `end`."""
    channels = a.shape[1]
    for i in range(begin, end):
        for p in range(crow[i], crow[i + 1]):
            j = col[p]
            total = a[i, 0] * b[j, 0]
            for c in range(1, channels):
                total += a[i, c] * b[j, c]
            dots[p] = total


@jit
def counting_sort(
    index: NDArray[np.int64], crow: NDArray[np.int64], order: NDArray[np.int64]
) -> int:
    """Stable order of `index`, and the pointers to its runs.

    Args:
        index: Keys from 0 to `len(crow) - 2`.
        crow: Written: where the run of each key begins in `order`.
        order: Written: positions sorted by key.

    Returns:
        Position of the first key out of range, or -1; nothing else is meaningful then.
    """
    num = len(crow) - 1
    crow[:] = 0
    for i in range(len(index)):
        if index[i] < 0 or index[i] >= num:
            return i
        crow[index[i] + 1] += 1
    for k in range(num):
        crow[k + 1] += crow[k]
    cursor = crow[:-1].copy()
    for i in range(len(index)):
        key = index[i]
        order[cursor[key]] = i
        cursor[key] += 1
    return -1


def csr_product(
    crow: Int64[Tensor, " M1"],
    col: Int64[Tensor, " nnz"],
    weight: Float[Tensor, " nnz"],
    features: Float[Tensor, "S C"],
    *,
    out: Float[Tensor, "M C"] | None = None,
) -> Float[Tensor, "M C"]:
    """Weighted sum of gathered rows, without gradients.

    Args:
        crow: Row pointers.
        col: Source row of each entry.
        weight: Weight of each entry, same dtype as the features.
        features: Source rows, on the CPU.
        out: Contiguous buffer that is overwritten, if given.
    """
    num_targets, channels = crow.numel() - 1, features.shape[1]
    result = features.new_empty(num_targets, channels) if out is None else out
    arrays = [_array(x) for x in (crow, col, weight, features)]
    into = result.numpy()
    bounds = even_bounds(num_targets, (col.numel() + num_targets) * channels)
    run_ranges(gather_sum, bounds, *arrays, into)
    return result


def scatter_pays(nnz: int, num_sources: int, channels: int) -> bool:
    """Whether `csr_scatter` beats sorting the entries by column first.

    It does where sums stay in the cache and each is added to many times.
    """
    return channels <= _NARROW and nnz >= 8 * num_sources


def csr_scatter(
    crow: Int64[Tensor, " M1"],
    col: Int64[Tensor, " nnz"],
    weight: Float[Tensor, " nnz"],
    rows: Float[Tensor, "M C"],
    *,
    num_sources: int,
) -> Float[Tensor, "S C"]:
    """The product of the transpose with narrow rows, without building the transpose.

    The result does not depend on the number of threads.

    Args:
        crow: Row pointers.
        col: Column of each entry.
        weight: Weight of each entry, same dtype as the rows.
        rows: One row per target.
        num_sources: Number of columns.
    """
    nnz, num_targets = col.numel(), crow.numel() - 1
    # Sums of their own for each piece, added in order: threads never write to the same row.
    pieces = min(8, max(1, nnz // max(1, 8 * num_sources)))
    total = rows.new_zeros(pieces, num_sources, rows.shape[1])
    bounds = torch.zeros(pieces + 1, dtype=torch.int64)
    shares = torch.arange(1, pieces) * (nnz // pieces)
    bounds[1:-1], bounds[-1] = torch.searchsorted(crow, shares), num_targets
    arrays = [_array(x) for x in (crow, col, weight, rows)]
    ranges = list(range(pieces + 1)) if pieces > 1 else [0, 1]
    run_ranges(scatter_sum, ranges, *arrays, total.numpy(), bounds.numpy())
    return total.sum(0)


def entry_dots(
    crow: Int64[Tensor, " M1"],
    col: Int64[Tensor, " nnz"],
    a: Float[Tensor, "M C"],
    b: Float[Tensor, "S C"],
) -> Float[Tensor, " nnz"]:
    """<a[row], b[col]> for each entry: the gradient of a product in its weights.

    Args:
        crow: Row pointers.
        col: Source row of each entry.
        a: One row per target.
        b: One row per source.
    """
    if not a.shape[1]:
        return a.new_zeros(col.numel())
    dots = a.new_empty(col.numel())
    arrays = [_array(x) for x in (crow, col, a, b)]
    into = dots.numpy()
    bounds = even_bounds(crow.numel() - 1, col.numel() * a.shape[1])
    run_ranges(row_dots, bounds, *arrays, into)
    return dots


def sort_index(
    index: Int64[Tensor, " N"], num: int
) -> tuple[Int64[Tensor, " M1"], Int64[Tensor, " N"]]:
    """CSR pattern of the segments that `index` names: pointers, and rows sorted by segment.

    Args:
        index: Segment of each row.
        num: Number of segments.

    Raises:
        ValueError: If an index lies outside [0, num).
    """
    crow, order = torch.empty(num + 1, dtype=torch.int64), torch.empty_like(index)
    wrong = counting_sort(_array(index), crow.numpy(), order.numpy())
    if wrong >= 0:
        raise ValueError(f"segment index {int(index[wrong])} lies outside [0, {num})")
    return crow, order


def _array(x: Tensor) -> NDArray[Any]:
    """The tensor's memory, in rows: a strided tensor is copied first."""
    return x.detach().contiguous().numpy()
