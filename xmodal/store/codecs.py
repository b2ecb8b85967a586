"""The six codecs of feature stores.

| codec | bytes a row of C channels | how |
|---|---|---|
| `fp16` | 2 C | half precision |
| `bf16` | 2 C | 8 bits of mantissa; queries multiply it as it is, where the processor can |
| `int8` | C + 4 | whole numbers up to 127, and one scale a row |
| `pq64` | 64 | product quantisation, see `xmodal.store.quantiser` |
| `components` | 28 | eight of 256 components of the scene, see `xmodal.store.components` |
| `segments` | 4, and 2 C a segment | one half precision row for all points of a segment |

A row of zeros stays a row of zeros in each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lifting.backends.jit import jit
from xmodal.errors import DataError
from xmodal.store import components, quantiser
from xmodal.store.rows import BLOCK_ROWS, Array, Codec, FloatRows, StoredRows, source_blocks

# Rows that a product takes at once: 64 MB of half precision at 512 channels.
_PRODUCT_ROWS = 65536


class HalfRows(StoredRows):
    """`fp16`."""

    codec: Codec = "fp16"
    files = ("rows",)

    @classmethod
    def write(cls, folder: Path, source: Array, **about: Array | None) -> None:
        """See `StoredRows.write`."""
        out = _new(folder / "rows.npy", np.float16, source.shape)
        for part, rows in source_blocks(source):
            out[part] = _half(folder, rows)
        _close(out)

    @property
    def mapped(self) -> npt.NDArray[np.float16]:
        """The rows as they lie in the file."""
        return self._arrays["rows"]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `StoredRows.shapes`."""
        return {"rows": self.shape}

    def decode(self, index: slice | npt.NDArray[np.int64]) -> FloatRows:
        """See `StoredRows.decode`."""
        return np.asarray(self.mapped[index], dtype=np.float32)


class BrainRows(StoredRows):
    """`bf16`, as the upper halves of float32 numbers."""

    codec: Codec = "bf16"
    files = ("rows",)

    @classmethod
    def write(cls, folder: Path, source: Array, **about: Array | None) -> None:
        """See `StoredRows.write`."""
        out = _new(folder / "rows.npy", np.int16, source.shape)
        for part, rows in source_blocks(source):
            out[part] = torch.from_numpy(rows).bfloat16().view(torch.int16).numpy()
        _close(out)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `StoredRows.shapes`."""
        return {"rows": self.shape}

    def decode(self, index: slice | npt.NDArray[np.int64]) -> FloatRows:
        """See `StoredRows.decode`."""
        return self._tensor(self._arrays["rows"][index]).float().numpy()

    def _products(self, vectors: FloatRows) -> FloatRows:
        """See `StoredRows._products`; results have 8 bits of mantissa."""
        asked = torch.from_numpy(vectors).bfloat16()
        found = torch.empty(len(vectors), len(self))
        for start in range(0, len(self), _PRODUCT_ROWS):
            part = slice(start, start + _PRODUCT_ROWS)
            found[:, part] = asked @ self._tensor(self._arrays["rows"][part]).T
        return found.numpy().T

    @staticmethod
    def _tensor(bits: Array) -> Tensor:
        return torch.from_numpy(bits).view(torch.bfloat16)


class ByteRows(StoredRows):
    """`int8`: `codes * scale`, the scale being the row's largest magnitude by 127."""

    codec: Codec = "int8"
    files = ("codes", "scale")

    @classmethod
    def write(cls, folder: Path, source: Array, **about: Array | None) -> None:
        """See `StoredRows.write`."""
        codes = _new(folder / "codes.npy", np.int8, source.shape)
        scale = np.zeros(len(source), dtype=np.float32)
        for part, rows in source_blocks(source):
            largest = np.abs(rows).max(axis=1, initial=0.0)
            # Below the smallest normal number its inverse would overflow: such a row is zero.
            tiny = largest < np.finfo(np.float32).tiny * 127
            scale[part] = np.where(tiny, 0.0, largest / 127)
            inverse = np.where(tiny, 0.0, 127 / np.where(tiny, 1.0, largest)).astype(np.float32)
            codes[part] = np.rint(rows * inverse[:, None]).astype(np.int8)
        _close(codes)
        np.save(folder / "scale.npy", scale)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `StoredRows.shapes`."""
        return {"codes": self.shape, "scale": self.shape[:1]}

    def decode(self, index: slice | npt.NDArray[np.int64]) -> FloatRows:
        """See `StoredRows.decode`."""
        rows = self._arrays["codes"][index].astype(np.float32)
        rows *= np.asarray(self._arrays["scale"][index])[:, None]
        return rows

    def _products(self, vectors: FloatRows) -> FloatRows:
        """See `StoredRows._products`; whole numbers are multiplied, the vectors with 14 bits."""
        planes, unit = _two_planes(vectors)
        # torch's product of whole numbers is wrong for matrices of one column: zeros go beside it.
        beside = (0, int(self.shape[1] == 1))
        planes = torch.nn.functional.pad(planes, beside)
        found = np.empty((len(vectors), len(self)), dtype=np.float32)
        for start in range(0, len(self), _PRODUCT_ROWS):
            part = slice(start, start + _PRODUCT_ROWS)
            codes = torch.from_numpy(self._arrays["codes"][part])
            codes = torch.nn.functional.pad(codes, beside) if beside[1] else codes
            both = torch.ops.aten._int_mm(planes, codes.T).numpy()
            _combine_planes(both, unit, np.asarray(self._arrays["scale"][part]), found[:, part])
        return found.T

    def norms(self) -> npt.NDArray[np.float32]:
        """See `StoredRows.norms`."""
        lengths = np.empty(len(self), dtype=np.float32)
        _code_lengths(self._arrays["codes"], np.asarray(self._arrays["scale"]), lengths)
        return lengths


class ProductRows(StoredRows):
    """`pq64`."""

    codec: Codec = "pq64"
    files = ("codes", "codebook")

    @classmethod
    def write(cls, folder: Path, source: Array, **about: Array | None) -> None:
        """See `StoredRows.write`."""
        book = quantiser.train(_sample(source, about.get("valid")))
        np.save(folder / "codebook.npy", book)
        codes = _new(folder / "codes.npy", np.uint8, (len(source), book.shape[0]))
        for part, rows in source_blocks(source):
            codes[part] = quantiser.encode(rows, book)
        _close(codes)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `StoredRows.shapes`."""
        parts = quantiser.num_parts(self.shape[1])
        width = -(-max(self.shape[1], 1) // parts)
        return {
            "codes": (self.shape[0], parts),
            "codebook": (parts, width, quantiser.NUM_CODES),
        }

    def decode(self, index: slice | npt.NDArray[np.int64]) -> FloatRows:
        """See `StoredRows.decode`."""
        codes = self._arrays["codes"][index]
        return quantiser.decode(codes, np.asarray(self._arrays["codebook"]), self.shape[1])

    def _products(self, vectors: FloatRows) -> FloatRows:
        """See `StoredRows._products`; by look-up tables, without decoding."""
        book = np.asarray(self._arrays["codebook"])
        return quantiser.products(self._arrays["codes"], book, vectors)

    def norms(self) -> npt.NDArray[np.float32]:
        """See `StoredRows.norms`."""
        return quantiser.norms(self._arrays["codes"], np.asarray(self._arrays["codebook"]))


class ComponentRows(StoredRows):
    """`components`."""

    codec: Codec = "components"
    files = ("codes", "weights", "scale", "bank")

    @classmethod
    def write(cls, folder: Path, source: Array, **about: Array | None) -> None:
        """See `StoredRows.write`."""
        bank = components.train(_sample(source, about.get("valid")))
        np.save(folder / "bank.npy", bank)
        size = (len(source), components.PER_ROW)
        codes = _new(folder / "codes.npy", np.uint8, size)
        weights = _new(folder / "weights.npy", np.float16, size)
        scale = np.zeros(len(source), dtype=np.float32)
        for part, rows in source_blocks(source):
            found = components.encode(rows, bank)
            codes[part], weights[part], scale[part] = found.codes, found.weights, found.scale
        _close(codes)
        _close(weights)
        np.save(folder / "scale.npy", scale)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `StoredRows.shapes`."""
        size = (self.shape[0], components.PER_ROW)
        bank = (components.NUM_COMPONENTS, self.shape[1])
        return {"codes": size, "weights": size, "scale": size[:1], "bank": bank}

    def decode(self, index: slice | npt.NDArray[np.int64]) -> FloatRows:
        """See `StoredRows.decode`."""
        return components.decode(self._coded(index), self._arrays["bank"])

    def _products(self, vectors: FloatRows) -> FloatRows:
        """See `StoredRows._products`; one product a component, without decoding."""
        return components.products(self._coded(slice(None)), self._arrays["bank"], vectors)

    def norms(self) -> npt.NDArray[np.float32]:
        """See `StoredRows.norms`; from the components' products with each other."""
        return components.norms(self._coded(slice(None)), self._arrays["bank"])

    def _coded(self, index: slice | npt.NDArray[np.int64]) -> components.Coded:
        codes, weights, scale = (self._arrays[name][index] for name in self.files[:3])
        return components.Coded(codes=codes, weights=weights, scale=scale)


class SegmentRows(StoredRows):
    """`segments`: the weighted mean of a segment's observed rows stands for all of them.

    A point of no segment keeps a row of its own; a point that was not observed has none (-1).
    """

    codec: Codec = "segments"
    files = ("rows", "row_of")

    @classmethod
    def write(cls, folder: Path, source: Array, **about: Array | None) -> None:
        """See `StoredRows.write`; memory is the rows of all segments.

        Raises:
            DataError: If the points have no segments.
        """
        segments, valid, weight = (about.get(name) for name in ("segments", "valid", "weight"))
        if segments is None:
            raise DataError(
                str(folder.parent),
                wanted="points with segments, for the codec `segments`",
                got="points without",
                fix="use codec fp16, int8 or pq64, or lift with an op that finds segments",
            )
        seen = np.ones(len(source), dtype=np.bool_) if valid is None else np.asarray(valid)
        row_of = np.full(len(source), -1, dtype=np.int32)
        grouped = seen & (segments >= 0)
        row_of[grouped] = np.unique(segments[grouped], return_inverse=True)[1]
        num = int(row_of.max(initial=-1)) + 1
        alone = np.flatnonzero(seen & (segments < 0))
        row_of[alone] = num + np.arange(len(alone), dtype=np.int32)
        share = _shares(row_of, weight, num + len(alone))
        rows = np.zeros((num + len(alone), source.shape[1]), dtype=np.float32)
        for part, block in source_blocks(source):
            mine = np.flatnonzero(seen[part])
            scaled = block[mine] * share[part][mine, None]
            np.add.at(rows, row_of[part][mine], scaled)
        np.save(folder / "rows.npy", _half(folder, rows))
        np.save(folder / "row_of.npy", row_of)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `StoredRows.shapes`."""
        return {"rows": (len(self._arrays["rows"]), self.shape[1]), "row_of": self.shape[:1]}

    def decode(self, index: slice | npt.NDArray[np.int64]) -> FloatRows:
        """See `StoredRows.decode`."""
        row_of = np.asarray(self._arrays["row_of"][index])
        found = np.zeros((len(row_of), self.shape[1]), dtype=np.float32)
        found[row_of >= 0] = self._arrays["rows"][row_of[row_of >= 0]]
        return found

    def _products(self, vectors: FloatRows) -> FloatRows:
        """See `StoredRows._products`; one product a segment."""
        rows, row_of = self._arrays["rows"], np.asarray(self._arrays["row_of"])
        found = np.zeros((len(vectors), len(rows) + 1), dtype=np.float32)  # the last is for -1
        for start in range(0, len(rows), BLOCK_ROWS):
            part = slice(start, min(start + BLOCK_ROWS, len(rows)))
            found[:, part] = vectors @ np.asarray(rows[part], dtype=np.float32).T
        return found[:, row_of].T

    def norms(self) -> npt.NDArray[np.float32]:
        """See `StoredRows.norms`."""
        rows = np.asarray(self._arrays["rows"], dtype=np.float32)
        lengths = np.append(np.linalg.norm(rows, axis=1), np.float32(0))  # the last is for -1
        return lengths[np.asarray(self._arrays["row_of"])]


CODECS: Mapping[Codec, type[StoredRows]] = {
    "fp16": HalfRows,
    "bf16": BrainRows,
    "int8": ByteRows,
    "pq64": ProductRows,
    "components": ComponentRows,
    "segments": SegmentRows,
}


def _shares(
    row_of: npt.NDArray[np.int32], weight: Array | None, num: int
) -> npt.NDArray[np.float32]:
    """Share of every point in the mean of its segment, 0 for points without a row."""
    seen = row_of >= 0
    share = np.zeros(len(row_of))
    share[seen] = 1.0 if weight is None else np.asarray(weight)[seen]
    total = np.bincount(row_of[seen], weights=share[seen], minlength=max(num, 1))
    # Where all weights are 0 there is still something to keep: the rows count alike.
    share[seen & (total[row_of] <= 0)] = 1.0
    total = np.bincount(row_of[seen], weights=share[seen], minlength=max(num, 1))
    share[seen] /= total[row_of[seen]]
    return share.astype(np.float32)


def _half(folder: Path, rows: FloatRows) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = rows.astype(np.float16)
    if not np.isfinite(half).all():
        raise DataError(
            str(folder.parent),
            wanted="features up to 65504, the largest half precision number",
            got=f"{float(np.abs(rows).max()):g}",
            fix="use codec int8 or bf16 (`store: {codec: int8}` in the run file)",
        )
    return half


def _sample(source: Array, valid: Array | None) -> FloatRows:
    """Seeded sample of the rows that were observed."""
    seen = np.arange(len(source)) if valid is None else np.flatnonzero(valid)
    if len(seen) > quantiser.SAMPLE_ROWS:
        picked = np.random.default_rng(0).choice(len(seen), quantiser.SAMPLE_ROWS, replace=False)
        seen = seen[np.sort(picked)]
    return np.asarray(source[seen], dtype=np.float32)


def _two_planes(vectors: FloatRows) -> tuple[Tensor, FloatRows]:
    """Vectors as `(128 high + low) * unit` in two planes of int8 `[2 Q, C]`, and the units `[Q]`.

    One plane would add an error as large as that of the rows.
    """
    unit = np.abs(vectors).max(axis=1, initial=0.0) / (127 * 127)
    whole = np.rint(vectors / np.where(unit > 0, unit, 1.0)[:, None])
    high = np.rint(whole / 128)
    planes = np.concatenate([high, whole - 128 * high]).astype(np.int8)
    return torch.from_numpy(planes), unit.astype(np.float32)


def _new(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Array:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _close(mapped: Array) -> None:
    if isinstance(mapped, np.memmap):
        mapped.flush()


@jit
def _combine_planes(
    both: npt.NDArray[np.int32], unit: FloatRows, scale: FloatRows, found: FloatRows
) -> None:
    """Products with the two planes of `_two_planes` as products with the vectors, `[Q, N]`."""
    num = unit.shape[0]
    for q in range(num):
        for i in range(scale.shape[0]):
            # In float32: at a thousand channels 128 times a plane's product leaves int32.
            value = np.float32(both[q, i]) * np.float32(128) + np.float32(both[num + q, i])
            found[q, i] = value * unit[q] * scale[i]


@jit
def _code_lengths(codes: npt.NDArray[np.int8], scale: FloatRows, lengths: FloatRows) -> None:
    for i in range(codes.shape[0]):
        total = np.int32(0)
        for j in range(codes.shape[1]):
            total += np.int32(codes[i, j]) * np.int32(codes[i, j])
        lengths[i] = np.sqrt(np.float32(total)) * scale[i]
