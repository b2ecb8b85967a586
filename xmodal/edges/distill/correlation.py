"""The op `correlation`: rows of a batch are related as the teacher relates them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.settings import FeatureLoss
from xmodal.loss_checks import check_correlation, check_counts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import Pair


@dataclass(frozen=True, kw_only=True)
class Correlation(FeatureLoss):
    """KL between how teacher and student relate the rows of a batch; language is a good teacher.

    Attributes:
        temperature: Divides cosines.
        inter: Factor of correlations between the student's rows and the teacher's.
        intra: Factor of correlations among the student's own rows.
        rows_cap: Most rows compared; memory is its square.
    """

    op: Literal["correlation"] = "correlation"
    temperature: float = 0.1
    inter: float = 1.0
    intra: float = 1.0
    rows_cap: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        check_correlation(self.temperature, self.inter, self.intra)
        check_counts(rows_cap=self.rows_cap)

    @property
    def any_width(self) -> bool:
        """Correlations among the student's own rows need no common width."""
        return self.inter == 0

    def build(self, *, channels: int, teacher_channels: int) -> nn.Module | None:
        """The edge's `Head`, or None when there is nothing to learn or to keep."""
        if self.any_width and self.project == "none" and self.standardise == "none":
            return None
        return super().build(channels=channels, teacher_channels=teacher_channels)

    def _compare(
        self, teacher: Tensor, student: Tensor, pair: Pair, state: nn.Module | None
    ) -> Tensor:
        from xmodal import losses

        return losses.correlation(
            teacher,
            student,
            weight=pair.weight,
            temperature=self.temperature,
            inter=self.inter,
            intra=self.intra,
            rows_cap=self.rows_cap,
        )
