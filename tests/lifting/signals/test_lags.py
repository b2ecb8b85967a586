"""Lags that were put in are found, to a fraction of a sample."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifting.signals.lags import estimate_lag, onsets

D = torch.float64


def wobble(num: int, channels: int, lag: float = 0.0, seed: int = 0) -> torch.Tensor:
    """Smooth random motion, read `lag` samples late."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(num, dtype=D) - lag
    frequency = 0.02 + 0.2 * torch.rand(channels, 12, 1, generator=generator, dtype=D)
    phase = 7 * torch.rand(channels, 12, 1, generator=generator, dtype=D)
    return torch.sin(frequency * t + phase).sum(1).T


@pytest.mark.parametrize("lag", [0.0, 3.0, -7.0, 4.5, -11.25])
def test_one_channel(lag):
    a, b = wobble(400, 1)[:, 0], wobble(400, 1, lag)[:, 0]
    found = estimate_lag(a, b, 50.0, 1.0)
    assert found.seconds == pytest.approx(lag / 50, abs=2e-3)
    assert found.strength > 0.99
    assert found.reversed().seconds == -found.seconds


def test_other_length_scale_and_offset_do_not_matter():
    a, b = wobble(400, 1)[:, 0], 3 + 0.01 * wobble(330, 1, 6.0)[:, 0]
    assert estimate_lag(a, b, 50.0, 1.0).seconds == pytest.approx(6 / 50, abs=1e-3)


def test_axes_need_not_agree():
    mixing = torch.tensor([[0.2, -1.0, 0.3], [1.0, 0.4, 0.1], [0.0, 0.3, -2.0]], dtype=D)
    a, b = wobble(400, 3), wobble(400, 3, 8.0) @ mixing
    found = estimate_lag(a, b, 50.0, 1.0)
    assert found.seconds == pytest.approx(8 / 50, abs=1e-3)
    assert found.strength > 0.99


@pytest.mark.parametrize("snr_db", [10, 0, -6])
def test_sounds_with_noise(snr_db):
    generator = torch.Generator().manual_seed(1)
    sound = torch.randn(8000, generator=generator)
    late = torch.cat([torch.zeros(123), sound[:-123]])
    noisy = late + 10 ** (-snr_db / 20) * torch.randn(8000, generator=generator)
    for whiten in (False, True):
        found = estimate_lag(sound, noisy, 8000.0, 0.1, whiten=whiten)
        assert found.seconds == pytest.approx(123 / 8000, abs=0.5 / 8000)


def test_whitening_finds_the_direct_path_of_a_hum():
    t = torch.arange(8000, dtype=D) / 8000
    noise = 0.2 * torch.randn(8000, generator=torch.Generator().manual_seed(2), dtype=D)
    sound = torch.sin(2 * math.pi * 100 * t) + noise
    late = torch.cat([torch.zeros(40, dtype=D), noise[:-40]]) + torch.sin(2 * math.pi * 100 * t)
    found = estimate_lag(sound, late, 8000.0, 0.02, whiten=True)
    assert found.seconds == pytest.approx(40 / 8000, abs=1e-5)


def test_a_smoothed_copy_is_found_with_its_smoothing():
    a = wobble(600, 3)
    kernel = torch.exp(-0.5 * (torch.arange(-60, 61, dtype=D) / 15) ** 2)
    padded = torch.nn.functional.pad(a.T[:, None], (60, 60), mode="reflect")
    smooth = torch.nn.functional.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0].T
    found = estimate_lag(smooth, wobble(600, 3, 5.0), 50.0, 1.0, smooth_s=(0.0, 0.15, 0.3, 0.45))
    assert found.smooth_s == 0.3
    assert found.seconds == pytest.approx(0.1, abs=5e-3)
    # Without need, there is no smoothing.
    plain = estimate_lag(a, wobble(600, 3, 5.0), 50.0, 1.0, smooth_s=(0.0, 0.15))
    assert plain.smooth_s == 0.0


def test_streams_that_do_not_belong_together_are_weak():
    a = torch.randn(500, generator=torch.Generator().manual_seed(3))
    b = torch.randn(500, generator=torch.Generator().manual_seed(4))
    assert estimate_lag(a, b, 50.0, 1.0).strength < 0.3


def test_the_search_may_be_around_another_lag():
    a, b = wobble(400, 1)[:, 0], wobble(400, 1, 90.0)[:, 0]
    found = estimate_lag(a, b, 50.0, 0.4, around_s=1.7)
    assert found.seconds == pytest.approx(1.8, abs=2e-3)


@pytest.mark.parametrize(
    ("a", "b", "max_lag_s", "match"),
    [
        (torch.ones(100), wobble(100, 1)[:, 0], 0.5, "does not vary"),
        (wobble(100, 1)[:, 0], torch.zeros(0), 0.5, "does not vary"),
        (wobble(100, 1)[:, 0], torch.full((100,), math.nan), 0.5, "finite"),
        (wobble(100, 1)[:, 0], wobble(100, 1)[:, 0], 0.001, "too little"),
        (wobble(6, 1)[:, 0], wobble(6, 1)[:, 0], 0.5, "too little"),
    ],
)
def test_streams_without_a_lag_are_refused(a, b, max_lag_s, match):
    with pytest.raises(ValueError, match=match):
        estimate_lag(a, b, 50.0, max_lag_s)


def test_no_smoothing_at_all_must_be_said():
    a = wobble(100, 1)[:, 0]
    with pytest.raises(ValueError, match="0 is none"):
        estimate_lag(a, a, 50.0, 0.5, smooth_s=())


@settings(deadline=None, max_examples=30)
@given(lag=st.integers(-30, 30), seed=st.integers(0, 1000))
def test_correlations_are_those_of_the_common_samples(lag, seed):
    a, b = wobble(120, 1, seed=seed)[:, 0], wobble(150, 1, seed=seed + 1)[:, 0]
    found = estimate_lag(a, b, 10.0, 0.1, around_s=lag / 10)
    # The middle lag of three, or one beside it where the parabola ends.
    strengths = []
    for shift in (lag - 1, lag, lag + 1):
        begin, end = max(0, -shift), min(120, 150 - shift)
        pair = torch.stack([a[begin:end], b[begin + shift : end + shift]])
        strengths.append(float(torch.corrcoef(pair)[0, 1]))
    assert found.strength >= max(strengths) - 1e-9


def test_onsets_stand_where_sounds_begin():
    sound = torch.zeros(16000)
    for start in (4000, 11000):
        sound[start : start + 800] = torch.randn(800, generator=torch.Generator().manual_seed(5))
    found = onsets(sound, 16000.0)
    assert found.shape == (101,)
    strongest = (found > 0.5 * found.max()).nonzero()[:, 0]
    assert bool(((strongest - 25).abs().minimum((strongest - 68.75).abs()) <= 2).all())
    assert float(onsets(torch.zeros(1600), 16000.0).max()) == 0
