"""Spectra and log-mel maps: by hand, against librosa, and at the edges."""

from __future__ import annotations

import math
from dataclasses import replace

import librosa
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from lifting.signals.spectra import GENERAL, YAMNET, LogMel, mel_filters, silent, stft

SMALL = LogMel(
    rate_hz=8000.0, window_s=0.016, hop_s=0.008, num_mels=6, low_hz=100.0, high_hz=3900.0
)


def sound(num: int, *leading: int) -> torch.Tensor:
    noise = torch.randn(*leading, num, generator=torch.Generator().manual_seed(0))
    rumble = torch.sin(torch.arange(num) * 0.01)
    return 0.01 * noise + 0.5 * rumble


# ---- stft --------------------------------------------------------------------------------------


def test_a_tone_on_a_frequency_of_the_transform_by_hand():
    # A periodic Hann window has transform 1/2 at its frequency and 1/4 beside it, times N / 2.
    tone = torch.cos(2 * math.pi * 4 * torch.arange(32, dtype=torch.float64) / 32)
    found = stft(tone, n_fft=32, hop=32)
    assert found.shape == (17, 1)
    expected = torch.zeros(17, dtype=torch.float64)
    expected[3:6] = torch.tensor([4.0, 8.0, 4.0], dtype=torch.float64)
    assert torch.allclose(found[:, 0].abs(), expected, atol=1e-12)


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize(("n_fft", "hop"), [(256, 64), (512, 160), (100, 33)])
def test_stft_is_librosas(centre, n_fft, hop):
    x = sound(3000, 2).double()
    ours = stft(x, n_fft=n_fft, hop=hop, centre=centre)
    theirs = librosa.stft(
        x.numpy(), n_fft=n_fft, hop_length=hop, center=centre, pad_mode="constant"
    )
    assert ours.shape == theirs.shape
    assert np.abs(ours.numpy() - theirs).max() < 1e-10


def test_a_shorter_window_has_librosas_magnitudes():
    x = sound(2000).double()
    ours = stft(x, n_fft=512, hop=160, window_samples=400)
    padded = np.pad(x.numpy(), 56)  # librosa puts the window in the middle of the transform
    theirs = librosa.stft(padded, n_fft=512, hop_length=160, win_length=400, center=False)
    assert ours.shape == theirs.shape
    assert np.abs(ours.abs().numpy() - np.abs(theirs)).max() < 1e-10


def test_sound_shorter_than_a_window_has_no_frames():
    assert stft(torch.ones(3, 10), n_fft=16, hop=4).shape == (3, 9, 0)
    assert YAMNET(torch.ones(2, 399)).shape == (2, 64, 0)
    assert YAMNET(torch.ones(2, 400)).shape == (2, 64, 1)
    assert YAMNET(torch.ones(0, 400)).shape == (0, 64, 1)


def test_the_transform_of_strided_sound_is_that_of_its_copy():
    x = sound(2000, 3).T.contiguous().T
    assert not x.is_contiguous()
    assert torch.equal(YAMNET(x), YAMNET(x.contiguous()))


@pytest.mark.parametrize(
    ("n_fft", "hop", "window", "match"),
    [
        (64, 0, 64, "hop"),
        (64, 16, 65, "does not fit"),
        (64, 16, 0, "a sample or more"),
    ],
)
def test_frames_that_make_no_sense_are_refused(n_fft, hop, window, match):
    with pytest.raises(ValueError, match=match):
        stft(torch.ones(100), n_fft=n_fft, hop=hop, window_samples=window)


# ---- mel filters -------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", ["slaney", None])
@pytest.mark.parametrize(
    ("rate_hz", "n_fft", "mels", "low", "high"),
    [(16000.0, 512, 64, 125.0, 7500.0), (44100.0, 2048, 128, 0.0, 22050.0)],
)
def test_filters_are_librosas(scale, norm, rate_hz, n_fft, mels, low, high):
    if scale == "htk" and mels == 128:
        mels = 80  # 128 HTK filters are narrower than the frequencies of this transform
    ours = mel_filters(rate_hz, n_fft, mels, low, high, norm=norm, scale=scale)
    theirs = librosa.filters.mel(
        sr=rate_hz, n_fft=n_fft, n_mels=mels, fmin=low, fmax=high, htk=scale == "htk", norm=norm
    )
    assert np.abs(ours.numpy() - theirs).max() < 1e-6


def test_triangles_in_mel_are_straight_there_and_leave_out_frequency_zero():
    filters = mel_filters(16000.0, 512, 4, 0.0, 8000.0, norm=None, scale="htk", triangles="mel")
    assert bool((filters[:, 0] == 0).all())
    mel = 2595 * torch.log10(1 + torch.arange(257, dtype=torch.float64) * 31.25 / 700)
    corner = mel[-1] / 5
    rise = (mel / corner).clamp(0, 1)  # up to the top of the first filter
    inside = (mel > 0) & (mel <= corner)
    assert torch.allclose(filters[0].double()[inside], rise[inside], atol=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "mels", "match"),
    [
        (0.0, 9000.0, 10, "half the rate"),
        (500.0, 500.0, 10, "low_hz < high_hz"),
        (-1.0, 500.0, 10, "0 <= low_hz"),
        (0.0, 8000.0, 0, "num_mels"),
        (0.0, 8000.0, 400, "fall between"),
    ],
)
def test_filters_that_make_no_sense_are_refused(low, high, mels, match):
    with pytest.raises(ValueError, match=match):
        mel_filters(16000.0, 512, mels, low, high)


# ---- log-mel -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spectra", [replace(YAMNET, triangles="hz"), GENERAL, SMALL])
def test_maps_are_librosas_where_rumble_is_forty_decibels_louder(spectra):
    x = sound(16000)
    silence = 0 if spectra.centre else (spectra.fft_samples - spectra.window_samples) // 2
    mel = librosa.feature.melspectrogram(
        y=np.pad(x.numpy(), silence),
        sr=spectra.rate_hz,
        n_fft=spectra.fft_samples,
        hop_length=spectra.hop_samples,
        win_length=spectra.window_samples,
        center=spectra.centre,
        power=spectra.power,
        n_mels=spectra.num_mels,
        fmin=spectra.low_hz,
        fmax=spectra.high_hz,
        htk=spectra.scale == "htk",
        norm=spectra.norm,
    )
    ours = spectra(x)
    assert ours.shape == mel.shape
    assert ours.shape[1] == spectra.num_frames(len(x))
    assert np.abs(ours.numpy() - np.log(mel + spectra.floor)).max() < 1e-5
    decibels = replace(spectra, log="db", floor=1e-8)(x).numpy()
    to_db = librosa.power_to_db if spectra.power == 2 else librosa.amplitude_to_db
    floor = 1e-8
    assert np.abs(decibels - to_db(mel, ref=1.0, amin=floor, top_db=None)).max() < 1e-4


def test_many_microphones_and_long_sounds_are_mapped_one_by_one():
    x = sound(60_000, 2, 3)  # longer than a block of frames
    together = YAMNET(x)
    assert together.shape == (2, 3, 64, YAMNET.num_frames(60_000))
    assert torch.allclose(together[1, 2], YAMNET(x[1, 2]), atol=1e-6)


def test_silence_is_the_logarithm_of_the_floor_with_a_gradient_of_numbers():
    x = torch.zeros(1000, requires_grad=True)
    found = YAMNET(x)
    assert torch.allclose(found, torch.full_like(found, math.log(0.001)))
    found.sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("log", ["natural", "db"])
def test_gradients(power, log):
    x = sound(260).double().requires_grad_()
    assert gradcheck(replace(SMALL, power=power, log=log), (x,))


def test_num_samples_is_the_least_that_gives_the_frames():
    for spectra in (YAMNET, GENERAL, SMALL):
        for frames in (1, 2, 96):
            least = spectra.num_samples(frames)
            assert spectra.num_frames(least) == frames
            assert spectra.num_frames(least - 1) < frames or least == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_refused(bad):
    x = sound(1000)
    x[500] = bad
    with pytest.raises(ValueError, match="finite amplitudes"):
        YAMNET(x)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [("floor", 0.0, "floor"), ("power", 3, "power"), ("high_hz", 9000.0, "half the rate")],
)
def test_settings_that_make_no_sense_are_refused(field, value, match):
    with pytest.raises((ValueError, TypeError), match=match):
        replace(YAMNET, **{field: value})


# ---- silence -----------------------------------------------------------------------------------


def test_silence_is_told_by_movement_not_by_level():
    step = 1 / 32768
    sounds = torch.zeros(5, 100)
    sounds[1] = 0.3  # an offset
    sounds[2, ::2] = step  # dither
    sounds[3, 50] = 5 * step
    sounds[4, ::2] = 0.1
    assert silent(sounds).tolist() == [True, True, True, False, False]
    assert silent(torch.zeros(2, 0)).tolist() == [True, True]
