"""The op `info_nce`: a student's row is nearer to its own teacher row than to others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.settings import FeatureLoss, need_state
from xmodal.loss_checks import check_contrast, check_counts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import Pair


@dataclass(frozen=True, kw_only=True)
class InfoNce(FeatureLoss):
    """Contrast of each row with other teacher rows: of the batch, of a queue, or drawn from it.

    Attributes:
        temperature: Divides cosines.
        negatives: `batch`: all other rows of the step, up to `rows_cap`. `queue`: teacher rows of
            earlier steps. `sampled`: some other rows of the step.
        soft: Other rows count as positives, too, as far as their teacher rows are like the own one.
        ignore_above: Rows whose teacher cosine to the own one is above this are no negatives;
            points of one surface hardly differ. 1 keeps all.
        rows_cap: Most rows compared for `batch`; memory is its square.
        queue_size: Length of the `queue`.
        num_negatives: Negatives of each row for `sampled`.
    """

    op: Literal["info_nce"] = "info_nce"
    temperature: float = 0.07
    negatives: Literal["batch", "queue", "sampled"] = "batch"
    soft: bool = False
    ignore_above: float = 1.0
    rows_cap: int = 2048
    queue_size: int = 4096
    num_negatives: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_contrast(self.temperature, self.ignore_above, soft=self.soft)
        check_counts(
            rows_cap=self.rows_cap, queue_size=self.queue_size, num_negatives=self.num_negatives
        )

    def _state(self, teacher_channels: int) -> nn.Module | None:
        if self.negatives != "queue":
            return None
        from xmodal.losses import QueueContrast

        return QueueContrast(teacher_channels, self.queue_size)

    def _compare(
        self, teacher: Tensor, student: Tensor, pair: Pair, state: nn.Module | None
    ) -> Tensor:
        from xmodal import losses

        if self.negatives == "queue":
            return need_state(state, self.op)(
                teacher,
                student,
                weight=pair.weight,
                temperature=self.temperature,
                soft=self.soft,
                ignore_above=self.ignore_above,
            )
        if self.negatives == "sampled":
            return losses.sampled_info_nce(
                teacher,
                student,
                weight=pair.weight,
                temperature=self.temperature,
                num_negatives=self.num_negatives,
                soft=self.soft,
                ignore_above=self.ignore_above,
            )
        return losses.info_nce(
            teacher,
            student,
            weight=pair.weight,
            temperature=self.temperature,
            soft=self.soft,
            ignore_above=self.ignore_above,
            rows_cap=self.rows_cap,
        )
