"""Sounds in folders: one folder for each class, or one folder and a table (ESC-10, ESC-50).

    001 - Dog bark/1-100032-A.ogg       the class is the folder, without the number before it
    audio/1-100032-A-0.wav              beside meta/*.csv with columns filename, category, fold

Names such as `1-100032-A` begin with the fold, which is the group; without a fold, each sound is a
group of its own.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from xmodal.errors import DataError
from xmodal.recordings.ragged import Stream
from xmodal.recordings.recording import Recording, Recordings
from xmodal.recordings.tables import read_rows

SOUNDS = (".wav", ".ogg", ".flac", ".mp3", ".aiff", ".aif")
_NUMBERED = re.compile(r"^\d+[\s_]*[-.]?[\s_]*")
_FOLD = re.compile(r"(\d+)-\d+-[A-Z](-\d+)?")


def open_sound_folders(folder: Path) -> Recordings:
    """The sounds of a folder, by class.

    Raises:
        DataError: If there are none, or the table names files that are not there.
    """
    tables = sorted(folder.glob("meta/*.csv"))
    if tables:
        return _from_table(folder, tables[0])
    items: list[Recording] = []
    classes: list[str] = []
    for inner in sorted(path for path in folder.glob("*") if path.is_dir()):
        sounds = sorted(path for path in inner.iterdir() if path.suffix.lower() in SOUNDS)
        if sounds:
            classes.append(class_of(inner.name))
            items += [_recording(path, classes[-1], None) for path in sounds]
    if not items:
        raise DataError(
            str(folder),
            wanted=f"a folder of sounds ({', '.join(SOUNDS)}) for each class, or meta/*.csv",
            got="no sounds" if folder.is_dir() else "no such folder",
            fix="see data/esc10.md for the layout",
        )
    return Recordings(name=folder.name, items=tuple(items), classes=tuple(dict.fromkeys(classes)))


def class_of(folder: str) -> str:
    """The class that a folder is named after: `001_-_Dog_bark` is `dog bark`."""
    return (_NUMBERED.sub("", folder) or folder).replace("_", " ").strip().lower()


def _from_table(folder: Path, table: Path) -> Recordings:
    layout = "rows with the columns filename, category and fold"
    rows = read_rows(table, ("filename", "category"), layout)
    odd = [row["filename"] for row in rows if Path(row["filename"]).name != row["filename"]]
    if odd:
        raise DataError(
            str(table),
            wanted="names of files under audio/, without folders",
            got=", ".join(odd[:5]),
            fix="move the files there",
        )
    missing = [r["filename"] for r in rows if not (folder / "audio" / r["filename"]).is_file()]
    if missing:
        raise DataError(
            str(table),
            wanted="a file under audio/ for each row",
            got=f"{len(missing)} missing: {', '.join(missing[:5])}",
            fix="get the rest of the data set, or drop the rows",
        )
    items = [
        _recording(
            folder / "audio" / row["filename"], class_of(row["category"]), row.get("fold") or None
        )
        for row in rows
    ]
    classes = tuple(sorted({item.label for item in items if item.label is not None}))
    return Recordings(name=folder.name, items=tuple(items), classes=classes)


def _recording(path: Path, label: str, fold: str | None) -> Recording:
    found = _FOLD.fullmatch(path.stem)
    group = fold or (found[1] if found else path.stem)
    return Recording(
        name=path.stem,
        group=group,
        label=label,
        streams={"audio": partial(_read, path)},
        files=(path,),
    )


def _read(path: Path) -> Stream:
    from xmodal.recordings.audio_files import read_audio

    return read_audio(path)
