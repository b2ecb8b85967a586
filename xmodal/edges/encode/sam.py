"""The op `sam`: masks of everything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, cast

if TYPE_CHECKING:
    from xmodal.teachers.teacher import Teacher
    from xmodal.values import Image, Masks, Views


@dataclass(frozen=True, kw_only=True)
class Sam:
    """Masks by MobileSAM or SAM, prompted by a grid of points and filtered by stability.

    A mask's feature is the mean direction of SAM's image embedding inside it: it tells things
    apart, it does not name them.

    Attributes:
        frozen: Always true: a teacher does not learn.
        model: `vit_t` is MobileSAM; `vit_b`, `vit_l`, `vit_h` are SAM's.
        checkpoint: Local weights file; without one, the packaged MobileSAM.
        grid: Prompt points along each image side.
        min_iou: Least IoU that the network predicts for its own mask.
        min_stability: Least ratio of the mask's areas at a higher and a lower threshold.
        max_overlap: Of two masks with a higher IoU, only the more certain one stays.
        area_power: Where masks overlap, a mask counts by predicted IoU x area^-area_power.
        mask_long_side: Cells of the mask grid along the longer image side.
    """

    op: Literal["sam"] = "sam"
    frozen: Literal[True] = True
    model: Literal["vit_t", "vit_b", "vit_l", "vit_h"] = "vit_t"
    checkpoint: str | None = None
    grid: int = 16
    min_iou: float = 0.86
    min_stability: float = 0.88
    max_overlap: float = 0.7
    area_power: float = 0.5
    mask_long_side: int = 256

    channels: ClassVar[int] = 256
    space: ClassVar[str] = "unit"

    def __post_init__(self) -> None:
        if not 1 <= self.grid <= 64:
            raise ValueError(f"grid must lie between 1 and 64 points a side, not {self.grid}")
        for name in ("min_iou", "min_stability", "max_overlap"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {value}")
        if not (math.isfinite(self.area_power) and 0 <= self.area_power <= 4):
            raise ValueError(f"area_power must lie between 0 and 4, not {self.area_power}")
        if not 64 <= self.mask_long_side <= 1024:
            raise ValueError(f"mask_long_side must be 64 to 1024 cells, not {self.mask_long_side}")

    def teacher(self) -> Teacher:
        """The frozen network; its weights are read when the first image arrives."""
        from pathlib import Path

        from xmodal.teachers.mask_grid import GridOptions
        from xmodal.teachers.sam import SamTeacher

        return SamTeacher(
            self.model,
            checkpoint=None if self.checkpoint is None else Path(self.checkpoint),
            options=GridOptions(
                grid=self.grid,
                min_iou=self.min_iou,
                min_stability=self.min_stability,
                max_overlap=self.max_overlap,
            ),
            area_power=self.area_power,
            mask_long_side=self.mask_long_side,
        )

    def __call__(self, teacher: Teacher, cameras: Views[Image]) -> Views[Masks]:
        """Masks of every view, computed when they are asked for."""
        from xmodal.teachers.cache import CachedViews

        return cast("Views[Masks]", CachedViews(cameras, teacher, None))
