"""Windows in seconds, and means over them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifting.signals.windows import cut, pooling_operator, windows

D = torch.float64


def test_whole_windows_by_hand():
    assert windows(10, 2.0, 2.0, 1.0).tolist() == [[0, 4], [2, 6], [4, 8], [6, 10]]
    assert windows(9, 2.0, 2.0, 1.0).tolist() == [[0, 4], [2, 6], [4, 8]]
    assert windows(3, 2.0, 2.0, 1.0).tolist() == []


def test_covering_windows_end_with_the_signal():
    assert windows(9, 2.0, 2.0, 1.0, cover=True).tolist() == [[0, 4], [2, 6], [4, 8], [5, 9]]
    assert windows(10, 2.0, 2.0, 1.0, cover=True).tolist()[-1] == [6, 10]
    assert windows(3, 2.0, 2.5, 1.0, cover=True).tolist() == [[-1, 4]]
    assert windows(0, 2.0, 2.0, 1.0, cover=True).tolist() == []


def test_a_hop_of_no_whole_samples_does_not_drift():
    starts = windows(100_000, 44100.0, 0.01, 0.0101)[:, 0]
    exact = torch.arange(len(starts), dtype=D) * 0.0101 * 44100
    assert float((starts - exact).abs().max()) <= 0.5


@pytest.mark.parametrize(
    ("rate_hz", "window_s", "hop_s"), [(10.0, 0.01, 1.0), (10.0, 1.0, 0.05), (0.0, 1.0, 1.0)]
)
def test_windows_below_a_sample_are_refused(rate_hz, window_s, hop_s):
    with pytest.raises(ValueError, match=r"sample|rate_hz"):
        windows(100, rate_hz, window_s, hop_s)


def test_what_lies_beyond_the_signal_is_zero():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = cut(values, torch.tensor([[-1, 2], [1, 4]]))
    assert found.tolist() == [[[0, 0], [1, 2], [3, 4]], [[3, 4], [0, 0], [0, 0]]]
    assert cut(values, torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 0, 2)
    assert cut(torch.zeros(0, 5), torch.tensor([[0, 3]])).tolist() == [[[0] * 5] * 3]


@pytest.mark.parametrize("spans", [[[0, 2], [0, 3]], [[2, 2]], [[3, 1]]])
def test_windows_of_several_lengths_are_refused(spans):
    with pytest.raises(ValueError, match="equally long"):
        cut(torch.ones(5, 1), torch.tensor(spans))


def test_means_by_hand():
    t = torch.tensor([0.0, 1.0, 1.0, 2.0], dtype=D)
    spans = torch.tensor([[0.0, 1.0], [1.0, 2.0], [0.0, 9.0], [2.5, 3.0]], dtype=D)
    operator = pooling_operator(t, spans)
    values = torch.tensor([[2.0], [4.0], [6.0], [12.0]], dtype=D)
    assert operator.apply(values)[:, 0].tolist() == [2, 5, 6, 0]
    assert operator.lift(values).valid.tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("times", "span"),
    [([1.0, 0.0], [0.0, 1.0]), ([0.0, math.nan], [0.0, 1.0]), ([0.0, 1.0], [1.0, 0.0])],
)
def test_times_out_of_order_are_refused(times, span):
    with pytest.raises(ValueError, match=r"in order|end before"):
        pooling_operator(torch.tensor(times), torch.tensor([span]))


@settings(deadline=None, max_examples=40)
@given(num=st.integers(0, 20), count=st.integers(0, 6), seed=st.integers(0, 2**31))
def test_laws_of_pooling(num, count, seed):
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(num, generator=generator, dtype=D).sort().values
    spans = torch.rand(count, 2, generator=generator, dtype=D).sort(1).values
    operator = pooling_operator(t, spans)
    inside = (t >= spans[:, :1]) & (t < spans[:, 1:])
    assert torch.allclose(operator.row_sum(), inside.any(1).to(D))
    assert torch.equal(operator.to_dense() > 0, inside)
    x, y = torch.randn(num, 2, dtype=D), torch.randn(count, 2, dtype=D)
    assert torch.allclose((operator.apply(x) * y).sum(), (x * operator.adjoint(y)).sum())
