"""The op `sparse_unet`: a student over voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.point_inputs import PointInput, Up, check_inputs, describe_points, input_channels

if TYPE_CHECKING:
    from torch import Tensor

    from detectors.point_student import PointStudent
    from xmodal.values import Points


@dataclass(frozen=True, kw_only=True)
class SparseUnet:
    """A sparse 3D U-Net over voxels: the student that sees geometry, colour and context.

    Attributes:
        size: `tiny` (3.6 M weights), `small` (13 M) or `base` (60 M).
        voxel_m: Side of a voxel, metres. Points inside a voxel still differ by their own inputs.
        inputs: What each point brings: `rgb`, `normals`, `height`, `xyz` (see `describe_points`).
            With `xyz` a student knows one room by heart; for one that works in other rooms, leave
            it out and train on many scenes.
        up: Axis of the world frame that points up.
    """

    op: Literal["sparse_unet"] = "sparse_unet"
    size: Literal["tiny", "small", "base"] = "tiny"
    voxel_m: float = 0.03
    inputs: tuple[PointInput, ...] = ("rgb", "normals", "height", "xyz")
    up: Up = "z"

    def __post_init__(self) -> None:
        check_inputs(self.inputs)
        if not 0 < self.voxel_m < float("inf"):
            msg = f"voxel_m must be above 0 metres, not {self.voxel_m}"
            raise ValueError(msg)

    def build(
        self, *, channels: int, space: Literal["unit", "simplex", "raw"] | None = None
    ) -> PointStudent:
        """A new network with random weights that gives `channels` columns in `space`."""
        from detectors.point_student import VoxelStudent

        return VoxelStudent(
            input_channels(self.inputs),
            channels,
            size=self.size,
            voxel_m=self.voxel_m,
            space=space or "raw",
        )

    def describe(self, cloud: Points) -> Tensor:
        """Inputs of every point, which depend on the whole cloud: compute them before cropping."""
        return describe_points(cloud, self.inputs, self.up)

    def __call__(self, net: PointStudent, cloud: Points) -> Points:
        """Rows of every point of the cloud, in the network's space; differentiable."""
        from xmodal.train.inference import run_student

        return run_student(net, cloud, self.describe(cloud))
