"""Continuous weights, correlations, pruned dimensions: cases worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from xmodal.losses import SharedDimensions, correlation, cwcl, info_nce

AXES = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
LN = math.log


def rows(seed: int, num: int = 8, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, width, generator=generator, dtype=torch.float64)


# Continuous weights.


def test_weights_are_half_of_one_plus_the_cosine() -> None:
    # weights of a row are 1 (own) and 1/2; its logits 1 and 0
    right, wrong = LN(1 + math.exp(-1)), LN(1 + math.e)
    one_way = (right + wrong / 2) / 1.5
    got = cwcl(AXES, 3 * AXES, temperature=1.0, both_ways=False)
    assert float(got) == pytest.approx(one_way)
    got = cwcl(AXES, AXES, temperature=1.0)
    assert float(got) == pytest.approx((one_way + right) / 2)
    swapped = cwcl(AXES, AXES.flip(0), temperature=1.0, both_ways=False)
    assert float(swapped) == pytest.approx((wrong + right / 2) / 1.5)


def test_opposite_rows_are_negatives_as_ever() -> None:
    teacher = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    got = cwcl(teacher, rows(1, 2, 2), both_ways=False)
    torch.testing.assert_close(got, info_nce(teacher, rows(1, 2, 2)))


def test_equal_teacher_rows_are_positives_alike() -> None:
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # both rows weigh 1 and have the same logit: half of the soft-max each
    assert float(cwcl(teacher, rows(0, 2, 2).float(), both_ways=False)) == pytest.approx(LN(2))


def test_weights_of_rows() -> None:
    got = cwcl(rows(0), rows(1), weight=torch.arange(8.0).double())
    kept = torch.arange(8) > 0
    again = cwcl(
        rows(0)[kept], rows(1)[kept], weight=torch.arange(1.0, 8.0).double(), both_ways=True
    )
    torch.testing.assert_close(got, again)


@pytest.mark.parametrize("loss", [cwcl, correlation])
def test_gradients(loss: Any) -> None:
    student = rows(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(rows(0), s, temperature=0.5), student)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("loss", [cwcl, correlation])
def test_no_temperature(loss: Any, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        loss(rows(0), rows(1), temperature=temperature)


# Correlations.


def test_correlations_by_hand() -> None:
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    high = math.e / (math.e + 1)
    # soft-maxes over the two others: the teacher relates 0 to 1, the student 1 to 2
    sure = torch.tensor([high, 1 - high])
    even = torch.tensor([0.5, 0.5])

    def kl(p: Tensor, q: Tensor) -> float:
        return float((p * (p / q).log()).sum())

    expected = (kl(sure, even) + kl(sure, sure.flip(0)) + kl(even, sure.flip(0))) / 3
    got = correlation(teacher, student, temperature=1.0, inter=0.0)
    assert float(got) == pytest.approx(expected, rel=1e-5)
    # with the teacher's rows: row 0 as the teacher, rows 1 and 2 nearer to the last teacher row
    expected = (kl(sure, sure) + kl(sure, sure.flip(0)) + kl(even, even)) / 3
    got = correlation(teacher, student, temperature=1.0, intra=0.0)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_equality_is_the_least_value_and_turns_do_not_matter_within() -> None:
    student = rows(0).requires_grad_()
    correlation(rows(0), student).backward()
    assert student.grad.abs().max() < 1e-12
    turn = torch.linalg.qr(rows(3, 5, 5)).Q
    assert float(correlation(rows(0), rows(0) @ turn, inter=0.0)) == pytest.approx(0.0, abs=1e-12)
    assert float(correlation(rows(0), rows(0) @ turn, intra=0.0)) > 0.01


def test_widths_may_differ_within() -> None:
    assert float(correlation(rows(0), rows(1, 8, 3), inter=0.0)) > 0
    with pytest.raises(ValueError, match="3 student channels with 5"):
        correlation(rows(0), rows(1, 8, 3))


def test_two_rows_have_nothing_to_relate() -> None:
    student = rows(1, 2).requires_grad_()
    correlation(rows(0, 2), student).backward()
    assert float(student.grad.abs().sum()) == 0


@pytest.mark.parametrize(("inter", "intra"), [(0.0, 0.0), (-1.0, 1.0), (1.0, math.nan)])
def test_factors_that_are_none(inter: float, intra: float) -> None:
    with pytest.raises(ValueError, match="inter and intra"):
        correlation(rows(0), rows(1), inter=inter, intra=intra)


# Dimensions.


def test_the_strongest_dimensions_stay() -> None:
    made = SharedDimensions(4, 2)
    told = torch.tensor([[0.1, 3.0, 0.0, 4.0], [0.0, 4.0, 0.2, 3.0], [0.0, 0.0, 0.0, 0.0]])
    made.start_from(told)
    assert made.kept.tolist() == [1, 3]
    torch.testing.assert_close(made(told), told[:, [1, 3]])
    back = made.restore(made(told))
    assert back[:, [0, 2]].abs().sum() == 0
    # both rows are 5 long there, the empty one is not: the mean length is 10 / 3
    torch.testing.assert_close(made(back), made(told) / 5 * (10 / 3))


def test_importance_is_of_directions_not_of_lengths() -> None:
    made = SharedDimensions(2, 1)
    made.start_from(torch.tensor([[100.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    assert made.kept.tolist() == [1]


def test_the_choice_is_made_once_and_is_part_of_the_state() -> None:
    made, twin = SharedDimensions(5, 2), SharedDimensions(5, 2)
    made.start_from(rows(0))
    first = made.kept.clone()
    made.start_from(rows(0).flip(1))
    assert torch.equal(made.kept, first)
    twin.load_state_dict(made.state_dict())
    twin.start_from(rows(0).flip(1))
    assert torch.equal(twin.kept, first)


def test_rows_that_say_nothing_choose_nothing() -> None:
    made = SharedDimensions(3, 2)
    made.start_from(torch.zeros(4, 3))
    made.start_from(torch.full((4, 3), math.nan))
    made.start_from(rows(0, 4, 3), valid=torch.zeros(4, dtype=torch.bool))
    assert not bool(made.chosen)
    made.start_from(torch.tensor([[math.nan, 1.0, 1.0], [0.0, 1.0, 2.0]]))
    assert made.kept.tolist() == [1, 2]


@pytest.mark.parametrize(("keep", "named"), [(0, "at least 1"), (6, "at most the teacher's 5")])
def test_more_dimensions_than_there_are(keep: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SharedDimensions(5, keep)
