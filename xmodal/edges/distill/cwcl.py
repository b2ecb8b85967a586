"""The op `cwcl`: contrast with continuous weights for rows that are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.settings import FeatureLoss
from xmodal.loss_checks import check_counts, check_temperature

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import Pair


@dataclass(frozen=True, kw_only=True)
class Cwcl(FeatureLoss):
    """Contrast in which rows are positives as far as their teacher rows are alike.

    Attributes:
        temperature: Divides cosines.
        both_ways: Also ask which student row is a teacher row's own.
        rows_cap: Most rows compared; memory is its square.
    """

    op: Literal["cwcl"] = "cwcl"
    temperature: float = 0.07
    both_ways: bool = True
    rows_cap: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)
        check_counts(rows_cap=self.rows_cap)

    def _compare(
        self, teacher: Tensor, student: Tensor, pair: Pair, state: nn.Module | None
    ) -> Tensor:
        from xmodal import losses

        return losses.cwcl(
            teacher,
            student,
            weight=pair.weight,
            temperature=self.temperature,
            both_ways=self.both_ways,
            rows_cap=self.rows_cap,
        )
