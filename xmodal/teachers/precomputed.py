"""A teacher that has spoken already: per-frame feature maps or label pictures in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.atomic import sha256_file
from xmodal.errors import DataError, UsageError
from xmodal.images import read_label_map
from xmodal.teachers.arrays import read_array, wrong_array
from xmodal.teachers.membership import membership_of
from xmodal.teachers.teacher import (
    Space,
    check_texts,
    no_text,
    pairwise_softmax,
    relevancy_by_products,
)
from xmodal.values import FeatureMap, Image, Masks

# Half precision rounds probabilities; a sum further from one is not a rounding error.
_SUM_TOLERANCE = 0.02
# The logit scale that CLIP models end up with.
_CLIP_SCALE = 100.0
_ENDINGS = (".npy", ".npz", ".png")


class PrecomputedTeacher:
    """Features of `FOLDER/NAME.npy`, `.npz` or `.png`, NAME being the frame's name.

    Arrays are maps `[h, w, C]` of floats that cover the whole image. Pictures are label maps: each
    id is a class and the rows are one-hot, one mask for each class in the frame. Places with an
    all-zero feature, and ids to ignore, are not valid: they contribute nothing.
    """

    licence = "that of whoever made the files"

    def __init__(
        self,
        folder: Path,
        *,
        space: Space = "unit",
        classes: Sequence[str] | None = None,
        ignore: Sequence[int] = (),
        vocabulary: Path | None = None,
    ) -> None:
        """Look into a folder; maps are read when asked for.

        Args:
            folder: The folder.
            space: What the rows of feature maps are: `unit` ones are normalised, `simplex` ones
                must be probabilities, `raw` ones stay as they are. Label pictures are `simplex`.
            classes: Names of the label ids 0, 1, ...; by default from `classes.json` (a list, or an
                object from id to name) in the folder.
            ignore: Label ids that mean "not known".
            vocabulary: Vectors of names in the space of the maps: `X.npy` [T, C] with the names
                beside it in `X.json` (a list).

        Raises:
            DataError: If there is no such folder, it has no maps, maps of several kinds, or labels
                without names.
        """
        self.folder = folder
        self._files = _find(folder)
        self._labels = next(iter(self._files.values())).suffix == ".png"
        self._classes = _class_names(folder, classes) if self._labels else {}
        self._ignore = frozenset(ignore)
        self._vocabulary = vocabulary
        self._space: Space = "simplex" if self._labels else space
        self.name = f"precomputed:{folder.name}"

    @property
    def space(self) -> Space:
        """`simplex` for label pictures, else what was declared."""
        return self._space

    @cached_property
    def _width(self) -> int:
        if self._labels:
            return max(self._classes) + 1
        return int(self._array(next(iter(self._files))).shape[2])

    @property
    def channels(self) -> int:
        """Width of the first map, or the number of classes."""
        return self._width

    @cached_property
    def _digest(self) -> str:
        stamp: list[Any] = [self._space, sorted(self._classes.items()), sorted(self._ignore)]
        # The vocabulary is left out: it changes what can be asked, not what the files say.
        stamp += [[name, sha256_file(path)] for name, path in sorted(self._files.items())]
        return hashlib.sha256(json.dumps(stamp).encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Digest of all files of the folder and the settings."""
        return self._digest

    def check_frames(self, names: Sequence[str]) -> None:
        """Make sure that every frame has a map.

        Raises:
            DataError: Naming all frames without one.
        """
        missing = [name for name in names if _stem(name) not in self._files]
        if missing:
            more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            raise DataError(
                str(self.folder),
                wanted=f"a map for each of {len(names)} frames",
                got=f"none for {len(missing)}: {', '.join(missing[:10])}{more}",
                fix="write the missing maps; files are named after the frames",
            )

    def encode(self, image: Image) -> FeatureMap | Masks:
        """The map of one frame."""
        self.check_frames([image.name])
        return self._encode_labels(image) if self._labels else self._encode_array(image)

    def encode_text(self, text: list[str]) -> Float[Tensor, "T C"]:
        """Rows of known names, in any case: classes of labels, or entries of `vocabulary`.

        Raises:
            UsageError: If a text is not a known name, or feature maps come without a vocabulary.
        """
        prompts = check_texts(text)
        names, vectors = self._known
        if not names:
            raise no_text(self.name)
        rows = torch.zeros(len(prompts), self.channels)
        for row, synonyms in zip(rows, prompts, strict=True):
            for one in synonyms:
                if _plain(one) not in names:
                    raise self._unknown(one, names)
                row += vectors[names[_plain(one)]] / len(synonyms)
        return rows if self._labels else nn.functional.normalize(rows, dim=1)

    def _unknown(self, text: str, names: Mapping[str, int]) -> UsageError:
        near = get_close_matches(_plain(text), names, n=3, cutoff=0.4)
        return UsageError(
            f"teacher {self.name}",
            wanted=f"one of {len(names)} known names",
            got=repr(text),
            fix=f"perhaps {', '.join(near)}" if near else "see the file of names",
        )

    def encode_image(self, image: Image) -> Float[Tensor, " C"]:
        """Files describe frames, not pictures.

        Raises:
            UsageError: Always.
        """
        del image
        raise no_text(self.name)

    def relevancy(
        self,
        rows: Float[Tensor, "N C"],
        text: list[str],
        negatives: list[str],
    ) -> Float[Tensor, "N T"]:
        """How much a row is what the text names, in [0, 1].

        For labels, the probability of the class less that of the most probable negative, at least
        0. For maps with a vocabulary, the pairwise soft-max against the negatives at CLIP's scale
        of 100, or without negatives the cosine brought to [0, 1].
        """
        return relevancy_by_products(self, rows, text, negatives)

    @property
    def unit_rows(self) -> bool:
        """Rows stay as they are."""
        return False

    def rivals(self, negatives: list[str]) -> list[str]:
        """The negatives, if any."""
        return negatives

    def score_products(
        self, products: Float[Tensor, "N T"], rivals: Float[Tensor, "N K"]
    ) -> Float[Tensor, "N T"]:
        """Relevancy from products with texts and negatives."""
        alone = rivals.shape[1] == 0
        if not self._labels:
            if alone:
                return ((1 + products) / 2).clamp(0, 1)
            return pairwise_softmax(products, rivals, _CLIP_SCALE)
        if alone:
            return products.clamp(0, 1)
        return (products - rivals.amax(dim=1, keepdim=True)).clamp(0, 1)

    @cached_property
    def _known(self) -> tuple[dict[str, int], Tensor]:
        """Names in lower case with their row, and the rows."""
        if self._labels:
            names = {_plain(name): index for index, name in self._classes.items()}
            return names, torch.eye(self.channels)
        if self._vocabulary is None:
            return {}, torch.zeros(0, self.channels)
        return _read_vocabulary(self._vocabulary, self.channels)

    def _array(self, name: str) -> Any:
        path = self._files[name]
        array = read_array(path)
        if array.ndim != 3 or array.dtype.kind != "f" or 0 in array.shape:
            got = f"{list(array.shape)} of {array.dtype}"
            raise wrong_array(path, "a map [h, w, C] of floats", got)
        return array

    def _encode_array(self, image: Image) -> FeatureMap:
        path = self._files[_stem(image.name)]
        array = self._array(_stem(image.name))
        if array.shape[2] != self.channels:
            raise wrong_array(path, f"{self.channels} channels", f"{array.shape[2]}")
        rows = torch.from_numpy(np.array(array, np.float32)).flatten(0, 1)
        if not bool(torch.isfinite(rows).all()):
            raise wrong_array(path, "finite features", "NaN or infinity")
        valid = rows.abs().amax(dim=1) > 0
        if self._space == "unit":
            rows = nn.functional.normalize(rows, dim=1)
        elif self._space == "simplex":
            rows = _checked_simplex(rows, valid, path)
        return FeatureMap(
            rows=rows,
            valid=valid,
            weight=valid.float(),
            grid_hw=(array.shape[0], array.shape[1]),
            camera=image.camera,
            name=image.name,
        )

    def _encode_labels(self, image: Image) -> Masks:
        path = self._files[_stem(image.name)]
        ids = torch.from_numpy(read_label_map(path))
        present = [int(label) for label in ids.unique() if int(label) not in self._ignore]
        unknown = [label for label in present if label not in self._classes]
        if unknown:
            raise DataError(
                str(path),
                wanted=f"ids of the {len(self._classes)} classes",
                got=f"{', '.join(map(str, unknown[:10]))}",
                fix="name them in classes.json, or list them under `ignore`",
            )
        chosen = torch.tensor(present, dtype=torch.int64)
        members = ids[None] == chosen[:, None, None]
        return Masks(
            rows=nn.functional.one_hot(chosen, self.channels).float(),
            valid=torch.ones(len(present), dtype=torch.bool),
            weight=torch.ones(len(present)),
            membership=membership_of(members),
            grid_hw=(ids.shape[0], ids.shape[1]),
            camera=image.camera,
            name=image.name,
        )


def _stem(name: str) -> str:
    """A frame's name without a picture's ending, which some datasets keep."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and ending.lower() in ("jpg", "jpeg", "png", "webp", "bmp") else name


def _plain(name: str) -> str:
    """A name as it is compared: lower case, `coffee_mug` like `coffee mug`."""
    return name.casefold().replace("_", " ")


def _find(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(
            str(folder), wanted="a folder of maps", got="no such folder", fix="correct the path"
        )
    found = sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS)
    endings = sorted({path.suffix for path in found})
    if len(endings) != 1:
        raise DataError(
            str(folder),
            wanted="maps of one kind: all .npy, all .npz or all .png",
            got=" and ".join(endings) or "none",
            fix="keep one kind in this folder, named after the frames",
        )
    return {path.stem: path for path in found}


def _class_names(folder: Path, classes: Sequence[str] | None) -> dict[int, str]:
    path = folder / "classes.json"
    if classes is not None:
        return dict(enumerate(classes))
    try:
        found = json.loads(path.read_text())
        items = enumerate(found) if isinstance(found, list) else found.items()
        names = {int(key): str(name) for key, name in items}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            str(path),
            wanted="the names of the label ids: a list, or an object from id to name",
            got=str(error).splitlines()[0][:200],
            fix="write classes.json, or give `classes`",
        ) from error
    if not names or min(names) < 0 or max(names) > 65535:
        raise DataError(
            str(path),
            wanted="ids from 0 to 65535",
            got=f"{len(names)} ids, {min(names, default=0)} to {max(names, default=0)}",
            fix="correct classes.json",
        )
    return names


def _read_vocabulary(path: Path, channels: int) -> tuple[dict[str, int], Tensor]:
    array = read_array(path)
    if array.ndim != 2 or array.dtype.kind != "f" or array.shape[1] != channels:
        raise wrong_array(path, f"vectors [T, {channels}]", f"{list(array.shape)} {array.dtype}")
    vectors = torch.from_numpy(np.array(array, np.float32))
    if not bool((vectors.norm(dim=1) > 0).all() & torch.isfinite(vectors).all()):
        raise wrong_array(path, "finite vectors of some length", "NaN, infinity or zero")
    beside = path.with_suffix(".json")
    try:
        found: object = json.loads(beside.read_text())
    except (OSError, ValueError) as error:
        found = str(error)
    if not isinstance(found, list) or len(found) != len(vectors):
        raise DataError(
            str(beside),
            wanted=f"a list of {len(vectors)} names",
            got=f"{len(found)} entries" if isinstance(found, list) else str(found)[:200],
            fix=f"write the names of the rows of {path.name}",
        )
    # Later entries of the same name do not replace the first.
    names = {_plain(str(name)): index for index, name in reversed(list(enumerate(found)))}
    return names, nn.functional.normalize(vectors, dim=1)


def _checked_simplex(rows: Tensor, valid: Tensor, path: Path) -> Tensor:
    total = rows.sum(dim=1)
    off = (total[valid] - 1).abs().max() if bool(valid.any()) else torch.tensor(0.0)
    if bool((rows < 0).any()) or float(off) > _SUM_TOLERANCE:
        got = f"a smallest value of {float(rows.min()):.4g} and sums off by up to {float(off):.4g}"
        raise wrong_array(path, "probabilities that sum to one in every place", got)
    return rows / total.clamp_min(1e-12)[:, None]
