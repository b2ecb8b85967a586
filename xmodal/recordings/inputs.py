"""What a clip student is shown: the fixed-size inputs of all windows of some recordings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xmodal.recordings.ragged import rows_of


@dataclass(frozen=True, eq=False)
class Clips:
    """Inputs of windows of recordings, computed once and kept.

    Attributes:
        inputs: One input for each window, all of one shape.
        offsets: Where the windows of each recording begin; a recording may have none.
    """

    inputs: Float[Tensor, "W ..."]
    offsets: Int[Tensor, " B1"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def nothing(cls, num: int, shape: tuple[int, ...]) -> Clips:
        """Recordings without a window.

        Args:
            num: How many.
            shape: Shape of one input.
        """
        return cls(torch.zeros(0, *shape), torch.zeros(num + 1, dtype=torch.int64))

    @property
    def sizes(self) -> Int[Tensor, " B"]:
        """Windows of each recording."""
        return self.offsets.diff()

    def take(self, places: Int[Tensor, " S"]) -> Clips:
        """Some of the recordings, in the order in which they are named."""
        sizes = self.sizes[places]
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        return Clips(self.inputs[rows_of(self.offsets, places)], offsets)

    def windows_at(self, places: Int[Tensor, " S"], at: Float[Tensor, " S"]) -> Int[Tensor, " S"]:
        """A window of each of some recordings: its row among the inputs, -1 where it has none.

        Args:
            places: Numbers of recordings.
            at: How far into the recording, in [0, 1): students of several streams that are asked
                for the same place see the same moment.
        """
        sizes = self.sizes[places]
        within = (at * sizes).long().clamp(max=(sizes - 1).clamp_min(0))
        return torch.where(sizes > 0, self.offsets[places] + within, -1)
