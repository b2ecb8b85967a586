"""How widths meet: the learned layer from a student's rows to its teacher's, a head of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from xmodal.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

Project = Literal["none", "linear", "mlp", "orthogonal"]


def projection(kind: Project, channels: int, teacher_channels: int) -> nn.Module | None:
    """The learned layer from a student's width to its teacher's.

    Args:
        kind: `none`; `linear`: one matrix; `mlp`: two with a ReLU between; `orthogonal`: a matrix
            with orthonormal rows or columns, which keeps angles as far as widths allow, so that
            nothing can be learned by the layer instead of the student.
        channels: Width of the student.
        teacher_channels: Width of the teacher.

    Raises:
        ConfigError: If widths differ and nothing is said about how they meet.

    Source:
        Orthogonal: Miles et al., VkD: Improving Knowledge Distillation using Orthogonal
        Projections, CVPR 2024.
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
