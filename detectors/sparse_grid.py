"""Sparse voxel grids: which cells are occupied, and which touch which under a convolution.

A grid is built once per resolution; its kernel maps are shared by all layers of that resolution.
Cells are kept sorted by (sample, x, y, z), so a neighbour is found in one sorted array of packed
keys, and results do not depend on the order of the caller's rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

# Packed keys are int64; one bit is left so that differences of keys cannot overflow.
_MAX_KEYS = 1 << 62


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Pairs (source cell, target cell) of a sparse convolution, grouped by kernel offset.

    Attributes:
        sources: Row of the input for every pair, int32.
        targets: Row of the output for every pair, int32; within one offset they rise, and so do
            the sources, and none occurs twice.
        counts: Number of pairs of every kernel offset, in the order of the weight's first axis.
        num_sources: Rows of the input.
        num_targets: Rows of the output.
        cache: What a backend keeps with the map, by the backend's name.
    """

    sources: Int[Tensor, " P"]
    targets: Int[Tensor, " P"]
    counts: tuple[int, ...]
    num_sources: int
    num_targets: int
    cache: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)

    @property
    def num_pairs(self) -> int:
        """Pairs of all offsets."""
        return len(self.sources)

    @cached_property
    def starts(self) -> Int[Tensor, " K1"]:
        """Where the pairs of each offset begin, and their number at the end; on the CPU."""
        return torch.tensor([0, *self.counts]).cumsum(0)

    def transpose(self) -> KernelMap:
        """The same pairs from targets to sources: the map of the transposed convolution."""
        return KernelMap(
            self.targets, self.sources, self.counts, self.num_targets, self.num_sources
        )


@dataclass(frozen=True, eq=False)
class SparseGrid:
    """Occupied cells of one resolution, sorted by (sample, x, y, z).

    Attributes:
        cells: `(sample, x, y, z)` of each cell, without duplicates.
    """

    cells: Int[Tensor, "V 4"]

    def neighbours(self, side: int = 3) -> KernelMap:
        """Kernel map of the sub-manifold convolution, offsets in C order from the lowest.

        Only occupied cells are outputs, so a surface does not grow thicker from layer to layer.

        Args:
            side: Cells of the kernel along each axis, odd.

        Raises:
            ValueError: If the side is even.

        Source:
            Graham et al., 3D Semantic Segmentation with Submanifold Sparse Convolutional Networks,
            CVPR 2018, section 3.
        """
        if side < 1 or side % 2 == 0:
            msg = f"a kernel around its cell has an odd side, not {side}"
            raise ValueError(msg)
        num, reach = len(self.cells), side // 2
        keys, strides = _keys(self.cells, border=max(reach, 1))
        identity = torch.arange(num, dtype=torch.int32, device=keys.device)
        if num == 0:
            return KernelMap(identity, identity, (0,) * side**3, 0, 0)
        find = _half_by_walking if keys.device.type == "cpu" else half_by_search
        # The neighbour at -o is the neighbour at o seen from the other side: half the searches.
        half = find(keys, strides, reach)
        there, back = [source for source, _ in half], [target for _, target in half]
        counts = [len(part) for part in there]
        return KernelMap(
            torch.cat([*there, identity, *reversed(back)]),
            torch.cat([*back, identity, *reversed(there)]),
            (*counts, num, *reversed(counts)),
            num,
            num,
        )

    def halved(self) -> tuple[SparseGrid, KernelMap]:
        """The grid of cells twice as large, and the map of the 2x2x2 convolution of stride 2.

        Parents are `floor(cell / 2)`, a property of the cell alone, so that what else is in the
        batch cannot change them.
        """
        xyz = torch.div(self.cells[:, 1:], 2, rounding_mode="floor")
        parents = torch.cat([self.cells[:, :1], xyz], dim=1)
        keys, _ = _keys(parents)
        unique, parent = torch.unique(keys, return_inverse=True)
        grid = SparseGrid(parents.new_empty(len(unique), 4).index_copy_(0, parent, parents))
        child = self.cells[:, 1:] - 2 * xyz
        corner = (child * child.new_tensor([4, 2, 1])).sum(dim=1)
        order = torch.sort(corner, stable=True).indices
        counts = torch.bincount(corner, minlength=8).tolist()
        targets = parent[order].int()
        return grid, KernelMap(
            order.int(), targets, tuple(counts), len(self.cells), len(grid.cells)
        )


def sparse_grid(
    coords: Int[Tensor, "V 3"], sample: Int[Tensor, " V"]
) -> tuple[SparseGrid, Int[Tensor, " V"]]:
    """Sort occupied cells into a grid.

    Args:
        coords: Integer cell of each row; negative ones are fine.
        sample: Which sample of the batch each row belongs to. Samples never touch.

    Returns:
        The grid, and the rows in the grid's order (`coords[order]` are its cells).

    Raises:
        ValueError: If a cell occurs twice in a sample, or the extent of the grid does not fit
            63-bit keys.
    """
    cells = torch.cat([sample[:, None], coords], dim=1).long()
    keys, order = torch.sort(_keys(cells)[0])
    twice = int((keys[1:] == keys[:-1]).sum())
    if twice:
        msg = f"every cell may occur once in a sample; {twice} rows repeat a cell: voxelise first"
        raise ValueError(msg)
    return SparseGrid(cells[order]), order


def half_by_search(
    keys: Int[Tensor, " V"], strides: Int[Tensor, " 3"], reach: int
) -> list[tuple[Int[Tensor, " P"], Int[Tensor, " P"]]]:
    """Sources and targets of each offset before the middle one, by binary search.

    Args:
        keys: Rising keys of the cells.
        strides: Key steps of x, y and z.
        reach: Cells of the kernel to either side.
    """
    steps = torch.arange(-reach, reach + 1, device=keys.device)
    offsets = torch.cartesian_prod(steps, steps, steps)[: len(steps) ** 3 // 2]
    # A sum, not a matrix product: integers have none on CUDA.
    wanted = keys[None] + (offsets * strides).sum(dim=1)[:, None]
    found = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    offset, target = (keys[found] == wanted).nonzero(as_tuple=True)
    counts = torch.bincount(offset, minlength=len(offsets)).tolist()
    source = found[offset, target]
    return list(zip(source.int().split(counts), target.int().split(counts), strict=True))


def _half_by_walking(keys: Tensor, strides: Tensor, reach: int) -> list[tuple[Tensor, Tensor]]:
    """The same on a CPU, by walking along the keys once for every row of offsets."""
    from detectors.backends.numba_grid import half_neighbours  # numba is slow to import

    steps = torch.arange(-reach, reach + 1)
    rows = torch.cartesian_prod(steps, steps)[: len(steps) ** 2 // 2 + 1]
    return half_neighbours(keys, (rows * strides[:2]).sum(dim=1), reach)


def _keys(
    cells: Int[Tensor, "V 4"], border: int = 1
) -> tuple[Int[Tensor, " V"], Int[Tensor, " 3"]]:
    """Pack cells into sortable integers; also the key steps of x, y and z.

    `border` empty cells are left between rows of the grid, so that a step across the border of the
    bounding box meets no key of another row.
    """
    if len(cells) == 0:
        return cells.new_zeros(0), cells.new_zeros(3)
    low = cells.amin(dim=0)
    _, x, y, z = extent = (cells.amax(dim=0) - low + 1 + border).tolist()
    if extent[0] * x * y * z >= _MAX_KEYS:
        msg = (
            f"a grid of {x} x {y} x {z} cells in {extent[0] - border} samples is too large to index"
        )
        raise ValueError(msg)
    strides = cells.new_tensor([x * y * z, y * z, z, 1])
    return ((cells - low) * strides).sum(dim=1), strides[1:]
