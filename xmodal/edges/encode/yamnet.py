"""The op `yamnet`: what is heard in a sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from xmodal.teachers.recordings import SoundTeacher
    from xmodal.values import Audio, Embedding


@dataclass(frozen=True, kw_only=True)
class Yamnet:
    """YAMNet on each recording, averaged over patches of 0.96 s.

    Asked with any words through a sentence encoder and the names of 521 AudioSet classes.

    Attributes:
        frozen: Always true: a teacher does not learn.
        output: `embedding`: 1024 activations before the last layer. `classes`: shares of the 521
            classes, which sum to 1.
        weights: The file `yamnet_spectra_in.tflite` or its folder; by default `yamnet` under
            `$XMODAL_WEIGHTS` or `weights` in the user's cache folder.
    """

    op: Literal["yamnet"] = "yamnet"
    frozen: Literal[True] = True
    output: Literal["embedding", "classes"] = "embedding"
    weights: str | None = None

    @property
    def channels(self) -> int:
        """Width of a row."""
        return 1024 if self.output == "embedding" else 521

    @property
    def space(self) -> Literal["raw", "simplex"]:
        """What the rows are."""
        return "raw" if self.output == "embedding" else "simplex"

    def teacher(self) -> SoundTeacher:
        """The frozen network, its files checked; it is loaded when the first sound arrives."""
        from xmodal.teachers.yamnet import YamnetTeacher

        return YamnetTeacher(self.output, self.weights)

    def __call__(self, teacher: SoundTeacher, mic: Audio) -> Embedding:
        """A row for each recording."""
        return teacher.encode(mic)
