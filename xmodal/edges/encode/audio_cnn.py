"""The op `audio_cnn`: a student of sound, by convolutions over its log-mel spectrogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.encode.audio_student import AudioStudentOp
from xmodal.edges.encode.clip_student import embedded

if TYPE_CHECKING:
    from detectors.clip_student import ClipStudent
    from xmodal.values import Audio, Embedding


@dataclass(frozen=True, kw_only=True)
class AudioCnn(AudioStudentOp):
    """Separable residual convolutions over log-mel windows; one row for each recording.

    Attributes:
        size: `micro` (0.3 M weights, less than a tenth of YAMNet's), `tiny` (0.6 M), `small`
            (2.2 M) or `base` (6.3 M), with 1024 channels.
        attention: Pool time by learnt attention instead of mean and maximum.

    The other settings are those of every student of sound (`AudioStudentOp`).
    """

    op: Literal["audio_cnn"] = "audio_cnn"
    attention: bool = False

    def build(
        self, *, channels: int, space: Literal["unit", "simplex", "raw"] | None = None
    ) -> ClipStudent:
        """A new network with random weights that gives `channels` columns in `space`."""
        from detectors.audio_cnn import AudioCNN

        trunk = AudioCNN(*self.in_shape, self.size, attention=self.attention)
        return self.student(trunk, channels, space)

    def __call__(self, net: ClipStudent, sound: Audio) -> Embedding:
        """Rows of whole recordings, the mean over their windows; differentiable."""
        return embedded(net, self.describe(sound))
