"""Point-cloud kernels for a CPU: hashing cells, merging segments, maxima per segment."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lifting.backends.jit import jit, jit_exact

# 2^64 divided by the golden ratio: multiplying spreads neighbouring keys over the high bits
# (Knuth, The Art of Computer Programming, volume 3, section 6.4).
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


@jit_exact
def cloud_bounds(xyz: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> bool:
    """Write the extent of a cloud that is not empty; False if a coordinate is not finite."""
    finite = True
    # One variable per axis and side: the loop then runs in vector registers.
    low_x, low_y, low_z = xyz[0]
    high_x, high_y, high_z = xyz[0]
    for i in range(len(xyz)):
        x, y, z = xyz[i, 0], xyz[i, 1], xyz[i, 2]
        low_x, high_x = min(low_x, x), max(high_x, x)
        low_y, high_y = min(low_y, y), max(high_y, y)
        low_z, high_z = min(low_z, z), max(high_z, z)
        finite = finite & np.isfinite(x) & np.isfinite(y) & np.isfinite(z)
    low[0], low[1], low[2] = low_x, low_y, low_z
    high[0], high[1], high[2] = high_x, high_y, high_z
    return finite


@jit_exact
def cell_keys(
    xyz: NDArray[Any],
    voxel_m: float,
    grid: NDArray[np.int64],
    base: int,
    keys: NDArray[np.int64],
    begin: int,
    end: int,
) -> None:
    """Number the cell of each point from `begin` to `end` within a dense grid.

    Args:
        xyz: Points.
        voxel_m: Side of a cell.
        grid: First cell per axis (3 numbers), then the grid's size along y and z.
        base: Number of the grid's first cell.
        keys: Written.
        begin: First point.
        end: Behind the last point.
    """
    for i in range(begin, end):
        x = np.int64(np.floor(np.float64(xyz[i, 0]) / voxel_m)) - grid[0]
        y = np.int64(np.floor(np.float64(xyz[i, 1]) / voxel_m)) - grid[1]
        z = np.int64(np.floor(np.float64(xyz[i, 2]) / voxel_m)) - grid[2]
        keys[i] = base + (x * grid[3] + y) * grid[4] + z


@jit
def number_keys(
    keys: NDArray[np.int64],
    index: NDArray[np.int64],
    first: NDArray[np.int64],
    capacity_bits: int,
) -> int:
    """Number distinct keys by first appearance, with a hash table that compares whole keys.

    Args:
        keys: One key per point.
        index: Written: the number of each point's key.
        first: Written: for each number, the first point that has it.
        capacity_bits: Binary logarithm of the first table's size; the table grows by itself.

    Returns:
        How many distinct keys there are.
    """
    shift = np.uint64(64 - capacity_bits)
    # Key and number side by side: one line of cache per look-up. A number of -1 is an empty slot.
    table = np.full((1 << capacity_bits, 2), -1, np.int64)
    count = 0
    for i in range(len(keys)):
        key = keys[i]
        slot = np.int64((np.uint64(key) * _SPREAD) >> shift)
        while table[slot, 1] >= 0 and table[slot, 0] != key:
            slot = (slot + 1) & (len(table) - 1)
        if table[slot, 1] < 0:
            table[slot, 0] = key
            table[slot, 1] = count
            first[count] = i
            count += 1
        index[i] = table[slot, 1]
        if 2 * count > len(table):
            # A table that is half full still finds a key in about one and a half steps.
            capacity_bits += 2
            shift = np.uint64(64 - capacity_bits)
            table = np.full((1 << capacity_bits, 2), -1, np.int64)
            for n in range(count):
                key = keys[first[n]]
                slot = np.int64((np.uint64(key) * _SPREAD) >> shift)
                while table[slot, 1] >= 0:
                    slot = (slot + 1) & (len(table) - 1)
                table[slot, 0] = key
                table[slot, 1] = n
    return count


@jit
def segment_argmax(
    crow: NDArray[np.int64],
    order: NDArray[np.int64],
    rows: NDArray[Any],
    source: NDArray[np.int64],
    begin: int,
    end: int,
) -> None:
    """For segments `begin` to `end`, the row that holds each channel's maximum; -1 if empty."""
    channels = rows.shape[1]
    for i in range(begin, end):
        for c in range(channels):
            source[i, c] = -1
        for p in range(crow[i], crow[i + 1]):
            j = order[p]
            for c in range(channels):
                best = source[i, c]
                if best < 0 or rows[j, c] > rows[best, c]:
                    source[i, c] = j


@jit
def merge_segments(
    edges: NDArray[np.int64],
    weight: NDArray[np.float64],
    parent: NDArray[np.int64],
    size: NDArray[np.int64],
    accepts: NDArray[np.float64],
    scale: float,
    min_size: int,
) -> None:
    """Merge the two segments of each edge, if the edge is no stronger than what both accept.

    Args:
        edges: Two points per edge, sorted by rising weight.
        weight: Dissimilarity of each edge.
        parent: Forest of segments: a point's parent, or itself at the root. Changed.
        size: Points in the segment, at its root. Changed.
        accepts: Largest weight the segment accepts, at its root. Changed.
        scale: A segment of n points accepts `scale / n` more than its largest inner edge.
        min_size: Segments smaller than this accept any edge.
    """
    for e in range(len(edges)):
        a, b = edges[e, 0], edges[e, 1]
        while parent[a] != a:
            parent[a] = parent[parent[a]]  # halves the path for the next search
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        if a == b:
            continue
        similar = weight[e] <= accepts[a] and weight[e] <= accepts[b]
        if similar or size[a] < min_size or size[b] < min_size:
            if size[b] > size[a]:
                a, b = b, a
            parent[b] = a
            size[a] += size[b]
            accepts[a] = weight[e] + scale / size[a]


@jit
def number_segments(parent: NDArray[np.int64], label: NDArray[np.int64]) -> int:
    """Write each point's segment, numbered by first appearance; returns how many there are."""
    count = 0
    number = np.full(len(parent), -1, np.int64)
    for i in range(len(parent)):
        root = i
        while parent[root] != root:
            root = parent[root]
        if number[root] < 0:
            number[root] = count
            count += 1
        label[i] = number[root]
    return count
