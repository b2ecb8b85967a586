"""The op `kl`: a student learns probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from xmodal.edges.distill.project import Project, check_distill, meet

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.values import Points


@dataclass(frozen=True, kw_only=True)
class Kl:
    """Kullback-Leibler divergence from the teacher's probabilities to the student's.

    Attributes:
        weight: Factor of this edge in the sum of all losses.
        temperature: Both sides are softened to `p^(1/T)`. Below 1 the teacher's peaks count more.
        coverage_half: Coverage at which a row counts half as much as one seen without end; 0 counts
            every observed row the same.
        project: A learned layer from the student's log-probabilities to the teacher's width
            (`linear`, `mlp`, `orthogonal`), or `none` where widths are equal.
    """

    op: Literal["kl"] = "kl"
    weight: float = 1.0
    temperature: float = 1.0
    coverage_half: float = 1.0
    project: Project = "none"

    teacher_spaces: ClassVar[tuple[str, ...]] = ("simplex",)

    def __post_init__(self) -> None:
        check_distill(self.weight, self.coverage_half)
        if not 0 < self.temperature < float("inf"):
            msg = f"temperature must be above 0, not {self.temperature}"
            raise ValueError(msg)

    def build(self, *, channels: int, teacher_channels: int) -> nn.Module | None:
        """The projection, or None for `project: none`."""
        from xmodal.edges.distill.project import projection

        return projection(self.project, channels, teacher_channels)

    def __call__(self, teacher: Points, student: Points, *, net: nn.Module | None = None) -> Tensor:
        """The loss of the rows that the teacher observed, without the edge's `weight`."""
        from xmodal import losses

        pair = meet(teacher, student, self.coverage_half)
        given = pair.student
        if net is not None:
            given = net(given.clamp_min(losses.LEAST_PROBABILITY).log()).softmax(dim=1)
        return losses.kl(
            pair.teacher,
            given,
            valid=pair.valid,
            weight=pair.weight,
            temperature=self.temperature,
        )
