"""What the distillation ops share: rows of teacher and student brought side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.values import Points

Project = Literal["none", "linear", "mlp", "orthogonal"]


@dataclass(frozen=True)
class Pair:
    """Rows of teacher and student on the same points, and which of them count how much."""

    teacher: Tensor
    student: Tensor
    valid: Tensor | None
    weight: Tensor | None


def check_distill(weight: float, coverage_half: float) -> None:
    """Refuse settings that no loss can have.

    Raises:
        ValueError: If the weight is not above 0 or `coverage_half` is negative, or not finite.
    """
    if not 0 < weight < float("inf"):
        msg = f"weight must be above 0, not {weight}; drop the edge to switch it off"
        raise ValueError(msg)
    if not 0 <= coverage_half < float("inf"):
        msg = f"coverage_half must be 0 or more, not {coverage_half}"
        raise ValueError(msg)


def meet(teacher: Points, student: Points, coverage_half: float) -> Pair:
    """Rows of both, and coverage as a weight that saturates: `c / (c + coverage_half)`.

    Coverage is a sum over views. Taken as it is, the middle of the room would count fifty times as
    much as what two views saw.

    Raises:
        DataError: If one has no rows or their numbers differ.
    """
    if teacher.rows is None or student.rows is None or len(teacher.rows) != len(student.rows):
        sizes = ["none" if p.rows is None else str(len(p.rows)) for p in (teacher, student)]
        raise DataError(
            "distillation",
            wanted="teacher and student rows on the same points",
            got=f"{sizes[0]} teacher rows, {sizes[1]} student rows",
            fix="let both nodes stand on the same support (`on:`)",
        )
    weight = teacher.weight
    if weight is not None and coverage_half > 0:
        weight = weight / (weight + coverage_half)
    elif weight is not None:
        weight = (weight > 0).to(weight.dtype)
    return Pair(teacher.rows, student.rows, teacher.valid, weight)


def projection(kind: Project, channels: int, teacher_channels: int) -> nn.Module | None:
    """The learned layer from a student's width to its teacher's.

    Args:
        kind: `none`; `linear`: one matrix; `mlp`: two with a ReLU between; `orthogonal`: a matrix
            with orthonormal rows or columns, which keeps angles as far as widths allow.
        channels: Width of the student.
        teacher_channels: Width of the teacher.

    Raises:
        ConfigError: If widths differ and nothing is said about how they meet.
    """
    from torch import nn

    if kind == "none":
        if channels != teacher_channels:
            raise ConfigError(
                "distill",
                wanted=f"equal widths, or `project`, for {teacher_channels} teacher channels",
                got=f"{channels} student channels and project: none",
                fix=f"give the student {teacher_channels} channels, or set `project: linear`",
            )
        return None
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(channels, teacher_channels),
            nn.ReLU(),
            nn.Linear(teacher_channels, teacher_channels),
        )
    linear = nn.Linear(channels, teacher_channels, bias=False)
    if kind == "orthogonal":
        return nn.utils.parametrizations.orthogonal(linear)
    return linear
