"""How widths meet: the learned layer from a student's rows to its teacher's, a head of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from xmodal.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

Project = Literal["none", "linear", "mlp", "orthogonal", "memory"]
# Features that differ in one scene: a bank of a room, after near repetitions are left out.
_COMPONENTS = 256


def projection(kind: Project, channels: int, teacher_channels: int) -> nn.Module | None:
    """The learned layer from a student's width to its teacher's.

    Args:
        kind: `none`; `linear`: one matrix; `mlp`: two with a ReLU between; `orthogonal`: a matrix
            with orthonormal rows or columns, which keeps angles as far as widths allow, so that
            nothing can be learned by the layer instead of the student; `memory`: attention over
            256 of the teacher's own rows, which training chooses at its start.
        channels: Width of the student.
        teacher_channels: Width of the teacher.

    Raises:
        ConfigError: If widths differ and nothing is said about how they meet.

    Source:
        Orthogonal: Miles et al., VkD: Improving Knowledge Distillation using Orthogonal
        Projections, CVPR 2024. Memory: Zou et al., M3: 3D-Spatial MultiModal Memory, ICLR 2025.
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
    if kind == "memory":
        from detectors.memory_attention import MemoryAttention

        return MemoryAttention(channels, teacher_channels, num_components=_COMPONENTS)
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
