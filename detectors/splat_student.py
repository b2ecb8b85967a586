"""Students that give splats: where each one is, how large, how opaque, of what colour, and a row.

Both begin as splats that are there already (points as discs, or a fit) and learn what to change.
Changes are bounded in units of the splat itself, so that the same network suits a table and a hall,
and no splat ever leaves its neighbourhood.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from detectors.masking import CellMask
from detectors.point_student import Encoded, LayeredStudent, VoxelStudent
from detectors.spaces import Space

# What a splat starts as, in columns: log scales, quaternion, logit of opacity, colour.
START_CHANNELS = 3 + 4 + 1 + 3
_START_PARTS = (3, 4, 1, 3)
# What is learnt: offset, change of log scales, of the quaternion, of the logit, of the colour.
_CHANGE_PARTS = (3, 3, 4, 1, 3)
# A splat grows or shrinks by at most this factor along an axis.
_MOST_GROWTH = 4.0
# Of each number of a quaternion of length 1: four of them together stay below that length.
_MOST_TURN = 0.45
_MOST_LOGIT = 6.0
# One step of 8 bits. Colours are learnt as logits: what fell below black would learn no more.
_LEAST_COLOUR = 1 / 255
# The head of a scene's field; rows shared by colour and features are about this wide, too.
_FIELD_HIDDEN = 64
# Shared rows start small, so that splats begin alike.
_FIELD_STD = 0.1


@dataclass(frozen=True, eq=False)
class Shapes:
    """Splats as a network gives them, unchecked; the words of `lifting.gaussians.splats.Splats`.

    Attributes:
        means: Centres, world frame, metres.
        quats: Quaternions, w x y z, of any length above 0.
        scales: Standard deviations, metres.
        opacities: In (0, 1).
        rgb: Colours, the same from all sides; in (0, 1).
    """

    means: Float[Tensor, "S 3"]
    quats: Float[Tensor, "S 4"]
    scales: Float[Tensor, "S 3"]
    opacities: Float[Tensor, " S"]
    rgb: Float[Tensor, "S 3"]


@dataclass(frozen=True, eq=False)
class StartedEncoded(Encoded):
    """Points on their way, with the splats that they start as (`START_CHANNELS` columns)."""

    start: Float[Tensor, "N 11"] | None = None


class SplatStudent(LayeredStudent):
    """A student whose points are splats that it shapes itself.

    The last `START_CHANNELS` inputs of a point say which splat it starts as.

    Attributes:
        reach_m: Farthest that a splat moves along each axis, metres.
    """

    reach_m: float

    @abstractmethod
    def changes(
        self, encoded: StartedEncoded, select: Int[Tensor, " S"] | None
    ) -> Float[Tensor, "S 14"]:
        """What to change of the splats: offset, log scales, quaternion, logit, colour."""

    def shapes(
        self,
        encoded: Encoded,
        xyz: Float[Tensor, "S 3"],
        select: Int[Tensor, " S"] | None = None,
    ) -> Shapes:
        """The splats of the selected points (all when None).

        Args:
            encoded: What `encode` gave.
            xyz: Where the selected points are in the world, metres; `encode` may have seen them
                moved.
            select: Which points.
        """
        assert isinstance(encoded, StartedEncoded), "made by this student's own encode"
        assert encoded.start is not None, "set by encode"
        start = encoded.start if select is None else encoded.start[select]
        return shaped(self.changes(encoded, select).to(start.dtype), start, xyz, self.reach_m)


def shaped(
    changes: Float[Tensor, "S 14"],
    start: Float[Tensor, "S 11"],
    xyz: Float[Tensor, "S 3"],
    reach_m: float,
) -> Shapes:
    """Splats from what they start as and what a network wants changed; zeros change nothing.

    Only colours beyond black and white are brought back between them.

    Args:
        changes: Of any size; the bounds are soft.
        start: Log scales, quaternion of length 1, logit of opacity, colour.
        xyz: Centres at the start, metres.
        reach_m: Farthest that a splat moves along each axis, metres.
    """
    offset, grow, turn, logit, colour = changes.split(_CHANGE_PARTS, dim=1)
    log_scales, quats, logits, rgb = start.split(_START_PARTS, dim=1)
    opaque = (logits + _MOST_LOGIT * torch.tanh(logit / _MOST_LOGIT)).squeeze(1)
    return Shapes(
        means=xyz + reach_m * torch.tanh(offset),
        quats=quats + _MOST_TURN * torch.tanh(turn),
        scales=(log_scales + math.log(_MOST_GROWTH) * torch.tanh(grow)).exp(),
        opacities=opaque.sigmoid(),
        rgb=(rgb.clamp(_LEAST_COLOUR, 1 - _LEAST_COLOUR).logit() + colour).sigmoid(),
    )


class GaussianHead(VoxelStudent, SplatStudent):
    """A network over voxels that makes a splat of every point.

    Feature row and splat are read from the same hidden row of the point, so that what is learnt of
    colours and depth shapes the trunk that tells of features.

    Args:
        in_channels: Width of the inputs of a point, without those that say what it starts as.
        out_channels: Width of the rows.
        trunk: See `VoxelStudent`.
        voxel_m: Side of a voxel, metres.
        space: Space of the rows.
        reach_m: See `SplatStudent`.
        mask: What is hidden while training; the colour that a hidden point starts with is, too.

    Source:
        Yao et al., GaussianCross: Cross-modal Self-supervised 3D Representation Learning via
        Gaussian Splatting, ACM MM 2025 (arXiv 2508.02172).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        trunk: nn.Module,
        voxel_m: float,
        space: Space,
        reach_m: float,
        mask: CellMask | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, trunk=trunk, voxel_m=voxel_m, space=space, mask=mask
        )
        _check_reach(reach_m)
        self.reach_m = reach_m
        hidden = self.output.in_features
        self.shape = nn.Linear(hidden, sum(_CHANGE_PARTS))
        # So it begins as the splats that are there.
        nn.init.zeros_(self.shape.weight)
        nn.init.zeros_(self.shape.bias)

    def encode(
        self,
        xyz: Float[Tensor, "N 3"],
        offsets: Int[Tensor, " B1"],
        inputs: Float[Tensor, "N Ci"],
    ) -> StartedEncoded:
        """See `VoxelStudent.encode`.

        Raises:
            ValueError: If points bring another number of inputs.
        """
        told, start = _parted(inputs, self.in_channels)
        seen = super().encode(xyz, offsets, told)
        if seen.masked is not None:
            grey = torch.cat((start[:, :-3], torch.full_like(start[:, -3:], 0.5)), dim=1)
            start = torch.where(seen.masked[:, None], grey, start)
        return StartedEncoded(seen.inputs, seen.features, seen.cell, seen.masked, start)

    def changes(
        self, encoded: StartedEncoded, select: Int[Tensor, " S"] | None
    ) -> Float[Tensor, "S 14"]:
        """What the head reads of the hidden rows."""
        cell, inputs = encoded.cell, encoded.inputs
        if select is not None:
            cell, inputs = cell[select], inputs[select]
        hidden = self.head(torch.cat([encoded.features[cell], inputs], dim=1))
        return self.shape(hidden)


class SplatScene(SplatStudent):
    """The splats of one scene, all of whose numbers are learnt, with one shared row for each.

    What a splat looks like and what it means are read from that row by two small decoders, so that
    colours and features are one field.

    Args:
        num: Splats of the scene.
        channels: Width of the rows that it gives.
        width: Width of the shared rows.
        space: Space of the rows.
        reach_m: See `SplatStudent`.

    Raises:
        ValueError: If there are no splats, no channels, or no width.

    Source:
        Li et al., GP-NeRF: Generalized Perception NeRF for Context-Aware 3D Scene Understanding,
        CVPR 2024 (arXiv 2311.11863): radiance and semantics from one field, rendered jointly.
    """

    def __init__(
        self, num: int, channels: int, *, width: int, space: Space, reach_m: float
    ) -> None:
        super().__init__(space)
        _check_reach(reach_m)
        self.reach_m = reach_m
        if num < 1 or channels < 1 or width < 1:
            msg = f"a scene needs splats, channels and width, got {num}, {channels} and {width}"
            raise ValueError(msg)
        self.rows = nn.Parameter(torch.randn(num, width) * _FIELD_STD)
        self.geometry = nn.Parameter(torch.zeros(num, sum(_CHANGE_PARTS) - 3))
        self.trunk = nn.Sequential(
            nn.Linear(width, _FIELD_HIDDEN), nn.LayerNorm(_FIELD_HIDDEN), nn.ReLU()
        )
        self.output = nn.Linear(_FIELD_HIDDEN, channels)
        self.colour = nn.Linear(_FIELD_HIDDEN, 3)
        nn.init.zeros_(self.colour.weight)
        nn.init.zeros_(self.colour.bias)

    @property
    def last(self) -> nn.Linear:
        """The layer that gives features."""
        return self.output

    def encode(
        self,
        xyz: Float[Tensor, "N 3"],
        offsets: Int[Tensor, " B1"],
        inputs: Float[Tensor, "N Ci"],
    ) -> StartedEncoded:
        """The shared rows of the splats whose numbers are the first input.

        Raises:
            ValueError: If a number is not that of a splat: these are splats of another scene.
        """
        told, start = _parted(inputs, 1)
        number = told[:, 0].long()
        if len(number) and (int(number.min()) < 0 or int(number.max()) >= len(self.rows)):
            raise ValueError(
                f"a scene of {len(self.rows)} splats was asked about splat {int(number.max())}: "
                "it is one scene and knows no other"
            )
        return StartedEncoded(told, self.rows, number, None, start)

    def decode_raw(
        self, encoded: Encoded, select: Int[Tensor, " S"] | None
    ) -> Float[Tensor, "S C"]:
        """Features of the selected splats."""
        return self.output(self._hidden(encoded, select))

    def changes(
        self, encoded: StartedEncoded, select: Int[Tensor, " S"] | None
    ) -> Float[Tensor, "S 14"]:
        """Geometry by number, colour from the shared rows."""
        number = encoded.cell if select is None else encoded.cell[select]
        colour = self.colour(self._hidden(encoded, select))
        return torch.cat((self.geometry[number], colour), dim=1)

    def _hidden(self, encoded: Encoded, select: Int[Tensor, " S"] | None) -> Tensor:
        number = encoded.cell if select is None else encoded.cell[select]
        hidden: Tensor = self.trunk(encoded.features[number])
        return hidden


def _parted(inputs: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """What describes points, and what they start as."""
    if inputs.shape[1] != width + START_CHANNELS:
        msg = (
            f"the student takes {width} inputs of a point and {START_CHANNELS} of the splat that "
            f"it starts as, not {inputs.shape[1]}"
        )
        raise ValueError(msg)
    return inputs[:, :width], inputs[:, width:]


def _check_reach(reach_m: float) -> None:
    if not 0 < reach_m < math.inf:
        raise ValueError(f"reach_m must be above 0 metres, got {reach_m}")
