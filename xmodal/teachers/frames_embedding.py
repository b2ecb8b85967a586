"""What an image teacher sees in a film: the mean over frames of its row of the whole picture."""

from __future__ import annotations

import hashlib
import json

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lifting.cameras import Camera
from xmodal.teachers.recordings import mean_rows
from xmodal.teachers.teacher import Space, Teacher
from xmodal.values import Embedding, Image, Video

_REVISION = 1


class FramesTeacher:
    """A row for each film; see `xmodal.teachers.recordings.RecordingTeacher`.

    Args:
        image: Who looks at the frames.
        every_s: Least time between frames that are looked at; all frames if 0.
    """

    name = "frames_embedding"

    def __init__(self, image: Teacher, every_s: float = 0.5) -> None:
        self._image, self.every_s = image, every_s
        self.channels, self.licence = image.channels, image.licence
        self.space: Space = image.space
        text = json.dumps([_REVISION, image.fingerprint, every_s])
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def encode(self, value: Video, /) -> Embedding:
        """The mean over frames; `unit` rows are of length 1 again; not valid without a frame."""
        parts: list[Tensor] = []
        for start, end in value.offsets.unfold(0, 2, 1).tolist():
            chosen = _spaced(value.time_s[start:end], self.every_s) + start
            rows = [self._row(value.rgb[index]) for index in chosen.tolist()]
            parts.append(torch.stack(rows) if rows else torch.zeros(0, self.channels))
        found = mean_rows(parts, self.channels)
        if self.space != "unit":
            return found
        return Embedding(
            rows=functional.normalize(found.rows, dim=1),
            valid=found.valid,
            weight=found.weight,
            offsets=found.offsets,
        )

    def encode_text(self, text: list[str]) -> Float[Tensor, "T C"]:
        """The image teacher's rows of texts."""
        return self._image.encode_text(text)

    def relevancy(
        self, rows: Float[Tensor, "N C"], text: list[str], negatives: list[str]
    ) -> Float[Tensor, "N T"]:
        """The image teacher's scores."""
        return self._image.relevancy(rows, text, negatives)

    def _row(self, rgb: Tensor) -> Float[Tensor, " C"]:
        height, width = rgb.shape[1:]
        # No geometry is asked of this camera: the picture is described as a whole.
        camera = Camera(K=torch.eye(3), T_world_cam=torch.eye(4), hw=(int(height), int(width)))
        return self._image.encode_image(Image(rgb=rgb.float() / 255, camera=camera, name="frame"))


def _spaced(time_s: Tensor, every_s: float) -> Tensor:
    """Frames at least `every_s` apart, from the first on."""
    kept: list[int] = []
    last = -float("inf")
    for index, moment in enumerate(time_s.tolist()):
        # half a millisecond: times of frames are rounded by containers
        if moment - last >= every_s - 5e-4:
            kept.append(index)
            last = moment
    return torch.tensor(kept, dtype=torch.int64)
