"""What every point student has in common, and the student around a network over voxels.

A student works in two steps: `encode` looks at all points of a batch, `decode` gives rows for the
points that are asked for. A thousand channels for every point would cost more than the network, so
training decodes a random subset and inference decodes block by block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from detectors.masking import CellMask
from detectors.principal_start import principal_start
from detectors.spaces import Space, to_space
from lifting.points import voxelize

TRUNK_CHANNELS = 96
_HEAD_CHANNELS = 128
# Of the learnt token that stands for what is hidden; inputs have about unit scale.
_TOKEN_STD = 0.02


@dataclass(frozen=True, eq=False)
class Encoded:
    """Points on their way through a student.

    Attributes:
        inputs: What describes each point by itself.
        features: Rows of the trunk, one per cell (or per point, for students without cells).
        cell: Row of `features` that each point belongs to.
        masked: Points whose inputs were hidden from the student, None when nothing ever is.
    """

    inputs: Float[Tensor, "N Ci"]
    features: Float[Tensor, "V F"]
    cell: Int[Tensor, " N"]
    masked: Bool[Tensor, " N"] | None = None


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
    def out_channels(self) -> int:
        """Width of the rows."""

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

    @abstractmethod
    def start_from(self, rows: Float[Tensor, "R C"]) -> None:
        """Begin where a sample of the teacher's rows is, before the first step."""

    def forward(
        self,
        xyz: Float[Tensor, "N 3"],
        offsets: Int[Tensor, " B1"],
        inputs: Float[Tensor, "N Ci"],
    ) -> Float[Tensor, "N C"]:
        """Rows of all points."""
        return self.decode(self.encode(xyz, offsets, inputs))


class LayeredStudent(PointStudent):
    """A student that ends in a linear layer after a layer norm and a ReLU."""

    @property
    @abstractmethod
    def last(self) -> nn.Linear:
        """The last layer."""

    @property
    def out_channels(self) -> int:
        """Width of the rows."""
        return self.last.out_features

    def start_from(self, rows: Float[Tensor, "R C"]) -> None:
        """Set the last layer from a sample of the teacher's rows, before the first step."""
        principal_start(self.last, rows.to(self.last.weight.device), self.space)


class VoxelStudent(LayeredStudent):
    """A network over voxels, and a small per-point head that sees inside the voxel.

    The head gets the row of the point's voxel beside the point's own inputs and its place in the
    voxel, so that neighbours within one voxel can differ.

    Args:
        in_channels: Width of the inputs of a point.
        out_channels: Width of the rows.
        trunk: The network over voxels: takes cells `[V, 3]`, the sample of each `[V]` and inputs
            `[V, in_channels]`, gives `[V, TRUNK_CHANNELS]`.
        voxel_m: Side of a voxel, metres.
        space: Space of the rows.
        mask: What is hidden while training. The inputs of hidden points become one learnt token
            (`mask_token`), for the trunk and for the head; where they are is still seen.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        trunk: nn.Module,
        voxel_m: float,
        space: Space,
        mask: CellMask | None = None,
    ) -> None:
        super().__init__(space)
        self.in_channels, self.voxel_m, self.mask = in_channels, voxel_m, mask
        self.trunk = trunk
        self.head = nn.Sequential(
            nn.Linear(TRUNK_CHANNELS + in_channels + 3, _HEAD_CHANNELS),
            nn.LayerNorm(_HEAD_CHANNELS),
            nn.ReLU(),
        )
        self.output = nn.Linear(_HEAD_CHANNELS, out_channels)
        # Only where it is used, so that weights of students without masks keep their names.
        if mask is not None:
            self.mask_token = nn.Parameter(torch.randn(in_channels) * _TOKEN_STD)

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
        """Average inputs over voxels and run the network; hide some of them in training.

        Raises:
            ValueError: If points bring another number of inputs.
        """
        if inputs.shape[1] != self.in_channels:
            msg = f"the student takes {self.in_channels} inputs of a point, not {inputs.shape[1]}"
            raise ValueError(msg)
        voxels = voxelize(xyz, self.voxel_m, offsets)
        cell = voxels.index
        masked = None
        if self.mask is not None and self.training:
            masked = self.mask.draw(voxels)[cell]
            inputs = torch.where(masked[:, None], self.mask_token.to(inputs.dtype), inputs)
        count = torch.bincount(cell, minlength=voxels.num_voxels).to(inputs.dtype)
        total = inputs.new_zeros(voxels.num_voxels, inputs.shape[1]).index_add_(0, cell, inputs)
        features = self.trunk(voxels.coords, voxels.batch, total / count[:, None])
        inside = (xyz / self.voxel_m - voxels.coords[cell] - 0.5).to(inputs.dtype)
        return Encoded(torch.cat([inputs, inside], dim=1), features, cell, masked)

    def decode_raw(
        self, encoded: Encoded, select: Int[Tensor, " S"] | None
    ) -> Float[Tensor, "S C"]:
        """The head on the selected points."""
        cell, inputs = encoded.cell, encoded.inputs
        if select is not None:
            cell, inputs = cell[select], inputs[select]
        return self.output(self.head(torch.cat([encoded.features[cell], inputs], dim=1)))
