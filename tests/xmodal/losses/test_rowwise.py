"""Losses: cases worked by hand, rows that must not count, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xmodal.losses import cosine, kl, mse

Loss = Callable[..., Tensor]
LOSSES = pytest.mark.parametrize("loss", [cosine, mse, kl])
NAN = float("nan")


def simplex(seed: int, rows: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 5, generator=generator, dtype=dtype).softmax(dim=1)


@pytest.mark.parametrize(
    ("loss", "teacher", "student", "expected"),
    [
        (cosine, [[1.0, 0.0]], [[2.0, 0.0]], 0.0),
        (cosine, [[1.0, 0.0]], [[0.0, 3.0]], 1.0),
        (cosine, [[1.0, 0.0]], [[-1.0, 0.0]], 2.0),
        (cosine, [[3.0, 4.0]], [[4.0, 3.0]], 1 - 24 / 25),
        (mse, [[1.0, 2.0]], [[1.0, 2.0]], 0.0),
        (mse, [[1.0, 2.0]], [[2.0, 4.0]], (1 + 4) / 2),
        (kl, [[0.5, 0.5]], [[0.5, 0.5]], 0.0),
        (kl, [[1.0, 0.0]], [[0.25, 0.75]], math.log(4)),
        (kl, [[0.5, 0.5]], [[0.9, 0.1]], 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)),
        (kl, [[2.0, 2.0]], [[0.5, 0.5]], 0.0),  # teacher rows are normalised
    ],
)
def test_by_hand(
    loss: Loss, teacher: list[list[float]], student: list[list[float]], expected: float
) -> None:
    got = loss(torch.tensor(teacher), torch.tensor(student))
    assert float(got) == pytest.approx(expected, abs=1e-6)


def test_temperature_by_hand() -> None:
    # T = 2: sqrt(0.8), sqrt(0.2) normalised is 2/3, 1/3; the student stays 1/2, 1/2.
    got = kl(torch.tensor([[0.8, 0.2]]), torch.tensor([[0.5, 0.5]]), temperature=2.0)
    expected = 4 * (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3))
    assert float(got) == pytest.approx(expected, abs=1e-6)


def test_rows_weigh_by_coverage() -> None:
    teacher, student = torch.zeros(2, 1), torch.tensor([[1.0], [2.0]])
    weight = torch.tensor([3.0, 1.0])
    assert float(mse(teacher, student, weight=weight)) == pytest.approx((3 * 1 + 1 * 4) / 4)


@LOSSES
@pytest.mark.parametrize("mark", ["valid", "weight"])
@pytest.mark.parametrize("filler", [NAN, float("inf"), 0.0, 7.0, -1.0])
def test_unobserved_rows_change_neither_loss_nor_gradient(
    loss: Loss, mark: str, filler: float
) -> None:
    teacher, student = simplex(0, 4), simplex(1, 4)
    seen = torch.tensor([True, False, True, False])
    alone = student[seen].clone().requires_grad_()
    expected = loss(teacher[seen], alone)
    expected.backward()

    spoilt = teacher.clone()
    spoilt[~seen] = filler
    given_rows = student.clone().requires_grad_()
    marks: dict[str, Any] = {"valid": seen} if mark == "valid" else {"weight": seen.double()}
    got = loss(spoilt, given_rows, **marks)
    got.backward()
    assert torch.equal(got, expected)
    assert torch.equal(given_rows.grad[seen], alone.grad)
    assert given_rows.grad[~seen].abs().sum() == 0


@LOSSES
@pytest.mark.parametrize("rows", [0, 3])
def test_no_observed_row_gives_zero_loss_and_gradient(loss: Loss, rows: int) -> None:
    student = simplex(1, rows).requires_grad_()
    got = loss(simplex(0, rows), student, valid=torch.zeros(rows, dtype=torch.bool))
    got.backward()
    assert got.item() == 0.0
    assert student.grad.abs().sum() == 0


@pytest.mark.parametrize("loss", [cosine, kl])
def test_a_teacher_row_of_zeros_says_nothing(loss: Loss) -> None:
    teacher, student = simplex(0, 3), simplex(1, 3)
    teacher[1] = 0.0
    keep = torch.tensor([0, 2])
    torch.testing.assert_close(loss(teacher, student), loss(teacher[keep], student[keep]))


def test_a_student_row_of_zeros_has_cosine_zero_and_no_gradient() -> None:
    student = torch.zeros(1, 3, requires_grad=True)
    got = cosine(torch.tensor([[1.0, 0.0, 0.0]]), student)
    got.backward()
    assert got.item() == 1.0
    assert torch.equal(student.grad, torch.zeros(1, 3))


@LOSSES
def test_nan_in_an_observed_row_is_not_hidden(loss: Loss) -> None:
    teacher = simplex(0, 3)
    teacher[1, 2] = NAN
    assert math.isnan(float(loss(teacher, simplex(1, 3))))


@LOSSES
def test_gradients_agree_with_finite_differences(loss: Loss) -> None:
    teacher, student = simplex(0, 4), simplex(1, 4).requires_grad_()
    weight = torch.tensor([1.0, 2.0, 0.0, 0.5])
    assert torch.autograd.gradcheck(lambda s: loss(teacher, s, weight=weight), (student,))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_gradients_through_the_temperature(temperature: float) -> None:
    teacher, student = simplex(0, 4), simplex(1, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: kl(teacher, s, temperature=temperature), (student,))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_kl_is_least_at_equality_for_every_temperature(temperature: float) -> None:
    teacher = simplex(0, 4)
    logits = teacher.log().requires_grad_()
    loss = kl(teacher, logits.softmax(dim=1), temperature=temperature)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert logits.grad.abs().max() < 1e-12


def test_kl_from_probabilities_equals_kl_from_logits() -> None:
    logits = (torch.randn(50, 1000) * 5).requires_grad_()
    twin = logits.detach().clone().requires_grad_()
    teacher = (torch.randn(50, 1000) * 5).softmax(dim=1)
    ours = kl(teacher, logits.softmax(dim=1))
    peer = torch.nn.functional.kl_div(twin.log_softmax(dim=1), teacher, reduction="batchmean")
    ours.backward()
    peer.backward()
    torch.testing.assert_close(ours, peer, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits.grad, twin.grad, rtol=1e-3, atol=1e-7)


def test_a_vanished_probability_gives_a_finite_loss_and_gradient() -> None:
    student = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = kl(torch.tensor([[0.5, 0.5]]), student)
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(student.grad).all()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 100), scale=st.floats(1e-20, 1e20))
def test_only_ratios_of_weights_matter(seed: int, scale: float) -> None:
    weight = torch.rand(4, generator=torch.Generator().manual_seed(seed)) + 0.1
    for loss in (cosine, mse, kl):
        a = loss(simplex(0, 4), simplex(1, 4), weight=weight)
        b = loss(simplex(0, 4), simplex(1, 4), weight=(weight.double() * scale).float())
        assert float(a) == pytest.approx(float(b), rel=1e-5)


@LOSSES
def test_a_negative_weight_is_refused(loss: Loss) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        loss(simplex(0, 2), simplex(1, 2), weight=torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_kl_refuses_what_is_no_probability(side: str) -> None:
    rows = {"teacher": simplex(0, 2), "student": simplex(1, 2)}
    rows[side][0, 0] = -0.5
    with pytest.raises(ValueError, match="probabilities"):
        kl(rows["teacher"], rows["student"])


@pytest.mark.parametrize("temperature", [0.0, -1.0, NAN])
def test_kl_refuses_a_temperature_that_is_none(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        kl(simplex(0, 2), simplex(1, 2), temperature=temperature)


@LOSSES
def test_rows_that_do_not_match_are_refused(loss: Loss) -> None:
    with pytest.raises((TypeError, IndexError, RuntimeError)):
        loss(simplex(0, 2), simplex(1, 3))
