"""Filling what no view saw: near neighbours only, and never in silence."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lifting.completion import complete_knn, completion_operators


def line(*x: float) -> Tensor:
    return torch.tensor([[value, 0.0, 0.0] for value in x])


def test_by_hand() -> None:
    xyz = line(0.0, 1.0, 3.0, 10.0)
    rows = torch.tensor([[4.0], [99.0], [1.0], [99.0]])
    valid = torch.tensor([True, False, True, False])
    found = complete_knn(xyz, rows, valid, k=2, max_distance_m=5.0)
    assert found.filled.tolist() == [False, True, False, False]
    # Distances 1 and 2: shares 2/3 and 1/3. What nothing reaches stays unobserved: zero.
    torch.testing.assert_close(found.rows, torch.tensor([[4.0], [3.0], [1.0], [0.0]]))


def test_the_limit_is_inclusive() -> None:
    valid = torch.tensor([True, False])
    assert complete_knn(line(0, 2), torch.ones(2, 1), valid, 1, 2.0).filled.tolist() == [
        False,
        True,
    ]
    assert not complete_knn(line(0, 2), torch.ones(2, 1), valid, 1, 1.99).filled.any()


def test_observed_rows_are_untouched() -> None:
    rows = torch.randn(20, 5)
    valid = torch.arange(20) % 3 > 0
    found = complete_knn(torch.rand(20, 3), rows, valid, 4, 10.0)
    assert torch.equal(found.rows[valid], rows[valid])
    assert torch.equal(found.filled, ~valid)


def test_points_at_one_place_count_once() -> None:
    # Nine observed points at 0 and one at 2: the place in the middle hears both equally.
    xyz = line(*[0.0] * 9, 2.0, 1.0, 1.0)
    rows = torch.tensor([[0.0]] * 4 + [[9.0]] * 5 + [[1.0]] + [[0.0]] * 2)
    valid = torch.arange(12) < 10
    found = complete_knn(xyz, rows, valid, k=2, max_distance_m=5.0)
    torch.testing.assert_close(found.rows[10:], torch.full((2, 1), (5.0 + 1.0) / 2))


def test_a_point_at_an_observed_place_takes_its_row() -> None:
    rows = torch.tensor([[7.0], [0.0], [-100.0]])
    found = complete_knn(line(1, 1, 1.001), rows, torch.tensor([True, False, True]), 2, 1.0)
    torch.testing.assert_close(found.rows[1], rows[0], rtol=1e-4, atol=0)


def test_many_points_at_one_place_stay_cheap() -> None:
    """A sensor's failed returns pile up at the origin; the operators stay linear in the points."""
    xyz, valid = torch.zeros(20_000, 3), torch.arange(20_000) < 10_000
    average, places = completion_operators(xyz, valid, 4, 0.1)
    assert average.nnz == 10_000
    assert places.nnz == 10_000
    assert complete_knn(xyz, torch.ones(20_000, 1), valid).filled.sum() == 10_000


@pytest.mark.parametrize("size", [0, 1, 5])
@pytest.mark.parametrize("observed", [True, False])
def test_nothing_to_fill_or_nothing_to_fill_from(size: int, observed: bool) -> None:
    valid = torch.full((size,), observed)
    found = complete_knn(torch.zeros(size, 3), torch.ones(size, 2), valid)
    assert not found.filled.any()
    assert torch.equal(found.rows, torch.full((size, 2), float(observed)))


def test_nan_in_unobserved_rows_does_not_leave() -> None:
    rows = torch.tensor([[1.0], [math.nan], [math.nan]])
    found = complete_knn(line(0, 0.05, 9), rows, torch.tensor([True, False, False]))
    assert found.rows.tolist() == [[1.0], [1.0], [0.0]]


def test_gradients_reach_the_donors() -> None:
    rows = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([True, False, True])
    assert torch.autograd.gradcheck(
        # float32 weights: the shares are exact halves here.
        lambda r: complete_knn(line(0, 1, 2), r, valid, 2, 5.0).rows,
        rows,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    valid = torch.tensor([True, False])
    assert complete_knn(line(0, 0.1), torch.ones(2, 1, dtype=dtype), valid).rows.dtype == dtype


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 30), st.integers(1, 4), st.integers(0, 999))
def test_filled_rows_are_averages(size: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.randint(0, 3, (size, 3), generator=generator).float()
    rows = torch.rand(size, 2, generator=generator)
    valid = torch.rand(size, generator=generator) < 0.5
    found = complete_knn(xyz, rows, valid, k, 1.5)
    assert not (found.filled & valid).any()
    reachable = torch.cdist(xyz, xyz).le(1.5)[:, valid].any(dim=1) & ~valid
    assert torch.equal(found.filled, reachable)
    if found.filled.any():
        assert found.rows[found.filled].min() >= rows[valid].min() - 1e-6
        assert found.rows[found.filled].max() <= rows[valid].max() + 1e-6
    order = torch.randperm(size, generator=generator)
    again = complete_knn(xyz[order], rows[order], valid[order], k, 1.5)
    assert torch.equal(again.filled, found.filled[order])


@pytest.mark.parametrize(
    ("k", "distance", "message"),
    [(0, 1.0, "at least 1"), (1, 0.0, "above 0"), (1, -1.0, "above 0")],
)
def test_impossible_options_are_refused(k: int, distance: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        complete_knn(torch.zeros(2, 3), torch.zeros(2, 1), torch.tensor([True, False]), k, distance)


def test_lengths_must_agree() -> None:
    bare = complete_knn.__wrapped__
    with pytest.raises(ValueError, match="2 points need as many rows, got 3"):
        bare(torch.zeros(2, 3), torch.zeros(3, 1), torch.tensor([True, False]))
    with pytest.raises(ValueError, match="2 points need as many valid flags"):
        completion_operators.__wrapped__(torch.zeros(2, 3), torch.tensor([True]), 1, 1.0)
    with pytest.raises(ValueError, match="1 of 2 points"):
        complete_knn(line(0, math.nan), torch.zeros(2, 1), torch.tensor([True, False]))
