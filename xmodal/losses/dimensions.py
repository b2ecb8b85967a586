"""Few dimensions of a teacher's space, those that matter, for a student that is narrow."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from xmodal.loss_checks import check_counts
from xmodal.losses.rows import direction


class SharedDimensions(nn.Module):
    """The dimensions of a space that carry most of the likeness of its rows.

    The cosine of two unit rows is a sum over dimensions. The importance of a dimension is its mean
    part in the cosine of a row with itself, the mean of squares, which is its part in the cosine of
    a row with a matching row of another modality as far as the shared space makes them equal.
    The choice is made at the first rows and kept; it is part of the checkpoint.

    Args:
        channels: Dimensions of the teacher's space.
        keep: How many stay.

    Raises:
        ValueError: If there are not that many.

    Source:
        Paissan and Farella, tinyCLAP: Distilling Contrastive Language-Audio Pretrained Models,
        Interspeech 2024, equation 8, with the teacher's own rows in place of those of texts.
    """

    def __init__(self, channels: int, keep: int) -> None:
        super().__init__()
        check_counts(keep=keep)
        if keep > channels:
            msg = f"keep must be at most the teacher's {channels} dimensions, not {keep}"
            raise ValueError(msg)
        self.channels, self.keep = channels, keep
        self.register_buffer("dimensions", torch.arange(keep))
        self.register_buffer("length", torch.ones(()))
        self.register_buffer("chosen", torch.zeros((), dtype=torch.bool))

    def start_from(
        self, rows: Float[Tensor, "M C"], valid: Bool[Tensor, " M"] | None = None
    ) -> None:
        """Choose the dimensions by some of the teacher's rows; a choice that was made stays.

        Rows of length 0 or with NaN do not count; with no row left nothing is chosen.
        """
        if bool(cast("Tensor", self.chosen)):
            return
        rows = rows.detach() if valid is None else rows.detach()[valid]
        rows = rows[torch.isfinite(rows).all(dim=1)]
        unit = direction(rows)
        importance = unit.square().sum(dim=0)
        if not float(importance.sum()) > 0:
            return
        # Sorted, so that equal rows of two runs stand in one order; ties go to the first.
        best = torch.sort(importance, descending=True, stable=True).indices[: self.keep]
        cast("Tensor", self.dimensions).copy_(best.sort().values)
        cast("Tensor", self.length).copy_(rows[:, best].norm(dim=1).mean())
        cast("Tensor", self.chosen).fill_(True)

    @property
    def kept(self) -> Int64[Tensor, " K"]:
        """The dimensions that stay, in their order."""
        return cast("Tensor", self.dimensions)

    def forward(self, rows: Float[Tensor, "M C"]) -> Float[Tensor, "M K"]:
        """Rows in the dimensions that stay."""
        return rows[:, self.kept]

    def restore(self, rows: Float[Tensor, "M K"]) -> Float[Tensor, "M C"]:
        """Rows in all dimensions, as long as the teacher's are; 0 in those that were left out."""
        whole = rows.new_zeros(len(rows), self.channels)
        scaled = direction(rows) * cast("Tensor", self.length).to(rows)
        return whole.index_copy(1, self.kept, scaled)
