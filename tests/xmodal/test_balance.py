"""Weights between losses: equal gradients, learnt variances, state that survives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from xmodal.train.balance import Balance


def two(rows: Tensor) -> list[Tensor]:
    """Gradients of norm 1 (first row) and 100 (second row)."""
    return [rows[0].sum() / math.sqrt(3), 100 * rows[1].sum() / math.sqrt(3)]


def rows() -> Tensor:
    return torch.ones(2, 3, dtype=torch.float64, requires_grad=True)


def test_without_a_mode_the_total_is_the_weighted_sum() -> None:
    total = Balance([2.0, 0.5])([torch.tensor(3.0), torch.tensor(4.0)])
    assert float(total) == 2 * 3 + 0.5 * 4


@pytest.mark.parametrize("weights", [[1.0, 1.0], [3.0, 1.0]])
def test_gradient_norms_are_in_the_ratio_of_the_weights(weights: list[float]) -> None:
    shared = rows()
    balance = Balance(weights, "grad_norm")
    balance(two(shared), shared).backward()
    first, second = shared.grad.norm(dim=1).tolist()
    assert first / second == pytest.approx(weights[0] / weights[1], rel=1e-5)
    # the weighted mean of the norms is kept
    mean = (weights[0] * 1 + weights[1] * 100) / sum(weights)
    assert first == pytest.approx(weights[0] * mean, rel=1e-5)


def test_norms_are_averaged_over_steps() -> None:
    balance = Balance([1.0, 1.0], "grad_norm", momentum=0.5)
    shared = rows()
    balance(two(shared), shared)
    small, large = two(shared)
    balance([3 * small, large], shared)
    # 0.5 x 1 + 0.5 x 3, and 100 as before
    torch.testing.assert_close(balance.norms, torch.tensor([2.0, 100.0]))


def test_norms_are_of_all_shared_tensors_together() -> None:
    first, second = rows(), rows()
    balance = Balance([1.0], "grad_norm")
    balance([3 * first[0, 0] + 4 * second[1, 1]], [first, second])
    assert float(balance.norms) == pytest.approx(5.0)


def test_a_loss_without_rows_moves_nothing() -> None:
    shared = rows()
    balance = Balance([1.0, 1.0], "grad_norm")
    balance(two(shared), shared)
    before = balance.norms.clone()
    balance([shared[:0].sum(), two(shared)[1]], shared)
    assert torch.equal(balance.norms, before)
    learnt = Balance([1.0, 1.0], "uncertainty")
    learnt([shared[:0].sum(), two(shared)[1]]).backward()
    assert learnt.log_variance.grad[0] == 0
    assert learnt.log_variance.grad[1] != 0


def test_a_gradient_that_is_not_finite_spoils_no_average() -> None:
    shared = rows()
    balance = Balance([1.0, 1.0], "grad_norm")
    balance(two(shared), shared)
    before = balance.norms.clone()
    bad = two(shared)
    total = balance([bad[0] * math.inf, bad[1]], shared)
    assert torch.equal(balance.norms, before)
    assert not math.isfinite(float(total.detach()))


def test_outside_training_averages_stay() -> None:
    shared = rows()
    balance = Balance([1.0, 1.0], "grad_norm")
    balance(two(shared), shared)
    before, state = balance.factors(), balance.norms.clone()
    balance.eval()
    small, large = two(shared)
    balance([7 * small, large], shared)
    balance.train()
    balance([7 * small, large], None)
    assert torch.equal(balance.norms, state)
    assert torch.equal(balance.factors(), before)


def test_before_the_first_step_weights_are_the_users() -> None:
    assert Balance([2.0, 3.0], "grad_norm").factors().tolist() == [2.0, 3.0]
    assert Balance([2.0, 3.0], "uncertainty").factors().tolist() == [2.0, 3.0]


def test_variances_are_learnt_to_twice_the_loss() -> None:
    # d/ds of exp(-s) L + s / 2 is 0 at exp(s) = 2 L
    balance = Balance([1.0, 1.0], "uncertainty")
    optimiser = torch.optim.SGD(balance.parameters(), lr=0.5)
    for _ in range(200):
        optimiser.zero_grad()
        balance([torch.tensor(0.25), torch.tensor(4.0)]).backward()
        optimiser.step()
    torch.testing.assert_close(
        balance.log_variance.detach().exp(), torch.tensor([0.5, 8.0]), rtol=1e-3, atol=1e-3
    )


def test_uncertainty_agrees_with_finite_differences() -> None:
    balance = Balance([1.0, 2.0], "uncertainty").double()
    shared = rows()
    assert torch.autograd.gradcheck(lambda x: balance([x.square().sum(), x.sum()]), (shared,))


@pytest.mark.parametrize("mode", ["none", "grad_norm", "uncertainty"])
def test_state_goes_through_a_state_dict(mode: Any) -> None:
    shared = rows()
    balance, twin = Balance([1.0, 1.0], mode), Balance([1.0, 1.0], mode)
    balance(two(shared), shared)
    if mode == "uncertainty":
        torch.nn.init.constant_(balance.log_variance, 0.3)
    twin.load_state_dict(balance.state_dict())
    assert torch.equal(twin(two(shared)), balance(two(shared)))


@pytest.mark.parametrize("weights", [[], [0.0], [-1.0], [1.0, math.nan], [math.inf]])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights above 0"):
        Balance(weights)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, math.nan])
def test_a_momentum_out_of_range_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match="momentum"):
        Balance([1.0], momentum=momentum)


@pytest.mark.parametrize("num", [0, 1, 3])
def test_another_number_of_losses_is_refused(num: int) -> None:
    with pytest.raises(ValueError, match=f"not {num}"):
        Balance([1.0, 1.0])([torch.tensor(1.0)] * num)
