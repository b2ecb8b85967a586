"""The op `set_kl`: the average over a set of points learns the set's probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from xmodal.edges.distill.meet import meet_sets, rendered
from xmodal.edges.distill.settings import Loss, probabilities
from xmodal.loss_checks import check_temperature

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.values import Gaussians, Points, PointSets


@dataclass(frozen=True, kw_only=True)
class SetKl(Loss):
    """Kullback-Leibler divergence from a set's probabilities to the student's average over the set.

    Without a projection the student gives probabilities. With `project` the edge has a soft-max of
    its own, which works once on the average over a set, as renderers decode a pixel.

    Attributes:
        temperature: Both sides are softened to `p^(1/T)`. Below 1 the teacher's peaks count more.
    """

    op: Literal["set_kl"] = "set_kl"
    temperature: float = 1.0

    teacher_spaces: ClassVar[tuple[str, ...]] = ("simplex",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)

    def build(
        self,
        *,
        channels: int,
        teacher_channels: int,
        space: Literal["unit", "simplex", "raw"] | None = "simplex",
    ) -> nn.Module | None:
        """The projection, or None for `project: none`; `space` is that of the student's rows."""
        return self._head(channels, teacher_channels, log=space == "simplex")

    def __call__(
        self, teacher: PointSets, student: Points | Gaussians, *, net: nn.Module | None = None
    ) -> Tensor:
        """The loss of the sets that count, without the edge's `weight`."""
        from xmodal import losses

        pair = rendered(
            meet_sets(teacher, student, coverage_half=self.coverage_half, rows=self.rows)
        )
        given = probabilities(pair.student, net)
        return losses.kl(pair.teacher, given, weight=pair.weight, temperature=self.temperature)
