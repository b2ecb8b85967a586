"""The op `shared_dimensions`: a narrow student learns the dimensions that matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from xmodal.edges.distill.settings import Loss
from xmodal.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.pruned import PrunedHead
    from xmodal.values import Embedding, Gaussians, Grids, Points


@dataclass(frozen=True, kw_only=True)
class SharedDimensions(Loss):
    """The direction of the teacher's rows, in as many of its dimensions as the student has.

    The teacher's space is pruned to the student's width by importance, then the student learns from
    the teacher of its own modality alone; texts are asked in the same dimensions. Settings are
    those of `Loss`, without `project`.

    Attributes:
        allow_simplex: Take teacher rows that are probabilities, too.
    """

    op: Literal["shared_dimensions"] = "shared_dimensions"
    allow_simplex: bool = False

    any_width: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.project != "none":
            raise ValueError("project has no effect: shared_dimensions prunes the teacher instead")

    @property
    def teacher_spaces(self) -> tuple[str, ...]:
        """Spaces of teacher rows that this loss takes."""
        return ("unit", "raw", "simplex") if self.allow_simplex else ("unit", "raw")

    def build(self, *, channels: int, teacher_channels: int) -> PrunedHead:
        """What remembers the dimensions.

        Raises:
            ConfigError: If the student is wider than its teacher.
        """
        from xmodal.edges.distill.pruned import PrunedHead

        if channels > teacher_channels:
            raise ConfigError(
                "distill, shared_dimensions",
                wanted=f"a student of at most the teacher's {teacher_channels} channels",
                got=f"{channels} channels",
                fix=f"give the student {teacher_channels} channels or fewer",
            )
        return PrunedHead(teacher_channels, channels)

    def __call__(
        self,
        teacher: Points | Gaussians | Embedding | Grids,
        student: Points | Gaussians | Embedding | Grids,
        *,
        net: nn.Module | None = None,
    ) -> Tensor:
        """1 - cosine in the dimensions that stay, without the edge's `weight`.

        Raises:
            TypeError: If it is called without the module that `build` made.
        """
        from xmodal import losses
        from xmodal.edges.distill.meet import meet
        from xmodal.edges.distill.pruned import PrunedHead

        if not isinstance(net, PrunedHead):
            raise TypeError(
                f"`{self.op}` keeps a state: pass the module that `build` made as `net`"
            )
        pair = meet(teacher, student, coverage_half=self.coverage_half, rows=self.rows)
        told, given = net.meet(pair.teacher, pair.student)
        return losses.cosine(told, given, weight=pair.weight)
