"""Resampling: tones and constants, irregular clocks, gaps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from lifting.signals.resampling import (
    interpolation_operator,
    resample,
    resampling_operator,
    to_rate,
    usual_spacing,
)

D = torch.float64


def tone(frequency_hz: float, rate_hz: float, seconds: float = 0.5) -> torch.Tensor:
    return torch.sin(
        2 * math.pi * frequency_hz * torch.arange(int(seconds * rate_hz), dtype=D) / rate_hz
    )


# ---- band-limited ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("from_hz", "to_hz"),
    [(44100.0, 16000.0), (48000.0, 16000.0), (8000.0, 16000.0), (16000.0, 44100.0), (50.0, 40.0)],
)
def test_a_tone_stays_that_tone(from_hz, to_hz):
    seconds = 0.4 if from_hz > 1000 else 40.0
    low = 0.35 * min(from_hz, to_hz)
    found = resample(tone(low, from_hz, seconds), from_hz, to_hz)
    expected = tone(low, to_hz, seconds + 1)[: len(found)]
    assert len(found) == math.ceil(int(seconds * from_hz) * to_hz / from_hz)
    inner = slice(len(found) // 4, -len(found) // 4)
    assert float((found - expected)[inner].abs().max()) < 1e-3


def test_what_the_new_rate_cannot_show_is_gone():
    found = resample(tone(9000.0, 44100.0), 44100.0, 16000.0)
    assert float(found[2000:-2000].abs().max()) < 1e-5


def test_a_constant_stays_and_leading_axes_too():
    found = resample(torch.full((2, 3, 4000), 0.25, dtype=D), 44100.0, 16000.0)
    assert found.shape == (2, 3, 1452)
    assert torch.allclose(found[..., 300:-300], torch.tensor(0.25, dtype=D), atol=1e-12)


def test_the_same_rate_changes_nothing_and_nothing_stays_nothing():
    x = tone(100.0, 8000.0)
    assert resample(x, 8000.0, 8000.0) is x
    assert resample(torch.zeros(2, 0), 8000.0, 16000.0).shape == (2, 0)
    assert resample(torch.ones(1), 8000.0, 16000.0).shape == (2,)


def test_resampling_is_linear_with_its_gradient():
    x = torch.randn(60, dtype=D, requires_grad=True)
    assert gradcheck(lambda x: resample(x, 3.0, 2.0), (x,))


@pytest.mark.parametrize(("from_hz", "to_hz"), [(0.0, 8000.0), (8000.0, -1.0), (math.nan, 1.0)])
def test_rates_that_are_none_are_refused(from_hz, to_hz):
    with pytest.raises(ValueError, match="rates must be positive"):
        resample(torch.ones(10), from_hz, to_hz)


def test_a_ratio_far_from_any_fraction_is_refused():
    with pytest.raises(ValueError, match="fraction of small integers"):
        resample(torch.ones(10), 1.0, 1e6)


# ---- irregular clocks --------------------------------------------------------------------------


def test_between_two_readings_the_line_is_read():
    values, valid = to_rate(
        torch.tensor([[0.0], [10.0], [14.0]], dtype=D),
        torch.tensor([0.0, 1.0, 2.0], dtype=D),
        2.0,
        -0.5,
        7,
    )
    assert valid.tolist() == [False, True, True, True, True, True, False]
    assert values[:, 0].tolist() == [0, 0, 5, 10, 12, 14, 0]


def test_readings_at_the_new_rate_stay_as_they_are():
    t = torch.arange(20, dtype=D) / 50
    operator = resampling_operator(t, rate_hz=50.0, start_s=0.0, num=20)
    assert torch.allclose(operator.to_dense(), torch.eye(20, dtype=D), atol=1e-9)


def test_fewer_values_are_means_not_picks():
    # Readings that alternate have no motion that half their rate could show.
    t = torch.arange(400, dtype=D) / 100
    alternating = (torch.arange(400) % 2 * 2.0 - 1)[:, None].to(D)
    found, valid = to_rate(alternating, t, 10.0, 0.5, 20)
    assert bool(valid.all())
    assert float(found.abs().max()) < 0.02


def test_nothing_is_made_up_in_a_gap_and_nothing_leaks_across():
    t = torch.cat([torch.arange(50), torch.arange(100, 150)]).to(D) / 100
    steps = (t > 0.75).to(D)[:, None]
    found, valid = to_rate(steps, t, 20.0, 0.0, 30)
    times = torch.arange(30) / 20
    assert valid.tolist() == [time <= 0.49 or 1.0 <= time <= 1.49 for time in times.tolist()]
    assert torch.allclose(found[valid][:, 0], (times[valid] > 0.75).to(D))


def test_a_gap_may_be_allowed():
    t = torch.tensor([0.0, 0.1, 0.2, 1.0], dtype=D)
    _, valid = to_rate(torch.ones(4, 1, dtype=D), t, 10.0, 0.0, 11, max_gap_s=1.0)
    assert bool(valid.all())


def test_a_reading_with_nan_is_missing():
    t = torch.arange(6, dtype=D)
    values = t[:, None].clone()
    values[2] = math.nan
    found, valid = to_rate(values, t, 1.0, 0.0, 6)
    assert bool(valid.all())
    assert torch.allclose(found[:, 0], t)


def test_one_reading_and_none():
    one = resampling_operator(torch.tensor([1.0], dtype=D), rate_hz=1.0, start_s=0.0, num=3)
    assert one.crow.diff().tolist() == [0, 1, 0]
    none = resampling_operator(torch.zeros(0, dtype=D), rate_hz=1.0, start_s=0.0, num=3)
    assert none.shape == (3, 0)
    assert resampling_operator(torch.arange(3.0), rate_hz=1.0, start_s=0.0, num=0).shape == (0, 3)


@pytest.mark.parametrize(
    ("times", "match"),
    [
        ([0.0, 1.0, 1.0], "must increase"),
        ([0.0, 2.0, 1.0], "at reading 2"),
        ([0.0, math.nan, 1.0], "finite"),
    ],
)
def test_clocks_that_do_not_run_on_are_refused(times, match):
    with pytest.raises(ValueError, match=match):
        resampling_operator(torch.tensor(times), rate_hz=1.0, start_s=0.0, num=2)


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, math.inf, math.nan])
def test_a_rate_that_is_none_is_refused(rate_hz):
    with pytest.raises(ValueError, match="rate_hz > 0"):
        resampling_operator(torch.arange(3.0), rate_hz=rate_hz, start_s=0.0, num=2)


def test_other_arguments_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="max_gap_s > 0"):
        interpolation_operator(torch.arange(3.0), torch.ones(1), max_gap_s=0.0)
    with pytest.raises(ValueError, match="two time stamps"):
        usual_spacing(torch.zeros(1))


@st.composite
def clocks(draw):
    num = draw(st.integers(1, 30))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    steps = torch.rand(num, generator=generator, dtype=D) + 0.01
    if draw(st.booleans()):
        steps[num // 2] = 20.0
    return steps.cumsum(0)


@settings(deadline=None, max_examples=60)
@given(t=clocks(), rate_hz=st.floats(0.2, 10.0), start_s=st.floats(-1.0, 5.0))
def test_laws_of_the_operator(t, rate_hz, start_s):
    operator = resampling_operator(t, rate_hz=rate_hz, start_s=start_s, num=25)
    assert bool((operator.weight > 0).all())
    known = operator.crow.diff() > 0
    assert torch.allclose(operator.row_sum(), known.to(D), atol=1e-9)
    x, y = torch.randn(len(t), 2, dtype=D), torch.randn(25, 2, dtype=D)
    left, right = (operator.apply(x) * y).sum(), (x * operator.adjoint(y)).sum()
    assert torch.allclose(left, right)
    at = start_s + torch.arange(25, dtype=D) / rate_hz
    outside = (at < t[0] - 1e-6) | (at > t[-1] + 1e-6)
    assert not bool(known[outside].any())


@settings(deadline=None, max_examples=30)
@given(t=clocks(), rate_hz=st.floats(0.2, 10.0))
def test_straight_motions_stay_straight_away_from_the_ends(t, rate_hz):
    line = (2 * t - 3)[:, None]
    reach = 1 / rate_hz
    num = 40
    found, valid = to_rate(line, t, rate_hz, float(t[0]), num, max_gap_s=100.0)
    at = t[0] + torch.arange(num, dtype=D) / rate_hz
    inner = valid & (at - reach >= t[0]) & (at + reach <= t[-1])
    assert torch.allclose(found[inner, 0], (2 * at - 3)[inner], atol=1e-6)
