"""Gradients without conflict and students that keep pace: cases worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from xmodal.train.balance import Balance
from xmodal.train.harmony import gradients_of, harmonised, held_back


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_gradients_that_agree_are_added() -> None:
    found = harmonised([[vector(1, 0)], [vector(1, 1)]])
    torch.testing.assert_close(found[0], vector(2, 1))


def test_gradients_that_disagree_lose_what_is_against_the_other() -> None:
    # (1, 0) and (-1, 1): product -1. The first loses -1/2 (-1, 1), the second -1 (1, 0).
    found = harmonised([[vector(1, 0)], [vector(-1, 1)]])
    torch.testing.assert_close(found[0], vector(0.5, 0.5) + vector(0, 1))


def test_opposite_gradients_cancel() -> None:
    found = harmonised([[vector(2, 0)], [vector(-1, 0)]])
    torch.testing.assert_close(found[0], vector(0, 0))


def test_a_gradient_of_nothing_disturbs_nobody() -> None:
    found = harmonised([[vector(2, 0)], [vector(0, 0)]])
    torch.testing.assert_close(found[0], vector(2, 0))


def test_what_one_loss_reaches_alone_stays_as_it_is() -> None:
    # the first parameter is shared and in conflict, the others belong to one loss each
    first = [vector(1), vector(5), None, None]
    second = [vector(-2), None, vector(7), None]
    found = harmonised([first, second])
    torch.testing.assert_close(found[0], vector(0))
    torch.testing.assert_close(found[1], vector(5))
    torch.testing.assert_close(found[2], vector(7))
    assert found[3] is None


def test_given_gradients_are_not_changed_and_order_is_from_torchs_generator() -> None:
    generator = torch.Generator().manual_seed(3)
    given = [[torch.randn(4, generator=generator)] for _ in range(4)]
    copies = [one[0].clone() for one in given]
    torch.manual_seed(5)
    first = harmonised(given)[0]
    torch.manual_seed(5)
    assert torch.equal(harmonised(given)[0], first)
    assert all(torch.equal(one[0], copy) for one, copy in zip(given, copies, strict=True))


def test_nothing_to_harmonise() -> None:
    assert harmonised([]) == []
    parameter = torch.ones(2, requires_grad=True)
    assert gradients_of([torch.zeros(())], [parameter]) == []


def test_gradients_are_added_to_those_of_earlier_pieces() -> None:
    shared = torch.tensor([1.0, 2.0], requires_grad=True)
    other = torch.tensor([1.0], requires_grad=True)
    unused = torch.tensor([1.0], requires_grad=True)
    for _ in range(2):
        losses = [shared.sum() + other.sum(), (3 * shared).sum()]
        Balance.harmonise(losses, [shared, other, unused])
    assert shared.grad.tolist() == [8.0, 8.0]
    assert other.grad.tolist() == [2.0]
    assert unused.grad is None


# Pace.


def test_who_is_ahead_is_held_back() -> None:
    # half is left of the first, all of the second: rho is 2 and 1/2
    found = held_back({"fast": 0.5, "slow": 1.0})
    assert found == {"fast": pytest.approx(1 - math.tanh(1.0)), "slow": 1.0}
    assert held_back({"fast": 0.5, "slow": 1.0}, 0.2)["fast"] == pytest.approx(1 - math.tanh(0.2))
    # of three, against the mean of the others
    found = held_back({"a": 0.5, "b": 1.0, "c": 0.25})
    assert found["a"] == pytest.approx(1 - math.tanh(0.25))
    assert found["c"] == pytest.approx(1 - math.tanh(2.0))


@pytest.mark.parametrize("odd", [0.0, -1.0, math.nan, math.inf])
def test_progress_that_says_nothing_is_left_out(odd: float) -> None:
    assert held_back({"a": 0.5, "b": odd}) == {"a": 1.0, "b": 1.0}
    assert held_back({"a": 0.5}) == {"a": 1.0}


def test_modulation_remembers_first_losses_and_averages() -> None:
    balance = Balance([1.0, 1.0, 1.0], "ogm", momentum=0.5)
    of = {"sound": [0, 1], "motion": [2]}
    assert balance.modulation({0: 4.0, 1: 2.0, 2: 1.0}, of) == {"sound": 1.0, "motion": 1.0}
    # averages: 0.5 (first 4) x 2 and 0.5 (2) x 2 -> 3/4 is left of one, all of the other; 1 of 2
    found = balance.modulation({0: 2.0, 1: 2.0, 2: 1.0}, of)
    assert found["motion"] == 1.0
    assert found["sound"] == pytest.approx(1 - math.tanh(1 / 0.875 - 1), rel=1e-6)
    torch.testing.assert_close(balance.now, torch.tensor([3.0, 2.0, 1.0]))


def test_losses_without_rows_or_not_finite_move_nothing() -> None:
    balance = Balance([1.0, 1.0], "ogm")
    of = {"sound": [0], "motion": [1]}
    balance.modulation({0: 1.0, 1: 1.0}, of)
    before = balance.now.clone()
    assert balance.modulation({0: 0.0, 1: math.nan}, of) == {"sound": 1.0, "motion": 1.0}
    assert torch.equal(balance.now, before)


def test_other_modes_hold_nobody_back() -> None:
    assert Balance([1.0]).modulation({0: 1.0}, {"sound": [0]}) == {"sound": 1.0}
    assert Balance([2.0, 3.0], "harmonise").factors().tolist() == [2.0, 3.0]
