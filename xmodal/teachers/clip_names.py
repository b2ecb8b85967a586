"""CLIP's text vectors of 1,700 category names, as Detic ships them; no network comes with them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from xmodal.errors import ConfigError
from xmodal.teachers.local_weights import LocalFile

CHANNELS = 512
_SOURCE = "facebookresearch/Detic, datasets/metadata"


def _file(name: str, sha256: str) -> LocalFile:
    return LocalFile(
        folder="clip_text_vectors", name=name, sha256=sha256, source=_SOURCE, licence="Apache-2.0"
    )


# Where several are of one name, one without a note counts before `car_(automobile)`, then LVIS.
FILES = (
    (
        _file(
            "lvis_v1_clip.npy", "16059f1fe5f7d857273d16a1b7c6d6141a88d133e99a107be5065f42311da0f8"
        ),
        _file(
            "lvis_v1_names.json", "70c1dac790c641862ae3af7700ba590e6aafd8e99d436737e4d3c02e8a7d6d1d"
        ),
    ),
    (
        _file("oid_clip.npy", "b24dbd0adf6244ae769aa609c8541bb80c4d60380d0841b8da4d7091faf5fe0a"),
        _file("oid_names.json", "f77812dee223618d72b8d3fa92e4bf82a6c8788e19ad8b9445a984a7d5182afb"),
    ),
)


class ClipNames:
    """CLIP ViT-B/32 vectors of the prompt `a NAME`, found by name.

    Args:
        folder: Where the files are; by default `clip_text_vectors` in `weight_folders()`.
        names: Which category stands for a text, where the rule of `name_of` finds none or another.

    Raises:
        BackendError: If the files cannot be found.
        CheckpointError: If they are not those that were tested.
        ConfigError: If a category in `names` is unknown.
    """

    licence = "Apache-2.0 (Detic), MIT (CLIP)"

    def __init__(
        self, folder: str | Path | None = None, names: Mapping[str, str] | None = None
    ) -> None:
        self._files = [(a.locate(folder), b.locate(folder)) for a, b in FILES]
        self._rows: dict[str, tuple[int, int]] = {}
        listed = [
            (name, (which, row))
            for which, (_, path) in enumerate(self._files)
            for row, name in enumerate(json.loads(path.read_text(encoding="utf-8")))
        ]
        for name, place in sorted(listed, key=lambda one: "(" in one[0]):
            self._rows.setdefault(_plain(name), place)
        self._names = {_plain(text): _plain(name) for text, name in (names or {}).items()}
        unknown = [name for name in self._names.values() if name not in self._rows]
        if unknown:
            raise self._refuse(unknown)

    def vector(self, text: str) -> Float[Tensor, " 512"]:
        """The vector of a text's category, of length 1.

        Raises:
            ConfigError: If no category has this name.
        """
        which, row = self._rows[self.name_of(text)]
        return functional.normalize(self._vectors[which][row], dim=0)

    def name_of(self, text: str) -> str:
        """The category of a text: as `names` says, of the same name, or the longest inside it.

        `dog bark` is `dog`. The nearest name by meaning is not good enough: for `rain` it is
        `raincoat`.

        Raises:
            ConfigError: If there is none.
        """
        plain = _plain(text)
        if plain in self._names:
            return self._names[plain]
        if plain in self._rows:
            return plain
        words = plain.split()
        for length in range(len(words) - 1, 0, -1):
            for start in range(len(words) - length + 1):
                inside = " ".join(words[start : start + length])
                if inside in self._rows:
                    return inside
        raise self._refuse([text])

    @cached_property
    def _vectors(self) -> list[Float[Tensor, "N 512"]]:
        return [
            torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float32))
            for path, _ in self._files
        ]

    def _refuse(self, texts: list[str]) -> ConfigError:
        return ConfigError(
            "CLIP vectors of names",
            wanted=f"names among the {len(self._rows)} categories of LVIS and Open Images",
            got=", ".join(repr(text) for text in texts[:5]),
            fix="say which category stands for it, `names: {rain: umbrella}`, or use "
            "`vectors: sentences`",
        )


def _plain(name: str) -> str:
    """Lower case, words apart, without notes: `Bow_(weapon)` is `bow`."""
    bare = re.sub(r"\(.*?\)", " ", name.lower())
    return " ".join(re.sub(r"[^a-z0-9]+", " ", bare).split())
