"""The text side of captions: questions asked of rows that a sentence encoder wrote."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from xmodal.errors import UsageError
from xmodal.teachers.minilm import CHANNELS, MiniLm
from xmodal.teachers.teacher import check_texts, pairwise_softmax
from xmodal.values import Image, Masks

# As the captions begin, so that a question differs from them in its noun only.
_TEMPLATE = "a photo of a {}"
# Inverse temperature against negatives, about that of CLIP models.
_LOGIT_SCALE = 100.0


class SentenceTeacher:
    """Rows and questions in the space of all-MiniLM-L6-v2; it sees no images."""

    name = "sentences"
    channels = CHANNELS
    space: Literal["unit"] = "unit"

    def __init__(self) -> None:
        self._encoder = MiniLm()
        self.licence = self._encoder.licence
        self.fingerprint = self._encoder.weights_sha256

    def encode(self, image: Image) -> Masks:
        """Raise, because a sentence encoder reads text only."""
        raise _blind()

    def encode_image(self, image: Image) -> Float[Tensor, " 384"]:
        """Raise, because a sentence encoder reads text only."""
        raise _blind()

    def encode_text(self, text: list[str]) -> Float[Tensor, "T 384"]:
        """One row per text; `|` joins synonyms, which are averaged."""
        rows = [
            self._encoder.embed([_TEMPLATE.format(one) for one in synonyms]).mean(dim=0)
            for synonyms in check_texts(text)
        ]
        if not rows:
            return torch.zeros(0, CHANNELS)
        return functional.normalize(torch.stack(rows), dim=1)

    def relevancy(
        self, rows: Float[Tensor, "N 384"], text: list[str], negatives: list[str]
    ) -> Float[Tensor, "N T"]:
        """The cosine, moved from [-1, 1] to [0, 1]; halved where a negative is as close."""
        unit = functional.normalize(rows, dim=1)
        cosine = unit @ self.encode_text(text).T
        score = ((1 + cosine) / 2).clamp(0, 1)
        if not negatives:
            return score
        rival = unit @ self.encode_text(negatives).T
        return score * pairwise_softmax(cosine, rival, _LOGIT_SCALE)


def _blind() -> UsageError:
    return UsageError(
        "teacher sentences",
        wanted="a text",
        got="an image, which a sentence encoder cannot read",
        fix="ask by text, or ask the node `lifted` by --click or --image",
    )
