"""The op `direction_norm`: a student's rows point to their class and are long enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.settings import FeatureLoss, need_state
from xmodal.loss_checks import check_counts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import Pair


@dataclass(frozen=True, kw_only=True)
class DirectionNorm(FeatureLoss):
    """Directions of class means, and the teacher's lengths, with classes found without labels.

    Rows of one class are not told apart; use it beside another edge.

    Attributes:
        pseudo: `nearest`: classes are found among the teacher's rows. `arg_max`: one class per
            channel of the teacher, its largest.
        num_classes: Number of classes for `nearest`.
        momentum: Share of the old class mean at each step.
    """

    op: Literal["direction_norm"] = "direction_norm"
    pseudo: Literal["nearest", "arg_max"] = "nearest"
    num_classes: int = 32
    momentum: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(num_classes=self.num_classes)
        if not 0 <= self.momentum < 1:
            msg = f"momentum must be in [0, 1), not {self.momentum}"
            raise ValueError(msg)

    def _state(self, teacher_channels: int) -> nn.Module | None:
        from xmodal import losses

        classes = self.num_classes if self.pseudo == "nearest" else teacher_channels
        return losses.DirectionNorm(
            teacher_channels, classes, pseudo=self.pseudo, momentum=self.momentum
        )

    def _compare(
        self, teacher: Tensor, student: Tensor, pair: Pair, state: nn.Module | None
    ) -> Tensor:
        return need_state(state, self.op)(teacher, student, weight=pair.weight)
