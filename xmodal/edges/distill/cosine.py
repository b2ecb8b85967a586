"""The op `cosine`: a student learns directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.project import Project, check_distill, meet

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.values import Points


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """One minus the cosine between teacher and student rows.

    Attributes:
        weight: Factor of this edge in the sum of all losses.
        coverage_half: Coverage at which a row counts half as much as one seen without end; 0 counts
            every observed row the same.
        project: A learned layer from the student's width to the teacher's (`linear`, `mlp`,
            `orthogonal`), or `none` where widths are equal.
        allow_simplex: Take teacher rows that are probabilities, too; `kl` is made for those.
    """

    op: Literal["cosine"] = "cosine"
    weight: float = 1.0
    coverage_half: float = 1.0
    project: Project = "none"
    allow_simplex: bool = False

    def __post_init__(self) -> None:
        check_distill(self.weight, self.coverage_half)

    @property
    def teacher_spaces(self) -> tuple[str, ...]:
        """Spaces of teacher rows that this loss takes."""
        return ("unit", "raw", "simplex") if self.allow_simplex else ("unit", "raw")

    def build(self, *, channels: int, teacher_channels: int) -> nn.Module | None:
        """The projection, or None for `project: none`."""
        from xmodal.edges.distill.project import projection

        return projection(self.project, channels, teacher_channels)

    def __call__(self, teacher: Points, student: Points, *, net: nn.Module | None = None) -> Tensor:
        """The loss of the rows that the teacher observed, without the edge's `weight`."""
        from xmodal import losses

        pair = meet(teacher, student, self.coverage_half)
        given = pair.student if net is None else net(pair.student)
        return losses.cosine(pair.teacher, given, valid=pair.valid, weight=pair.weight)
