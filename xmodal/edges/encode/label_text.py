"""The op `label_text`: the names of classes as targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from xmodal.teachers.recordings import LabelTeacher
    from xmodal.values import Embedding, Labels


@dataclass(frozen=True, kw_only=True)
class LabelText:
    """The text vector of each recording's class, so that students can be asked by other names.

    Attributes:
        frozen: Always true: a teacher does not learn.
        vectors: `sentences`: all-MiniLM-L6-v2, 384 channels, any name. `clip`: CLIP's vectors of
            1,700 category names, 512 channels.
        templates: For `sentences`: what is said with the name in the place of `{}`, averaged.
        names: For `clip`: which category stands for a class.
        weights: For `clip`: folder of its files; by default `clip_text_vectors` under
            `$XMODAL_WEIGHTS` or `weights` in the user's cache folder.
    """

    op: Literal["label_text"] = "label_text"
    frozen: Literal[True] = True
    vectors: Literal["sentences", "clip"] = "sentences"
    templates: tuple[str, ...] = ("{}",)
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    weights: str | None = None

    space: ClassVar[str] = "unit"

    def __post_init__(self) -> None:
        if not self.templates or any(one.count("{}") != 1 for one in self.templates):
            raise ValueError(f"each template needs one {{}} for the name, not {self.templates}")
        if self.vectors == "clip" and self.templates != ("{}",):
            raise ValueError("templates have no effect with vectors: clip; remove them")
        if self.vectors == "sentences" and (self.names or self.weights is not None):
            raise ValueError("names and weights have no effect with vectors: sentences")

    @property
    def channels(self) -> int:
        """Width of a row."""
        return 384 if self.vectors == "sentences" else 512

    def teacher(self) -> LabelTeacher:
        """The text side; vectors are read when the first label arrives."""
        from xmodal.teachers.label_text import LabelTextTeacher

        return LabelTextTeacher(
            self.vectors, templates=self.templates, weights=self.weights, names=self.names
        )

    def __call__(self, teacher: LabelTeacher, truth: Labels) -> Embedding:
        """A row for each recording."""
        return teacher.encode(truth)
