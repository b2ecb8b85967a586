"""The op `mse`: a student learns values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.settings import FeatureLoss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import Pair


@dataclass(frozen=True, kw_only=True)
class Mse(FeatureLoss):
    """Squared difference between teacher and student rows, averaged over channels.

    Settings are those of `FeatureLoss`.
    """

    op: Literal["mse"] = "mse"

    def _compare(
        self, teacher: Tensor, student: Tensor, pair: Pair, state: nn.Module | None
    ) -> Tensor:
        from xmodal import losses

        return losses.mse(teacher, student, weight=pair.weight)
