"""Films that are cut, lack a stream, or are no films."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xmodal.errors import DataError
from xmodal.recordings.audio_files import read_audio
from xmodal.recordings.video_files import read_video

READERS = {"sound": read_audio, "pictures": read_video}


@pytest.fixture
def refused(four_parts):
    def check(read: Callable[..., object], path: Path, match: str) -> None:
        with pytest.raises(DataError, match=match) as caught:
            read(path)
        four_parts(caught.value)
        assert path.name in caught.value.where

    return check


@pytest.mark.parametrize("read", list(READERS))
@pytest.mark.parametrize("faststart", [False, True])
@pytest.mark.parametrize("sixteenth", [1, 4, 8, 12, 15])
def test_a_cut_film_is_never_a_shorter_one(media, tmp_path, refused, read, faststart, sixteenth):
    path = media.write_film(tmp_path / "a.mp4", faststart=faststart)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * sixteenth // 16])
    refused(READERS[read], path, "cut|film")


@pytest.mark.parametrize("suffix", ["mkv", "avi", "webm"])
@pytest.mark.parametrize("sixteenth", [1, 4, 8, 12, 15])
def test_a_cut_film_of_another_kind(media, tmp_path, refused, suffix, sixteenth):
    name = "a.mkv" if suffix == "webm" else f"a.{suffix}"
    path = media.write_film(tmp_path / name)
    path = path.rename(tmp_path / f"a.{suffix}")
    assert len(read_video(path).time_s) == 10
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * sixteenth // 16])
    for read in READERS.values():
        refused(read, path, "wanted")


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_random_damage_to_headers_is_an_error_or_a_film(media, tmp_path, suffix, seed):
    path = media.write_film(tmp_path / f"a.{suffix}", faststart=suffix == "mp4")
    raw = bytearray(path.read_bytes())
    chance = np.random.default_rng(seed)
    for place in chance.integers(0, 1500, 40):
        raw[place] = chance.integers(256)
    path.write_bytes(raw)
    for read in READERS.values():
        try:
            read(path)
        except DataError:
            continue


def test_a_film_that_was_never_closed(media, tmp_path, refused):
    path = media.write_film(tmp_path / "a.mp4")
    raw = path.read_bytes()
    path.write_bytes(raw[: raw.index(b"moov") - 4])  # a camera that ran out of power
    for read in READERS.values():
        refused(read, path, "moov")


def test_a_film_without_sound(media, tmp_path, refused):
    path = media.write_film(tmp_path / "a.mp4", sound=False)
    refused(read_audio, path, "a film with sound")
    assert len(read_video(path).time_s) == 10


def test_a_film_without_pictures(media, tmp_path, refused):
    path = media.write_film(tmp_path / "a.mp4", pictures=False)
    refused(read_video, path, "a film with pictures")
    assert read_audio(path).rate_hz == 16000.0


@pytest.mark.parametrize("read", list(READERS))
def test_missing_empty_and_foreign_files(media, tmp_path, refused, read):
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.write_bytes(b"")
    text.write_text("not a film\n" * 100)
    refused(READERS[read], empty, "an empty file")
    refused(READERS[read], text, "film")
    refused(READERS[read], tmp_path / "none.mp4", "no such file")
    sound = media.write_sound(tmp_path / "a.wav", media.tone())
    if read == "pictures":
        refused(read_video, sound, "a film with pictures")


def test_damaged_pictures_are_an_error_not_grey(media, tmp_path, refused):
    path = media.write_film(tmp_path / "a.mp4", sound=False)
    raw = bytearray(path.read_bytes())
    begin = raw.index(b"mdat") + 4
    end = raw.index(b"moov")
    raw[begin:end] = bytes(end - begin)
    path.write_bytes(raw)
    refused(read_video, path, "decodes to its end")
