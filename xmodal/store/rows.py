"""Rows of features as they lie on disk, decoded only where they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from xmodal.errors import DataError
from xmodal.store.arrays import load_array

Codec = Literal["fp16", "bf16", "int8", "pq64", "components", "segments"]
Array = npt.NDArray[Any]
FloatRows = npt.NDArray[np.float32]

BLOCK_ROWS = 8192


class StoredRows(ABC):
    """Rows `[N, C]` of a store. Indexing with a slice or with row numbers gives float32 rows."""

    codec: Codec
    files: tuple[str, ...]

    def __init__(self, shape: tuple[int, int], arrays: Mapping[str, Array]) -> None:
        self.shape = shape
        self._arrays = arrays

    @classmethod
    def open(cls, folder: Path, shape: tuple[int, int]) -> StoredRows:
        """Map the files of a folder.

        Raises:
            DataError: If one is missing, damaged, or does not fit `shape`.
        """
        arrays = {name: load_array(folder / f"{name}.npy") for name in cls.files}
        rows = cls(shape, arrays)
        for name, wanted in rows.shapes().items():
            check_shape(folder / f"{name}.npy", arrays[name], wanted)
        return rows

    @classmethod
    @abstractmethod
    def write(cls, folder: Path, source: Array, **about: Array | None) -> None:
        """Write `source [N, C]` block by block.

        Args:
            folder: Where the files go.
            source: Rows, finite; may be a memory map.
            **about: `valid [N]`, `weight [N]` and `segments [N]` of the rows, for codecs that ask.
        """

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape that each file must have."""

    @abstractmethod
    def decode(self, index: slice | npt.NDArray[np.int64]) -> FloatRows:
        """Rows of a slice or of row numbers."""

    def products(self, vectors: FloatRows) -> FloatRows:
        """Dot products `[N, Q]` of all rows with vectors `[Q, C]`, in the codec's own arithmetic.

        Raises:
            ValueError: If the vectors have another width than the rows, or are not finite.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.shape[1]:
            raise ValueError(
                f"rows of {self.shape[1]} channels are multiplied with vectors of that width, got "
                f"{list(vectors.shape)}"
            )
        if not np.isfinite(vectors).all():
            raise ValueError("vectors to multiply rows with must be finite, got NaN or infinity")
        return self._products(vectors)

    def _products(self, vectors: FloatRows) -> FloatRows:
        """What `products` gives, of vectors that fit; here by decoding block after block."""
        found = np.empty((len(vectors), len(self)), dtype=np.float32)
        for part, rows in self.blocks():
            np.matmul(vectors, rows.T, out=found[:, part])
        return found.T

    def norms(self) -> npt.NDArray[np.float32]:
        """Lengths `[N]` of all rows."""
        lengths = np.empty(len(self), dtype=np.float32)
        for part, rows in self.blocks():
            lengths[part] = np.sqrt(np.einsum("nc,nc->n", rows, rows))
        return lengths

    @property
    def nbytes(self) -> int:
        """Bytes of all files together, without their headers."""
        return sum(array.nbytes for array in self._arrays.values())

    def take(self, index: npt.NDArray[np.integer[Any]]) -> FloatRows:
        """Rows by number, in the order given; only these are decoded."""
        return self.decode(np.asarray(index, dtype=np.int64))

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[tuple[slice, FloatRows]]:
        """Yield (slice, rows) in order; memory is one block."""
        for start in range(0, len(self), size):
            part = slice(start, min(start + size, len(self)))
            yield part, self.decode(part)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | Array) -> FloatRows:
        if isinstance(index, slice):
            return self.decode(index)
        index = np.asarray(index)
        return self.take(np.flatnonzero(index) if index.dtype == np.bool_ else index)

    def __array__(self, dtype: npt.DTypeLike = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("stored rows are decoded, which always makes a copy")
        whole = self.decode(slice(0, len(self)))
        return whole if dtype is None else whole.astype(dtype, copy=False)


class LazyRows:
    """Stored rows as training reads them: indexed by a tensor of row numbers, decoded then.

    Args:
        rows: Of an opened store.
    """

    def __init__(self, rows: StoredRows) -> None:
        self._rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and channels."""
        return self._rows.shape

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Int64[Tensor, " S"]) -> Float32[Tensor, "S C"]:
        return torch.from_numpy(self._rows.take(index.numpy()))


def source_blocks(source: Array) -> Iterator[tuple[slice, FloatRows]]:
    """Rows that are to be stored, block by block, in float32.

    Raises:
        DataError: If a row holds NaN or infinity, which no query or loss could use.
    """
    for start in range(0, len(source), BLOCK_ROWS):
        part = slice(start, min(start + BLOCK_ROWS, len(source)))
        rows = np.asarray(source[part], dtype=np.float32)
        if not np.isfinite(rows).all():
            first = start + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise DataError(
                f"row {first} of the features to store",
                wanted="finite numbers",
                got="NaN or infinity",
                fix="look at the teacher or student that made it; nothing was stored",
            )
        yield part, rows


def cosine_errors(source: Array, stored: StoredRows, valid: Array | None) -> tuple[float, float]:
    """Mean and largest 1 - cos between rows as computed and as stored, over observed rows."""
    total, count, worst = 0.0, 0, 0.0
    for part, rows in source_blocks(source):
        back = stored.decode(part)
        norm = np.linalg.norm(rows, axis=1) * np.linalg.norm(back, axis=1)
        # A row of zeros has no direction; one that became zero has lost it altogether.
        asked = np.linalg.norm(rows, axis=1) > 0
        if valid is not None:
            asked &= np.asarray(valid[part])
        if asked.any():
            dots = np.einsum("nc,nc->n", rows[asked], back[asked])
            known = np.where(norm[asked] > 0, norm[asked], 1.0)
            error = np.maximum(1 - dots / known, 0.0)
            worst = max(worst, float(error.max()))
            total += float(error.sum())
            count += int(asked.sum())
    return total / max(count, 1), worst


def check_shape(path: Path, array: Array, wanted: tuple[int, ...]) -> None:
    """Refuse an array that does not fit its store.

    Raises:
        DataError: In that case.
    """
    if array.shape != wanted:
        raise DataError(
            str(path),
            wanted=f"shape {wanted}",
            got=f"shape {array.shape}",
            fix="the store is damaged; lift again with --overwrite",
        )
