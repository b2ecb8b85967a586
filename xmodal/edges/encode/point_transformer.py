"""The op `point_transformer`: a student over voxels, by attention along space-filling curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.encode.voxel_student import VoxelStudentOp

if TYPE_CHECKING:
    from detectors.point_student import PointStudent


@dataclass(frozen=True, kw_only=True)
class PointTransformer(VoxelStudentOp):
    """A point transformer over voxels (Point Transformer V3): sees as far as its patches reach.

    Attributes:
        size: `tiny` (1.9 M weights), `small` (9.8 M) or `base` (46 M, the published one).

    The other settings are those of every student over voxels (`VoxelStudentOp`).
    """

    op: Literal["point_transformer"] = "point_transformer"
    size: Literal["tiny", "small", "base"] = "tiny"

    def build(
        self, *, channels: int, space: Literal["unit", "simplex", "raw"] | None = None
    ) -> PointStudent:
        """A new network with random weights that gives `channels` columns in `space`."""
        from detectors.point_transformer import PointTransformer as Network

        return self.student(lambda a, b: Network(a, b, self.size), channels, space)
