"""Motion: a dilated residual temporal network over inertial readings at one rate."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jaxtyping import Float
from torch import Tensor

from detectors.clip_student import ClipSize, ClipTrunk, Seen, mean_and_max
from detectors.temporal import Stage, TemporalTrunk

# Acceleration and rotation along three axes, the length of each, and 1 where there is a reading.
IMU_CHANNELS = 9

_SIZES: Mapping[ClipSize, tuple[Stage, ...]] = MappingProxyType(
    {
        "micro": (Stage(32), Stage(32, 2), Stage(64, 2), Stage(64, 1, 2)),
        "tiny": (Stage(64), Stage(64, 2), Stage(96, 2), Stage(128, 2), Stage(128, 1, 2)),
        "small": (
            Stage(96),
            Stage(96, 2, 2),
            Stage(160, 2),
            Stage(160, 1, 2),
            Stage(224, 2),
            Stage(224, 1, 2),
        ),
        "base": (
            Stage(128),
            Stage(128, 2, 2),
            Stage(256, 2),
            Stage(256, 1, 2),
            Stage(384, 2),
            Stage(384, 1, 2),
            Stage(384, 1, 4),
        ),
    }
)


class ImuTCN(ClipTrunk):
    """Residual temporal convolutions over windows of inertial readings.

    Args:
        num_samples: Readings in a window.
        size: Preset.

    Raises:
        ValueError: If a window is empty.
    """

    def __init__(self, num_samples: int, size: ClipSize = "tiny") -> None:
        if num_samples < 1:
            raise ValueError(f"a window needs at least one reading, not {num_samples}")
        stages = _SIZES[size]
        super().__init__(
            width=2 * stages[-1].channels,
            map_channels=tuple(stage.channels for stage in stages),
            in_shape=(IMU_CHANNELS, num_samples),
        )
        self.over_time = TemporalTrunk(IMU_CHANNELS, stages)

    def see(self, inputs: Float[Tensor, "B 9 N"]) -> Seen:
        """Maps of every block over time, and rows: mean and maximum of the last."""
        seen = inputs[:, -1:]
        maps, left = self.over_time(inputs, seen)
        return Seen(tuple(maps), mean_and_max(maps[-1], left))
