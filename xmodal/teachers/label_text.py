"""Class names as targets: the row of a recording is the text vector of its class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from xmodal.teachers.clip_names import CHANNELS as CLIP_CHANNELS
from xmodal.teachers.clip_names import FILES, ClipNames
from xmodal.teachers.minilm import CHANNELS as SENTENCE_CHANNELS
from xmodal.teachers.minilm import MiniLm
from xmodal.teachers.recordings import one_row_each
from xmodal.teachers.teacher import check_texts, pairwise_softmax
from xmodal.values import Embedding, Labels

Vectors = Literal["sentences", "clip"]
# Inverse temperature of the soft-max against negatives, about that of CLIP models.
_LOGIT_SCALE = 100.0
_REVISION = 1


class LabelTextTeacher:
    """A row for each label; see `xmodal.teachers.recordings.RecordingTeacher`.

    Args:
        vectors: `sentences`: all-MiniLM-L6-v2 on the name in each template, averaged. `clip`:
            CLIP's own vectors of category names; see `ClipNames`.
        templates: Sentences with `{}` for the name, for `sentences`.
        weights: Folder of CLIP's vectors, for `clip`.
        names: Which category stands for a class, for `clip`.

    Raises:
        BackendError: If a package or file is not there.
        CheckpointError: If a file is not the one that was tested.
        ConfigError: If a category in `names` is unknown.
    """

    name = "label_text"
    space: Literal["unit"] = "unit"

    def __init__(
        self,
        vectors: Vectors = "sentences",
        *,
        templates: tuple[str, ...] = ("{}",),
        weights: str | Path | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.vectors, self.templates = vectors, templates
        self.channels = SENTENCE_CHANNELS if vectors == "sentences" else CLIP_CHANNELS
        self._sentences = MiniLm() if vectors == "sentences" else None
        self._clip = ClipNames(weights, names) if vectors == "clip" else None
        self._known: dict[str, Tensor] = {}
        self.licence = MiniLm.licence if vectors == "sentences" else ClipNames.licence
        parts = {
            "revision": _REVISION,
            "vectors": vectors,
            "templates": templates,
            "names": dict(names or {}),
            "weights": [f.sha256 for pair in FILES for f in pair]
            if vectors == "clip"
            else [MiniLm.weights_sha256],
        }
        self.fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def encode(self, value: Labels, /) -> Embedding:
        """The vector of each recording's class; not valid where the class is not known.

        Raises:
            ConfigError: If CLIP's vectors have no category for a class that is in use.
        """
        rows = torch.zeros(len(value.ids), self.channels)
        for index in value.ids.unique().tolist():
            if index >= 0:
                rows[value.ids == index] = self._vector(value.classes[index])
        return one_row_each(rows, value.ids >= 0)

    def encode_text(self, text: list[str]) -> Float[Tensor, "T C"]:
        """One row per text, of length 1; `|` joins synonyms, which are averaged."""
        prompts = check_texts(text)
        if not prompts:
            return torch.zeros(0, self.channels)
        rows = [torch.stack([self._vector(one) for one in some]).mean(dim=0) for some in prompts]
        return functional.normalize(torch.stack(rows), dim=1)

    def relevancy(
        self, rows: Float[Tensor, "N C"], text: list[str], negatives: list[str]
    ) -> Float[Tensor, "N T"]:
        """The cosine, moved from [-1, 1] to [0, 1]; halved where a negative is as close."""
        unit = functional.normalize(rows, dim=1)
        cosine = unit @ self.encode_text(text).to(unit).T
        score = ((1 + cosine) / 2).clamp(0, 1)
        if not negatives:
            return score
        rival = unit @ self.encode_text(negatives).to(unit).T
        return score * pairwise_softmax(cosine, rival, _LOGIT_SCALE)

    def _vector(self, name: str) -> Tensor:
        if name not in self._known:
            if self._clip is not None:
                self._known[name] = self._clip.vector(name)
            else:
                assert self._sentences is not None, "one of both is always there"
                found = self._sentences.embed([one.format(name) for one in self.templates])
                self._known[name] = functional.normalize(found.mean(dim=0), dim=0)
        return self._known[name]
