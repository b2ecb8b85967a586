"""The op `precomputed`: features or labels that somebody else's network has written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from xmodal.teachers.teacher import Teacher
    from xmodal.values import FeatureMap, Image, Masks, Views


@dataclass(frozen=True, kw_only=True)
class Precomputed:
    """Per-frame maps from a folder: `NAME.npy` or `.npz` [h, w, C], or label pictures `NAME.png`.

    Attributes:
        frozen: Always true: a teacher does not learn.
        folder: The folder; files are named after the frames.
        space: What the rows of feature maps are: `unit`, `simplex` or `raw`. Label pictures are
            `simplex`, one-hot.
        classes: Names of the label ids 0, 1, ...; by default from `classes.json` in the folder.
        ignore: Label ids that mean "not known".
        vocabulary: Vectors of names in the space of the maps, to ask them by text: `X.npy` [T, C],
            with the names beside it in `X.json`.
    """

    op: Literal["precomputed"] = "precomputed"
    frozen: Literal[True] = True
    folder: str
    space: Literal["unit", "simplex", "raw"] = "unit"
    classes: tuple[str, ...] | None = None
    ignore: tuple[int, ...] = ()
    vocabulary: str | None = None

    @property
    def channels(self) -> int | None:
        """The number of classes when they are listed; otherwise only the files tell."""
        return None if self.classes is None else len(self.classes)

    def teacher(self) -> Teacher:
        """The folder, checked; maps are read when the first image arrives."""
        from pathlib import Path

        from xmodal.teachers.precomputed import PrecomputedTeacher

        return PrecomputedTeacher(
            Path(self.folder),
            space=self.space,
            classes=self.classes,
            ignore=self.ignore,
            vocabulary=None if self.vocabulary is None else Path(self.vocabulary),
        )

    def __call__(self, teacher: Teacher, cameras: Views[Image]) -> Views[FeatureMap] | Views[Masks]:
        """The maps of every view, read when they are asked for; missing ones are told at once."""
        from xmodal.teachers.cache import CachedViews

        return cast("Views[FeatureMap]", CachedViews(cameras, teacher, None))
