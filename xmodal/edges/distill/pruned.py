"""The head of a student that has some of its teacher's dimensions."""

from __future__ import annotations

from typing import cast

from jaxtyping import Float
from torch import Tensor

from xmodal.edges.distill.head import Head
from xmodal.losses import SharedDimensions


class PrunedHead(Head):
    """Maps teacher rows to the student's dimensions, and student rows back for questions.

    Args:
        teacher_channels: Dimensions of the teacher's space.
        channels: Dimensions of the student, at most as many.
    """

    def __init__(self, teacher_channels: int, channels: int) -> None:
        super().__init__(None, None, SharedDimensions(teacher_channels, channels))

    @property
    def memory(self) -> SharedDimensions:
        """The choice of dimensions, which training makes by rows of the teacher at its start."""
        return cast("SharedDimensions", self.state)

    def meet(
        self, teacher: Float[Tensor, "M C"], student: Float[Tensor, "N D"]
    ) -> tuple[Float[Tensor, "M D"], Float[Tensor, "N D"]]:
        """Rows of both in the dimensions that stay; without a choice the first rows decide."""
        self.memory.start_from(teacher)
        return self.memory(teacher), student

    def in_teacher_space(self, student: Float[Tensor, "M D"]) -> Float[Tensor, "M C"]:
        """Student rows in the teacher's dimensions, 0 where they have none."""
        return self.memory.restore(student)
