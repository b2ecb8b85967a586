"""Which tiles of an image each splat touches: lists of splats per tile, near to far.

The cost is linear in splats and intersections: one radix sort of the splats by depth, then every
splat is counted and written, in that order, into the lists of its tiles. No list is ever sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from numpy.typing import NDArray
from torch import Tensor

from lifting.backends.jit import jit
from lifting.gaussians.projection import LEAST_ALPHA, Projected

# Side of a tile, pixels: one row of it fills one vector register of float32.
TILE = 16
# Ellipses are taken this much larger than alpha = 1/255, in exponent and pixels: rounding must
# not lose a pixel, and alpha itself decides about each.
SLACK = 2e-3

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tiles:
    """Splats of each tile of an image; tiles are numbered row by row.

    Attributes:
        pointers: Splats of tile t are `splats[pointers[t]:pointers[t + 1]]`.
        splats: Splats near to far, of equal depth by index.
        footprints: Shape of each splat in the image, for kernels; see `footprint_rows`.
        hw: Height and width of the image, pixels.
    """

    pointers: Int64[Tensor, " T1"]
    splats: Int32[Tensor, " I"]
    footprints: Float[Tensor, "M 8"]
    hw: tuple[int, int]

    @property
    def num_tiles(self) -> int:
        """Number of tiles; those at the right and lower border may stand out of the image."""
        return self.pointers.numel() - 1


def tile_lists(projected: Projected, opacities: Float[Tensor, " M"], hw: tuple[int, int]) -> Tiles:
    """Find the tiles that each splat touches: those where its alpha can reach 1/255 in a pixel.

    Args:
        projected: Splats in the image, on the CPU. Of their extents only "not drawn" is used.
        opacities: In [0, 1].
        hw: Height and width of the image.

    Raises:
        ValueError: If a drawn splat has no ellipse, no finite place, or an opacity above 1.
    """
    uv, conics, depth = (
        part.detach().contiguous() for part in (projected.uv, projected.conics, projected.depth_m)
    )
    alphas = opacities.detach().contiguous()
    footprints = uv.new_empty((len(uv), 8))
    bad = footprint_rows(
        uv.numpy(),
        conics.numpy(),
        alphas.numpy(),
        depth.numpy(),
        projected.drawn.numpy(),
        LEAST_ALPHA,
        footprints.numpy(),
    )
    if bad >= 0:
        raise ValueError(
            "a drawn splat needs finite uv, a depth of 0 or more, a positive definite conic and an "
            f"opacity up to 1; splat {bad} has uv {uv[bad].tolist()}, depth {float(depth[bad])} m, "
            f"conic {conics[bad].tolist()}, opacity {float(alphas[bad])}"
        )
    bits = depth.abs().view(torch.int32 if depth.dtype == torch.float32 else torch.int64)
    order = np.empty(len(uv), np.int32)
    order = order[: sort_by_depth(bits.numpy(), footprints.numpy()[:, 6], order)]
    num_tiles = -(-hw[0] // TILE) * -(-hw[1] // TILE)
    pointers = np.zeros(num_tiles + 1, np.int64)
    bin_tiles(footprints.numpy(), order, hw, pointers, np.empty(0, np.int32))
    splats = np.empty(pointers[-1], np.int32)
    if len(splats):
        bin_tiles(footprints.numpy(), order, hw, pointers[:-1].copy(), splats)
    return Tiles(
        pointers=torch.from_numpy(pointers),
        splats=torch.from_numpy(splats),
        footprints=footprints,
        hw=hw,
    )


@jit
def footprint_rows(
    uv: Array,
    conics: Array,
    opacities: Array,
    depth_m: Array,
    drawn: NDArray[np.bool_],
    least: float,
    out: Array,
) -> int:
    """What a tile needs to know of each splat.

    Half the squared distance is `h (x - u + k (y - v))^2 + g (y - v)^2`, without the cancellation
    that the plain form has for long thin splats.

    Args:
        uv: Centres, pixels.
        conics: a b c of the inverse covariances.
        opacities: In [0, 1].
        depth_m: z-depths.
        drawn: Which splats are wanted.
        least: Smallest alpha that counts.
        out: Written, [M, 8]: u v k h g, opacity, level (the most that half the squared distance
            may be; negative for a splat that adds nothing) and half height.

    Returns:
        The first wanted splat that is not an ellipse, or -1.
    """
    for i in range(len(uv)):
        out[i, 6] = -1
        if not drawn[i] or not opacities[i] >= least:
            continue
        a, b, c = np.float64(conics[i, 0]), np.float64(conics[i, 1]), np.float64(conics[i, 2])
        # Infinity and NaN fail these, too. The determinant may be rounded to zero or below.
        if not (0 < a < 1e30 and 0 < c < 1e30 and b * b < 2 * a * c):
            return i
        if not (abs(uv[i, 0]) < 1e15 and abs(uv[i, 1]) < 1e15):
            return i
        if not (0 <= depth_m[i] < np.inf and opacities[i] <= 1):
            return i
        rest = max(a * c - b * b, 1e-15 * a * c)
        level = np.log(np.float64(opacities[i]) / least) + SLACK
        out[i, 0], out[i, 1], out[i, 2] = uv[i, 0], uv[i, 1], b / a
        out[i, 3], out[i, 4], out[i, 5] = a / 2, rest / a / 2, opacities[i]
        out[i, 6], out[i, 7] = level, min(np.sqrt(level * 2 * a / rest) + SLACK, 1e15)
    return -1


@jit
def sort_by_depth(bits: Array, drawn: Array, order: NDArray[np.int32]) -> int:
    """Splats with level >= 0, near to far, equal ones by index; returns their number.

    A radix sort: its cost is linear.

    Args:
        bits: Depths as integers of their bits; positive numbers sort by them.
        drawn: Level of each splat.
        order: Written, one place per splat.
    """
    count = 0
    for i in range(len(bits)):
        if drawn[i] >= 0:
            order[count] = i
            count += 1
    other = np.empty(count, np.int32)
    most = 0
    for p in range(count):
        most = max(most, bits[order[p]])
    shift = 0
    while most >> shift:
        begin = np.zeros(2049, np.int64)
        for p in range(count):
            begin[((bits[order[p]] >> shift) & 2047) + 1] += 1
        for k in range(2048):
            begin[k + 1] += begin[k]
        for p in range(count):
            digit = (bits[order[p]] >> shift) & 2047
            other[begin[digit]] = order[p]
            begin[digit] += 1
        order[:count] = other
        shift += 11
    return count


@jit
def _band(splat: Array, first_y: float, last_y: float, tiles_x: int) -> tuple[int, int]:
    """Columns of tiles, from and to, that an ellipse touches between two rows of pixel centres."""
    u, k, h, g = np.float64(splat[0]), np.float64(splat[2]), np.float64(splat[3]), splat[4]
    level, high = np.float64(splat[6]), np.float64(splat[7])
    top, bottom = max(first_y - splat[1], -high), min(last_y - splat[1], high)
    # Leftmost and rightmost points of the whole ellipse lie this far above and below its centre.
    turn = abs(k) * np.sqrt(level * h / g / (g + h * k * k))
    turn = turn if k < 0 else -turn
    right, left = min(max(turn, top), bottom), min(max(-turn, top), bottom)
    end = u - k * right + np.sqrt(max(level - g * right * right, 0.0) / h) + SLACK
    start = u - k * left - np.sqrt(max(level - g * left * left, 0.0) / h) - SLACK
    # Pixel centres lie at +0.5.
    first = min(max(np.ceil(start - 0.5), 0.0), np.float64(tiles_x * TILE))
    last = min(max(np.floor(end - 0.5), -1.0), np.float64(tiles_x * TILE - 1))
    return int(first) // TILE, int(last) // TILE + 1 if last >= first else int(first) // TILE


@jit
def pixel_rows(splat: Array, height: int) -> tuple[int, int]:
    """Rows of pixels, from and to, whose centres an ellipse's box covers."""
    first = min(max(np.ceil(splat[1] - splat[7] - 0.5), 0.0), np.float64(height))
    last = min(max(np.floor(splat[1] + splat[7] - 0.5), -1.0), np.float64(height - 1))
    return int(first), int(last) + 1


@jit
def bin_tiles(
    footprint: Array,
    order: NDArray[np.int32],
    hw: tuple[int, int],
    pointers: NDArray[np.int64],
    splats: NDArray[np.int32],
) -> None:
    """Lists of splats per tile, in the given order: count when `splats` is empty, else fill.

    Args:
        footprint: See `footprint_rows`.
        order: Splats near to far.
        hw: Height and width of the image.
        pointers: One per tile and one more. Counting adds them up to pointers; filling uses
            pointers and moves each to the end of its list.
        splats: Written when filling.
    """
    height, width = hw
    tiles_x = (width + TILE - 1) // TILE
    counting = len(splats) == 0
    for p in range(len(order)):
        j = order[p]
        first_row, end_row = pixel_rows(footprint[j], height)
        if first_row >= end_row:
            continue
        for ty in range(first_row // TILE, (end_row - 1) // TILE + 1):
            top, bottom = max(first_row, ty * TILE), min(end_row, ty * TILE + TILE) - 1
            start, end = _band(footprint[j], top + 0.5, bottom + 0.5, tiles_x)
            for t in range(ty * tiles_x + start, ty * tiles_x + end):
                if counting:
                    pointers[t + 1] += 1
                else:
                    splats[pointers[t]] = j
                    pointers[t] += 1
    if counting:
        for t in range(len(pointers) - 1):
            pointers[t + 1] += pointers[t]
