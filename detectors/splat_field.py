"""A field of features over the splats of one scene: one learnt row for each."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from detectors.point_student import Encoded, PointStudent
from detectors.spaces import Space

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

    Raises:
        ValueError: If there are no splats or no channels.
    """

    def __init__(self, num: int, channels: int, *, space: Space) -> None:
        super().__init__(space)
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
