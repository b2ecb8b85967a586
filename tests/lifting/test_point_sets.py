"""Sets of points as operators."""

import pytest
import torch

from lifting.operator import LiftOperator
from lifting.point_sets import saturating, sets_of_view, stack_rows


def dense(rows: list[list[float]]) -> LiftOperator:
    wide = torch.tensor(rows)
    row, col = wide.nonzero(as_tuple=True)
    return LiftOperator.from_coo(row, col, wide[row, col], shape=(len(rows), wide.shape[1]))


def test_stacked_operators_apply_one_after_another():
    parts = [dense([[1.0, 2, 0], [0, 0, 0]]), dense([[0.0, 0, 3]])]
    stacked = stack_rows(parts, num_sources=3)
    assert stacked.shape == (3, 3)
    x = torch.randn(3, 4)
    assert torch.allclose(stacked.apply(x), torch.cat([part.apply(x) for part in parts]))


def test_stacking_nothing_gives_no_targets():
    assert stack_rows([], num_sources=5).shape == (0, 5)


def test_stacking_refuses_other_sources():
    with pytest.raises(ValueError, match="over 3 and 2 sources"):
        stack_rows([dense([[1.0, 1]]), dense([[1.0, 1, 1]])], num_sources=3)


def test_sets_are_the_transpose_of_the_lift():
    # Points 1, 4 and 5 of six see two masks; the last one sees the second alone.
    taps = dense([[1.0, 0], [0.75, 0.25], [0, 1.0]])
    sets, kept = sets_of_view(taps, torch.tensor([1, 4, 5]), 6, least_weight=0.0, min_points=1)
    assert kept.tolist() == [0, 1]
    assert sets.to_dense().tolist() == [[0, 1, 0, 0, 0.75, 0], [0, 0, 0, 0, 0.25, 1]]


def test_small_shares_and_small_sets_are_left_out():
    taps = dense([[1.0, 0], [0.75, 0.25], [0, 1.0]])
    sets, kept = sets_of_view(taps, torch.tensor([1, 4, 5]), 6, least_weight=0.5, min_points=2)
    assert kept.tolist() == [0]
    assert sets.to_dense().tolist() == [[0, 1, 0, 0, 0.75, 0]]


def test_a_view_that_sees_nothing_gives_no_sets():
    taps = LiftOperator(
        crow=torch.tensor([0]),
        col=torch.zeros(0, dtype=torch.int64),
        weight=torch.zeros(0),
        num_sources=4,
    )
    none = torch.zeros(0, dtype=torch.int64)
    sets, kept = sets_of_view(taps, none, 9, least_weight=0.1, min_points=1)
    assert sets.shape == (0, 9)
    assert not len(kept)


def test_saturation():
    count = torch.tensor([0, 50, 150])
    assert torch.allclose(saturating(count, 50.0), torch.tensor([0.0, 0.5, 0.75]))
    assert saturating(count, 0.0).tolist() == [0, 1, 1]
