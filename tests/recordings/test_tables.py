"""Tables beside recordings: what spreadsheets write, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from xmodal.errors import DataError
from xmodal.recordings.opening import open_recordings
from xmodal.recordings.tables import read_rows


def table(folder: Path, data: bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "data",
    [
        b"name,label\na,walk\nb,\n",
        b"\xef\xbb\xbfname,label\r\na,walk\r\nb,\r\n",  # of a spreadsheet
        b" name , label ,\n a , walk ,\nb\n",
        b'name,label\n"a","walk"\n\nb,""\n',
    ],
)
def test_tables_of_all_sorts_are_read(tmp_path: Path, data: bytes) -> None:
    rows = read_rows(table(tmp_path, data), ("name",), "names")
    assert [(row["name"], row["label"]) for row in rows] == [("a", "walk"), ("b", "")]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "nothing"),
        (b"name,label\n", "without a row"),
        (b"label\nwalk\n", "columns label"),
        (b"name,label\na,walk, then run,x\n", "line 2"),
        (b"name,label\na,walk\n,run\n", "line 3"),
        (b"name,label\na,\xff\xfe\n", "utf-8"),
        (b'name,label\na,"walk"ed\n', "expected after"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path: Path, data: bytes, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read_rows(table(tmp_path, data), ("name",), "names and labels")
    assert "labels.csv" in caught.value.where
    assert caught.value.fix


def test_a_label_with_a_comma_does_not_shift_the_group(
    tmp_path: Path, synthetic: ModuleType
) -> None:
    synthetic.write_tone(tmp_path / "a.wav", 0, 0)
    table(tmp_path, b"name,label,group\na,walk, then run,g1\n")
    with pytest.raises(DataError, match="3 cells"):
        open_recordings(tmp_path, "clips")
    table(tmp_path, b'\xef\xbb\xbfname,label,group\na,"walk, then run",g1\n')
    item = open_recordings(tmp_path, "clips").items[0]
    assert (item.label, item.group) == ("walk, then run", "g1")


@pytest.mark.parametrize("name", ["../../secret.wav", "/secret.wav", "inner/a.wav"])
def test_tables_of_sounds_name_files_beside_them(tmp_path: Path, name: str) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "a.csv").write_text(f"filename,fold,category\n{name},1,dog\n")
    with pytest.raises(DataError, match="without folders"):
        open_recordings(tmp_path, "sound_folders")
