"""The op `sparse_unet`: a student over voxels, by convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.encode.voxel_student import VoxelStudentOp

if TYPE_CHECKING:
    from detectors.point_student import PointStudent


@dataclass(frozen=True, kw_only=True)
class SparseUnet(VoxelStudentOp):
    """A sparse 3D U-Net over voxels: the student that sees geometry, colour and context.

    Attributes:
        size: `tiny` (3.6 M weights), `small` (13 M), `base` (60 M) or `published` (38 M: the widths
            and depths of MinkUNet34C, OpenScene's network).

    The other settings are those of every student over voxels (`VoxelStudentOp`).
    """

    op: Literal["sparse_unet"] = "sparse_unet"
    size: Literal["tiny", "small", "base", "published"] = "tiny"

    def build(
        self, *, channels: int, space: Literal["unit", "simplex", "raw"] | None = None
    ) -> PointStudent:
        """A new network with random weights that gives `channels` columns in `space`."""
        from detectors.sparse_unet import SparseUNet

        return self.student(lambda a, b: SparseUNet(a, b, self.size), channels, space)
