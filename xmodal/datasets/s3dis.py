"""S3DIS, aligned version 1.2: rooms as text files of points, one file a thing.

`Area_N/ROOM/ROOM.txt` has all points as `x y z r g b` (metres, z up, colours 0-255), and
`Area_N/ROOM/Annotations/CLASS_i.txt` the same points by thing. Where there are annotations they are
read instead, in natural order of names, so that each point has a class and a thing.

Source:
    Armeni et al., 3D Semantic Parsing of Large-Scale Indoor Spaces, CVPR 2016.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray

from xmodal.atomic import write_json
from xmodal.datasets.frames import natural_key
from xmodal.errors import DataError
from xmodal.ply import PlyCloud, write_points
from xmodal.values import Points

S3DIS = (
    "ceiling",
    "floor",
    "wall",
    "beam",
    "column",
    "window",
    "door",
    "table",
    "chair",
    "sofa",
    "bookcase",
    "board",
    "clutter",
)
"""The 13 classes, in the order in which results are given."""

# Stairs occur in a few rooms and are clutter to everyone who reports results.
_ALIKE = {"stairs": "clutter"}


def is_room(root: Path) -> bool:
    """Whether a folder is a room, going by the names of its files."""
    return bool(room_files(root))


def room_files(root: Path) -> tuple[Path, ...]:
    """The files of a room: those of its things, else the one of all points; empty if no room."""
    folder = root / "Annotations"
    things = folder.glob("*_*.txt") if folder.is_dir() else ()
    found = sorted((p for p in things if p.name[0] != "."), key=lambda p: natural_key(p.name))
    # ScanNet, too, has a text file of the scene's name, which holds no points.
    whole = root / f"{root.name}.txt"
    is_whole = whole.is_file() and root.parent.name.startswith("Area_")
    return tuple(found) or ((whole,) if is_whole else ())


def read_room(root: Path) -> PlyCloud:
    """Read a room: a second or so a million points, ten times as long as `convert_room` leaves it.

    Args:
        root: The room's folder.

    Returns:
        The points, with the scalars `label` (index into `S3DIS`) and `instance` where the room
        has annotations. Points that are not finite are left out and counted.

    Raises:
        DataError: If a file is damaged (naming the line), a thing is of no known class, or the room
            has no points.
    """
    files = room_files(root)
    annotated = bool(files) and files[0].parent != root
    tables = [_table(path) for path in files]
    sizes = [len(table) for table in tables]
    if not sum(sizes):
        raise _wrong(root, "a room with points", f"{len(files)} files without any")
    rows = np.concatenate(tables)
    kept = np.isfinite(rows).all(axis=1)
    rows = rows[kept]
    scalars: dict[str, NDArray[np.int32]] = {}
    if annotated:
        classes = np.array([_class_of(path) for path in files], dtype=np.int32)
        scalars["label"] = np.repeat(classes, sizes)[kept]
        scalars["instance"] = np.repeat(np.arange(len(files), dtype=np.int32), sizes)[kept]
    points = Points(
        xyz=torch.from_numpy(rows[:, :3].astype(np.float32)),
        offsets=torch.tensor([0, len(rows)]),
        rgb=torch.from_numpy((rows[:, 3:] / 255.0).astype(np.float32)),
    )
    return PlyCloud(points=points, kept=torch.from_numpy(kept), scalars=scalars)


def convert_room(root: Path, out: Path) -> Path:
    """Write a room as a scene that opens at once: `points.ply` with labels, and `classes.json`.

    Args:
        root: The room's folder, `Area_N/ROOM`.
        out: Where to put the scene, as `Area_N_ROOM`: names of rooms repeat from area to area.

    Returns:
        The scene folder.

    Raises:
        DataError: If the room is damaged, or the folder cannot be written.
    """
    if not is_room(root):
        got = "no such folder" if not root.is_dir() else "neither Annotations/ nor ROOM.txt"
        raise _wrong(root, "a room of S3DIS, Area_N/ROOM", got)
    room = read_room(root)
    folder = out / f"{root.resolve().parent.name}_{root.resolve().name}"
    folder.mkdir(parents=True, exist_ok=True)
    scalars = {name: torch.from_numpy(values) for name, values in room.scalars.items()}
    write_points(folder / "points.ply", room.points, scalars=scalars)
    if scalars:
        write_json(folder / "classes.json", list(S3DIS))
    return folder


def _class_of(path: Path) -> int:
    name = path.stem.rpartition("_")[0].lower()
    name = _ALIKE.get(name, name)
    if name not in S3DIS:
        raise _wrong(path, f"CLASS_i.txt with one of {', '.join(S3DIS)}", repr(path.stem))
    return S3DIS.index(name)


def _table(path: Path) -> Float64[NDArray[np.float64], "N 6"]:
    try:
        with warnings.catch_warnings():
            # An empty file is a thing without points, which does no harm.
            warnings.filterwarnings("ignore", message=".*input contained no data")
            rows = np.loadtxt(path, dtype=np.float64, comments=None, ndmin=2, encoding="latin1")
    except OSError as error:
        raise _wrong(path, "a readable text file", str(error)) from error
    except ValueError as error:
        raise _line_fault(path, str(error)) from error
    if not rows.size:
        return np.empty((0, 6))
    if rows.shape[1] != 6:
        raise _wrong(path, "six columns, x y z r g b", f"{rows.shape[1]} columns")
    colours = rows[:, 3:]
    bad = np.nonzero(((colours < 0) | (colours > 255)).any(axis=1))[0]
    if len(bad):
        shown = " ".join(f"{value:g}" for value in colours[bad[0]])
        raise _wrong(path, "colours from 0 to 255", f"{shown} in row {bad[0] + 1}")
    return rows


def _line_fault(path: Path, message: str) -> DataError:
    """Find the first line that is not six numbers: the known one has a control character in it."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                fits = not line.strip() or len([float(word) for word in line.split()]) == 6
            except ValueError:
                fits = False
            if not fits:
                got = f"{line.strip()[:60]!r} in line {number}"
                return _wrong(f"{path}:{number}", "six numbers a line, x y z r g b", got)
    return _wrong(path, "six numbers a line, x y z r g b", message)


def _wrong(where: Path | str, wanted: str, got: str) -> DataError:
    fix = "correct the line (Area_5/hallway_6 is known for one), or unpack the archive again"
    return DataError(str(where), wanted=wanted, got=got, fix=fix)
