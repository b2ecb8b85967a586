"""A sparse 3D U-Net: the point student's trunk.

Rows are normalised one by one (layer norm over channels), not over the batch: one cell or one scene
is then an ordinary input, a sample's result does not depend on what else is in the batch, training
and inference compute the same, and there are no running statistics to save.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from detectors.sparse_conv import SparseConv
from detectors.sparse_grid import KernelMap, sparse_grid

Size = Literal["tiny", "small", "base"]


@dataclass(frozen=True)
class _Preset:
    """Channels of each resolution from fine to coarse, and residual blocks of each."""

    channels: tuple[int, ...]
    blocks: int


_PRESETS: dict[Size, _Preset] = {
    "tiny": _Preset((32, 48, 64, 96, 128), 1),
    "small": _Preset((48, 64, 96, 128, 192), 2),
    "base": _Preset((64, 96, 128, 192, 256, 256), 3),
}
# Occupied cells that a cell of a surface sees in its kernel; only for the initial scale.
_SURFACE_3, _SURFACE_2 = 9.0, 4.0


class SparseUNet(nn.Module):
    """Cells in, one feature row per cell out, at the resolution of the input.

    Down by strided 2x2x2 convolutions, up by their transposes with a skip from the same resolution,
    residual blocks of sub-manifold 3x3x3 convolutions at every resolution.

    Args:
        in_channels: Width of the input rows.
        out_channels: Width of the output rows, which come from a linear layer.
        size: `tiny`, `small` or `base`.

    Source:
        Choy et al., 4D Spatio-Temporal ConvNets, CVPR 2019, figure 4 (the shape of the network).
    """

    def __init__(self, in_channels: int, out_channels: int, size: Size = "tiny") -> None:
        super().__init__()
        preset = _PRESETS[size]
        widths, blocks = preset.channels, preset.blocks
        self.stem = SparseConv(in_channels, widths[0], 27, _SURFACE_3)
        self.stem_norm = nn.LayerNorm(widths[0])
        self.encoders = nn.ModuleList(_Stage(width, width, blocks) for width in widths)
        self.downs = nn.ModuleList(SparseConv(a, b, 8, _SURFACE_2) for a, b in pairwise(widths))
        self.down_norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])
        self.ups = nn.ModuleList(SparseConv(b, a, 8, 1.0) for a, b in pairwise(widths))
        self.up_norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[:-1])
        self.decoders = nn.ModuleList(_Stage(2 * width, width, blocks) for width in widths[:-1])
        self.head = nn.Linear(widths[0], out_channels)

    def forward(
        self,
        coords: Int[Tensor, "V 3"],
        sample: Int[Tensor, " V"],
        features: Float[Tensor, "V Ci"],
    ) -> Float[Tensor, "V Co"]:
        """Run the network.

        Args:
            coords: Integer cell of each row, without duplicates in a sample.
            sample: Sample of each row.
            features: Input of each row, about unit scale.

        Raises:
            ValueError: If a cell occurs twice.
        """
        order, near, down = self.maps(coords, sample)
        x = self.stem_norm(self.stem(features[order], near[0])).relu()
        skips: list[Tensor] = []
        for level, encoder in enumerate(self.encoders):
            x = encoder(x, near[level])
            if level < len(down):
                skips.append(x)
                x = self.down_norms[level](self.downs[level](x, down[level])).relu()
        for level in reversed(range(len(down))):
            x = self.up_norms[level](self.ups[level](x, down[level].transpose())).relu()
            x = self.decoders[level](torch.cat([x, skips[level]], dim=1), near[level])
        out = self.head(x)
        return torch.empty_like(out).index_copy(0, order, out)

    def maps(
        self, coords: Int[Tensor, "V 3"], sample: Int[Tensor, " V"]
    ) -> tuple[Int[Tensor, " V"], list[KernelMap], list[KernelMap]]:
        """Order of the rows in the network, and the kernel maps within and between resolutions.

        Raises:
            ValueError: If a cell occurs twice.
        """
        grid, order = sparse_grid(coords, sample)
        near, down = [grid.neighbours()], list[KernelMap]()
        for _ in self.downs:
            grid, halve = grid.halved()
            down.append(halve)
            near.append(grid.neighbours())
        return order, near, down


class _Stage(nn.Module):
    """Residual blocks at one resolution; the first one may change the width."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.blocks = nn.ModuleList(_Block(a, b) for a, b in pairwise(widths))

    def forward(self, x: Float[Tensor, "V Ci"], near: KernelMap) -> Float[Tensor, "V Co"]:
        """Run the blocks in turn."""
        for block in self.blocks:
            x = block(x, near)
        return x


class _Block(nn.Module):
    """Two sub-manifold convolutions around a shortcut (He et al., CVPR 2016, figure 2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = SparseConv(in_channels, out_channels, 27, _SURFACE_3)
        self.first_norm = nn.LayerNorm(out_channels)
        self.second = SparseConv(out_channels, out_channels, 27, _SURFACE_3)
        self.second_norm = nn.LayerNorm(out_channels)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Linear(in_channels, out_channels, bias=False)
        )

    def forward(self, x: Float[Tensor, "V Ci"], near: KernelMap) -> Float[Tensor, "V Co"]:
        """Residual of two convolutions."""
        y = self.first_norm(self.first(x, near)).relu()
        return (self.second_norm(self.second(y, near)) + self.shortcut(x)).relu()
