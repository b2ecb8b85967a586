"""The op `queue_similarity`: a student's likeness to many instances is the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.settings import FeatureLoss, need_state
from xmodal.loss_checks import check_counts, check_temperature

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import Pair


@dataclass(frozen=True, kw_only=True)
class QueueSimilarity(FeatureLoss):
    """KL between how alike teacher and student rows are to a queue of teacher instances.

    Attributes:
        queue_size: Teacher rows of earlier steps that are compared with, beside those of the step;
            time and memory grow in proportion.
        teacher_temperature: Divides the teacher's cosines.
        student_temperature: Divides the student's.
    """

    op: Literal["queue_similarity"] = "queue_similarity"
    queue_size: int = 2048
    teacher_temperature: float = 0.1
    student_temperature: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(queue_size=self.queue_size)
        check_temperature(self.teacher_temperature)
        check_temperature(self.student_temperature)

    def _state(self, teacher_channels: int) -> nn.Module | None:
        from xmodal.losses import QueueSimilarity as QueueLoss

        return QueueLoss(teacher_channels, self.queue_size)

    def _compare(
        self, teacher: Tensor, student: Tensor, pair: Pair, state: nn.Module | None
    ) -> Tensor:
        return need_state(state, self.op)(
            teacher,
            student,
            weight=pair.weight,
            teacher_temperature=self.teacher_temperature,
            student_temperature=self.student_temperature,
        )
