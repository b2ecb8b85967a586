"""A sparse 3D U-Net: the point student's trunk.

Rows are normalised one by one (layer norm over channels), not over the batch: one cell or one scene
is then an ordinary input, a sample's result does not depend on what else is in the batch, training
and inference compute the same, and there are no running statistics to save.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from detectors.backends import ConvBackend
from detectors.sparse_conv import SparseConv
from detectors.sparse_grid import KernelMap, sparse_grid

Size = Literal["tiny", "small", "base", "published"]


@dataclass(frozen=True)
class _Preset:
    """Widths and residual blocks, from fine to coarse.

    Attributes:
        stem: Side of the first kernel, cells.
        encoders: Channels and blocks of each resolution on the way down.
        downs: Channels behind each strided convolution, one fewer.
        decoders: Channels and blocks of each resolution on the way up, one fewer.
    """

    stem: int
    encoders: tuple[tuple[int, int], ...]
    downs: tuple[int, ...]
    decoders: tuple[tuple[int, int], ...]


def _symmetric(channels: tuple[int, ...], blocks: int) -> _Preset:
    stages = tuple((width, blocks) for width in channels)
    return _Preset(3, stages, channels[1:], stages[:-1])


_PRESETS: dict[Size, _Preset] = {
    "tiny": _symmetric((32, 48, 64, 96, 128), 1),
    "small": _symmetric((48, 64, 96, 128, 192), 2),
    "base": _symmetric((64, 96, 128, 192, 256, 256), 3),
    # Kernels, widths and blocks of MinkUNet34C, the network of OpenScene. What differs: rows are
    # normalised one by one, not over the batch.
    "published": _Preset(
        5,
        ((32, 0), (32, 2), (64, 3), (128, 4), (256, 6)),
        (32, 32, 64, 128),
        ((96, 2), (96, 2), (128, 2), (256, 2)),
    ),
}
# Occupied cells that a cell of a surface sees in its kernel; only for the initial scale.
_SURFACE = {3: 9.0, 5: 25.0}
_SURFACE_2 = 4.0


class SparseUNet(nn.Module):
    """Cells in, one feature row per cell out, at the resolution of the input.

    Down by strided 2x2x2 convolutions, up by their transposes with a skip from the same resolution,
    residual blocks of sub-manifold 3x3x3 convolutions at every resolution.

    Args:
        in_channels: Width of the input rows.
        out_channels: Width of the output rows, which come from a linear layer.
        size: `tiny`, `small`, `base`, or `published`: widths, depths and kernels of MinkUNet34C,
            which OpenScene distils into.
        backend: Who convolves, see `sparse_conv`; the weights are the same for all.

    Source:
        Choy et al., 4D Spatio-Temporal ConvNets, CVPR 2019, figure 4 (the shape of the network).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: Size = "tiny",
        backend: ConvBackend = "auto",
    ) -> None:
        super().__init__()
        preset = _PRESETS[size]
        conv, stage = partial(SparseConv, backend=backend), partial(_Stage, backend=backend)
        widths = [width for width, _ in preset.encoders]
        out = [width for width, _ in preset.decoders] + widths[-1:]
        self._stem_side = preset.stem
        self.stem = conv(in_channels, widths[0], preset.stem**3, _SURFACE[preset.stem])
        self.stem_norm = nn.LayerNorm(widths[0])
        entering = (widths[0], *preset.downs)
        self.encoders = nn.ModuleList(
            stage(into, width, blocks)
            for into, (width, blocks) in zip(entering, preset.encoders, strict=True)
        )
        self.downs = nn.ModuleList(
            conv(a, b, 8, _SURFACE_2) for a, b in zip(widths[:-1], preset.downs, strict=True)
        )
        self.down_norms = nn.ModuleList(nn.LayerNorm(width) for width in preset.downs)
        self.ups = nn.ModuleList(conv(b, a, 8, 1.0) for a, b in pairwise(out))
        self.up_norms = nn.ModuleList(nn.LayerNorm(width) for width in out[:-1])
        self.decoders = nn.ModuleList(
            stage(width + skip, width, blocks)
            for (width, blocks), skip in zip(preset.decoders, widths[:-1], strict=True)
        )
        self.head = nn.Linear(out[0], out_channels)

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
        order, around, near, down = self.maps(coords, sample)
        x = self.stem_norm(self.stem(features[order], around)).relu()
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
    ) -> tuple[Int[Tensor, " V"], KernelMap, list[KernelMap], list[KernelMap]]:
        """The geometry of a batch, which all layers share.

        Returns:
            Order of the rows in the network, and kernel maps: of the stem, within each resolution,
            and from each resolution to the next.

        Raises:
            ValueError: If a cell occurs twice.
        """
        grid, order = sparse_grid(coords, sample)
        near, down = [grid.neighbours()], list[KernelMap]()
        around = near[0] if self._stem_side == 3 else grid.neighbours(self._stem_side)
        for _ in self.downs:
            grid, halve = grid.halved()
            down.append(halve)
            near.append(grid.neighbours())
        return order, around, near, down


class _Stage(nn.Module):
    """Residual blocks at one resolution, possibly none; the first one may change the width."""

    def __init__(
        self, in_channels: int, out_channels: int, blocks: int, *, backend: ConvBackend
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.blocks = nn.ModuleList(_Block(a, b, backend=backend) for a, b in pairwise(widths))

    def forward(self, x: Float[Tensor, "V Ci"], near: KernelMap) -> Float[Tensor, "V Co"]:
        """Run the blocks in turn."""
        for block in self.blocks:
            x = block(x, near)
        return x


class _Block(nn.Module):
    """Two sub-manifold convolutions around a shortcut (He et al., CVPR 2016, figure 2)."""

    def __init__(self, in_channels: int, out_channels: int, *, backend: ConvBackend) -> None:
        super().__init__()
        conv = partial(SparseConv, num_offsets=27, fan_offsets=_SURFACE[3], backend=backend)
        self.first = conv(in_channels, out_channels)
        self.first_norm = nn.LayerNorm(out_channels)
        self.second = conv(out_channels, out_channels)
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
