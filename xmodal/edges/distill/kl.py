"""The op `kl`: a student learns probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from xmodal.edges.distill.settings import Loss, PointsLoss, probabilities
from xmodal.loss_checks import check_temperature

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.edges.distill.meet import Pair


@dataclass(frozen=True, kw_only=True)
class Divergence(Loss):
    """Settings of losses between probabilities; see also `Loss`.

    With `project` the edge has a soft-max of its own, so that students of every space can learn
    from labels or class probabilities; the layer sees logarithms where the student gives
    probabilities, and its rows as they are elsewhere.

    Attributes:
        temperature: Both sides are softened to `p^(1/T)`. Below 1 the teacher's peaks count more.
    """

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


@dataclass(frozen=True, kw_only=True)
class Kl(Divergence, PointsLoss):
    """Kullback-Leibler divergence from the teacher's probabilities to the student's.

    Settings are those of `Divergence` and `PointsLoss`.
    """

    op: Literal["kl"] = "kl"

    def _loss(self, pair: Pair, net: nn.Module | None) -> Tensor:
        from xmodal import losses

        given = probabilities(pair.student, net)
        return losses.kl(pair.teacher, given, weight=pair.weight, temperature=self.temperature)
