"""What a teacher of recordings is: a frozen network that gives one row for each recording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xmodal.teachers.teacher import Space
from xmodal.values import Audio, Embedding, Labels, Video

V = TypeVar("V", contravariant=True)


@runtime_checkable
class RecordingTeacher(Protocol[V]):
    """A frozen network over sounds, films or class names; see also `xmodal.teachers.Teacher`."""

    @property
    def name(self) -> str:
        """Short name for messages, manifests and figures."""
        ...

    @property
    def channels(self) -> int:
        """Width of a row."""
        ...

    @property
    def space(self) -> Space:
        """`unit` rows have length 1, `simplex` rows are probabilities, `raw` rows are neither."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the weights and every setting that changes the output."""
        ...

    @property
    def licence(self) -> str:
        """Licence of the weights, or a statement that it is not known."""
        ...

    def encode(self, value: V, /) -> Embedding:
        """One row for each recording; not valid where it has nothing of this stream."""
        ...

    def encode_text(self, text: list[str]) -> Float[Tensor, "T C"]:
        """One row per text; a text may join synonyms with `|`."""
        ...

    def relevancy(
        self, rows: Float[Tensor, "N C"], text: list[str], negatives: list[str]
    ) -> Float[Tensor, "N T"]:
        """Score rows against texts, in [0, 1]."""
        ...


# Hints of ops name these: what stands in a hint as a value is read as a port.
SoundTeacher = RecordingTeacher[Audio]
FilmTeacher = RecordingTeacher[Video]
LabelTeacher = RecordingTeacher[Labels]


def one_row_each(
    rows: Float[Tensor, "B C"], valid: Bool[Tensor, " B"], offsets: Int[Tensor, " B1"] | None = None
) -> Embedding:
    """An embedding of one row for each recording, of weight 1 where it is valid.

    Args:
        rows: What is known of each recording; of others it may be anything, and becomes 0.
        valid: Recordings that have the stream.
        offsets: Where rows begin; one for each recording by default.
    """
    if offsets is None:
        offsets = torch.arange(len(rows) + 1)
    return Embedding(
        rows=torch.where(valid[:, None], rows, 0.0),
        valid=valid,
        weight=valid.to(torch.float32),
        offsets=offsets,
    )


def mean_rows(parts: Sequence[Float[Tensor, "_ C"]], channels: int) -> Embedding:
    """The mean of the rows of each recording; not valid where there is none."""
    valid = torch.tensor([len(part) > 0 for part in parts], dtype=torch.bool)
    rows = torch.zeros(len(parts), channels)
    for index, part in enumerate(parts):
        if len(part):
            rows[index] = part.mean(dim=0)
    return one_row_each(rows, valid)
