"""The op `set_contrast`: which of all masks or captions tells of these points?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.settings import SetLoss, compared
from xmodal.loss_checks import check_contrast, check_counts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import SetPair


@dataclass(frozen=True, kw_only=True)
class SetContrast(SetLoss):
    """Contrast of the student's average over each set with the rows of all sets of the step.

    Attributes:
        temperature: Divides cosines.
        ignore_above: Sets whose rows' cosine is above this are no negatives, so that two sets with
            one caption are not told apart; 1 keeps all.
        sets_cap: Most sets compared; memory is its square.
    """

    op: Literal["set_contrast"] = "set_contrast"
    temperature: float = 0.07
    ignore_above: float = 0.99
    sets_cap: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        check_contrast(self.temperature, self.ignore_above)
        check_counts(sets_cap=self.sets_cap)

    def _loss(self, pair: SetPair, net: nn.Module | None) -> Tensor:
        from xmodal import losses

        teacher, student = compared(pair.teacher, pair.student, net)
        return losses.set_contrast(
            teacher,
            student,
            pair.membership,
            weight=pair.weight,
            temperature=self.temperature,
            ignore_above=self.ignore_above,
            sets_cap=self.sets_cap,
        )
