"""Scenes whose poses are lines of one file: Replica (`traj.txt`) and TUM RGB-D.

Both give camera-to-world poses with OpenCV axes, metres.
"""

from __future__ import annotations

import bisect
import itertools
from pathlib import Path

import numpy as np

from xmodal.datasets.calibration import Matrix3, Matrix4, Pose, quaternion_pose, to_pose
from xmodal.datasets.faults import Faults
from xmodal.datasets.folder import find_intrinsics
from xmodal.datasets.frames import (
    COLOUR_SUFFIXES,
    Frame,
    Layout,
    files_by_name,
    match_names,
    no_frames,
)
from xmodal.datasets.settings import read_json
from xmodal.errors import DataError

# Replica as rendered for NICE-SLAM: 1200 x 680, 90 degrees.
_REPLICA_K = ((600.0, 0.0, 599.5), (0.0, 600.0, 339.5), (0.0, 0.0, 1.0))
# TUM's own advice for all its sequences when depth is registered, as it is in the archives.
_TUM_K = ((525.0, 0.0, 319.5), (0.0, 525.0, 239.5), (0.0, 0.0, 1.0))
# A pose further away in time than this belongs to another frame (TUM's associate.py).
_MAX_GAP_S = 0.02


def is_replica(root: Path) -> bool:
    """Whether `root` has `traj.txt` and `results/`."""
    return (root / "traj.txt").is_file() and (root / "results").is_dir()


def is_tum(root: Path) -> bool:
    """Whether `root` has `groundtruth.txt` and either `associations.txt` or `rgb.txt`."""
    lists = ("associations.txt", "associated.txt", "rgb.txt")
    return (root / "groundtruth.txt").is_file() and any((root / n).is_file() for n in lists)


def read_replica(root: Path, faults: Faults) -> Layout:
    """Find the frames of a Replica scene: `results/frameXXXXXX.jpg`, `depthXXXXXX.png`.

    Line i of `traj.txt` is the pose of frame i. Intrinsics and scale come from `intrinsic.txt` or
    `cam_params.json` (here or one folder up), else 600 px, (599.5, 339.5) and 6553.5 a metre.
    """
    everything = files_by_name(root / "results", COLOUR_SUFFIXES, Faults(root))
    colors = {n.removeprefix("frame"): p for n, p in everything.items() if n.startswith("frame")}
    depths = {n.removeprefix("depth"): p for n, p in everything.items() if n.startswith("depth")}
    names = match_names({"color": list(colors), "depth": list(depths)}, faults)
    if not names:
        faults.check()
        raise no_frames(root, "results/frameXXXXXX.jpg and results/depthXXXXXX.png")
    rows = _number_rows(root / "traj.txt", columns=16)
    if len(rows) != len(names):
        faults.add(
            root / "traj.txt",
            wanted=f"{len(names)} poses, one per frame",
            got=f"{len(rows)} poses",
            fix="complete the download; line i is the pose of frame i",
        )
    frames: list[Frame] = []
    for index, (name, row) in enumerate(zip(names, rows, strict=False)):
        pose = _pose_or_fault(np.array(row).reshape(4, 4), f"traj.txt:{index + 1}", faults)
        frames.append(
            Frame(name=name, color=colors[name], depth=depths[name], T_world_cam=pose.T_world_cam)
        )
    K, scale, files, notes = _replica_camera(root)
    return Layout(
        kind="Replica",
        frames=tuple(frames),
        K_color=K,
        depth_scale=scale,
        calibration=(root / "traj.txt", *files),
        notes=notes,
    )


def read_tum(root: Path, faults: Faults) -> Layout:
    """Find the frames of a TUM RGB-D sequence.

    Colour and depth are paired by `associations.txt`, or by nearest time from `rgb.txt` and
    `depth.txt`; the pose is the nearest in `groundtruth.txt`. Pairs and poses more than 20 ms apart
    are dropped. Depth has 5000 units a metre. Intrinsics: `intrinsic.txt`, else 525 px and
    (319.5, 239.5).
    """
    pairs = _tum_pairs(root)
    rows = _number_rows(root / "groundtruth.txt", columns=8)
    times = [row[0] for row in rows]
    if any(b <= a for a, b in itertools.pairwise(times)):
        faults.add(
            root / "groundtruth.txt",
            wanted="times that increase",
            got="a time that repeats or goes back",
            fix="sort the file and remove repeated lines",
        )
    frames: list[Frame] = []
    for time_s, color, depth in pairs:
        nearest = _nearest(times, time_s)
        matrix = None
        if nearest is not None:
            row = rows[nearest]
            matrix = quaternion_pose(row[1:4], row[4:8])
        pose = Pose(T_world_cam=None) if matrix is None else _pose_or_fault(matrix, color, faults)
        frames.append(
            Frame(
                name=Path(color).stem,
                color=root / color,
                depth=root / depth,
                T_world_cam=pose.T_world_cam,
                time_s=time_s,
            )
        )
    if not frames:
        raise no_frames(root, "pairs of colour and depth less than 20 ms apart")
    K, files, notes = _or_default(root, _TUM_K, "525 px and centre (319.5, 239.5), TUM's default")
    return Layout(
        kind="TUM RGB-D",
        frames=tuple(frames),
        K_color=K,
        depth_scale=5000.0,
        calibration=(root / "groundtruth.txt", *files),
        notes=notes,
    )


def _tum_pairs(root: Path) -> list[tuple[float, str, str]]:
    for name in ("associations.txt", "associated.txt"):
        if (root / name).is_file():
            lines = _word_rows(root / name, columns=4)
            return [_tum_pair(words, root / name) for words in lines]
    colors, depths = (_word_rows(root / name, columns=2) for name in ("rgb.txt", "depth.txt"))
    times = [_number(words[0], root / "depth.txt") for words in depths]
    pairs: list[tuple[float, str, str]] = []
    for words in colors:
        time_s = _number(words[0], root / "rgb.txt")
        nearest = _nearest(times, time_s)
        if nearest is not None:
            pairs.append((time_s, words[1], depths[nearest][1]))
    return pairs


def _tum_pair(words: list[str], root: Path) -> tuple[float, str, str]:
    """One association; either sensor may come first."""
    first, second = (words[0], words[1]), (words[2], words[3])
    if "depth" in first[1]:
        first, second = second, first
    return _number(first[0], root), first[1], second[1]


def _nearest(times: list[float], time_s: float) -> int | None:
    right = bisect.bisect_left(times, time_s)
    near = [i for i in (right - 1, right) if 0 <= i < len(times)]
    best = min(near, key=lambda i: abs(times[i] - time_s), default=None)
    return best if best is not None and abs(times[best] - time_s) <= _MAX_GAP_S else None


def _pose_or_fault(matrix: Matrix4, where: str, faults: Faults) -> Pose:
    try:
        return to_pose(matrix, where)
    except DataError as error:
        faults.add_error(error)
        return Pose(T_world_cam=None)


def _replica_camera(root: Path) -> tuple[Matrix3, float, tuple[Path, ...], tuple[str, ...]]:
    for path in (root / "cam_params.json", root.parent / "cam_params.json"):
        if path.is_file():
            data = read_json(path)
            camera = data.get("camera", {}) if isinstance(data, dict) else {}
            try:
                fx, fy, cx, cy = (float(camera[key]) for key in ("fx", "fy", "cx", "cy"))
                scale = float(camera.get("scale", 6553.5))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    str(path),
                    wanted="camera: {fx, fy, cx, cy, scale}",
                    got=f"{type(error).__name__}: {error}",
                    fix="take cam_params.json from the download",
                ) from error
            return np.array(((fx, 0, cx), (0, fy, cy), (0, 0, 1.0))), scale, (path,), ()
    K, files, notes = _or_default(root, _REPLICA_K, "600 px and centre (599.5, 339.5), Replica's")
    return K, 6553.5, files, notes


def _or_default(
    root: Path, default: tuple[tuple[float, ...], ...], words: str
) -> tuple[Matrix3, tuple[Path, ...], tuple[str, ...]]:
    try:
        K, _, files = find_intrinsics(root)
    except DataError as error:
        if error.got != "no such file":
            raise
        return np.array(default), (), (f"no intrinsics: {words}",)
    return K, files, ()


def _word_rows(path: Path, *, columns: int) -> list[list[str]]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise _wrong(path, "a readable text file", str(error)) from error
    rows = [line.replace(",", " ").split() for line in lines]
    for number, row in enumerate(rows, start=1):
        if row and not row[0].startswith("#") and len(row) < columns:
            raise _wrong(path, f"{columns} columns", f"{len(row)} in line {number}")
    return [row for row in rows if row and not row[0].startswith("#")]


def _number_rows(path: Path, *, columns: int) -> list[list[float]]:
    return [[_number(w, path) for w in row[:columns]] for row in _word_rows(path, columns=columns)]


def _number(word: str, path: Path) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise _wrong(path, "numbers", repr(word)) from error


def _wrong(path: Path, wanted: str, got: str) -> DataError:
    return DataError(str(path), wanted=wanted, got=got, fix="correct or download this file again")
