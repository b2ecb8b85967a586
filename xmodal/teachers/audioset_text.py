"""Any text as a weighting of the 521 AudioSet classes that YAMNet knows."""

from __future__ import annotations

import csv
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from xmodal.errors import CheckpointError
from xmodal.teachers.minilm import MiniLm

NUM_CLASSES = 521
# As for ImageNet: sharp enough that a query means one or two classes where there are such.
TEMPERATURE = 0.03
TEMPLATE = "the sound of {}"


def class_names(path: Path) -> tuple[str, ...]:
    """The display names of the AudioSet classes, in the network's order.

    Raises:
        CheckpointError: If the file does not list 521 classes.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != NUM_CLASSES or "display_name" not in rows[0]:
        raise CheckpointError(
            str(path),
            wanted=f"{NUM_CLASSES} rows with a column display_name",
            got=f"{len(rows)} rows",
            fix="download the class map of YAMNet again",
        )
    return tuple(row["display_name"] for row in rows)


class AudioSetText:
    """Turns prompts into class weights, through MiniLM's sentence space.

    Args:
        names: The class names.
        encoder: The sentence encoder.
    """

    def __init__(self, names: tuple[str, ...], encoder: MiniLm) -> None:
        self.names, self._encoder = names, encoder
        self._known: dict[tuple[str, ...], Tensor] = {}

    def weights(self, prompts: list[str]) -> Float[Tensor, " 521"]:
        """Class weights of a set of synonyms, in [0, 1] and summing to 1: their mean."""
        key = tuple(prompts)
        if key not in self._known:
            asked = self._encoder.embed([TEMPLATE.format(one.lower()) for one in prompts])
            similarity = asked @ self.class_vectors.T
            self._known[key] = torch.softmax(similarity / TEMPERATURE, dim=1).mean(dim=0)
        return self._known[key].clone()

    @cached_property
    def class_vectors(self) -> Float[Tensor, "521 384"]:
        """Sentence embeddings of the class names, of length 1."""
        return self._encoder.embed([TEMPLATE.format(name.lower()) for name in self.names])
