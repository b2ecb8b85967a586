"""The op `part_distill`: masks teach the student, and the student re-scores the masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.settings import SetLoss, compared, probabilities
from xmodal.loss_checks import check_backward

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import SetPair


@dataclass(frozen=True, kw_only=True)
class PartDistill(SetLoss):
    """Forward and backward distillation between sets of points and the student.

    Attributes:
        divergence: How a set's row and the student's average are compared: `cosine`, or `kl` for
            probabilities.
        backward: Share of the student's agreement in a set's weight: 0 is forward distillation
            alone, 1 lets what the student disbelieves count least.
        gamma: Power of the agreement.
    """

    op: Literal["part_distill"] = "part_distill"
    divergence: Literal["cosine", "kl"] = "cosine"
    backward: float = 1.0
    gamma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_backward(self.backward, self.gamma)
        if self.divergence == "kl" and (self.standardise != "none" or self.allow_simplex):
            msg = "standardise and allow_simplex have no effect with divergence kl; remove them"
            raise ValueError(msg)

    @property
    def teacher_spaces(self) -> tuple[str, ...]:
        """Spaces of teacher rows that this loss takes."""
        return ("simplex",) if self.divergence == "kl" else super().teacher_spaces

    def build(
        self,
        *,
        channels: int,
        teacher_channels: int,
        space: Literal["unit", "simplex", "raw"] | None = "simplex",
    ) -> nn.Module | None:
        """The edge's `Head`, or None; `space` is that of the student's rows."""
        return self._head(
            channels,
            teacher_channels,
            standardise=self.standardise,
            log=self.divergence == "kl" and space == "simplex",
        )

    def _loss(self, pair: SetPair, net: nn.Module | None) -> Tensor:
        from xmodal import losses

        teacher, student = pair.teacher, pair.student
        if self.divergence == "kl":
            student = probabilities(student, net)
        else:
            teacher, student = compared(teacher, student, net)
        return losses.part_distill(
            teacher,
            student,
            pair.membership,
            weight=pair.weight,
            backward=self.backward,
            gamma=self.gamma,
            divergence=self.divergence,
        )
