"""What the ops of students over voxels share: settings, inputs, masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.point_inputs import PointInput, Up, check_inputs, describe_points, input_channels

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from detectors.masking import CellMask
    from detectors.point_student import PointStudent
    from xmodal.values import Points


@dataclass(frozen=True, kw_only=True)
class VoxelSettings:
    """Settings of a network over voxels of points; subclasses say which, and what it gives.

    Attributes:
        op: Name of the op.
        size: Preset of the network.
        voxel_m: Side of a voxel, metres. Points inside a voxel still differ by their own inputs.
        inputs: What each point brings: `rgb`, `normals`, `height`, `xyz` (see `describe_points`).
            With `xyz` a student knows one room by heart; for one that works in other rooms, leave
            it out and train on many scenes.
        up: Axis of the world frame that points up.
        mask_ratio: Part of the cells whose inputs are hidden while training (masked modelling), 0
            for none. Where their points are is still seen, what they look like is not.
        mask_cell_m: Side of a cell that is hidden as a whole, metres; at least a voxel.
    """

    op: str = ""
    size: str = "tiny"
    voxel_m: float = 0.03
    inputs: tuple[PointInput, ...] = ("rgb", "normals", "height", "xyz")
    up: Up = "z"
    mask_ratio: float = 0.0
    mask_cell_m: float = 0.2

    def __post_init__(self) -> None:
        check_inputs(self.inputs)
        if not 0 < self.voxel_m < float("inf"):
            msg = f"voxel_m must be above 0 metres, not {self.voxel_m}"
            raise ValueError(msg)
        if not 0 <= self.mask_ratio < 1:
            msg = f"mask_ratio must be 0 or more and below 1, not {self.mask_ratio}"
            raise ValueError(msg)
        if self.mask_ratio > 0 and not self.voxel_m <= self.mask_cell_m < float("inf"):
            msg = f"mask_cell_m must be at least voxel_m ({self.voxel_m}), not {self.mask_cell_m}"
            raise ValueError(msg)

    def describe(self, cloud: Points) -> Tensor:
        """Inputs of every point, which depend on the whole cloud: compute them before cropping."""
        return describe_points(cloud, self.inputs, self.up)

    def hidden_cells(self) -> CellMask | None:
        """What is hidden while training, None for nothing."""
        from detectors.masking import CellMask

        return CellMask(self.mask_ratio, self.mask_cell_m) if self.mask_ratio > 0 else None


@dataclass(frozen=True, kw_only=True)
class VoxelStudentOp(VoxelSettings):
    """A student that gives a row for every point; see `VoxelSettings`."""

    def __call__(self, net: PointStudent, cloud: Points) -> Points:
        """Rows of every point of the cloud, in the network's space; differentiable."""
        from xmodal.train.inference import run_student

        return run_student(net, cloud, self.describe(cloud))

    def student(
        self,
        trunk: Callable[[int, int], nn.Module],
        channels: int,
        space: Literal["unit", "simplex", "raw"] | None,
    ) -> PointStudent:
        """The student around a trunk, which is made from its widths of input and output."""
        from detectors.point_student import TRUNK_CHANNELS, VoxelStudent

        width = input_channels(self.inputs)
        return VoxelStudent(
            width,
            channels,
            trunk=trunk(width, TRUNK_CHANNELS),
            voxel_m=self.voxel_m,
            space=space or "raw",
            mask=self.hidden_cells(),
        )
