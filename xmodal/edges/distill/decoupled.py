"""The op `decoupled`: contrast at several scales, own row and other rows apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.meet import need_segments
from xmodal.edges.distill.settings import FeatureLoss
from xmodal.loss_checks import check_counts, check_decoupled

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import Pair

Scale = Literal["point", "segment", "whole"]


@dataclass(frozen=True, kw_only=True)
class Decoupled(FeatureLoss):
    """KL between the teacher's and the student's contrast, decoupled, averaged over scales.

    Attributes:
        temperature: Divides cosines on both sides.
        scales: `point`: rows as they are. `segment`: averages over segments, which teacher or
            student must have. `whole`: the average of all rows of a sample.
        target: Factor of the own row's part.
        others: Factor of the other rows' part.
        rows_cap: Most rows compared at each scale; memory is its square.
    """

    op: Literal["decoupled"] = "decoupled"
    temperature: float = 0.1
    scales: tuple[Scale, ...] = ("point", "segment", "whole")
    target: float = 1.0
    others: float = 1.0
    rows_cap: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decoupled(self.temperature, self.target, self.others)
        check_counts(rows_cap=self.rows_cap)
        if not self.scales or len(set(self.scales)) < len(self.scales):
            msg = f"scales must name point, segment or whole, each at most once: {self.scales}"
            raise ValueError(msg)

    def _compare(
        self, teacher: Tensor, student: Tensor, pair: Pair, state: nn.Module | None
    ) -> Tensor:
        from xmodal import losses

        groups: dict[str, Tensor | None] = {"point": None, "whole": pair.sample}
        if "segment" in self.scales:
            groups["segment"] = need_segments(pair, self.op)
        return losses.multi_scale(
            teacher,
            student,
            [groups[scale] for scale in self.scales],
            weight=pair.weight,
            temperature=self.temperature,
            target=self.target,
            others=self.others,
            rows_cap=self.rows_cap,
        )
