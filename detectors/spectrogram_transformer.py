"""Sound: attention over patches of log-mel spectrograms."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from detectors.clip_student import ClipSize, ClipTrunk, Seen
from detectors.patch_attention import PATCH_SIZES, PatchBlocks, masked_mean


class SpectrogramTransformer(ClipTrunk):
    """Attention over square patches of a log-mel spectrogram of one or more channels.

    Every frequency is normalised by itself first. Maps keep the places of patches:
    [B, F, frequencies, frames].

    Args:
        channels: Channels of the spectrogram.
        num_mels: Frequency bands.
        num_frames: Frames of a window; the last patch is filled up with the mean.
        size: Preset.
        patch: Side of a patch.

    Raises:
        ValueError: If a number is below 1.

    Source:
        Gong et al., AST: Audio Spectrogram Transformer, Interspeech 2021, section 2.1; patches do
        not overlap, which costs a third.
    """

    def __init__(
        self,
        channels: int,
        num_mels: int,
        num_frames: int,
        size: ClipSize = "tiny",
        *,
        patch: int = 16,
    ) -> None:
        if min(channels, num_mels, num_frames, patch) < 1:
            msg = f"no spectrogram of {(channels, num_mels, num_frames)} has patches of {patch}"
            raise ValueError(msg)
        width, depth, heads = PATCH_SIZES[size]
        super().__init__(
            width=width, map_channels=(width,) * depth, in_shape=(channels, num_mels, num_frames)
        )
        self.grid = math.ceil(num_mels / patch), math.ceil(num_frames / patch)
        self.fill = self.grid[0] * patch - num_mels, self.grid[1] * patch - num_frames
        self.frequencies = nn.BatchNorm1d(channels * num_mels)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.blocks = PatchBlocks(width, depth, heads, self.grid[0] * self.grid[1])

    def see(self, inputs: Float[Tensor, "B Ci M T"]) -> Seen:
        """Maps of every block, and rows: the mean over patches."""
        x = self.frequencies(inputs.flatten(1, 2)).unflatten(1, self.in_shape[:2])
        x = functional.pad(x, (0, self.fill[1], 0, self.fill[0]))
        found = self.blocks(self.patches(x).flatten(2).movedim(1, 2))
        maps = tuple(rows.movedim(1, 2).unflatten(2, self.grid) for rows in found)
        return Seen(maps, masked_mean(found[-1]))
