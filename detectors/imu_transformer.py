"""Motion: attention over patches of inertial readings at one rate."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from detectors.clip_student import ClipSize, ClipTrunk, Seen
from detectors.imu_tcn import IMU_CHANNELS
from detectors.patch_attention import PATCH_SIZES, PatchBlocks, masked_mean


class ImuTransformer(ClipTrunk):
    """Attention over short stretches of readings; gaps and padding are not looked at.

    Args:
        num_samples: Readings in a window.
        size: Preset.
        patch: Readings in a patch.

    Raises:
        ValueError: If a number is below 1.

    Source:
        Nie et al., A Time Series is Worth 64 Words, ICLR 2023, section 3.1; all channels share a
        patch, as axes of one sensor belong together.
    """

    def __init__(self, num_samples: int, size: ClipSize = "tiny", *, patch: int = 8) -> None:
        if min(num_samples, patch) < 1:
            msg = f"no window of {num_samples} readings has patches of {patch}"
            raise ValueError(msg)
        width, depth, heads = PATCH_SIZES[size]
        super().__init__(
            width=width, map_channels=(width,) * depth, in_shape=(IMU_CHANNELS, num_samples)
        )
        num_patches = math.ceil(num_samples / patch)
        self.patch, self.fill = patch, num_patches * patch - num_samples
        self.patches = nn.Conv1d(IMU_CHANNELS, width, patch, stride=patch)
        self.blocks = PatchBlocks(width, depth, heads, num_patches)

    def see(self, inputs: Float[Tensor, "B 9 N"]) -> Seen:
        """Maps of every block over time, and rows: the mean over patches with readings."""
        mark = inputs[:, -1:]
        x = functional.pad(inputs * mark, (0, self.fill))
        mark = functional.pad(mark, (0, self.fill))
        seen = functional.max_pool1d(mark, self.patch, self.patch)[:, 0] > 0
        found = self.blocks(self.patches(x).movedim(1, 2), seen)
        maps = tuple(rows.movedim(1, 2) for rows in found)
        return Seen(maps, masked_mean(found[-1], seen))
