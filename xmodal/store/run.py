"""The RUN folder: what `lift` and `train` leave behind, and how it is verified.

    RUN/graph.yaml run.yaml         the resolved graph and run file
    RUN/points.ply                  the points; every feature store shares this row order
    RUN/features/{lifted,student}/  rows.npy (float16), valid, weight, num_views, disagreement,
                                    store.json
    RUN/checkpoints/ metrics.csv log.jsonl
    RUN/manifest.json               sha256 of every file above, versions, fingerprint

Files are written under a temporary name, synced and renamed; `manifest.json` is written last, so
a run that was killed is recognised as unfinished.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xmodal.atomic import atomic_folder, sha256_file, write_json
from xmodal.errors import DataError, UsageError

_VERSIONED = ("xmodal", "torch", "numpy", "numba", "timm", "onnxruntime", "open_clip_torch")
_ARRAYS = ("rows", "valid", "weight", "num_views", "disagreement")


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
        cosine_error: Largest 1 - cosine between a row as computed and as stored.
        licence: Licence of the teacher's weights.
    """

    teacher: str
    space: str
    channels: int
    num_points: int
    num_valid: int
    fingerprint: str
    cosine_error: float
    licence: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """An opened feature store. `rows` is memory-mapped float16; read it in blocks."""

    info: FeatureInfo
    rows: npt.NDArray[np.float16]
    valid: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float32]
    num_views: npt.NDArray[np.int32]
    disagreement: npt.NDArray[np.float32]

    def blocks(self, size: int = 8192) -> Iterable[tuple[slice, npt.NDArray[np.float32]]]:
        """Yield (slice, float32 rows) in order; memory is one block."""
        for start in range(0, len(self.rows), size):
            part = slice(start, min(start + size, len(self.rows)))
            yield part, np.asarray(self.rows[part], dtype=np.float32)


def fingerprint_of(**parts: object) -> str:
    """Hash named JSON-able parts, independent of their order."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Run:
    """One RUN folder."""

    path: Path

    @property
    def points(self) -> Path:
        """The PLY file whose row order every store follows."""
        return self.path / "points.ply"

    @property
    def runfile(self) -> Path:
        """The resolved run file."""
        return self.path / "run.yaml"

    @property
    def checkpoints(self) -> Path:
        """Folder of student checkpoints."""
        return self.path / "checkpoints"

    def has(self, source: str) -> bool:
        """Whether the run holds features of `source`."""
        return (self.path / "features" / source / "store.json").is_file()

    def sources(self) -> list[str]:
        """The nodes whose features the run holds, `lifted` before the students."""
        names = sorted(path.parent.name for path in self.path.glob("features/*/store.json"))
        return sorted(names, key=lambda name: name != "lifted")

    def manifest(self) -> dict[str, Any]:
        """Read `manifest.json`.

        Raises:
            DataError: If the folder is no finished run.
        """
        file = self.path / "manifest.json"
        if not file.is_file():
            raise DataError(
                str(self.path),
                wanted="a finished RUN folder (it holds manifest.json)",
                got="no manifest.json" if self.path.is_dir() else "no such folder",
                fix=f"make it with: xmodal lift SCENE --teacher embedded --out {self.path}",
            )
        try:
            return json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise DataError(
                f"{file}:{error.lineno}",
                wanted="JSON",
                got=error.msg,
                fix="the file was changed by hand or cut; lift again with --overwrite",
            ) from error

    def write_features(self, source: str, info: FeatureInfo, **arrays: npt.NDArray[Any]) -> None:
        """Store rows and their bookkeeping under `features/SOURCE`, replacing what was there.

        `rows` may be float32 (a memory map); it is converted to float16 in blocks.
        """
        final = self.path / "features" / source
        final.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(final) as work:
            worst = _write_half(work / "rows.npy", arrays["rows"])
            for name in _ARRAYS[1:]:
                np.save(work / f"{name}.npy", arrays[name])
            write_json(work / "store.json", {**asdict(info), "cosine_error": worst})

    def features(self, source: str) -> Features:
        """Open a feature store.

        Raises:
            DataError: If it is missing, cut, or its arrays do not fit together.
        """
        folder = self.path / "features" / source
        if not self.has(source):
            have = ", ".join(self.sources()) or "none"
            raise DataError(
                str(folder),
                wanted=f"features of source {source!r}",
                got=f"the run has: {have}",
                fix=f"xmodal train {self.runfile} --out {self.path}"
                if source == "student"
                else "xmodal lift SCENE --teacher embedded --out RUN",
            )
        info = FeatureInfo(**json.loads((folder / "store.json").read_text()))
        arrays = {name: load_array(folder / f"{name}.npy") for name in _ARRAYS}
        for name, array in arrays.items():
            wanted = (info.num_points, info.channels) if name == "rows" else (info.num_points,)
            if array.shape != wanted:
                raise DataError(
                    str(folder / f"{name}.npy"),
                    wanted=f"shape {wanted}",
                    got=f"shape {array.shape}",
                    fix="the store is damaged; lift again with --overwrite",
                )
        return Features(info=info, **arrays)

    def finish(self, **record: object) -> None:
        """Write the manifest: hashes of all files, versions, and what the caller adds."""
        old: dict[str, Any] = {}
        if (self.path / "manifest.json").is_file():
            old = self.manifest()
        files = {
            str(path.relative_to(self.path)): {
                "sha256": sha256_file(path),
                "bytes": path.stat().st_size,
            }
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and not _is_volatile(path)
        }
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        old.update(record, files=files, versions=versions(), written=stamp)
        write_json(self.path / "manifest.json", old)

    def verify(self) -> list[str]:
        """Re-check every hash of the manifest; the problems found, none if all is well."""
        problems: list[str] = []
        for name, entry in self.manifest()["files"].items():
            path = self.path / name
            if not path.is_file():
                problems.append(f"{name}: missing")
            elif path.stat().st_size != entry["bytes"]:
                problems.append(f"{name}: {path.stat().st_size} bytes, wanted {entry['bytes']}")
            elif sha256_file(path) != entry["sha256"]:
                problems.append(f"{name}: content changed (sha256 differs)")
        return problems


def create_run(path: Path, fingerprint: str, *, overwrite: bool) -> Run:
    """Make a RUN folder ready for writing.

    Raises:
        UsageError: If `path` holds something else, or a run with another fingerprint.
    """
    run = Run(path)
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
        known = None
        if (path / "manifest.json").is_file():
            known = run.manifest().get("fingerprint")
        is_run = known is not None or (path / "run.yaml").is_file()
        if not is_run or not path.is_dir():
            raise UsageError(
                str(path),
                wanted="a new or empty folder, or a RUN folder",
                got="a folder with other content" if path.is_dir() else "a file",
                fix="give another --out; nothing was changed",
            )
        # Without a manifest nothing was finished: a lift that was stopped simply starts again.
        if known not in (None, fingerprint) and not overwrite:
            raise UsageError(
                str(path),
                wanted=f"an empty folder or a run with fingerprint {fingerprint[:12]}",
                got=f"a run with fingerprint {str(known)[:12]}",
                fix="give another --out, or --overwrite to replace it; nothing was changed",
            )
        if known != fingerprint:
            _clear(path)
    path.mkdir(parents=True, exist_ok=True)
    return run


def _clear(path: Path) -> None:
    """Delete what a run consists of, and nothing else that somebody may have put beside it."""
    for name in ("graph.yaml", "run.yaml", "manifest.json", "points.ply", "log.jsonl"):
        (path / name).unlink(missing_ok=True)
    for name in ("features", "checkpoints"):
        shutil.rmtree(path / name, ignore_errors=True)


def _write_half(path: Path, rows: npt.NDArray[Any], block: int = 8192) -> float:
    """Convert to float16 in blocks and return the largest 1 - cosine that this cost."""
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=rows.shape)
    worst = 0.0
    for start in range(0, len(rows), block):
        part = np.asarray(rows[start : start + block], dtype=np.float32)
        half = part.astype(np.float16)
        out[start : start + block] = half
        back = half.astype(np.float32)
        norm = np.linalg.norm(part, axis=1) * np.linalg.norm(back, axis=1)
        seen = norm > 0
        if seen.any():
            cosine = (part[seen] * back[seen]).sum(1) / norm[seen]
            worst = max(worst, float(1 - cosine.min()))
    out.flush()
    del out
    return worst


def load_array(path: Path) -> npt.NDArray[Any]:
    """Memory-map a .npy file, copy-on-write; a damaged one is a DataError."""
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            str(path),
            wanted="a whole .npy array",
            got=str(error),
            fix="run `xmodal verify RUN` to see what is damaged, then lift again with --overwrite",
        ) from error


def _is_volatile(path: Path) -> bool:
    return path.name in {"manifest.json", "log.jsonl"} or ".tmp-" in str(path)
