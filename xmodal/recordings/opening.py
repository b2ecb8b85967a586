"""Data sets of recordings by their format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from xmodal.errors import DataError
from xmodal.recordings.clips import open_clips
from xmodal.recordings.daps import open_daps
from xmodal.recordings.recording import Recordings
from xmodal.recordings.sound_folders import open_sound_folders
from xmodal.recordings.utd_mhad import open_utd_mhad

_OPENERS: Mapping[str, Callable[..., Recordings]] = MappingProxyType(
    {
        "utd_mhad": open_utd_mhad,
        "sound_folders": open_sound_folders,
        "clips": open_clips,
        "daps": open_daps,
    }
)


def open_recordings(folder: Path | str, format: str, **settings: float | int | None) -> Recordings:
    """Open a data set; streams are read when they are asked for.

    Args:
        folder: Where it lies.
        format: Its layout, as `data.format` of a run file names it.
        **settings: Of `clips`: `film_every_s`, `max_side_px`, `align_within_s`, `cut_s` and
            `hop_s`, see `open_clips`.

    Raises:
        DataError: If the folder is not there, or does not hold what the format says.
    """
    folder = Path(folder)
    if format not in _OPENERS:
        raise DataError(
            str(folder),
            wanted=f"a format of recordings: {', '.join(_OPENERS)}",
            got=format,
            fix="correct `format`",
        )
    if not folder.is_dir():
        raise DataError(
            str(folder),
            wanted=f"a folder in the format {format}",
            got="a file" if folder.exists() else "no such folder",
            fix="check the path; paths start where the command is run",
        )
    return _OPENERS[format](folder, **settings)
