"""The op `segment_contrast`: contrast among super-points or 3D masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.meet import need_segments
from xmodal.edges.distill.settings import FeatureLoss
from xmodal.loss_checks import check_contrast, check_counts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import Pair


@dataclass(frozen=True, kw_only=True)
class SegmentContrast(FeatureLoss):
    """Rows of both sides averaged over each segment, and contrasted among segments.

    Teacher or student must have `segments`.

    Attributes:
        temperature: Divides cosines.
        ignore_above: Segments whose teacher cosine is above this are no negatives; 1 keeps all.
        segments_cap: Most segments compared; memory is its square.
    """

    op: Literal["segment_contrast"] = "segment_contrast"
    temperature: float = 0.07
    ignore_above: float = 1.0
    segments_cap: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        check_contrast(self.temperature, self.ignore_above)
        check_counts(segments_cap=self.segments_cap)

    def _compare(
        self, teacher: Tensor, student: Tensor, pair: Pair, state: nn.Module | None
    ) -> Tensor:
        from xmodal import losses

        return losses.segment_contrast(
            teacher,
            student,
            need_segments(pair, self.op),
            weight=pair.weight,
            temperature=self.temperature,
            ignore_above=self.ignore_above,
            segments_cap=self.segments_cap,
        )
