"""The op `set_kl`: the average over a set of points learns the set's probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.distill.kl import Divergence
from xmodal.edges.distill.meet import meet_sets, rendered
from xmodal.edges.distill.settings import probabilities

if TYPE_CHECKING:
    from torch import Tensor, nn

    from xmodal.values import Gaussians, Points, PointSets


@dataclass(frozen=True, kw_only=True)
class SetKl(Divergence):
    """Kullback-Leibler divergence from a set's probabilities to the student's average over the set.

    A projection works once on the average over a set, as renderers decode a pixel. Settings are
    those of `Divergence`.
    """

    op: Literal["set_kl"] = "set_kl"

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
