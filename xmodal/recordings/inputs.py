"""What a clip student is shown: the fixed-size inputs of all windows of some recordings."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


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
