"""Dense maps from one window: depth panoramas, classes of pixels, floor plans, voxels."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from detectors.clip_student import ClipTrunk, Seen
from detectors.spaces import Space, to_space

_SEED_CHANNELS, _LEAST_CHANNELS = 96, 24
_GROUPS = 8


@dataclass(frozen=True)
class DenseGrid:
    """Cells of a dense map, and how a decoder comes to them.

    Attributes:
        hw: Rows and columns.
        slices: The map is so many slices of a volume, one below another.
        levels: How often a decoder doubles a small grid until it covers a slice.

    Raises:
        ValueError: If a number is below 1, the rows are no whole slices, or a slice is smaller than
            what the levels double.
    """

    hw: tuple[int, int]
    slices: int = 1
    levels: int = 3

    def __post_init__(self) -> None:
        if self.slices < 1 or self.hw[0] % self.slices:
            raise ValueError(f"{self.hw[0]} rows are no {self.slices} slices of equal height")
        slice_hw = (self.hw[0] // self.slices, self.hw[1])
        if min(self.levels, *slice_hw) < 1 or min(slice_hw) < 2**self.levels:
            msg = (
                f"a grid of {slice_hw} cells cannot be doubled to {self.levels} times; at least "
                "2 to the power of levels are needed"
            )
            raise ValueError(msg)

    @property
    def sides(self) -> list[tuple[int, int]]:
        """Rows and columns of a slice at every level, the smallest first."""
        rows, columns = self.hw[0] // self.slices, self.hw[1]
        halvings = [2**level for level in range(self.levels, -1, -1)]
        return [(math.ceil(rows / part), math.ceil(columns / part)) for part in halvings]


class GridDecoder(nn.Module):
    """A trunk, and a decoder that doubles a small grid until it covers the asked one.

    Sound has no axes in common with the picture: all places of the trunk's last map together, and
    its row, give the seed of the dense map. A picture has: with `aligned`, every level also sees
    the trunk's map of that depth, place by place.

    Args:
        trunk: The network over inputs; its last map is decoded.
        out_channels: Width of a cell's row.
        grid: Cells of the dense map. All its slices are read from one map of a slice's size, as
            they stand over the same places.
        space: Space of the rows of cells.
        positive: Rows are made positive (soft-plus), for depths. In `raw` space only.
        dropout: Part of what the seed is made of that is hidden while training.
        aligned: Whether rows and columns of the trunk's maps are those of the dense map.

    Raises:
        ValueError: If `out_channels` is below 1, or `positive` is asked in another space.
    """

    def __init__(
        self,
        trunk: ClipTrunk,
        out_channels: int,
        grid: DenseGrid,
        *,
        space: Space = "raw",
        positive: bool = False,
        dropout: float = 0.0,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        if out_channels < 1:
            raise ValueError(f"out_channels must be 1 or more, not {out_channels}")
        if positive and space != "raw":
            raise ValueError(f"`positive` has no meaning for rows in the space {space}")
        self.space: Space = space
        self.trunk, self.positive = trunk, positive
        self.out_channels, self.grid_hw, self.slices = out_channels, grid.hw, grid.slices
        sides, levels = grid.sides, grid.levels
        widths = [
            max(_SEED_CHANNELS // 2**level, _LEAST_CHANNELS) // _GROUPS * _GROUPS
            for level in range(levels + 1)
        ]
        self.sides = sides
        last = trunk.map_channels[-1]
        self.narrow = nn.Conv2d(last, _SEED_CHANNELS // 2, 1)
        self.seed = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(_SEED_CHANNELS // 2 * math.prod(trunk.last_hw) + trunk.width, 192),
            nn.LayerNorm(192),
            nn.ReLU(),
            nn.Linear(192, widths[0] * sides[0][0] * sides[0][1]),
        )
        self.levels = nn.ModuleList(
            _Doubling(before, after) for before, after in itertools.pairwise(widths)
        )
        self.output = nn.Conv2d(widths[-1], grid.slices * out_channels, 1)
        self.map_channels = tuple(widths)
        # The smallest map beside the seed, and so on; the largest beside what is left.
        there = [
            trunk.map_channels[max(-1 - i, -len(trunk.map_channels))] for i in range(levels + 1)
        ]
        self.beside = nn.ModuleList(
            nn.Conv2d(of, width, 1) for of, width in zip(there, widths, strict=True) if aligned
        )

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.trunk.in_shape

    def see(self, inputs: Float[Tensor, "B ..."]) -> Seen:
        """The decoder's maps, seed to full grid, and the trunk's rows.

        Raises:
            ValueError: If the inputs have another shape than the trunk was made for.
        """
        seen: Seen = self.trunk(inputs)
        last = seen.maps[-1]
        # Maps over time alone have one row of frequencies.
        last = last[:, :, None] if last.ndim == 3 else last
        small = resized_by_mean(self.narrow(last), self.trunk.last_hw)
        whole = torch.cat([small.flatten(1), seen.rows], dim=1)
        x = self._with_picture(self.seed(whole).unflatten(1, (-1, *self.sides[0])), seen, 0)
        maps = [x]
        for index, (level, side) in enumerate(zip(self.levels, self.sides[1:], strict=True)):
            x = level(functional.interpolate(x, side, mode="bilinear", align_corners=False))
            x = self._with_picture(x, seen, index + 1)
            maps.append(x)
        return Seen(tuple(maps), seen.rows)

    def _with_picture(
        self, x: Float[Tensor, "B F H W"], seen: Seen, index: int
    ) -> Float[Tensor, "B F H W"]:
        """The trunk's map of the same depth added, where axes are the same."""
        if not len(self.beside):
            return x
        there = seen.maps[max(-1 - index, -len(seen.maps))]
        return x + self.beside[index](resized_by_mean(there, self.sides[index]))

    def features(self, inputs: Float[Tensor, "B ..."]) -> list[Tensor]:
        """The decoder's maps [B, F, h, w], seed to full grid."""
        return list(self.see(inputs).maps)

    def decode(self, last: Float[Tensor, "B F H W"]) -> Float[Tensor, "B cells C"]:
        """Rows of all cells from the last map, slice by slice, row-major."""
        rows = self.output(last).unflatten(1, (self.slices, -1)).movedim(2, 4).flatten(1, 3)
        if self.positive:
            return functional.softplus(rows)
        # The number of windows is left open, for ONNX.
        return to_space(rows.flatten(0, 1), self.space).unflatten(0, (-1, rows.shape[1]))

    def forward(self, inputs: Float[Tensor, "B ..."]) -> Float[Tensor, "B cells C"]:
        """Rows of all cells, row-major."""
        return self.decode(self.see(inputs).maps[-1])

    def start_from(self, rows: Float[Tensor, "R C"]) -> None:
        """Begin at the mean of a sample of the teacher's rows, before the first step.

        Rows that are zero or not finite are left out, as they stand for cells without a reading.

        Raises:
            ValueError: If the rows are not as wide as the student's.
        """
        if rows.shape[1] != self.out_channels:
            msg = f"the student gives {self.out_channels} channels, the rows have {rows.shape[1]}"
            raise ValueError(msg)
        rows = rows[rows.isfinite().all(dim=1) & (rows != 0).any(dim=1)].double()
        if len(rows) == 0 or self.output.bias is None:
            return
        mean = rows.mean(dim=0)
        if self.space == "simplex":
            # A class that is nowhere would begin at minus infinity.
            mean = mean.clamp_min(1e-4).log()
        if self.positive:
            mean = mean.clamp_min(1e-3)
            # The inverse of the soft-plus, in a form that large depths do not overflow.
            mean = mean + (-(-mean).expm1()).log()
        self.output.bias.data.copy_(mean.to(self.output.bias).repeat(self.slices))


class _Doubling(nn.Module):
    """Two convolutions after the grid was made finer."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.GroupNorm(_GROUPS, out_channels),
            nn.GELU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.GroupNorm(_GROUPS, out_channels),
            nn.GELU(),
        )

    def forward(self, x: Float[Tensor, "B Ci H W"]) -> Float[Tensor, "B Co H W"]:
        """The finer map."""
        return self.inner(x)


def resized_by_mean(x: Float[Tensor, "B C H W"], hw: tuple[int, int]) -> Float[Tensor, "B C _ _"]:
    """Means over the parts of a map, as adaptive pooling takes them, by two matrix products.

    Adaptive pooling to sides that do not divide the map cannot be exported to ONNX.
    """
    rows, columns = (_parts(int(num), wanted) for num, wanted in zip(x.shape[2:], hw, strict=True))
    return rows.to(x) @ x @ columns.to(x).T


def _parts(num: int, wanted: int) -> Tensor:
    """[wanted, num]: part k is the mean of floor(k num / wanted) to ceil((k + 1) num / wanted)."""
    shares = torch.zeros(wanted, num)
    for part in range(wanted):
        low, high = part * num // wanted, -(-(part + 1) * num // wanted)
        shares[part, low:high] = 1.0 / (high - low)
    return shares
