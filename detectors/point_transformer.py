"""A point transformer over serialised voxels: the second trunk of point students.

Cells are put in a line by a space-filling curve and attend to each other within patches of that
line. Rows are normalised one by one (layer norm), and a sample's cells are placed relative to its
own low corner, so a sample's result does not depend on what else is in the batch, nor on where in
the world it stands.

Source:
    Wu et al., Point Transformer V3: Simpler, Faster, Stronger, CVPR 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from detectors.serialization import CURVES, Curve, coarser_keys, curve_keys
from detectors.sparse_conv import SparseConv
from detectors.sparse_grid import KernelMap, SparseGrid, sparse_grid

TransformerSize = Literal["tiny", "small", "base"]


@dataclass(frozen=True)
class _Preset:
    """Widths from fine to coarse, blocks of each resolution, and cells of a patch."""

    channels: tuple[int, ...]
    decoder_channels: tuple[int, ...]
    blocks: tuple[int, ...]
    decoder_blocks: int
    patch: int


_PRESETS: dict[TransformerSize, _Preset] = {
    "tiny": _Preset((32, 64, 96, 128), (32, 64, 96), (1, 1, 1, 1), 1, 64),
    "small": _Preset((32, 64, 128, 192, 256), (48, 64, 128, 192), (1, 1, 2, 2, 1), 1, 256),
    "base": _Preset((32, 64, 128, 256, 512), (64, 64, 128, 256), (2, 2, 2, 6, 2), 2, 1024),
}
_HEAD_CHANNELS = 16
_MLP_RATIO = 4
# Occupied cells that a cell of a surface sees in its 3x3x3 kernel; only for the initial scale.
_SURFACE = 9.0


@dataclass(frozen=True, eq=False)
class Patches:
    """Groups of rows that attend to each other; none holds rows of two samples.

    Attributes:
        rows: Rows of each patch. The last patch of a sample reaches back into the one before it,
            so that it is full too; only samples smaller than a patch are padded.
        padding: Places that count for nothing, None when there are none.
        place: For each row, its place in the flattened patches.
    """

    rows: Int[Tensor, "P L"]
    padding: Bool[Tensor, "P L"] | None
    place: Int[Tensor, " V"]


def patches(keys: Int[Tensor, " V"], counts: Int[Tensor, " B"], size: int) -> Patches:
    """Cut rows, in the order of their keys, into patches within samples.

    Args:
        keys: Sorts rows by sample, then along a curve (`curve_keys`).
        counts: Rows of each sample.
        size: Rows of a patch; less when no sample is as large.

    Raises:
        ValueError: If there are no rows, `size` is below 1, or the counts do not add up.
    """
    num = len(keys)
    if num == 0 or size < 1 or int(counts.sum()) != num:
        msg = f"{num} rows in samples of {counts.tolist()} cannot be cut into patches of {size}"
        raise ValueError(msg)
    largest = int(counts.max())
    size = min(size, largest)
    order = torch.argsort(keys, stable=True)
    ends = counts.cumsum(0)
    per_sample = (counts + size - 1).div(size, rounding_mode="floor")
    sample = torch.repeat_interleave(per_sample)
    number = torch.arange(len(sample), device=keys.device)
    number = number - (per_sample.cumsum(0) - per_sample)[sample]
    start = torch.minimum(number * size, (counts[sample] - size).clamp_min(0))
    start = start + (ends - counts)[sample]
    position = start[:, None] + torch.arange(size, device=keys.device)
    padding = position >= ends[sample][:, None]
    rows = order[position.clamp_max(num - 1)]

    of = torch.repeat_interleave(counts)
    within = torch.arange(num, device=keys.device) - (ends - counts)[of]
    patch = within.div(size, rounding_mode="floor") + (per_sample.cumsum(0) - per_sample)[of]
    slot = torch.arange(num, device=keys.device) - start[patch]
    place = torch.empty_like(order).index_copy_(0, order, patch * size + slot)
    return Patches(rows, padding if bool((counts < size).any()) else None, place)


class _Level:
    """Cells of one resolution, and what the blocks at this resolution share."""

    def __init__(
        self, grid: SparseGrid, keys: dict[Curve, Tensor], curves: list[Curve], size: int
    ) -> None:
        self.grid, self.keys, self.curves, self.size = grid, keys, curves, size
        self.near = grid.neighbours()
        self._cut: dict[Curve, Patches] = {}

    def patches(self, block: int) -> Patches:
        """Patches of the block with this number: curves take turns."""
        curve = self.curves[block % len(self.curves)]
        if curve not in self._cut:
            counts = torch.bincount(self.grid.cells[:, 0])
            self._cut[curve] = patches(self.keys[curve], counts, self.size)
        return self._cut[curve]

    def coarser(self, curves: list[Curve]) -> tuple[_Level, Tensor]:
        """The level of cells twice as large, and the parent of every cell."""
        grid, halve = self.grid.halved()
        sources, targets = halve.sources.long(), halve.targets.long()
        parent = torch.empty_like(targets).index_copy_(0, sources, targets)
        # Children of one parent share its key, so whichever is written last is right.
        keys: dict[Curve, Tensor] = {
            curve: key.new_empty(len(grid.cells)).index_copy_(0, parent, coarser_keys(key))
            for curve, key in self.keys.items()
        }
        return _Level(grid, keys, curves, self.size), parent


class PointTransformer(nn.Module):
    """Cells in, one feature row per cell out, at the resolution of the input.

    Attention within patches at every resolution, maxima of children on the way down, the parent's
    row beside a skip on the way up. Positions enter through a sub-manifold convolution before each
    attention. While training, which curve a block follows is drawn from torch's global generator;
    in evaluation curves take fixed turns.

    Args:
        in_channels: Width of the input rows.
        out_channels: Width of the output rows, which come from a linear layer.
        size: `tiny`, `small` or `base` (the published widths and depths).

    Source:
        Wu et al., Point Transformer V3, CVPR 2024, section 4 and table 10.
    """

    def __init__(self, in_channels: int, out_channels: int, size: TransformerSize = "tiny") -> None:
        super().__init__()
        preset = _PRESETS[size]
        widths, ups = preset.channels, (*preset.decoder_channels, preset.channels[-1])
        self.in_channels, self.patch = in_channels, preset.patch
        self.encoder_blocks = preset.blocks
        self.stem = SparseConv(in_channels, widths[0], 27, _SURFACE)
        self.stem_norm = nn.LayerNorm(widths[0])
        self.encoders = nn.ModuleList(
            _stage(width, blocks) for width, blocks in zip(widths, preset.blocks, strict=True)
        )
        self.downs = nn.ModuleList(_Pool(a, b) for a, b in pairwise(widths))
        self.ups = nn.ModuleList(
            _Unpool(ups[i + 1], widths[i], ups[i]) for i in range(len(widths) - 1)
        )
        self.decoders = nn.ModuleList(
            _stage(width, preset.decoder_blocks) for width in preset.decoder_channels
        )
        self.head = nn.Linear(ups[0], out_channels)

    def forward(
        self,
        coords: Int[Tensor, "V 3"],
        sample: Int[Tensor, " V"],
        features: Float[Tensor, "V Ci"],
    ) -> Float[Tensor, "V Co"]:
        """Run the network.

        Args:
            coords: Integer cell of each row, without duplicates in a sample; a sample may span
                2^16 cells.
            sample: Sample of each row, from 0.
            features: Input of each row, about unit scale.

        Raises:
            ValueError: If a cell occurs twice, a sample is too wide, or rows have another width.
        """
        if features.shape[1] != self.in_channels:
            msg = f"the network takes {self.in_channels} channels, not {features.shape[1]}"
            raise ValueError(msg)
        if len(coords) == 0:
            return self.head(features.new_zeros(0, self.head.in_features))
        level, order = _finest(coords, sample, self._curves(), self.patch)
        levels, parents = [level], list[Tensor]()
        for _ in self.downs:
            level, parent = level.coarser(self._curves())
            levels.append(level)
            parents.append(parent)

        x = functional.gelu(self.stem_norm(self.stem(features[order], levels[0].near)))
        skips: list[Tensor] = []
        for i, encoder in enumerate(self.encoders):
            x = _run(encoder, x, levels[i], first=i)
            if i < len(parents):
                skips.append(x)
                x = self.downs[i](x, parents[i], len(levels[i + 1].grid.cells))
        for i in reversed(range(len(parents))):
            x = self.ups[i](x, skips[i], parents[i])
            x = _run(self.decoders[i], x, levels[i], first=i + self.encoder_blocks[i])
        out = self.head(x)
        return torch.empty_like(out).index_copy(0, order, out)

    def _curves(self) -> list[Curve]:
        if not self.training:
            return list(CURVES)
        return [CURVES[i] for i in torch.randperm(len(CURVES)).tolist()]


def _finest(
    coords: Tensor, sample: Tensor, curves: list[Curve], size: int
) -> tuple[_Level, Tensor]:
    """The level of the input, cells relative to the low corner of their sample."""
    sample = sample.long()
    if int(sample.min()) < 0:
        msg = f"samples are numbered from 0, not from {int(sample.min())}"
        raise ValueError(msg)
    coords = coords.long()
    low = coords.new_zeros(int(sample.max()) + 1, 3).scatter_reduce_(
        0, sample[:, None].expand(-1, 3), coords, "amin", include_self=False
    )
    grid, order = sparse_grid(coords - low[sample], sample)
    keys: dict[Curve, Tensor] = {
        curve: curve_keys(grid.cells[:, 1:], grid.cells[:, 0], curve) for curve in CURVES
    }
    return _Level(grid, keys, curves, size), order


def _stage(channels: int, blocks: int) -> nn.ModuleList:
    return nn.ModuleList(_Block(channels) for _ in range(blocks))


def _run(stage: nn.Module, x: Tensor, level: _Level, *, first: int) -> Tensor:
    for i, block in enumerate(stage.children()):
        x = block(x, level.near, level.patches(first + i))
    return x


class _Block(nn.Module):
    """Position by convolution, attention within patches, a perceptron; each around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.position = SparseConv(channels, channels, 27, _SURFACE)
        self.position_linear = nn.Linear(channels, channels)
        self.position_norm = nn.LayerNorm(channels)
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = PatchAttention(channels, channels // _HEAD_CHANNELS)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, _MLP_RATIO * channels),
            nn.GELU(),
            nn.Linear(_MLP_RATIO * channels, channels),
        )

    def forward(
        self, x: Float[Tensor, "V C"], near: KernelMap, cut: Patches
    ) -> Float[Tensor, "V C"]:
        """Three residuals in turn."""
        x = x + self.position_norm(self.position_linear(self.position(x, near)))
        x = x + self.attention(self.attention_norm(x), cut)
        return x + self.mlp(x)


class PatchAttention(nn.Module):
    """Multi-head attention of rows to the rows of their patch.

    Args:
        channels: Width of the rows.
        heads: Number of heads; divides the width.

    Raises:
        ValueError: If it does not.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            msg = f"{channels} channels cannot be shared by {heads} heads"
            raise ValueError(msg)
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "V C"], cut: Patches) -> Float[Tensor, "V C"]:
        """Attend; padded places are neither read nor written."""
        num, size = cut.rows.shape
        qkv = self.qkv(x)[cut.rows.flatten()].view(num, size, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mask = None if cut.padding is None else ~cut.padding[:, None, None, :]
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(out.transpose(1, 2).reshape(num * size, -1)[cut.place])


class _Pool(nn.Module):
    """Rows of cells twice as large: the maximum of a linear map of their children."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels)
        self.norm = nn.LayerNorm(out_channels)

    def forward(
        self, x: Float[Tensor, "V Ci"], parent: Int[Tensor, " V"], num: int
    ) -> Float[Tensor, "U Co"]:
        """Pool children into `num` parents, each of which has at least one."""
        together = torch.argsort(parent, stable=True)
        lengths = torch.bincount(parent, minlength=num)
        rows = self.linear(x)[together]
        pooled = torch.segment_reduce(rows, "max", lengths=lengths, unsafe=True)
        return functional.gelu(self.norm(pooled))


class _Unpool(nn.Module):
    """Rows of cells half as large: their parent's row and the skip, each through a layer."""

    def __init__(self, coarse_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.coarse = nn.Sequential(
            nn.Linear(coarse_channels, out_channels), nn.LayerNorm(out_channels), nn.GELU()
        )
        self.skip = nn.Sequential(
            nn.Linear(skip_channels, out_channels), nn.LayerNorm(out_channels), nn.GELU()
        )

    def forward(
        self,
        coarse: Float[Tensor, "U Cc"],
        skip: Float[Tensor, "V Cs"],
        parent: Int[Tensor, " V"],
    ) -> Float[Tensor, "V Co"]:
        """Give every child its parent's row."""
        return self.coarse(coarse)[parent] + self.skip(skip)
