"""The op `mask_contrast`: pixels of one mask are alike, pixels of two masks of a view are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from xmodal.edges.distill.meet import meet_sets, need_groups, rendered
from xmodal.edges.distill.settings import Loss
from xmodal.loss_checks import check_temperature

if TYPE_CHECKING:
    from torch import Tensor

    from xmodal.values import Gaussians, Points, PointSets


@dataclass(frozen=True, kw_only=True)
class MaskContrast(Loss):
    """Contrast of a student's averages over sets with each other, by the mask that they are of.

    Sets of one mask pull together, sets of different masks of the same view push apart. The
    teacher says only which sets belong together, so widths may differ; its rows are learnt by
    another edge. The student itself is compared: there is no `project`.

    Attributes:
        temperature: Divides cosines.
    """

    op: Literal["mask_contrast"] = "mask_contrast"
    temperature: float = 0.1

    any_width: ClassVar[bool] = True
    teacher_spaces: ClassVar[tuple[str, ...]] = ("unit", "raw", "simplex")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)
        if self.project != "none":
            msg = f"project: {self.project} has no teacher's rows to lead to; leave it out"
            raise ValueError(msg)

    def build(self, *, channels: int, teacher_channels: int) -> None:
        """Nothing is learned here but the student."""
        del channels, teacher_channels

    def __call__(self, teacher: PointSets, student: Points | Gaussians) -> Tensor:
        """The loss of the sets that count, without the edge's `weight`.

        Raises:
            DataError: If the sets do not know their mask and view.
        """
        from xmodal import losses

        pair = rendered(
            meet_sets(teacher, student, coverage_half=self.coverage_half, rows=self.rows)
        )
        groups, views = need_groups(pair, self.op)
        return losses.mask_contrast(
            pair.student, groups, views, weight=pair.weight, temperature=self.temperature
        )
