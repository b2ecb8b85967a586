"""Your own recordings: all files of one stem are one recording.

NAME.mp4                            film: frames, and sound where it has any
NAME.wav, NAME_audio.wav            sound
NAME_imu.npz, NAME_imu.csv          accelerations and rates of turn
NAME_skeleton.npz                   joints
labels.csv                          optional: name, label, group, text; all but name may lack
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from xmodal.errors import DataError
from xmodal.graph.ports import Kind
from xmodal.recordings.alignment import delayed
from xmodal.recordings.clocks import ClockLag, find_clocks
from xmodal.recordings.cutting import Cutting, KeptStreams, pieces
from xmodal.recordings.ragged import Stream
from xmodal.recordings.recording import Recording, Recordings
from xmodal.recordings.sound_folders import SOUNDS
from xmodal.recordings.spans import Span, span_of
from xmodal.recordings.tables import read_rows
from xmodal.values import Audio, Imu

FILMS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
_MOTION = (".csv", ".npz", ".mat")
_SUFFIXES: tuple[Kind, ...] = ("audio", "imu", "skeleton", "video")
_TABLE = "labels.csv"


def open_clips(
    folder: Path,
    *,
    film_every_s: float = 0.0,
    max_side_px: int | None = None,
    align_within_s: float = 0.0,
    cut_s: float | None = None,
    hop_s: float | None = None,
) -> Recordings:
    """The recordings of a folder, by the stems of its files.

    Args:
        folder: Where they lie.
        film_every_s: Frames of films that are nearer than this are left out; 0 keeps all.
        max_side_px: Frames are made smaller, so that no side is longer.
        align_within_s: Look for lags up to this between a film and the files beside it, and put
            these on the film's clock; 0 believes their time stamps. See `find_clocks`.
        cut_s: Cut every recording into pieces as long as this, each a recording; see `pieces`.
        hop_s: Time from one piece to the next; as long as a piece if not given.

    Raises:
        DataError: If there are none, one has two files for a stream, the table does not fit, or a
            recording is shorter than a piece.
    """
    found = find_files(folder)
    told = _table(folder / _TABLE, found)
    frames = partial(_read_film, every_s=film_every_s or None, max_side=max_side_px)
    items = [_recording(n, paths, told.get(n, {}), frames) for n, paths in found.items()]
    if align_within_s:
        clocks = clocks_of(found, align_within_s)
        items = [_aligned(item, clocks[item.name]) for item in items]
    if cut_s is not None:
        how, kept = Cutting(cut_s=cut_s, hop_s=hop_s or cut_s), KeptStreams()
        items = [
            piece
            for item in items
            for piece in pieces(item, _spans(item, found[item.name]), how, kept)
        ]
    classes = tuple(sorted({item.label for item in items if item.label is not None}))
    return Recordings(name=folder.name, items=tuple(items), classes=classes)


def find_files(folder: Path) -> dict[str, dict[Kind, Path]]:
    """The files of every recording of a folder, by what they hold.

    Args:
        folder: Where they lie.

    Raises:
        DataError: If there are none, or a recording has two for a stream.
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
    return found


def clocks_of(
    found: Mapping[str, Mapping[Kind, Path]], max_lag_s: float
) -> dict[str, tuple[ClockLag, ...]]:
    """The lags of all files that lie beside a film that they can be compared with.

    Args:
        found: As `find_files` gives them.
        max_lag_s: Largest lag to look for, either way.
    """
    return {
        name: find_clocks(
            name, paths, max_lag_s, sounds="audio" in paths and _film_sounds(paths.get("video"))
        )
        for name, paths in found.items()
    }


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
    layout = "a column `name`, and label, group or text beside it, such as name,label,group"
    rows = read_rows(path, ("name",), layout)
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


def _aligned(item: Recording, clocks: tuple[ClockLag, ...]) -> Recording:
    """The recording with its files on the film's clock, as far as lags are believed."""
    late = {clock.stream: clock.seconds for clock in clocks if clock.trusted}
    streams = {
        kind: partial(_moved, reader, -late[kind]) if kind in late else reader
        for kind, reader in item.streams.items()
    }
    made = ", ".join(f"{kind} {-seconds:+.6f} s" for kind, seconds in late.items())
    return replace(item, streams=streams, made=made, clocks=clocks)


def _moved(reader: Callable[[], Stream], seconds: float) -> Stream:
    stream = reader()
    if isinstance(stream, Imu):
        return delayed(stream, seconds)
    return delayed(stream, seconds) if isinstance(stream, Audio) else stream


def _spans(item: Recording, paths: Mapping[Kind, Path]) -> dict[Kind, Span]:
    """From when to when its streams are there, on the film's clock."""
    late = {clock.stream: clock.seconds for clock in item.clocks if clock.trusted}
    spans: dict[Kind, Span] = {}
    for kind in item.streams:
        # The sound of a film is in its file.
        start_s, end_s = span_of(kind, paths[kind] if kind in paths else paths["video"])
        spans[kind] = (start_s - late.get(kind, 0.0), end_s - late.get(kind, 0.0))
    return spans


def _film_sounds(film: Path | None) -> bool:
    return film is not None and _has_sound(film)


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
