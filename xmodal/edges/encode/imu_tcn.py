"""The op `imu_tcn`: a student of motion, by convolutions over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.encode.clip_student import embedded
from xmodal.edges.encode.imu_student import ImuStudentOp

if TYPE_CHECKING:
    from detectors.clip_student import ClipStudent
    from xmodal.values import Embedding, Imu


@dataclass(frozen=True, kw_only=True)
class ImuTcn(ImuStudentOp):
    """Dilated residual convolutions over windows of readings; one row for each recording.

    Attributes:
        size: `micro` (0.1 M weights), `tiny` (0.5 M), `small` (1.7 M) or `base` (5.9 M).

    The other settings are those of every student of motion (`ImuStudentOp`).
    """

    op: Literal["imu_tcn"] = "imu_tcn"

    def build(
        self, *, channels: int, space: Literal["unit", "simplex", "raw"] | None = None
    ) -> ClipStudent:
        """A new network with random weights that gives `channels` columns in `space`."""
        from detectors.imu_tcn import ImuTCN

        return self.student(ImuTCN(self.num_samples, self.size), channels, space)

    def __call__(self, net: ClipStudent, imu: Imu) -> Embedding:
        """Rows of whole recordings, the mean over their windows; differentiable."""
        return embedded(net, self.describe(imu))
