"""A field of features over the splats of one scene: one learnt row for each."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from detectors.point_student import Encoded, PointStudent
from detectors.spaces import Space
from lifting.operator import LiftOperator

# Small beside rows of length 1: what is never seen stays without a direction of its own.
_START_STD = 0.01


class SplatField(PointStudent):
    """Rows that belong to the splats of one scene by their number.

    It looks at nothing: a point's only input is its number, so the rows say what teachers saw there
    and nothing about other scenes.

    Args:
        num: Splats of the scene.
        channels: Width of the rows.
        space: Space of the rows.
        start: `lifted`: where the first teacher's sets allow it, rows begin as their closed-form
            lift (`start_from_sets`); `random`: near nothing, as fields usually do.

    Raises:
        ValueError: If there are no splats or no channels.
    """

    def __init__(
        self,
        num: int,
        channels: int,
        *,
        space: Space,
        start: Literal["lifted", "random"] = "lifted",
    ) -> None:
        super().__init__(space)
        self.start = start
        if num < 1 or channels < 1:
            raise ValueError(f"a field needs splats and channels, got {num} and {channels}")
        self.rows = nn.Parameter(torch.randn(num, channels) * _START_STD)

    @property
    def out_channels(self) -> int:
        """Width of the rows."""
        return self.rows.shape[1]

    def start_from(self, rows: Float[Tensor, "R C"]) -> None:
        """Give all splats the mean of the teacher's rows; those that nothing shows keep it."""
        with torch.no_grad():
            self.rows += rows.to(self.rows).mean(dim=0)

    @torch.no_grad()
    def start_from_sets(self, coordinates: Float[Tensor, "S K"], members: LiftOperator) -> None:
        """Give every splat the mean of what the sets that show it say, by its share in them.

        Columns of the field beyond the coordinates, and splats that no set shows, stay near nothing
        and near the mean.

        Args:
            coordinates: What is said of each set, no wider than the field.
            members: Sets x splats, raw shares.

        Raises:
            ValueError: If the sets are of other splats, or say more than the field can hold.
        """
        if members.num_sources != len(self.rows) or coordinates.shape[1] > self.rows.shape[1]:
            raise ValueError(
                f"a field of {tuple(self.rows.shape)} cannot start from {coordinates.shape[1]} "
                f"coordinates of sets over {members.num_sources} splats"
            )
        lifted = members.transpose().lift(coordinates)
        rows = torch.where(lifted.valid[:, None], lifted.rows, coordinates.mean(dim=0))
        self.rows[:, : coordinates.shape[1]] = rows.to(self.rows)

    def encode(
        self,
        xyz: Float[Tensor, "N 3"],
        offsets: Int[Tensor, " B1"],
        inputs: Float[Tensor, "N Ci"],
    ) -> Encoded:
        """Rows of the splats whose numbers are given.

        Raises:
            ValueError: If a number is not that of a splat: these are points of another scene.
        """
        number = inputs[:, 0].long()
        if len(number) and (int(number.min()) < 0 or int(number.max()) >= len(self.rows)):
            raise ValueError(
                f"a field of {len(self.rows)} splats was asked about splat {int(number.max())}: "
                "it belongs to one scene and knows no other"
            )
        return Encoded(inputs, self.rows, number)

    def decode_raw(
        self, encoded: Encoded, select: Int[Tensor, " S"] | None
    ) -> Float[Tensor, "S C"]:
        """The rows of the selected splats."""
        cell = encoded.cell if select is None else encoded.cell[select]
        return encoded.features[cell]
