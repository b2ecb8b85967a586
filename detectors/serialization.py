"""Space-filling curves: cells of a grid put in one line, so that near cells stand near each other.

Attention over patches of such a line is attention over neighbourhoods, without a search for
neighbours. Different curves cut space at different places, so blocks of a network take turns.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor

Curve = Literal["morton", "hilbert", "morton_swapped", "hilbert_swapped"]
CURVES: tuple[Curve, ...] = get_args(Curve)

# Bits of a coordinate. Hilbert's curve turns with the number of levels, so it is fixed: a sample
# then gets the same order whatever else is in the batch. Cells of 1 cm span 655 m.
DEPTH = 16
# 63 bits less three coordinates.
_MAX_SAMPLES = 1 << 15
# Spread 21 bits to every third bit in five steps of shift and mask.
_SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def morton_codes(cells: Int[Tensor, "V 3"]) -> Int[Tensor, " V"]:
    """Position on the z-order curve: bits of x, y and z in turn, x first.

    Args:
        cells: Coordinates from 0 to 2^16 - 1.

    Raises:
        ValueError: If a coordinate is out of that range.

    Source:
        Morton, A Computer Oriented Geodetic Data Base, IBM 1966.
    """
    return _interleave(*_checked(cells, DEPTH))


def hilbert_codes(cells: Int[Tensor, "V 3"], depth: int = DEPTH) -> Int[Tensor, " V"]:
    """Position on Hilbert's curve through a cube of `2^depth` cells a side.

    Cells that follow each other on the curve share a face. A code without its last three bits is
    the code of the cell twice as large on the curve one level shorter.

    Args:
        cells: Coordinates from 0 to `2^depth - 1`.
        depth: Levels of the curve, 1 to 16.

    Raises:
        ValueError: If a coordinate is out of that range.

    Source:
        Skilling, Programming the Hilbert Curve, AIP Conference Proceedings 707, 2004.
    """
    axes = _checked(cells, depth)
    # From coarse to fine: where a bit is set, the sub-cube is mirrored, else its axes change place.
    for level in range(depth - 1, 0, -1):
        below = (1 << level) - 1
        for i in range(3):
            mirrored = (axes[i] >> level & 1).bool()
            swap = ((axes[0] ^ axes[i]) & below).masked_fill(mirrored, 0)
            axes[0] = axes[0] ^ torch.where(mirrored, below, swap)
            axes[i] = axes[i] ^ swap
    # Gray code over all bits of all axes.
    axes[1] = axes[1] ^ axes[0]
    axes[2] = axes[2] ^ axes[1]
    parity = axes[2] >> 1
    for shift in (1, 2, 4, 8):
        parity = parity ^ parity >> shift
    return _interleave(*(axis ^ parity for axis in axes))


def curve_keys(
    cells: Int[Tensor, "V 3"], sample: Int[Tensor, " V"], curve: Curve
) -> Int[Tensor, " V"]:
    """Sortable keys: by sample, then along the curve.

    Args:
        cells: Coordinates from 0 to 2^16 - 1, relative to the low corner of their sample.
        sample: Sample of each cell, below 2^15.
        curve: `morton` or `hilbert`; `_swapped`: with x and y exchanged, so that space is cut
            elsewhere.

    Raises:
        ValueError: If a coordinate or a sample is out of range.
    """
    if len(sample) and not 0 <= int(sample.min()) <= int(sample.max()) < _MAX_SAMPLES:
        msg = f"samples are numbered from 0 to {_MAX_SAMPLES - 1}, not to {int(sample.max())}"
        raise ValueError(msg)
    if curve.endswith("_swapped"):
        cells = cells[:, [1, 0, 2]]
    codes = morton_codes(cells) if curve.startswith("morton") else hilbert_codes(cells)
    return sample.long() << 3 * DEPTH | codes


def coarser_keys(keys: Int[Tensor, " V"]) -> Int[Tensor, " V"]:
    """Keys of the cells `cell // 2`: both curves visit all children of a cell before the next."""
    return keys >> 3


def _checked(cells: Int[Tensor, "V 3"], depth: int) -> list[Tensor]:
    if not 1 <= depth <= DEPTH:
        msg = f"depth must be 1 to {DEPTH}, not {depth}"
        raise ValueError(msg)
    if len(cells):
        low, high = int(cells.min()), int(cells.max())
        if low < 0 or high >= 1 << depth:
            msg = f"cells must lie in [0, {1 << depth}), not in [{low}, {high}]"
            raise ValueError(msg)
    return list(cells.long().unbind(dim=1))


def _interleave(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return _spread(x) << 2 | _spread(y) << 1 | _spread(z)


def _spread(axis: Tensor) -> Tensor:
    for shift, mask in _SPREAD:
        axis = (axis | axis << shift) & mask
    return axis
