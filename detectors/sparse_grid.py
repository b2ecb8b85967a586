"""Sparse voxel grids: which cells are occupied, and which touch which under a convolution.

A grid is built once per resolution; its kernel maps are shared by all layers of that resolution.
Cells are kept sorted by (sample, x, y, z), so a neighbour is found by binary search in one sorted
array of packed keys and results do not depend on the order of the caller's rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

# Packed keys are int64; one bit is left so that differences of keys cannot overflow.
_MAX_KEYS = 1 << 62


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Pairs (source cell, target cell) of a sparse convolution, grouped by kernel offset.

    Attributes:
        sources: Row of the input for every pair.
        targets: Row of the output for every pair; within one offset no target occurs twice.
        counts: Number of pairs of every kernel offset, in the order of the weight's first axis.
        num_sources: Rows of the input.
        num_targets: Rows of the output.
    """

    sources: Int[Tensor, " P"]
    targets: Int[Tensor, " P"]
    counts: tuple[int, ...]
    num_sources: int
    num_targets: int

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

    def neighbours(self) -> KernelMap:
        """Kernel map of the sub-manifold 3x3x3 convolution, offsets in C order from (-1, -1, -1).

        Only occupied cells are outputs, so a surface does not grow thicker from layer to layer.

        Source:
            Graham et al., 3D Semantic Segmentation with Submanifold Sparse Convolutional Networks,
            CVPR 2018, section 3.
        """
        num = len(self.cells)
        keys, strides = _keys(self.cells)
        identity = torch.arange(num, device=keys.device)
        if num == 0:
            return KernelMap(identity, identity, (0,) * 27, 0, 0)
        steps = torch.arange(-1, 2, device=keys.device)
        offsets = torch.cartesian_prod(steps, steps, steps)[:13]
        # The neighbour at -o is the neighbour at o seen from the other side: 13 searches for 27.
        wanted = keys[None] + (offsets @ strides)[:, None]
        found = torch.searchsorted(keys, wanted).clamp_(max=num - 1)
        offset, target = (keys[found] == wanted).nonzero(as_tuple=True)
        half = torch.bincount(offset, minlength=13).tolist()
        source = found[offset, target]
        there, back = source.split(half), target.split(half)
        return KernelMap(
            torch.cat([*there, identity, *reversed(back)]),
            torch.cat([*back, identity, *reversed(there)]),
            (*half, num, *reversed(half)),
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
        corner = child @ child.new_tensor([4, 2, 1])
        order = torch.sort(corner, stable=True).indices
        counts = torch.bincount(corner, minlength=8).tolist()
        return grid, KernelMap(
            order, parent[order], tuple(counts), len(self.cells), len(grid.cells)
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


def _keys(cells: Int[Tensor, "V 4"]) -> tuple[Int[Tensor, " V"], Int[Tensor, " 3"]]:
    """Pack cells into sortable integers; also the key steps of x, y and z.

    One empty cell is left between rows of the grid, so that a step across the border of the
    bounding box meets no key of another row.
    """
    if len(cells) == 0:
        return cells.new_zeros(0), cells.new_zeros(3)
    low = cells.amin(dim=0)
    _, x, y, z = extent = (cells.amax(dim=0) - low + 2).tolist()
    if extent[0] * x * y * z >= _MAX_KEYS:
        msg = f"a grid of {x} x {y} x {z} cells in {extent[0] - 1} samples is too large to index"
        raise ValueError(msg)
    strides = cells.new_tensor([x * y * z, y * z, z, 1])
    return (cells - low) @ strides, strides[1:]
