"""What a distillation edge keeps: its projection, its standardisation, the state of its loss."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from detectors.memory_attention import MemoryAttention
from xmodal.losses import LEAST_PROBABILITY, SharedDimensions, Standardise


class Head(nn.Module):
    """The module of a distillation edge; called, it maps student rows to the teacher's width.

    Args:
        project: The learned layer, or None where widths are equal.
        standardise: The map of teacher rows that the loss is measured in, or None.
        state: What the loss keeps from step to step, or None.
        log: Whether the layer works on logarithms, as it does for a student that gives
            probabilities.
    """

    def __init__(
        self,
        project: nn.Module | None,
        standardise: Standardise | None = None,
        state: nn.Module | None = None,
        *,
        log: bool = False,
    ) -> None:
        super().__init__()
        self.project, self.standardise, self.state, self.log = project, standardise, state, log

    def forward(self, rows: Float[Tensor, "M D"]) -> Float[Tensor, "M C"]:
        """Student rows in the teacher's width; logits where the teacher gives probabilities."""
        if self.project is None:
            return rows
        projected: Tensor = self.project(
            rows.clamp_min(LEAST_PROBABILITY).log() if self.log else rows
        )
        return projected

    @property
    def memory(self) -> MemoryAttention | SharedDimensions | None:
        """What begins with rows of the teacher: a projection of that kind."""
        return self.project if isinstance(self.project, MemoryAttention) else None

    def meet(
        self, teacher: Float[Tensor, "M C"], student: Float[Tensor, "N D"]
    ) -> tuple[Float[Tensor, "M C"], Float[Tensor, "N C"]]:
        """Rows of both as the loss compares them.

        With a standardisation, a learned layer gives standardised rows; without one both sides are
        mapped, so that the student's rows stay in the teacher's space.
        """
        given = self(student)
        if self.standardise is None:
            return teacher, given
        self.standardise.fit(teacher)
        return self.standardise(teacher), given if self.project else self.standardise(given)

    def in_teacher_space(self, student: Float[Tensor, "M D"]) -> Float[Tensor, "M C"]:
        """Student rows as the teacher would give them, for queries and evaluation."""
        given: Tensor = self(student)
        if self.standardise is None or self.project is None:
            return given
        return self.standardise.restore(given)
