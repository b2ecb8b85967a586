"""The op `frames_embedding`: what an image teacher sees in a film."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from xmodal.teachers.recordings import FilmTeacher
    from xmodal.values import Embedding, Video


@dataclass(frozen=True, kw_only=True)
class FramesEmbedding:
    """The row that an image teacher gives whole frames, averaged over each film.

    Attributes:
        frozen: Always true: a teacher does not learn.
        image: Who looks: `embedded`, 1000 ImageNet class probabilities, asked with any words;
            `imagenet_dense`, the same as 384 channels of MiniLM's sentence space; `dino`, 384
            channels without a text side.
        every_s: Least time between frames that are looked at, seconds; 0 for all.
    """

    op: Literal["frames_embedding"] = "frames_embedding"
    frozen: Literal[True] = True
    image: Literal["embedded", "imagenet_dense", "dino"] = "embedded"
    every_s: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.every_s < float("inf"):
            raise ValueError(f"every_s must be 0 or more seconds, not {self.every_s}")

    @property
    def channels(self) -> int:
        """Width of a row."""
        return 1000 if self.image == "embedded" else 384

    @property
    def space(self) -> Literal["simplex", "unit"]:
        """What the rows are."""
        return "simplex" if self.image == "embedded" else "unit"

    def teacher(self) -> FilmTeacher:
        """The frozen network; its weights are read when the first film arrives."""
        from xmodal.teachers.frames_embedding import FramesTeacher

        if self.image == "embedded":
            from xmodal.teachers.embedded import EmbeddedTeacher

            return FramesTeacher(EmbeddedTeacher(), self.every_s)
        if self.image == "imagenet_dense":
            from xmodal.teachers.imagenet_dense import ImagenetDenseTeacher

            return FramesTeacher(ImagenetDenseTeacher(), self.every_s)
        from xmodal.teachers.dino import DinoTeacher

        return FramesTeacher(DinoTeacher(), self.every_s)

    def __call__(self, teacher: FilmTeacher, film: Video) -> Embedding:
        """A row for each recording."""
        return teacher.encode(film)
