"""The op `imu_transformer`: a student of motion, by attention over stretches of readings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.encode.clip_student import embedded
from xmodal.edges.encode.imu_student import ImuStudentOp

if TYPE_CHECKING:
    from detectors.clip_student import ClipStudent
    from xmodal.values import Embedding, Imu


@dataclass(frozen=True, kw_only=True)
class ImuTransformerOp(ImuStudentOp):
    """Attention over short stretches of readings; one row for each recording.

    Attributes:
        size: `micro` (0.2 M weights), `tiny` (0.7 M), `small` (2.3 M) or `base` (8.3 M).
        patch: Readings of a stretch.

    The other settings are those of every student of motion (`ImuStudentOp`).
    """

    op: Literal["imu_transformer"] = "imu_transformer"
    patch: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch < 1:
            raise ValueError(f"patch must be at least 1, not {self.patch}")

    def build(
        self, *, channels: int, space: Literal["unit", "simplex", "raw"] | None = None
    ) -> ClipStudent:
        """A new network with random weights that gives `channels` columns in `space`."""
        from detectors.imu_transformer import ImuTransformer

        trunk = ImuTransformer(self.num_samples, self.size, patch=self.patch)
        return self.student(trunk, channels, space)

    def __call__(self, net: ClipStudent, imu: Imu) -> Embedding:
        """Rows of whole recordings, the mean over their windows; differentiable."""
        return embedded(net, self.describe(imu))
