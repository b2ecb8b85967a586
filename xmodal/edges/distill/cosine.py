"""The op `cosine`: a student learns directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.settings import FeatureLoss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import Pair


@dataclass(frozen=True, kw_only=True)
class Cosine(FeatureLoss):
    """One minus the cosine between teacher and student rows.

    Settings are those of `FeatureLoss`.
    """

    op: Literal["cosine"] = "cosine"

    def _compare(
        self, teacher: Tensor, student: Tensor, pair: Pair, state: nn.Module | None
    ) -> Tensor:
        from xmodal import losses

        return losses.cosine(teacher, student, weight=pair.weight)
