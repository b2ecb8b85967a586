"""What every point student has in common, and the student around the sparse U-Net.

A student works in two steps: `encode` looks at all points of a batch, `decode` gives rows for the
points that are asked for. A thousand channels for every point would cost more than the network, so
training decodes a random subset and inference decodes block by block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from detectors.principal_start import principal_start
from detectors.spaces import Space, to_space
from detectors.sparse_unet import Size, SparseUNet
from lifting.points import voxelize

_TRUNK_CHANNELS, _HEAD_CHANNELS = 96, 128


@dataclass(frozen=True, eq=False)
class Encoded:
    """Points on their way through a student.

    Attributes:
        inputs: What describes each point by itself.
        features: Rows of the trunk, one per cell (or per point, for students without cells).
        cell: Row of `features` that each point belongs to.
    """

    inputs: Float[Tensor, "N Ci"]
    features: Float[Tensor, "V F"]
    cell: Int[Tensor, " N"]


class PointStudent(nn.Module, ABC):
    """A network from points to feature rows in a declared space.

    Args:
        space: `simplex`: rows are probabilities (soft-max). `unit`: rows have length 1; a row of
            zeros stays zero. `raw`: rows as they come.
    """

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space: Space = space

    @abstractmethod
    def encode(
        self,
        xyz: Float[Tensor, "N 3"],
        offsets: Int[Tensor, " B1"],
        inputs: Float[Tensor, "N Ci"],
    ) -> Encoded:
        """Look at all points.

        Args:
            xyz: Positions, metres.
            offsets: Where each sample's points begin and end.
            inputs: What describes each point by itself.
        """

    @property
    @abstractmethod
    def last(self) -> nn.Linear:
        """The last layer, which follows a layer norm and a ReLU."""

    @abstractmethod
    def decode_raw(
        self, encoded: Encoded, select: Int[Tensor, " S"] | None
    ) -> Float[Tensor, "S C"]:
        """Rows before they are brought into the student's space."""

    def decode(
        self, encoded: Encoded, select: Int[Tensor, " S"] | None = None
    ) -> Float[Tensor, "S C"]:
        """Rows of the selected points (all when None), in the student's space."""
        return to_space(self.decode_raw(encoded, select), self.space)

    def start_from(self, rows: Float[Tensor, "R C"]) -> None:
        """Set the last layer from a sample of the teacher's rows, before the first step."""
        principal_start(self.last, rows.to(self.last.weight.device), self.space)

    def forward(
        self,
        xyz: Float[Tensor, "N 3"],
        offsets: Int[Tensor, " B1"],
        inputs: Float[Tensor, "N Ci"],
    ) -> Float[Tensor, "N C"]:
        """Rows of all points."""
        return self.decode(self.encode(xyz, offsets, inputs))


class VoxelStudent(PointStudent):
    """Sparse U-Net over voxels, and a small per-point head that sees inside the voxel.

    The head gets the row of the point's voxel beside the point's own inputs and its place in the
    voxel, so that neighbours within one voxel can differ.

    Args:
        in_channels: Width of the inputs of a point.
        out_channels: Width of the rows.
        size: Preset of the U-Net.
        voxel_m: Side of a voxel, metres.
        space: Space of the rows.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, size: Size, voxel_m: float, space: Space
    ) -> None:
        super().__init__(space)
        self.voxel_m = voxel_m
        self.trunk = SparseUNet(in_channels, _TRUNK_CHANNELS, size)
        self.head = nn.Sequential(
            nn.Linear(_TRUNK_CHANNELS + in_channels + 3, _HEAD_CHANNELS),
            nn.LayerNorm(_HEAD_CHANNELS),
            nn.ReLU(),
        )
        self.output = nn.Linear(_HEAD_CHANNELS, out_channels)

    @property
    def last(self) -> nn.Linear:
        """The layer after the head."""
        return self.output

    def encode(
        self,
        xyz: Float[Tensor, "N 3"],
        offsets: Int[Tensor, " B1"],
        inputs: Float[Tensor, "N Ci"],
    ) -> Encoded:
        """Average inputs over voxels and run the U-Net."""
        voxels = voxelize(xyz, self.voxel_m, offsets)
        cell = voxels.index
        count = torch.bincount(cell, minlength=voxels.num_voxels).to(inputs.dtype)
        total = inputs.new_zeros(voxels.num_voxels, inputs.shape[1]).index_add_(0, cell, inputs)
        features = self.trunk(voxels.coords, voxels.batch, total / count[:, None])
        inside = (xyz / self.voxel_m - voxels.coords[cell] - 0.5).to(inputs.dtype)
        return Encoded(torch.cat([inputs, inside], dim=1), features, cell)

    def decode_raw(
        self, encoded: Encoded, select: Int[Tensor, " S"] | None
    ) -> Float[Tensor, "S C"]:
        """The head on the selected points."""
        cell, inputs = encoded.cell, encoded.inputs
        if select is not None:
            cell, inputs = cell[select], inputs[select]
        return self.output(self.head(torch.cat([encoded.features[cell], inputs], dim=1)))
