"""Any text as a weighting of the 1000 ImageNet classes.

A query is compared with "name: definition" of each class (the WordNet glosses that timm ships) in
MiniLM's sentence space; a sharp soft-max over the similarities gives weights that sum to one.
"""

from __future__ import annotations

import hashlib
import logging
from functools import cached_property
from importlib import metadata

import torch
from jaxtyping import Float
from torch import Tensor

from xmodal.atomic import atomic_path
from xmodal.teachers.minilm import CHANNELS, MiniLm
from xmodal.teachers.torchvision_schemas import declare_operators
from xmodal.teachers.weights import need, user_cache

NUM_CLASSES = 1000
# Sharp enough that a query means one or two classes where ImageNet has them; 0.025 to 0.05 differ
# by one or two of 50 query-frame pairs.
TEMPERATURE = 0.03
_REMEMBERED = 4096  # texts, 4 kB each
_log = logging.getLogger(__name__)


class ImageNetText:
    """Turns prompts into class weights; the 1000 class vectors are cached on disk."""

    def __init__(self, encoder: MiniLm) -> None:
        self._encoder = encoder
        self._known: dict[tuple[str, ...], Tensor] = {}

    def weights(self, prompts: list[str]) -> Float[Tensor, " 1000"]:
        """Class weights of a set of synonyms, in [0, 1] and summing to 1: their mean."""
        key = tuple(prompts)
        if key not in self._known:
            # The same texts are asked of view after view; a sentence costs 20 ms.
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            similarity = self._encoder.embed(prompts) @ self.class_vectors.T
            self._known[key] = torch.softmax(similarity / TEMPERATURE, dim=1).mean(dim=0)
        return self._known[key].clone()

    @cached_property
    def class_vectors(self) -> Float[Tensor, "1000 384"]:
        """Sentence embeddings of the class descriptions, of length 1."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file, save_file

        path = user_cache() / "text" / f"imagenet-{self._key()}.safetensors"
        if path.is_file():
            try:
                found = load_file(path).get("vectors")
            except SafetensorError:
                found = None
            # Lengths of one are a checksum of sorts: what is damaged is computed again.
            if found is not None and _plausible(found):
                return found
            _log.warning("%s is damaged and is computed again", path)
        vectors = self._encoder.embed(class_descriptions()).contiguous()
        with atomic_path(path) as temporary:
            save_file({"vectors": vectors}, temporary)
        return vectors

    def _key(self) -> str:
        try:
            version = metadata.version("timm")
        except metadata.PackageNotFoundError:
            raise need("timm", "embedded") from None
        return hashlib.sha256(f"{self._encoder.weights_sha256}/{version}/1".encode()).hexdigest()[
            :16
        ]


def class_descriptions() -> list[str]:
    """`name: definition` of the 1000 ImageNet classes, in the classifier's order."""
    declare_operators()
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        raise need("timm", "embedded") from None
    info = ImageNetInfo()
    return [info.index_to_description(index, detailed=True) for index in range(NUM_CLASSES)]


def _plausible(vectors: Tensor) -> bool:
    if vectors.shape != (NUM_CLASSES, CHANNELS) or vectors.dtype != torch.float32:
        return False
    return torch.allclose(vectors.norm(dim=1), torch.ones(NUM_CLASSES), atol=1e-4)
