"""Likeness to a queue of instances: cases worked by hand, what enters and leaves, cost."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from xmodal.losses import QueueSimilarity

AXES = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
E = math.e


def rows(seed: int, num: int = 8, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, width, generator=generator, dtype=torch.float64)


def test_the_first_call_compares_within_itself() -> None:
    made = QueueSimilarity(2, 4)
    # p is the soft-max of cosines (1, 0), q that of (0, 1): KL = tanh(1 / 2)
    got = made(2 * AXES, AXES.flip(0), teacher_temperature=1.0, student_temperature=1.0)
    assert float(got) == pytest.approx((E - 1) / (E + 1))
    assert int(made.count) == 2


def test_the_queue_counts_by_hand() -> None:
    made = QueueSimilarity(2, 4)
    made(AXES, AXES)
    # the instances of one row: both axes in the queue, and itself
    got = made(AXES[:1], AXES[1:], teacher_temperature=1.0, student_temperature=0.5)
    p = torch.tensor([E, 1.0, E]) / (2 * E + 1)
    q = torch.tensor([1.0, E**2, 1.0]) / (2 + E**2)
    assert float(got) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-6)


def test_equal_rows_meet_with_one_temperature_only() -> None:
    made = QueueSimilarity(5, 16).double()
    made(rows(2), rows(3))
    student = rows(0).requires_grad_()
    made(rows(0), student).backward()
    assert student.grad.abs().max() < 1e-12
    assert float(made(rows(0), rows(0), student_temperature=0.05)) > 0


def test_the_oldest_leave_first_and_only_in_training() -> None:
    made = QueueSimilarity(1, 3, per_call=2)
    for sign in (1.0, -1.0, 1.0):
        made(torch.full((2, 1), sign), torch.ones(2, 1))
    assert sorted(made.filled().flatten().tolist()) == [-1.0, 1.0, 1.0]
    made.eval()
    made(torch.full((2, 1), -1.0), torch.ones(2, 1))
    assert int(made.count) == 6


def test_the_state_is_restored() -> None:
    first, second = QueueSimilarity(5, 16).double(), QueueSimilarity(5, 16).double()
    first(rows(0), rows(1))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(rows(2), rows(3)), second(rows(2), rows(3)))
    assert torch.equal(first.keys, second.keys)


def test_a_row_that_is_not_finite_does_not_enter() -> None:
    made = QueueSimilarity(5, 16).double()
    spoilt = rows(0)
    spoilt[3, 1] = math.nan
    assert math.isnan(float(made(spoilt, rows(1))))
    assert int(made.count) == 7
    assert math.isfinite(float(made(rows(2), rows(3))))


def test_gradients_reach_the_student_alone() -> None:
    made = QueueSimilarity(5, 16).double()
    made(rows(4), rows(5))
    made.eval()
    student = rows(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: made(rows(0), s, student_temperature=0.3), student)


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"size": 0}, "size"), ({"channels": 0}, "channels"), ({"per_call": 0}, "per_call")],
)
def test_sizes_below_one_are_refused(settings: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named} must be at least 1"):
        QueueSimilarity(**{"channels": 5, "size": 4, **settings})


@pytest.mark.parametrize("which", ["teacher_temperature", "student_temperature"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_none_is_refused(which: str, value: float) -> None:
    with pytest.raises(ValueError, match="temperature must be above 0"):
        QueueSimilarity(5, 4).double()(rows(0), rows(1), **{which: value})


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        QueueSimilarity(5, 4).double()(rows(0), rows(1), weight=-torch.ones(8).double())
