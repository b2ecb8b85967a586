"""The op `smooth_l1`: a student learns values, and outliers pull no harder than others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.settings import FeatureLoss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import Pair


@dataclass(frozen=True, kw_only=True)
class SmoothL1(FeatureLoss):
    """Smooth L1 difference between teacher and student rows, averaged over channels.

    Attributes:
        beta: Where squares turn into absolute values. Rows of length 1 in 512 channels differ by
            about 0.04 in each, so a beta of 1 would be half the squared difference.
    """

    op: Literal["smooth_l1"] = "smooth_l1"
    beta: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < float("inf"):
            msg = f"beta must be above 0, not {self.beta}"
            raise ValueError(msg)

    def _compare(
        self, teacher: Tensor, student: Tensor, pair: Pair, state: nn.Module | None
    ) -> Tensor:
        from xmodal import losses

        return losses.smooth_l1(teacher, student, weight=pair.weight, beta=self.beta)
