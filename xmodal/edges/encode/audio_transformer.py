"""The op `audio_transformer`: a student of sound, by attention over its log-mel spectrogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.encode.audio_student import AudioStudentOp
from xmodal.edges.encode.clip_student import embedded

if TYPE_CHECKING:
    from detectors.clip_student import ClipStudent
    from xmodal.values import Audio, Embedding


@dataclass(frozen=True, kw_only=True)
class AudioTransformer(AudioStudentOp):
    """Attention over square patches of log-mel windows; one row for each recording.

    Attributes:
        size: `micro` (0.3 M weights), `tiny` (0.8 M), `small` (2.4 M) or `base` (8.5 M), with 1024
            channels.
        patch: Side of a patch, in bands and frames.

    The other settings are those of every student of sound (`AudioStudentOp`).
    """

    op: Literal["audio_transformer"] = "audio_transformer"
    patch: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch < 1:
            raise ValueError(f"patch must be at least 1, not {self.patch}")

    def build(
        self, *, channels: int, space: Literal["unit", "simplex", "raw"] | None = None
    ) -> ClipStudent:
        """A new network with random weights that gives `channels` columns in `space`."""
        from detectors.spectrogram_transformer import SpectrogramTransformer

        trunk = SpectrogramTransformer(*self.in_shape, self.size, patch=self.patch)
        return self.student(trunk, channels, space)

    def __call__(self, net: ClipStudent, sound: Audio) -> Embedding:
        """Rows of whole recordings, the mean over their windows; differentiable."""
        return embedded(net, self.describe(sound))
