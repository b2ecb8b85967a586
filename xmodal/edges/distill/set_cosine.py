"""The op `set_cosine`: the average over a set of points learns the set's direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.settings import SetLoss, compared

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import SetPair


@dataclass(frozen=True, kw_only=True)
class SetCosine(SetLoss):
    """One minus the cosine between a set's row and the student's average over the set.

    Settings are those of `SetLoss`.
    """

    op: Literal["set_cosine"] = "set_cosine"

    def _loss(self, pair: SetPair, net: nn.Module | None) -> Tensor:
        from xmodal import losses

        teacher, student = compared(pair.teacher, pair.student, net)
        return losses.set_cosine(teacher, student, pair.membership, weight=pair.weight)
