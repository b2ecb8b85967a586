"""The op `relational`: a student's rows are as alike among themselves as the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from xmodal.edges.distill.project import projection
from xmodal.edges.distill.settings import FeatureLoss
from xmodal.loss_checks import check_counts, check_temperature

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import Pair


@dataclass(frozen=True, kw_only=True)
class Relational(FeatureLoss):
    """Cosines among rows of the teacher, learnt as cosines among rows of the student.

    Widths may differ without a projection; `standardise` needs one.

    Attributes:
        kind: `similarity`: squared difference of cosines. `affinity`: KL of the soft-max over each
            row's cosines to the others, so that near rows count more.
        temperature: Divides cosines for `affinity`.
        rows_cap: Most rows compared; memory is its square.
    """

    op: Literal["relational"] = "relational"
    kind: Literal["similarity", "affinity"] = "similarity"
    temperature: float = 0.1
    rows_cap: int = 1024

    any_width: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)
        check_counts(rows_cap=self.rows_cap)
        if self.standardise != "none" and self.project == "none":
            msg = "standardise needs `project: linear`: student rows have a width of their own"
            raise ValueError(msg)

    def _projection(self, channels: int, teacher_channels: int) -> nn.Module | None:
        if self.project == "none":
            return None
        return projection(self.project, channels, teacher_channels)

    def _compare(
        self, teacher: Tensor, student: Tensor, pair: Pair, state: nn.Module | None
    ) -> Tensor:
        from xmodal import losses

        if self.kind == "similarity":
            return losses.similarity(teacher, student, weight=pair.weight, rows_cap=self.rows_cap)
        return losses.affinity(
            teacher,
            student,
            weight=pair.weight,
            temperature=self.temperature,
            rows_cap=self.rows_cap,
        )
