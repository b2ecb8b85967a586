"""Lifting to splats on a CPU: composing weights with taps, and products with W' W unformed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from lifting.backends.jit import even_bounds, jit, run_ranges

# A product runs over this many columns at a time: the rows of all splats of a pixel, and of the
# next pixel, which are mostly the same, then stay in the fastest memory.
_COLUMNS = 64


@jit
def _by_column(
    crow: NDArray[np.int64],
    col: NDArray[np.int64],
    weight: NDArray[Any],
    begins: NDArray[np.int64],
    rows: NDArray[np.int32],
    weights: NDArray[Any],
) -> None:
    """The transpose of a CSR matrix by counting; `begins` has two elements more than columns."""
    begins[:] = 0
    for p in range(len(col)):
        begins[col[p] + 2] += 1
    for k in range(2, len(begins)):
        begins[k] += begins[k - 1]
    for i in range(len(crow) - 1):
        for p in range(crow[i], crow[i + 1]):
            place = begins[col[p] + 1]
            begins[col[p] + 1] = place + 1
            rows[place] = i
            weights[place] = weight[p]


@jit
def _compose(
    begins: NDArray[np.int64],
    rows: NDArray[np.int32],
    weights: NDArray[Any],
    taps: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]],
    num_sources: int,
    crow: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Columns and weights of the product; writes its pointers to `crow`."""
    tap_crow, tap_col, tap_weight = taps
    size = len(rows) + num_sources
    col, out = np.empty(size, np.int64), np.empty(size, weights.dtype)
    total = np.zeros(num_sources, weights.dtype)
    last = np.full(num_sources, -1, np.int64)
    touched = np.empty(num_sources + 1, np.int32)
    used = 0
    crow[0] = 0
    for s in range(len(crow) - 1):
        count = 0
        for p in range(begins[s], begins[s + 1]):
            w, i = weights[p], rows[p]
            for q in range(tap_crow[i], tap_crow[i + 1]):
                c = tap_col[q]
                total[c] += w * tap_weight[q]
                # Without a branch, which would be guessed wrong for every other splat.
                touched[count] = c
                count += last[c] != s
                last[c] = s
        if used + count > len(col):
            size = 2 * (used + count)
            more_col, more_out = np.empty(size, np.int64), np.empty(size, weights.dtype)
            more_col[:used], more_out[:used] = col[:used], out[:used]
            col, out = more_col, more_out
        for k in range(count):
            c = touched[k]
            if total[c] != 0:
                col[used], out[used] = c, total[c]
                used += 1
            total[c] = 0
        crow[s + 1] = used
    return col[:used].copy(), out[:used].copy()


@jit
def _normal_columns(
    crow: NDArray[np.int64],
    col: NDArray[np.int64],
    weight: NDArray[Any],
    share: NDArray[Any],
    x: NDArray[Any],
    out: NDArray[Any],
    begin: int,
    end: int,
) -> None:
    """Add columns `begin` to `end` of W' diag(share) W x to `out`, one pixel after the other."""
    width = end - begin
    seen = np.empty(width, x.dtype)
    for i in range(len(crow) - 1):
        if share[i] == 0 or crow[i] == crow[i + 1]:
            continue
        for c in range(width):
            seen[c] = 0
        for p in range(crow[i], crow[i + 1]):
            j, w = col[p], weight[p]
            for c in range(width):
                seen[c] += w * x[j, begin + c]
        for c in range(width):
            seen[c] *= share[i]
        for p in range(crow[i], crow[i + 1]):
            j, w = col[p], weight[p]
            for c in range(width):
                out[j, begin + c] += w * seen[c]


def compose_transposed(
    weights: tuple[Int64[Tensor, " N1"], Int64[Tensor, " nnz"], Float[Tensor, " nnz"]],
    taps: tuple[Int64[Tensor, " N1"], Int64[Tensor, " taps"], Float[Tensor, " taps"]],
    shape: tuple[int, int],
) -> tuple[Int64[Tensor, " M1"], Int64[Tensor, " out"], Float[Tensor, " out"]]:
    """Pattern and weights of W' U, entries with equal row and column merged, zeros left out.

    Time and memory grow with the entries that come in and out, not with their pairs before merging.

    Args:
        weights: Pointers, columns and weights of W.
        taps: The same of U; as many rows.
        shape: Columns of W and of U.

    Returns:
        Pointers, columns in order of first use, and weights.
    """
    num_targets, num_sources = shape
    crow, col, weight = (_array(x) for x in weights)
    begins = np.empty(num_targets + 2, np.int64)
    rows, values = np.empty(len(col), np.int32), np.empty_like(weight)
    _by_column(crow, col, weight, begins, rows, values)
    pointers = np.empty(num_targets + 1, np.int64)
    tap_crow, tap_col, tap_weight = (_array(x) for x in taps)
    # Half the bytes: taps of all pixels then fit into the cache.
    same_kind = (tap_crow, tap_col.astype(np.int32), tap_weight.astype(weight.dtype, copy=False))
    columns, products = _compose(begins, rows, values, same_kind, num_sources, pointers)
    return torch.from_numpy(pointers), torch.from_numpy(columns), torch.from_numpy(products)


def add_normal_product(
    pattern: tuple[Int64[Tensor, " N1"], Int64[Tensor, " nnz"], Float[Tensor, " nnz"]],
    share: Float[Tensor, " N"],
    x: Float[Tensor, "M C"],
    out: Float[Tensor, "M C"],
) -> None:
    """Add W' diag(share) W x to `out` in one pass over W; neither W' W nor W x is ever made.

    Args:
        pattern: Pointers, columns and weights of W, N x M.
        share: Weight of each row of W.
        x: One row per column of W.
        out: Contiguous, changed.
    """
    crow, col, weight = pattern
    arrays = [_array(a) for a in (crow, col, weight.to(x.dtype), share.to(x.dtype), x)]
    channels = x.shape[1]
    pieces = len(even_bounds(channels, 4 * col.numel() * channels)) - 1
    count = max(pieces, -(-channels // _COLUMNS))
    bounds = [channels * i // max(count, 1) for i in range(count + 1)]
    run_ranges(_normal_columns, bounds, *arrays, out.numpy())


def _array(x: Tensor) -> NDArray[Any]:
    return x.detach().contiguous().numpy()
