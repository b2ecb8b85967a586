"""One feature store: a folder of rows with their bookkeeping, and `store.json` that vouches for it.

rows.npy                        the features, by codec (see `xmodal.store.codecs`)
valid weight num_views disagreement .npy     one number a point
offsets.npy grid_hw.npy         where the rows of each recording begin, and the shape of maps
segments.npy                    super-point or mask of every point, where points have them
crow col membership_weight .npy the points of every set, in stores of point sets
                                of frames, the rows that every pixel reads, beside `_PER_FRAMES`
groups views .npy               mask and view of every set, where sets have them
store.json                      what it is, what it was made from, SHA-256 of every chunk
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from xmodal.atomic import atomic_folder, locked, write_json
from xmodal.errors import DataError
from xmodal.store.arrays import load_array
from xmodal.store.codecs import CODECS, HalfRows
from xmodal.store.digests import check_file, digest_file
from xmodal.store.rows import (
    Array,
    Codec,
    FloatRows,
    LazyRows,
    StoredRows,
    check_shape,
    cosine_errors,
)

SCHEMA = 2
_RECORD = "store.json"
_PER_POINT = ("valid", "weight", "num_views", "disagreement")
_MEMBERSHIP = ("crow", "col", "membership_weight")
# Of sets, where they have them; stores that were written without them open as before.
_PER_SET = ("groups", "views")
# Pixels, cameras, and where the rows of each view begin.
_PER_FRAMES = ("rgb", "depth_m", "inside", "hw", "K", "T_world_cam", "offsets")
# A record lists one hash for 4 MiB of data; one larger than this is not ours.
_MAX_RECORD_BYTES = 64 << 20
_LIFT_AGAIN = "lift again with --overwrite"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FeatureInfo:
    """What a feature store holds and where it came from.

    Attributes:
        teacher: Teacher name, as given on the command line.
        space: `unit`, `simplex` or `raw`.
        channels: Width of a row.
        num_points: Number of rows, valid or not.
        num_valid: Rows that at least one view observed.
        fingerprint: sha256 over teacher, graph and frames.
        cosine_error: Largest 1 - cosine between a row as computed and as stored; set on writing.
        licence: Licence of the teacher's weights.
        codec: How rows are stored.
        cosine_error_mean: The mean of that error over observed rows; set on writing.
        classes: Names of the channels when rows are class probabilities, else empty.
        kind: What a row belongs to: a point, a set of points, a view of frames, or a recording.
        num_sources: Points that sets are made of, pixels of frames, or recordings; 0 in a store of
            points.
    """

    teacher: str
    space: str
    channels: int
    num_points: int
    num_valid: int
    fingerprint: str
    cosine_error: float
    licence: str = ""
    codec: Codec = "fp16"
    cosine_error_mean: float = 0.0
    classes: tuple[str, ...] = ()
    kind: Literal["points", "point_sets", "frames", "recordings"] = "points"
    num_sources: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """An opened feature store. `rows` is decoded where it is indexed; read it in blocks.

    `made_from` says in words what the fingerprint is a hash of.
    """

    info: FeatureInfo
    rows: StoredRows
    valid: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float32]
    num_views: npt.NDArray[np.int32]
    disagreement: npt.NDArray[np.float32]
    segments: npt.NDArray[np.int32] | None
    made_from: Mapping[str, Any]

    def blocks(self, size: int = 8192) -> Iterable[tuple[slice, FloatRows]]:
        """Yield (slice, float32 rows) in order; memory is one block."""
        return self.rows.blocks(size)

    def take(self, index: npt.NDArray[np.integer[Any]]) -> FloatRows:
        """Rows by number, in float32; only these are decoded."""
        return self.rows.take(index)

    def lazy(self) -> LazyRows:
        """Rows that a tensor of row numbers is looked up in, step after step."""
        return LazyRows(self.rows)

    def tensor(self) -> Float[Tensor, "N C"]:
        """All rows: float16 over the mapped file for `fp16`, else decoded to float32 in memory."""
        if isinstance(self.rows, HalfRows):
            return torch.from_numpy(np.asarray(self.rows.mapped))
        return torch.from_numpy(np.asarray(self.rows))

    def check_made_from(self, where: str, wanted: Mapping[str, Any]) -> None:
        """Refuse features that were made from something else.

        Args:
            where: Name of the store, for the message.
            wanted: What `made_from` must be.

        Raises:
            DataError: Naming every part that differs.
        """
        if found := differences(self.made_from, wanted):
            raise DataError(
                where,
                wanted="features of this teacher, graph and these frames",
                got="; ".join(found),
                fix=_LIFT_AGAIN,
            )


def fingerprint_of(**parts: object) -> str:
    """Hash named JSON-able parts, independent of their order."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Every leaf in which two nested mappings differ, as `a.b: OLD in the store, NEW now`."""
    old, new = _leaves(stored), _leaves(wanted)
    return [
        f"{name}: {old.get(name, 'nothing')} in the store, {new.get(name, 'nothing')} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def write_store(
    folder: Path, info: FeatureInfo, made_from: Mapping[str, Any], arrays: Mapping[str, Array]
) -> None:
    """Write a store, whole or not at all; it replaces an older one in one step.

    Args:
        folder: The store's folder.
        info: What it holds; both cosine errors are measured here.
        made_from: What the fingerprint is a hash of, JSON-able.
        arrays: `rows [N, C]` in any float dtype (may be a memory map), the four numbers of every
            point, and optionally `segments [N]`, or a membership and what sets have.

    Raises:
        DataError: If rows are not finite, do not fit the codec, or cannot be written.
    """
    rows, kind = arrays["rows"], CODECS[info.codec]
    side = {name: array for name, array in arrays.items() if name != "rows"}
    if (segments := side.get("segments")) is not None:
        side["segments"] = np.asarray(segments, dtype=np.int32)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / ".lock"), atomic_folder(folder) as work:
        kind.write(work, rows, **{name: side.get(name) for name in ("valid", "weight", "segments")})
        for name, array in side.items():
            np.save(work / f"{name}.npy", array)
        stored = kind.open(work, (len(rows), info.channels))
        mean, worst = cosine_errors(rows, stored, side.get("valid"))
        del stored
        info = replace(info, cosine_error=worst, cosine_error_mean=mean)
        body = {
            "schema": SCHEMA,
            "info": asdict(info),
            "made_from": json.loads(json.dumps(made_from, default=str)),
            "files": {
                path.name: digest_file(path, len(load_array(path)))
                for path in sorted(work.glob("*.npy"))
            },
        }
        write_json(work / _RECORD, {**body, "sha256": fingerprint_of(**body)})


def open_features(folder: Path) -> Features:
    """Open a store of points after checking every byte of it.

    Raises:
        DataError: If it is missing, damaged, of another schema, or its arrays do not fit together.
    """
    return _steady(folder, _open_points)


def open_sets(folder: Path) -> tuple[FeatureInfo, dict[str, Array], StoredRows]:
    """Open a store of point sets: what it is, its arrays by name, and its rows.

    Raises:
        DataError: As `open_features`.
    """
    return _steady(folder, _open_sets)


def open_frames(folder: Path) -> tuple[FeatureInfo, dict[str, Array], StoredRows]:
    """Open a store of frames: what it is, its arrays by name, and its rows.

    Raises:
        DataError: As `open_features`.
    """
    return _steady(folder, _open_frames)


def open_samples(folder: Path) -> tuple[FeatureInfo, dict[str, Array], StoredRows]:
    """Open a store of recordings: what it is, its arrays by name, and its rows.

    Raises:
        DataError: As `open_features`.
    """
    return _steady(folder, _open_samples)


def read_info(folder: Path) -> FeatureInfo:
    """What a store holds, from its record alone; nothing else is read."""
    return _info(folder, _read_record(folder))


def _open_points(folder: Path) -> Features:
    record, info = _checked(folder, "points")
    arrays = {name: load_array(folder / f"{name}.npy") for name in _PER_POINT}
    if "segments.npy" in record["files"]:
        arrays["segments"] = load_array(folder / "segments.npy")
    for name, array in arrays.items():
        check_shape(folder / f"{name}.npy", array, (info.num_points,))
    return Features(
        info=info,
        rows=CODECS[info.codec].open(folder, (info.num_points, info.channels)),
        valid=arrays["valid"],
        weight=arrays["weight"],
        num_views=arrays["num_views"],
        disagreement=arrays["disagreement"],
        segments=arrays.get("segments"),
        made_from=record["made_from"],
    )


def _open_sets(folder: Path) -> tuple[FeatureInfo, dict[str, Array], StoredRows]:
    record, info = _checked(folder, "point_sets")
    given = [name for name in _PER_SET if f"{name}.npy" in record["files"]]
    names = ("valid", "weight", *_MEMBERSHIP, *given)
    arrays = {name: load_array(folder / f"{name}.npy") for name in names}
    lengths = dict.fromkeys(("valid", "weight", *given), info.num_points)
    lengths["crow"] = info.num_points + 1
    for name, length in lengths.items():
        check_shape(folder / f"{name}.npy", arrays[name], (length,))
    check_shape(folder / "membership_weight.npy", arrays["membership_weight"], arrays["col"].shape)
    return info, arrays, CODECS[info.codec].open(folder, (info.num_points, info.channels))


def _open_frames(folder: Path) -> tuple[FeatureInfo, dict[str, Array], StoredRows]:
    _, info = _checked(folder, "frames")
    names = ("valid", "weight", *_MEMBERSHIP, *_PER_FRAMES)
    arrays = {name: load_array(folder / f"{name}.npy") for name in names}
    num, pixels, views = info.num_points, info.num_sources, len(arrays["hw"])
    shapes: dict[str, tuple[int, ...]] = {
        "valid": (num,), "weight": (num,), "crow": (pixels + 1,), "rgb": (pixels, 3),
        "depth_m": (pixels,), "inside": (pixels,), "hw": (views, 2), "K": (views, 3, 3),
        "T_world_cam": (views, 4, 4), "offsets": (views + 1,),
        "membership_weight": arrays["col"].shape,
    }  # fmt: skip
    for name, shape in shapes.items():
        check_shape(folder / f"{name}.npy", arrays[name], shape)
    return info, arrays, CODECS[info.codec].open(folder, (num, info.channels))


def _open_samples(folder: Path) -> tuple[FeatureInfo, dict[str, Array], StoredRows]:
    record, info = _checked(folder, "recordings")
    names = ["valid", "weight", "offsets"]
    names += ["grid_hw"] if "grid_hw.npy" in record["files"] else []
    arrays = {name: load_array(folder / f"{name}.npy") for name in names}
    shapes = {"valid": (info.num_points,), "weight": (info.num_points,)}
    shapes["offsets"] = (info.num_sources + 1,)
    for name, shape in shapes.items():
        check_shape(folder / f"{name}.npy", arrays[name], shape)
    return info, arrays, CODECS[info.codec].open(folder, (info.num_points, info.channels))


def _checked(folder: Path, kind: str) -> tuple[dict[str, Any], FeatureInfo]:
    """A store's record, after its files were compared with it."""
    record = _read_record(folder)
    info = _info(folder, record)
    if info.kind != kind:
        raise DataError(
            str(folder),
            wanted=f"a store of {kind}",
            got=f"a store of {info.kind}",
            fix="ask for another node of the graph",
        )
    for name, entry in record["files"].items():
        check_file(folder / name, entry)
    return record, info


def _info(folder: Path, record: Mapping[str, Any]) -> FeatureInfo:
    found = record["info"]
    known = {field.name for field in fields(FeatureInfo)}
    if found.keys() != known or found["codec"] not in CODECS:
        odd = sorted(found.keys() ^ known) or [f"codec {found['codec']}"]
        raise _unreadable(folder, "the entries of this version", ", ".join(odd))
    # JSON has lists only, and the names must not change while others hold them.
    entries: dict[str, Any] = {**found, "classes": tuple(found["classes"])}
    return FeatureInfo(**entries)


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / _RECORD
    try:
        if path.stat().st_size > _MAX_RECORD_BYTES:
            raise _unreadable(folder, "a record of a store", f"{path.stat().st_size} bytes")
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(folder, "a readable record", error.strerror or str(error)) from error
    except ValueError as error:
        raise _unreadable(folder, "JSON", str(error)) from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        got = "an older one without checksums" if schema is None else f"schema {schema}"
        raise _unreadable(folder, f"a store of schema {SCHEMA}", got)
    body = {key: value for key, value in record.items() if key != "sha256"}
    if record.get("sha256") != fingerprint_of(**body):
        raise _unreadable(folder, "the record that was written", "a changed one (SHA-256)")
    return record


def _steady(folder: Path, read: Callable[[Path], T]) -> T:
    """Read a folder that a writer may replace at any time: all of the old one or all of the new."""
    while True:
        before = _identity(folder)
        try:
            found = read(folder)
        except DataError:
            if _identity(folder) == before:
                raise
            continue
        if _identity(folder) == before:
            return found


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        stat = folder.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_ctime_ns


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= _leaves(value, f"{prefix}{key}.")
        else:
            found[prefix + str(key)] = json.dumps(value, default=str)
    return found


def _unreadable(folder: Path, wanted: str, got: str) -> DataError:
    return DataError(str(folder / _RECORD), wanted=wanted, got=got, fix=_LIFT_AGAIN)
