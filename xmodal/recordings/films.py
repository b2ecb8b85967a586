"""Films through PyAV: opened, counted, and every failure named with its file."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from xmodal.errors import BackendError, DataError
from xmodal.recordings.containers import refuse_cut, refuse_empty

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

FILM_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".m4a", ".aac", ".mka")
"""Files that are read as films, with or without pictures."""


@contextmanager
def open_film(path: Path, stream: Literal["audio", "video"]) -> Generator[InputContainer]:
    """A film with at least one stream of a kind; failures while it is open name the file.

    Raises:
        DataError: If it is missing, empty, cut, no film, damaged, or has no such stream.
        BackendError: If PyAV is not installed.
    """
    refuse_empty(path, "a film")
    refuse_cut(path)
    av = _pyav()
    try:
        with av.open(str(path), metadata_errors="ignore") as film:
            if not getattr(film.streams, stream):
                raise _without(path, stream, film)
            yield film
    # PyAV meets damage in its own code as well: streams without a decoder have no attributes.
    except (av.FFmpegError, IndexError, AttributeError, UnicodeDecodeError) as error:
        raise damaged(path, str(error)) from error


def video_stream(film: InputContainer) -> VideoStream:
    """The first picture stream of a film that `open_film` gave."""
    return film.streams.video[0]


def audio_stream(film: InputContainer) -> AudioStream:
    """The first sound stream of a film that `open_film` gave."""
    return film.streams.audio[0]


def damaged(path: Path, got: str) -> DataError:
    """The error for a film that cannot be decoded to its end."""
    return DataError(
        str(path),
        wanted="a film that decodes to its end",
        got=got.splitlines()[0][:200] if got else "damaged data",
        fix="fetch or export the file again",
    )


def _without(path: Path, stream: str, film: InputContainer) -> DataError:
    names = {"audio": "sound", "video": "pictures"}
    held = sorted({names.get(s.type, s.type) for s in film.streams}) or ["nothing"]
    return DataError(
        str(path),
        wanted=f"a film with {names[stream]}",
        got=f"a file with {', '.join(held)}",
        fix=f"leave the {'audio' if stream == 'audio' else 'video'} stream of this recording out",
    )


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise BackendError(
            "python package av",
            wanted="PyAV, which reads films",
            got=str(error),
            fix="pip install 'xmodal[audio]'",
        ) from error
    return av
