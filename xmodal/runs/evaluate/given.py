"""Another system's output on the same points: scores, class ids, or features with text vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray

from xmodal.errors import DataError, UsageError
from xmodal.evaluate.segmentation import OTHER, Ids
from xmodal.runs.evaluate.request import EvalRequest
from xmodal.runs.evaluate.subject import Subject
from xmodal.runs.evaluate.tally import Answer, answer

Array = NDArray[Any]
_ROWS = 65536


def given_answer(request: EvalRequest, subject: Subject, names: Sequence[str]) -> Answer:
    """What the other system says of every point.

    Class ids are those of the scene's labels, or indices into `--names` when these are given; -1 is
    "none". Columns of scores stand for `--names` (one more for "other" is allowed), or for all
    classes of the scene, or for the classes that are measured. A row of NaN, or a feature of length
    zero, was not observed.

    Raises:
        UsageError: If an array does not fit the points and classes.
        DataError: If it is damaged, or holds numbers that mean nothing.
    """
    size = len(subject.cloud.xyz)
    if request.labels:
        path = _file(request.labels, subject)
        ids = _ids(read_array(path), path, size)
        return Answer(_named_ids(ids, path, request, subject, names))
    if request.scores:
        path = _file(request.scores, subject)
        scores = _scores(read_array(path), path, size)
    else:
        assert request.features and request.text_vectors
        path = request.text_vectors
        scores = _compared(_file(request.features, subject), path, size)
    return _columns(scores, path, request, subject, names)


def _file(path: Path, subject: Subject) -> Path:
    """The array of one scene: the file itself, or NAME.npy in a folder."""
    return path / f"{subject.name}.npy" if path.is_dir() else path


def read_array(path: Path) -> Array:
    """Map a .npy file of numbers.

    Raises:
        DataError: If it is missing, cut, or holds objects.
    """
    wanted = "a whole .npy array of numbers"
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        # np.load takes archives too, and leaves a file open when it fails at one.
        if magic != b"\x93NUMPY":
            got = "an archive, such as .npz" if magic.startswith(b"PK") else "another kind of file"
            raise _bad(path, wanted, got)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        got = "no such file" if isinstance(error, FileNotFoundError) else str(error).split(".")[0]
        raise _bad(path, wanted, got) from error
    if array.dtype.kind not in "iufb":
        raise _bad(path, "numbers", f"{array.dtype}")
    return array


def _ids(array: Array, path: Path, size: int) -> Int64[Ids, " N"]:
    _shape(array, path, (size,), "one class id per point")
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise _bad(
            path, "whole numbers, class ids of points", f"{array.dtype} with fractions or NaN"
        )
    if array.dtype.kind == "b":
        raise _bad(path, "class ids of points", "true and false")
    return np.asarray(array).astype(np.int64)


def _named_ids(
    ids: Int64[Ids, " N"], path: Path, request: EvalRequest, subject: Subject, names: Sequence[str]
) -> Int64[Ids, " N"]:
    classes = list(request.names) or list(subject.classes)
    if len(ids) and (ids.min() < OTHER or ids.max() >= len(classes)):
        bad = int(ids.max()) if ids.max() >= len(classes) else int(ids.min())
        source = "--names" if request.names else "classes.json"
        raise UsageError(
            str(path),
            wanted=f"ids 0 to {len(classes) - 1} (those of {source}), -1 for none",
            got=f"the id {bad}",
            fix="say with --names what the ids stand for, in their order",
        )
    position = [names.index(name) if name in names else OTHER for name in classes]
    return np.array([*position, OTHER], dtype=np.int64)[ids]


def _scores(array: Array, path: Path, size: int) -> Float32[NDArray[np.float32], "N T"]:
    if array.ndim != 2 or len(array) != size:
        _shape(array, path, (size, -1), "one row per point, one column per class")
    if array.dtype.kind == "b":
        array = array.astype(np.float32)
    scores = np.array(array, dtype=np.float32)
    nan = np.isnan(scores)
    if np.isinf(scores).any() or (nan.any(1) != nan.all(1)).any():
        where = np.isinf(scores).any(1) | (nan.any(1) & ~nan.all(1))
        raise _bad(
            path,
            "finite scores, or a whole row of NaN for a point that was not observed",
            f"infinite numbers or single NaNs in {int(where.sum())} rows, first in row "
            f"{int(np.flatnonzero(where)[0])}",
        )
    if size and nan.all():
        raise _bad(path, "the score of at least one point", "NaN everywhere")
    return scores


def _compared(features: Path, vectors: Path, size: int) -> Float32[NDArray[np.float32], "N T"]:
    """Cosine of every feature to every text vector; NaN for features of length zero."""
    rows, texts = read_array(features), read_array(vectors)
    if rows.ndim != 2 or len(rows) != size:
        _shape(rows, features, (size, -1), "one feature per point")
    if texts.ndim != 2 or texts.shape[1] != rows.shape[1]:
        _shape(texts, vectors, (-1, rows.shape[1]), "one vector per class, as wide as the features")
    unit = np.array(texts, dtype=np.float32)
    length = np.linalg.norm(unit, axis=1)
    if not (np.isfinite(length) & (length > 0)).all():
        raise _bad(vectors, "finite vectors, none of length zero", "others")
    unit /= length[:, None]
    out = np.full((size, len(unit)), np.nan, dtype=np.float32)
    for start in range(0, size, _ROWS):
        block = np.array(rows[start : start + _ROWS], dtype=np.float32)
        norm = np.linalg.norm(block, axis=1)
        # NaN rows are not observed; a row with an infinite entry means nothing.
        if np.isinf(norm).any():
            at = start + int(np.flatnonzero(np.isinf(norm))[0])
            raise _bad(features, "finite features", f"an infinite number in row {at}")
        seen = norm > 0
        out[start : start + _ROWS][seen] = (block[seen] / norm[seen, None]) @ unit.T
    return out


def _columns(
    scores: Float32[NDArray[np.float32], "N T"],
    path: Path,
    request: EvalRequest,
    subject: Subject,
    names: Sequence[str],
) -> Answer:
    width = scores.shape[1]
    options = [list(request.names)] if request.names else [list(subject.classes), list(names)]
    columns = next((option for option in options if len(option) == width), None)
    other: list[int] = []
    if columns is None and request.names and width == len(request.names) + 1:
        columns, other = list(request.names), [width - 1]
    if columns is None:
        widths = " or ".join(str(len(option)) for option in options)
        raise UsageError(
            str(path),
            wanted=f"{widths} classes: {', '.join(options[-1][:12])}",
            got=f"{width}",
            fix="say with --names what the columns stand for, in their order",
        )
    missing = [name for name in names if name not in columns]
    if missing:
        raise UsageError(
            str(path),
            wanted=f"a column for each of: {', '.join(names[:12])}",
            got=f"none for {missing[0]!r}",
            fix="choose with --names",
        )
    rest = [i for i, name in enumerate(columns) if name not in names] + other
    ordered = scores[:, [*(columns.index(name) for name in names), *rest]]
    # Scores that are never negative are 0 where nothing is like the class; logits and cosines have
    # no such floor.
    floor = 0.0 if not (ordered < 0).any() else -np.inf
    return answer(ordered, len(names), floor=floor)


def _shape(array: Array, path: Path, wanted: tuple[int, ...], meaning: str) -> None:
    if array.ndim == len(wanted) and all(
        w in (-1, s) for w, s in zip(wanted, array.shape, strict=True)
    ):
        return
    shown = ", ".join("any" if size < 0 else str(size) for size in wanted)
    raise UsageError(
        str(path),
        wanted=f"shape ({shown}): {meaning}, in the row order of points.ply",
        got=f"shape {array.shape}",
        fix="write one row per point of points.ply",
    )


def _bad(path: Path, wanted: str, got: str) -> DataError:
    return DataError(str(path), wanted=wanted, got=got, fix="write the array again")
