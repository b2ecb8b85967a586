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
def _pixel_groups(
    crow: NDArray[np.int64], col: NDArray[np.int32], num_sources: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pixels in an order in which those that read the same rows of a map follow each other.

    Args:
        crow: Pointers of the taps; a pixel without taps is left out.
        col: Columns of the taps.
        num_sources: Number of columns.

    Returns:
        Pixels, and where each group of them begins, closed by their number.
    """
    first = np.zeros(num_sources + 1, np.int64)
    for i in range(len(crow) - 1):
        if crow[i + 1] > crow[i]:
            first[col[crow[i]] + 1] += 1
    for k in range(num_sources):
        first[k + 1] += first[k]
    order = np.empty(first[num_sources], np.int32)
    for i in range(len(crow) - 1):
        if crow[i + 1] > crow[i]:
            order[first[col[crow[i]]]] = i
            first[col[crow[i]]] += 1
    begins = np.empty(len(order) + 1, np.int32)
    count = 0
    for k in range(len(order)):
        i, before = order[k], order[k - 1]
        size = crow[i + 1] - crow[i]
        same = k > 0 and size == crow[before + 1] - crow[before]
        for q in range(size):
            same = same and col[crow[i] + q] == col[crow[before] + q]
        if not same:
            begins[count] = k
            count += 1
    begins[count] = len(order)
    return order, begins[: count + 1]


@jit
def _group_sums(
    pattern: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]],
    taps: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]],
    groups: tuple[NDArray[np.int32], NDArray[np.int32]],
    widest: int,
    num_splats: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[Any]]:
    """What each splat gives to the taps of each group of pixels.

    A splat covers several pixels that read the same rows: their sums are made side by side in one
    short vector, and only those are sorted by splat and merged.

    Returns:
        Splat, first pixel of the group, and sums over its taps, of every pair that meets.
    """
    crow, col, weight = pattern
    tap_crow, _, tap_weight = taps
    order, begins = groups
    sums = np.zeros((num_splats, widest), weight.dtype)
    seen = np.full(num_splats, -1, np.int32)
    touched = np.empty(num_splats, np.int32)
    # A pair has at least one entry; room that is not used costs nothing.
    splat, pixel = np.empty(len(col), np.int32), np.empty(len(col), np.int32)
    values = np.empty((len(col), widest), weight.dtype)
    used = 0
    for g in range(len(begins) - 1):
        count = 0
        for k in range(begins[g], begins[g + 1]):
            i = order[k]
            start, size = tap_crow[i], tap_crow[i + 1] - tap_crow[i]
            for p in range(crow[i], crow[i + 1]):
                j, w = col[p], weight[p]
                if seen[j] != g:
                    seen[j] = g
                    touched[count] = j
                    count += 1
                for q in range(size):
                    sums[j, q] += w * tap_weight[start + q]
        for k in range(count):
            j = touched[k]
            splat[used], pixel[used] = j, order[begins[g]]
            for q in range(widest):
                values[used, q] = sums[j, q]
                sums[j, q] = 0
            used += 1
    return splat[:used], pixel[:used], values[:used]


@jit
def _merge(
    pairs: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[Any]],
    taps: tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]],
    num_sources: int,
    crow: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Columns and weights of the product, splat by splat; writes its pointers to `crow`."""
    splat, pixel, values = pairs
    tap_crow, tap_col, _ = taps
    begins = np.zeros(len(crow) + 1, np.int64)
    for k in range(len(splat)):
        begins[splat[k] + 2] += 1
    for j in range(2, len(begins)):
        begins[j] += begins[j - 1]
    order = np.empty(len(splat), np.int32)
    for k in range(len(splat)):
        order[begins[splat[k] + 1]] = k
        begins[splat[k] + 1] += 1
    size = values.size + 1
    col, out = np.empty(size, np.int64), np.empty(size, values.dtype)
    total = np.zeros(num_sources, values.dtype)
    last = np.full(num_sources, -1, np.int64)
    touched = np.empty(num_sources + 1, np.int32)
    used = 0
    crow[0] = 0
    for j in range(len(crow) - 1):
        count = 0
        for k in range(begins[j], begins[j + 1]):
            pair = order[k]
            start = tap_crow[pixel[pair]]
            for q in range(tap_crow[pixel[pair] + 1] - start):
                c = tap_col[start + q]
                total[c] += values[pair, q]
                # Without a branch, which would be guessed wrong for every other splat.
                touched[count] = c
                count += last[c] != j
                last[c] = j
        for k in range(count):
            c = touched[k]
            if total[c] != 0:
                col[used], out[used] = c, total[c]
                used += 1
            total[c] = 0
        crow[j + 1] = used
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
    tap_crow, tap_col, tap_weight = (_array(x) for x in taps)
    # Half the bytes: taps of all pixels then fit into the cache.
    same_kind = (tap_crow, tap_col.astype(np.int32), tap_weight.astype(weight.dtype, copy=False))
    groups = _pixel_groups(tap_crow, same_kind[1], num_sources)
    widest = int(np.diff(tap_crow).max(initial=1))
    pairs = _group_sums((crow, col, weight), same_kind, groups, widest, num_targets)
    pointers = np.empty(num_targets + 1, np.int64)
    columns, products = _merge(pairs, same_kind, num_sources, pointers)
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
