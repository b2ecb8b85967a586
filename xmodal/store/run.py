"""The RUN folder: what `lift` and `train` leave behind, and how it is verified.

    RUN/graph.yaml run.yaml         the resolved graph and run file
    RUN/points.ply                  the points; every feature store shares this row order
    RUN/gaussians.ply               splats, where features are of those; points are their centres
    RUN/features/{lifted,student}/  one feature store a node, see `xmodal.store.features`
    RUN/splats/STUDENT.ply          splats that a student shaped, in the row order of the points
    RUN/checkpoints/ metrics.csv log.jsonl
    RUN/manifest.json               sha256 of every file above, versions, fingerprint

Files are written under a temporary name, synced and renamed; `manifest.json` is written last, so
a run that was killed is recognised as unfinished.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lifting.operator import LiftOperator
from xmodal.atomic import sha256_file, write_json
from xmodal.errors import DataError, UsageError
from xmodal.store.features import (
    FeatureInfo,
    Features,
    differences,
    open_features,
    open_sets,
    read_info,
    write_store,
)
from xmodal.store.frames import frame_arrays, frame_info, read_frames
from xmodal.store.rows import Codec
from xmodal.values import Frames, PointSets

_VERSIONED = ("xmodal", "torch", "numpy", "numba", "timm", "onnxruntime", "open_clip_torch")


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
    def gaussians(self) -> Path:
        """The splats of a run over splats, in the row order of the points: their centres."""
        return self.path / "gaussians.ply"

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

    def write_features(
        self,
        source: str,
        info: FeatureInfo,
        *,
        made_from: Mapping[str, Any] | None = None,
        codec: Codec = "fp16",
        **arrays: npt.NDArray[Any],
    ) -> None:
        """Store rows and their bookkeeping under `features/SOURCE`, replacing what was there.

        Args:
            source: Node of the graph.
            info: What the rows are; the errors of the codec are measured and filled in.
            made_from: What the fingerprint is a hash of, to name what differs later.
            codec: How rows are stored.
            **arrays: `rows [N, C]` in any float dtype (may be a memory map), `valid`, `weight`,
                `num_views`, `disagreement` and, where points have them, `segments`.

        Raises:
            DataError: If rows are not finite, do not fit the codec, or cannot be written.
        """
        folder = self.path / "features" / source
        write_store(folder, replace(info, codec=codec), made_from or {}, arrays)

    def write_sets(
        self,
        source: str,
        info: FeatureInfo,
        sets: PointSets,
        *,
        made_from: Mapping[str, Any] | None = None,
        codec: Codec = "fp16",
    ) -> None:
        """Store point sets under `features/SOURCE`; numbers of `info` are set from the value.

        Raises:
            UsageError: If the codec is `segments`, which needs points.
            DataError: As `write_features`.
        """
        if codec == "segments":
            raise UsageError(
                f"codec segments for node {source!r}",
                wanted="fp16, bf16, int8, pq64 or components for sets of points",
                got="segments, which shares a row among points",
                fix="store: {codec: fp16}",
            )
        pattern = sets.membership
        info = replace(
            info,
            codec=codec,
            kind="point_sets",
            channels=sets.rows.shape[1],
            num_points=len(sets.rows),
            num_valid=int(sets.valid.sum()),
            num_sources=pattern.num_sources,
        )
        tensors = {
            "rows": sets.rows,
            "valid": sets.valid,
            "weight": sets.weight,
            "crow": pattern.crow,
            "col": pattern.col,
            "membership_weight": pattern.weight,
        }
        marks = {"groups": sets.groups, "views": sets.views}
        tensors |= {name: mark for name, mark in marks.items() if mark is not None}
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
        write_store(self.path / "features" / source, info, made_from or {}, arrays)

    def features(self, source: str) -> Features:
        """Open the features of points after checking every byte of them.

        Raises:
            DataError: If they are missing, damaged, or do not fit together.
        """
        return open_features(self._store(source))

    def sets(self, source: str) -> PointSets:
        """Point sets of a node, rows in float32, after checking every byte of them.

        Raises:
            DataError: If they are missing, damaged, or do not fit together.
        """
        folder = self._store(source)
        info, arrays, rows = open_sets(folder)
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        try:
            membership = LiftOperator(
                crow=tensors["crow"],
                col=tensors["col"],
                weight=tensors["membership_weight"],
                num_sources=info.num_sources,
            )
        except ValueError as error:
            raise DataError(
                str(folder),
                wanted=f"sets among {info.num_sources} points",
                got=str(error),
                fix="lift again with --overwrite",
            ) from error
        return PointSets(
            rows=torch.from_numpy(np.asarray(rows)),
            valid=tensors["valid"],
            weight=tensors["weight"],
            membership=membership,
            groups=tensors.get("groups"),
            views=tensors.get("views"),
        )

    def write_frames(
        self,
        source: str,
        info: FeatureInfo,
        frames: Frames,
        *,
        made_from: Mapping[str, Any] | None = None,
    ) -> None:
        """Store frames under `features/SOURCE`; numbers of `info` are set from the value.

        Raises:
            DataError: As `write_features`.
        """
        folder = self.path / "features" / source
        write_store(folder, frame_info(info, frames), made_from or {}, frame_arrays(frames))

    def frames(self, source: str) -> Frames:
        """Frames of a node, rows in float32, after checking every byte of them.

        Raises:
            DataError: If they are missing, damaged, or do not fit together.
        """
        return read_frames(self._store(source))

    def drawn(self, student: str) -> Path:
        """The splats that a student shaped, in the row order of the points."""
        return self.path / "splats" / f"{student}.ply"

    def info(self, source: str) -> FeatureInfo:
        """What a store holds; nothing but its record is read."""
        return read_info(self._store(source))

    def _store(self, source: str) -> Path:
        if not self.has(source):
            have = ", ".join(self.sources()) or "none"
            raise DataError(
                str(self.path / "features" / source),
                wanted=f"features of source {source!r}",
                got=f"the run has: {have}",
                fix=f"xmodal train {self.runfile} --out {self.path}"
                if source == "student"
                else "xmodal lift SCENE --teacher embedded --out RUN",
            )
        return self.path / "features" / source

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
            if path.is_file() and not _is_volatile(path, self.path)
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


def create_run(
    path: Path,
    fingerprint: str,
    *,
    overwrite: bool,
    made_from: Mapping[str, Any] | None = None,
) -> Run:
    """Make a RUN folder ready for writing.

    Args:
        path: The folder.
        fingerprint: Of what will be written.
        overwrite: Whether a run with another fingerprint may be deleted.
        made_from: What the fingerprint is a hash of; a refusal then says what differs from the
            `made_from` in the manifest of the run that is there.

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
                got=f"a run with fingerprint {str(known)[:12]}{_differing(run, made_from)}",
                fix="give another --out, or --overwrite to replace it; nothing was changed",
            )
        if known != fingerprint:
            _clear(path)
        if known not in (None, fingerprint):
            # Of a run that never finished, scenes that are there are still good.
            for name in ("scenes", "eval"):
                shutil.rmtree(path / name, ignore_errors=True)
    path.mkdir(parents=True, exist_ok=True)
    return run


def _clear(path: Path) -> None:
    """Delete what a run consists of, and nothing else that somebody may have put beside it."""
    own = ("graph.yaml", "run.yaml", "manifest.json", "points.ply", "gaussians.ply", "log.jsonl")
    for name in own:
        (path / name).unlink(missing_ok=True)
    for name in ("features", "checkpoints", "splats"):
        shutil.rmtree(path / name, ignore_errors=True)


def _differing(run: Run, made_from: Mapping[str, Any] | None) -> str:
    old = run.manifest().get("made_from")
    if old is None or made_from is None:
        return ""
    return "".join(f"; {line}" for line in differences(old, made_from))


def _is_volatile(path: Path, root: Path) -> bool:
    # `eval` holds other scenes that a run was measured on, each with a manifest of its own.
    inside = "eval" in path.relative_to(root).parts[:1]
    return inside or path.name in {"manifest.json", "log.jsonl", ".lock"} or ".tmp-" in str(path)
