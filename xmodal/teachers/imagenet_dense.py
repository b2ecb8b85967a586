"""An ImageNet classifier read at every place, with rows that any words can be asked of.

In `unit` space a row is the mean of the class names' sentence embeddings, weighted by the class
probabilities at that place. A text goes the same way, through its weighting of the classes, so that
both lie where the classifier can put them.

Source:
    Norouzi et al., Zero-Shot Learning by Convex Combination of Semantic Embeddings, ICLR 2014.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from xmodal.teachers.classifier import INPUT_SIDE, NUM_CLASSES, EfficientNetLite2
from xmodal.teachers.imagenet_text import TEMPERATURE, ImageNetText
from xmodal.teachers.mask_crops import mask_crops
from xmodal.teachers.minilm import CHANNELS, MiniLm
from xmodal.teachers.teacher import check_texts, pairwise_softmax, relevancy_by_products
from xmodal.values import FeatureMap, Image

# Raise when the code changes what comes out for the same settings.
_REVISION = 1
# Inverse temperature of the soft-max against negatives, about that of CLIP models.
_LOGIT_SCALE = 100.0


class ImagenetDenseTeacher:
    """Class probabilities or name embeddings by place; see `xmodal.teachers.teacher.Teacher`.

    Args:
        space: `simplex`: 1000 class probabilities; `unit`: 384 channels of length 1.
        image_size: Longer image side as the network sees it, pixels.
        temperature: Divides the class logits.
    """

    name = "imagenet_dense"

    def __init__(
        self,
        *,
        space: Literal["simplex", "unit"] = "unit",
        image_size: int = 640,
        temperature: float = 1.0,
    ) -> None:
        self.space: Literal["simplex", "unit"] = space
        self.channels = NUM_CLASSES if space == "simplex" else CHANNELS
        self.image_size, self.temperature = image_size, temperature
        self._net = EfficientNetLite2()
        self._encoder = MiniLm()
        self._text = ImageNetText(self._encoder)
        self.licence = "Apache-2.0 (EfficientNet-Lite, all-MiniLM-L6-v2)"
        self.fingerprint = self._fingerprint()

    def encode(self, image: Image) -> FeatureMap:
        """Rows of a grid over one view, one for about 32 x 32 pixels of the resized image."""
        logits = self._net.dense(image.rgb, self.image_size)
        height, width = logits.shape[:2]
        rows = self._rows((logits.flatten(0, 1) / self.temperature).softmax(dim=1))
        return FeatureMap(
            rows=rows,
            valid=torch.ones(len(rows), dtype=torch.bool),
            weight=torch.ones(len(rows)),
            grid_hw=(height, width),
            camera=image.camera,
            name=image.name,
        )

    def encode_text(self, text: list[str]) -> Float[Tensor, "T C"]:
        """Rows of texts; `|` joins synonyms, which are averaged."""
        prompts = check_texts(text)
        if not prompts:
            return torch.zeros(0, self.channels)
        return self._rows(torch.stack([self._text.weights(one) for one in prompts]))

    def encode_image(self, image: Image) -> Float[Tensor, " C"]:
        """Row of a whole image or crop."""
        crops = mask_crops(image.rgb, torch.ones(1, 1, 1), scales=(1.0,), side=INPUT_SIDE)
        logits = self._net.classify(crops) / self.temperature
        return self._rows(logits.softmax(dim=1))[0]

    def relevancy(
        self, rows: Float[Tensor, "N C"], text: list[str], negatives: list[str]
    ) -> Float[Tensor, "N T"]:
        """Score rows against texts, in [0, 1].

        `simplex`: probability mass on the text's classes; `unit`: the cosine, moved from [-1, 1].
        Both are multiplied by the probability that it is the text rather than a negative.
        """
        return relevancy_by_products(self, rows, text, negatives)

    @property
    def unit_rows(self) -> bool:
        """Directions are compared in the space `unit`."""
        return self.space == "unit"

    def rivals(self, negatives: list[str]) -> list[str]:
        """The negatives, if any."""
        return negatives

    def score_products(
        self, products: Float[Tensor, "N T"], rivals: Float[Tensor, "N K"]
    ) -> Float[Tensor, "N T"]:
        """Relevancy from products with texts and negatives."""
        alone = rivals.shape[1] == 0
        if self.space == "simplex":
            score = products.clamp(0, 1)
            if alone:
                return score
            total = score + rivals.clamp(0, 1).amax(dim=1, keepdim=True)
            return torch.where(total > 0, score * score / total.clamp_min(1e-30), score)
        score = ((1 + products) / 2).clamp(0, 1)
        return score if alone else score * pairwise_softmax(products, rivals, _LOGIT_SCALE)

    def _rows(self, classes: Float[Tensor, "N 1000"]) -> Float[Tensor, "N C"]:
        if self.space == "simplex":
            return classes
        return functional.normalize(classes @ self._names, dim=1)

    @cached_property
    def _names(self) -> Float[Tensor, "1000 384"]:
        # What all descriptions have in common tells nothing apart.
        vectors = self._text.class_vectors
        return functional.normalize(vectors - vectors.mean(dim=0), dim=1)

    def _fingerprint(self) -> str:
        parts = {
            "revision": _REVISION,
            "space": self.space,
            "image_size": self.image_size,
            "temperature": self.temperature,
            "text_temperature": TEMPERATURE,
            "weights": [part.weights_sha256 for part in (self._net, self._encoder)],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
