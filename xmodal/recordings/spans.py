"""From when to when a stream is there, found without decoding it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from xmodal.errors import DataError
from xmodal.graph.ports import Kind
from xmodal.recordings.films import FILM_SUFFIXES, damaged, open_film

Span = tuple[float, float]


def span_of(kind: Kind, path: Path) -> Span:
    """First and last moment of a stream, seconds on the clock of its file.

    Of films the packets are counted, of sounds the header is believed; other files are read.

    Args:
        kind: Which stream.
        path: The file that holds it.

    Raises:
        DataError: If the file is damaged or has no such stream.
        BackendError: If a package that reads it is missing.
    """
    if kind == "video":
        return _film_span(path, "video")
    if kind == "audio":
        if path.suffix.lower() in FILM_SUFFIXES:
            return _film_span(path, "audio")
        from xmodal.recordings.audio_files import sound_seconds

        return 0.0, sound_seconds(path)
    if kind == "imu":
        from xmodal.recordings.imu_files import read_imu

        time_s = read_imu(path).time_s
    else:
        from xmodal.recordings.skeleton_files import read_skeleton

        time_s = read_skeleton(path).time_s
    return float(time_s[0]), float(time_s[-1])


def common_span(spans: dict[Kind, Span], where: str) -> Span:
    """The time in which all streams are there.

    Args:
        spans: Of each stream, on one clock.
        where: Whose streams, for the message.

    Raises:
        DataError: If there is no such time.
    """
    start_s = max(start for start, _ in spans.values())
    end_s = min(end for _, end in spans.values())
    if end_s <= start_s:
        raise DataError(
            where,
            wanted="streams that overlap in time",
            got=", ".join(f"{k} from {a:.3f} to {b:.3f} s" for k, (a, b) in spans.items()),
            fix="count the time stamps of all its files from one moment, or take a file away",
        )
    return start_s, end_s


def _film_span(path: Path, stream: Literal["audio", "video"]) -> Span:
    start_s, end_s = float("inf"), float("-inf")
    with open_film(path, stream) as film:
        # Packets come in the order in which they are decoded, not shown.
        for packet in film.demux(getattr(film.streams, stream)[0]):
            if packet.pts is None or packet.time_base is None:
                continue
            first = float(packet.pts * packet.time_base)
            start_s = min(start_s, first)
            end_s = max(end_s, first + float((packet.duration or 0) * packet.time_base))
    if end_s < start_s:
        raise damaged(path, f"a stream of {stream} without time stamps")
    return start_s, end_s
