"""Sound at the door: what comes out of whole files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lifting.signals.spectra import silent
from xmodal.errors import DataError
from xmodal.recordings.audio_files import read_audio


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_16", 1e-4), ("wav", "PCM_24", 1e-6), ("wav", "PCM_U8", 1e-2),
        ("wav", "FLOAT", 1e-6), ("wav", "ULAW", 2e-2), ("flac", "PCM_16", 1e-4),
        ("aiff", "PCM_16", 1e-4), ("ogg", "VORBIS", 0.05),
    ],
)  # fmt: skip
def test_samples_come_as_they_were_recorded(media, tmp_path, suffix, subtype, tolerance):
    samples = media.tone(channels=2)
    path = media.write_sound(tmp_path / f"a.{suffix}", samples, subtype=subtype)
    sound = read_audio(path)
    assert sound.amplitudes.shape == (2, 4000)
    assert sound.amplitudes.dtype == torch.float32
    assert sound.rate_hz == 8000.0
    assert sound.offsets.tolist() == [0, 4000]
    assert sound.start_s is not None
    assert sound.start_s.tolist() == [0.0]
    assert np.abs(sound.amplitudes.T.numpy() - samples).max() < tolerance


def test_an_array_of_microphones_keeps_its_channels(media, tmp_path):
    path = media.write_sound(tmp_path / "a.wav", media.tone(channels=8), subtype="FLOAT")
    sound = read_audio(path, mics=8)
    assert sound.amplitudes.shape == (8, 4000)
    assert read_audio(path, mics=1).amplitudes.shape == (1, 4000)
    assert torch.allclose(
        read_audio(path, mics=1).amplitudes[0], sound.amplitudes.mean(0), atol=1e-7
    )


def test_resampled_sound_is_the_same_tone(media, tmp_path):
    path = media.write_sound(tmp_path / "a.wav", media.tone(), subtype="FLOAT")
    sound = read_audio(path, rate_hz=16000.0)
    assert sound.rate_hz == 16000.0
    assert sound.amplitudes.shape == (1, 8000)
    expected = media.tone(8000, rate_hz=16000)[:, 0]
    assert np.abs(sound.amplitudes[0].numpy() - expected)[500:-500].max() < 1e-4


def test_a_part_keeps_its_place_on_the_clock(media, tmp_path):
    path = media.write_sound(tmp_path / "a.wav", media.tone(), subtype="FLOAT")
    whole, part = read_audio(path), read_audio(path, span_s=(0.125, 0.25))
    assert part.start_s is not None
    assert part.start_s.tolist() == [0.125]
    assert torch.equal(part.amplitudes, whole.amplitudes[:, 1000:2000])


def test_silence_is_read_and_told(media, tmp_path):
    path = media.write_sound(tmp_path / "a.wav", np.zeros((4000, 2)))
    sound = read_audio(path)
    assert silent(sound.amplitudes).tolist() == [True, True]
    assert sound.offsets.tolist() == [0, 4000]


def test_overshoot_is_clipped(media, tmp_path):
    path = media.write_sound(tmp_path / "a.wav", 3 * media.tone(), subtype="FLOAT")
    sound = read_audio(path)
    assert float(sound.amplitudes.abs().max()) == 1.0


def test_sound_of_a_film_is_on_its_clock(media, tmp_path):
    path = media.write_film(tmp_path / "a.mp4")
    sound = read_audio(path)
    assert sound.rate_hz == 16000.0
    assert sound.amplitudes.shape[1] == pytest.approx(16000, abs=2048)
    assert sound.start_s is not None
    assert abs(float(sound.start_s[0])) < 0.1
    expected = media.tone(16000, rate_hz=16000)[:, 0]
    begin = round(-float(sound.start_s[0]) * 16000)
    heard = sound.amplitudes[0, begin : begin + 15000].numpy()
    assert np.corrcoef(heard[1000:], expected[1000:15000])[0, 1] > 0.98
    part = read_audio(path, span_s=(0.25, 0.5), rate_hz=8000.0)
    assert part.amplitudes.shape == (1, 2000)
    assert part.start_s is not None
    assert float(part.start_s - sound.start_s) == pytest.approx(0.25)


def test_sound_without_pictures_is_read_as_a_film(media, tmp_path):
    sound = read_audio(media.write_film(tmp_path / "a.m4a", pictures=False))
    assert sound.amplitudes.shape[0] == 1


@pytest.mark.parametrize("mics", [2, 4])
def test_another_number_of_microphones_is_refused(media, tmp_path, four_parts, mics):
    path = media.write_sound(tmp_path / "a.wav", media.tone(channels=3))
    with pytest.raises(DataError, match="averages all microphones") as caught:
        read_audio(path, mics=mics)
    four_parts(caught.value)


@pytest.mark.parametrize("span_s", [(0.4, 0.6), (1.0, 2.0)])
def test_a_part_beyond_the_end_is_refused(media, tmp_path, four_parts, span_s):
    path = media.write_sound(tmp_path / "a.wav", media.tone())
    with pytest.raises(DataError, match=r"0\.500 s") as caught:
        read_audio(path, span_s=span_s)
    four_parts(caught.value)


@pytest.mark.parametrize(
    "options", [{"span_s": (1.0, 0.5)}, {"span_s": (-1.0, 0.5)}, {"rate_hz": 0.0}]
)
def test_options_that_make_no_sense_are_refused(media, tmp_path, options):
    path = media.write_sound(tmp_path / "a.wav", media.tone())
    with pytest.raises(ValueError, match=r"span_s|rate_hz"):
        read_audio(path, **options)
