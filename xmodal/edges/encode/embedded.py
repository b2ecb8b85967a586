"""The op `embedded`: the open-vocabulary teacher that needs no download."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, cast

if TYPE_CHECKING:
    from xmodal.teachers.teacher import Teacher
    from xmodal.values import Image, Masks, Views


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Masks of everything, each with its probabilities over the 1000 ImageNet classes.

    Asked with any words through a sentence encoder. It knows the objects of ImageNet (mugs, chairs,
    tables, screens), not surfaces such as walls and carpets, and is weaker than CLIP.

    Attributes:
        frozen: Always true: a teacher does not learn.
        grid: Prompt points along each image side; 12 takes about half the time of 16.
        scales: Sides of the crops that are classified, as multiples of a mask's longer side.
        dense_mix: Share of the whole image's class logits mixed into each mask's, 0 to 1.
        area_power: Where masks overlap, a mask counts by predicted IoU x area^-area_power: above 0
            the part wins over the whole.
        mask_long_side: Cells of the mask grid along the longer image side.
    """

    op: Literal["embedded"] = "embedded"
    frozen: Literal[True] = True
    grid: int = 16
    scales: tuple[float, ...] = (1.0, 2.0)
    dense_mix: float = 0.1
    area_power: float = 0.25
    mask_long_side: int = 256

    channels: ClassVar[int] = 1000
    space: ClassVar[str] = "simplex"

    def __post_init__(self) -> None:
        if not 1 <= self.grid <= 64:
            raise ValueError(f"grid must lie between 1 and 64 points a side, not {self.grid}")
        if not self.scales or not all(0.5 <= scale <= 8 for scale in self.scales):
            raise ValueError(f"scales must be one or more numbers from 0.5 to 8, not {self.scales}")
        if not 0 <= self.dense_mix <= 1:
            raise ValueError(f"dense_mix must lie between 0 and 1, not {self.dense_mix}")
        if not (math.isfinite(self.area_power) and 0 <= self.area_power <= 4):
            raise ValueError(f"area_power must lie between 0 and 4, not {self.area_power}")
        if not 64 <= self.mask_long_side <= 1024:
            raise ValueError(f"mask_long_side must be 64 to 1024 cells, not {self.mask_long_side}")

    def teacher(self) -> Teacher:
        """The frozen network; its weights are read when the first image arrives."""
        from xmodal.teachers.embedded import EmbeddedOptions, EmbeddedTeacher
        from xmodal.teachers.mask_grid import GridOptions

        return EmbeddedTeacher(
            EmbeddedOptions(
                masks=GridOptions(grid=self.grid),
                scales=self.scales,
                dense_mix=self.dense_mix,
                area_power=self.area_power,
                mask_long_side=self.mask_long_side,
            )
        )

    def __call__(self, teacher: Teacher, cameras: Views[Image]) -> Views[Masks]:
        """Masks of every view, computed when they are asked for."""
        from xmodal.teachers.cache import CachedViews

        return cast("Views[Masks]", CachedViews(cameras, teacher, None))
