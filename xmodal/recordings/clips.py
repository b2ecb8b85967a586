"""Your own recordings: all files of one stem are one recording.

NAME.mp4                            film: frames, and sound where it has any
NAME.wav, NAME_audio.wav            sound
NAME_imu.npz, NAME_imu.csv          accelerations and rates of turn
NAME_skeleton.npz                   joints
labels.csv                          optional: name, label, group, text; all but name may lack
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from xmodal.errors import DataError
from xmodal.graph.ports import Kind
from xmodal.recordings.ragged import Stream
from xmodal.recordings.recording import Recording, Recordings
from xmodal.recordings.sound_folders import SOUNDS

FILMS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
_MOTION = (".csv", ".npz", ".mat")
_SUFFIXES: tuple[Kind, ...] = ("audio", "imu", "skeleton", "video")
_TABLE = "labels.csv"


def open_clips(
    folder: Path, *, film_every_s: float = 0.0, max_side_px: int | None = None
) -> Recordings:
    """The recordings of a folder, by the stems of its files.

    Args:
        folder: Where they lie.
        film_every_s: Frames of films that are nearer than this are left out; 0 keeps all.
        max_side_px: Frames are made smaller, so that no side is longer.

    Raises:
        DataError: If there are none, one has two files for a stream, or the table does not fit.
    """
    found: dict[str, dict[Kind, Path]] = {}
    for path in sorted(path for path in folder.glob("*") if path.is_file()):
        known = _kind_of(path)
        if known is None:
            continue
        name, kind = known
        mine = found.setdefault(name, {})
        if kind in mine:
            raise DataError(
                str(path),
                wanted=f"one file with the {kind} of {name}",
                got=f"{path.name} beside {mine[kind].name}",
                fix="rename or remove one of the two",
            )
        mine[kind] = path
    if not found:
        raise DataError(
            str(folder),
            wanted="files such as NAME.wav, NAME.mp4, NAME_imu.npz, NAME_skeleton.npz",
            got="none" if folder.is_dir() else "no such folder",
            fix="check the path and the names of the files",
        )
    told = _table(folder / _TABLE, found)
    frames = partial(_read_film, every_s=film_every_s or None, max_side=max_side_px)
    items = [_recording(n, paths, told.get(n, {}), frames) for n, paths in found.items()]
    classes = tuple(sorted({item.label for item in items if item.label is not None}))
    return Recordings(name=folder.name, items=tuple(items), classes=classes)


def _kind_of(path: Path) -> tuple[str, Kind] | None:
    """The recording that a file belongs to, and the stream that it holds."""
    suffix = path.suffix.lower()
    if path.name == _TABLE or suffix not in (*FILMS, *SOUNDS, *_MOTION):
        return None
    for kind in _SUFFIXES:
        if path.stem.endswith(f"_{kind}"):
            return path.stem.removesuffix(f"_{kind}"), kind
    if suffix in FILMS:
        return path.stem, "video"
    return (path.stem, "audio") if suffix in SOUNDS else (path.stem, "imu")


def _table(path: Path, found: Mapping[str, object]) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and "name" not in rows[0]:
        raise DataError(
            str(path),
            wanted="a column `name`, and label, group or text beside it",
            got=f"columns {', '.join(rows[0])}",
            fix="write a first line such as name,label,group",
        )
    names = [row["name"] for row in rows]
    for wrong, wanted in (
        ([n for n in names if n not in found], f"names among {', '.join(list(found)[:8])}"),
        ([n for n in names if names.count(n) > 1], "each recording once"),
    ):
        if wrong:
            raise DataError(
                str(path), wanted=wanted, got=", ".join(dict.fromkeys(wrong)), fix="correct the row"
            )
    return {row["name"]: {k: v for k, v in row.items() if v} for row in rows}


def _recording(
    name: str,
    paths: Mapping[Kind, Path],
    told: Mapping[str, str],
    frames: Callable[[Path], Stream],
) -> Recording:
    streams: dict[Kind, Callable[[], Stream]] = {
        kind: partial(_read, kind, path) for kind, path in paths.items() if kind != "video"
    }
    film = paths.get("video")
    if film is not None:
        streams["video"] = partial(frames, film)
    if film is not None and "audio" not in paths and _has_sound(film):
        streams["audio"] = partial(_read, "audio", film)
    return Recording(
        name=name,
        group=told.get("group", name),
        label=told.get("label"),
        text=told.get("text"),
        streams=streams,
        files=tuple(paths.values()),
    )


def _has_sound(film: Path) -> bool:
    from xmodal.recordings.films import open_film

    with open_film(film, "video") as opened:
        return len(opened.streams.audio) > 0


def _read(kind: Kind, path: Path) -> Stream:
    if kind == "audio":
        from xmodal.recordings.audio_files import read_audio

        return read_audio(path)
    if kind == "imu":
        from xmodal.recordings.imu_files import read_imu

        return read_imu(path)
    from xmodal.recordings.skeleton_files import read_skeleton

    return read_skeleton(path)


def _read_film(path: Path, *, every_s: float | None, max_side: int | None) -> Stream:
    from xmodal.recordings.video_files import read_video

    return read_video(path, every_s=every_s, max_side=max_side)
