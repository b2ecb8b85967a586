"""Fault matrix row 13: sound that is cut, lies about itself, is silent or is no number."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from lifting.signals.spectra import YAMNET, silent
from xmodal.errors import DataError
from xmodal.recordings.audio_files import read_audio


@pytest.fixture
def refused(four_parts):
    def check(path: Path, match: str, **options: object) -> DataError:
        with pytest.raises(DataError, match=match) as caught:
            read_audio(path, **options)
        four_parts(caught.value)
        assert path.name in caught.value.where
        return caught.value

    return check


def patch(path: Path, place: int, layout: str, value: int) -> None:
    raw = bytearray(path.read_bytes())
    struct.pack_into(layout, raw, place, value)
    path.write_bytes(raw)


def data_place(path: Path) -> int:
    """Where the length of the samples stands in a WAV file."""
    return path.read_bytes().index(b"data") + 4


# ---- truncated ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sixteenth", range(16))
def test_a_cut_wav_is_never_a_shorter_sound(media, tmp_path, refused, sixteenth):
    path = media.write_sound(tmp_path / "a.wav", media.tone(channels=2))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * sixteenth // 16])
    refused(path, "wanted")


@pytest.mark.parametrize("missing", [1, 2, 3, 4])
def test_a_wav_that_lacks_its_last_bytes_is_seen(media, tmp_path, refused, missing):
    path = media.write_sound(tmp_path / "a.wav", media.tone(channels=2))
    path.write_bytes(path.read_bytes()[:-missing])
    error = refused(path, "as the header says")
    assert "16000 bytes" in error.wanted
    assert f"{16000 - missing} bytes" in error.got


@pytest.mark.parametrize("suffix", ["ogg", "flac", "aiff", "rf64"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_cut_sound_of_another_kind_is_seen(media, tmp_path, refused, suffix, share):
    options = {"format": "RF64", "subtype": "PCM_16"} if suffix == "rf64" else {}
    path = media.write_sound(tmp_path / f"a.{suffix}", media.tone(40_000), **options)
    assert read_audio(path).amplitudes.shape == (1, 40_000)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    refused(path, "wanted")


# ---- lying headers -----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [16002, 16004, 1 << 30, 0xFFFFFFF0])
def test_a_header_that_promises_more_is_refused(media, tmp_path, refused, length):
    path = media.write_sound(tmp_path / "a.wav", media.tone(channels=2))
    patch(path, data_place(path), "<I", length)
    refused(path, "as the header says")


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_header_written_to_a_pipe_is_refused(media, tmp_path, refused, length):
    path = media.write_sound(tmp_path / "a.wav", media.tone(channels=2))
    patch(path, data_place(path), "<I", length)
    refused(path, "to a pipe")


@pytest.mark.parametrize(
    ("place", "layout", "value", "told"),
    [
        (22, "<H", 0, "0 channels"),
        (22, "<H", 3, "for 3 channels"),
        (24, "<I", 0, "0 Hz"),
        (24, "<I", 44100, "bytes a second for 44100 Hz"),
        (24, "<I", 16000, "bytes a second for 16000 Hz"),
        (32, "<H", 0, "0 bytes a frame"),
        (32, "<H", 3, "3 bytes a frame"),
        (34, "<H", 24, "of 24 bits"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    media, tmp_path, refused, place, layout, value, told
):
    path = media.write_sound(tmp_path / "a.wav", media.tone(channels=2))
    patch(path, place, layout, value)
    assert told in refused(path, "agrees with itself").got


def test_frames_that_are_not_whole_are_refused(media, tmp_path, refused):
    path = media.write_sound(tmp_path / "a.wav", media.tone(channels=2))
    patch(path, data_place(path), "<I", 15_999)
    refused(path, "whole frames of 4 bytes")


@pytest.mark.parametrize("rate_hz", [8, 2_000_000])
def test_a_rate_that_no_sound_has_is_refused(media, tmp_path, refused, rate_hz):
    path = media.write_sound(tmp_path / "a.wav", media.tone(), rate_hz=rate_hz)
    refused(path, "samples a second")


def test_a_flac_header_that_promises_a_day_does_not_fill_memory(media, tmp_path, refused):
    path = media.write_sound(tmp_path / "a.flac", media.tone())
    raw = bytearray(path.read_bytes())
    raw[21] |= 0x0F  # the highest of 36 bits that count the samples
    raw[22:26] = b"\xff" * 4
    path.write_bytes(raw)
    refused(path, "wanted")


# ---- wrong rate: resampled ---------------------------------------------------------------------


def test_another_rate_is_brought_to_the_one_wanted(media, tmp_path):
    for rate_hz in (8000, 22050, 44100):
        samples = media.tone(rate_hz // 2, rate_hz=rate_hz)
        path = media.write_sound(tmp_path / f"{rate_hz}.wav", samples, rate_hz=rate_hz)
        sound = read_audio(path, rate_hz=16000.0)
        assert sound.rate_hz == 16000.0
        assert sound.amplitudes.shape == (1, 8000)
        spectrum = np.abs(np.fft.rfft(sound.amplitudes[0].numpy()))
        assert int(spectrum.argmax()) == 220  # 440 Hz over half a second


# ---- samples -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_named_with_their_time(media, tmp_path, refused, bad):
    samples = media.tone(channels=2)
    samples[2000:2010, 1] = bad
    path = media.write_sound(tmp_path / "a.wav", samples, subtype="FLOAT")
    error = refused(path, "numbers")
    assert "10 NaN or infinite of 8000" in error.got
    assert "0.250000 s" in error.where


def test_samples_on_the_scale_of_integers_are_refused(media, tmp_path, refused):
    path = media.write_sound(tmp_path / "a.wav", 32768 * media.tone(), subtype="FLOAT")
    assert "32768" in refused(path, "within -1 to 1").fix


def test_silence_is_a_defined_result(media, tmp_path):
    sound = read_audio(media.write_sound(tmp_path / "a.wav", np.zeros((8000, 1))), rate_hz=16000.0)
    assert bool(silent(sound.amplitudes).all())
    maps = YAMNET(sound.amplitudes)
    assert bool(maps.isfinite().all())
    assert float(maps.max() - maps.min()) == 0


# ---- no sound at all ---------------------------------------------------------------------------


def test_missing_empty_and_foreign_files(media, tmp_path, refused):
    (tmp_path / "empty.wav").write_bytes(b"")
    refused(tmp_path / "empty.wav", "an empty file")
    refused(tmp_path / "none.wav", "no such file")
    (tmp_path / "folder.wav").mkdir()
    refused(tmp_path / "folder.wav", "a folder")
    (tmp_path / "text.wav").write_text("not a sound\n" * 50)
    refused(tmp_path / "text.wav", "soundfile reads")
    (tmp_path / "zeros.ogg").write_bytes(bytes(5000))
    refused(tmp_path / "zeros.ogg", "soundfile reads")
    refused(media.write_sound(tmp_path / "nothing.wav", np.zeros((0, 1))), "a file without samples")


def test_a_wav_without_chunks_is_refused(tmp_path, refused):
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF\x04\x00\x00\x00WAVE")
    refused(path, "`data` chunk")
    path.write_bytes(b"RIFF\x0c\x00\x00\x00WAVEdata\x00\x00\x00\x00")
    refused(path, "`fmt ` before `data`")


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_is_an_error_or_the_same_length(media, tmp_path, seed):
    path = media.write_sound(tmp_path / "a.wav", media.tone())
    raw = bytearray(path.read_bytes())
    chance = np.random.default_rng(seed)
    for place in chance.integers(0, 48, 3):
        raw[place] = chance.integers(256)
    path.write_bytes(raw)
    try:
        sound = read_audio(path)
    except DataError:
        return
    assert bool(sound.amplitudes.isfinite().all())
    assert sound.amplitudes.numel() in (4000, 8000)  # 8000 where 8 bits were made of 16
