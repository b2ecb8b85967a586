"""Contrast of pixels by their masks: worked by hand, and what must not matter."""

from __future__ import annotations

import math

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from xmodal.losses import mask_contrast

E1, E2 = [1.0, 0.0], [0.0, 1.0]
# Two views; masks 0 and 1 in the first, 2 and 3 in the second; the last row is of no mask.
GROUPS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, -1])
VIEWS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1])


def rows(seed: int = 0, num: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, 4, generator=generator, dtype=torch.float64)


def test_two_pixels_of_a_mask_and_one_of_another_by_hand() -> None:
    student = torch.tensor([E1, [3.0, 0.0], E2])
    got = mask_contrast(student, torch.tensor([0, 0, 1]), torch.zeros(3).long(), temperature=0.5)
    # Cosines 1 and 0: -log(e^2 / (e^2 + 1)); the third pixel has none to be like.
    assert float(got) == pytest.approx(math.log(1 + math.exp(-2)))


def test_several_pixels_of_a_mask_are_averaged_by_hand() -> None:
    student = torch.tensor([E1, E1, E2, E2])
    groups = torch.tensor([0, 0, 0, 1])
    got = mask_contrast(student, groups, torch.zeros(4).long(), temperature=1.0)
    total = math.log(math.e + 2)  # of the first two pixels: one at cosine 1, two at 0
    third = math.log(2 + math.e)  # two at 0, and the other mask's at 1
    assert float(got) == pytest.approx(((total - 0.5) * 2 + third) / 3)


def test_pixels_weigh() -> None:
    student = torch.tensor([E1, E1, E2, E2])
    groups, one = torch.tensor([0, 0, 0, 1]), torch.zeros(4).long()
    weight = torch.tensor([0.0, 1.0, 3.0, 1.0])
    got = mask_contrast(student, groups, one, weight=weight, temperature=1.0)
    # The first pixel is out; the second and the third are each other's only partner.
    values = math.log(1 + 1), math.log(1 + math.e)
    assert float(got) == pytest.approx((values[0] + 3 * values[1]) / 4)


def test_views_are_not_compared() -> None:
    student = rows()
    whole = mask_contrast(student, GROUPS, VIEWS)
    first = mask_contrast(student[:5], GROUPS[:5], VIEWS[:5])
    second = mask_contrast(student[5:], GROUPS[5:], VIEWS[5:])
    # Five pixels count in the first view, two in the second.
    torch.testing.assert_close(whole, (5 * first + 2 * second) / 7)
    reused = mask_contrast(student, GROUPS.where(VIEWS == 0, GROUPS - 2), VIEWS)
    assert reused != mask_contrast(student, GROUPS.where(VIEWS == 0, GROUPS - 2), VIEWS * 0)


@hypothesis.given(st.permutations(list(range(9))))
@hypothesis.settings(deadline=None, max_examples=20)
def test_order_does_not_matter(order: list[int]) -> None:
    student, index = rows(), torch.tensor(order)
    got = mask_contrast(student[index], GROUPS[index], VIEWS[index])
    torch.testing.assert_close(got, mask_contrast(student, GROUPS, VIEWS))


def test_gradient() -> None:
    weight = torch.linspace(0.5, 2, 9, dtype=torch.float64)

    def loss(student: Tensor) -> Tensor:
        return mask_contrast(student, GROUPS, VIEWS, weight=weight, temperature=0.3)

    assert torch.autograd.gradcheck(loss, (rows().requires_grad_(),))


def test_learning_turns_pixels_of_a_mask_to_each_other() -> None:
    student = rows(3).requires_grad_()
    optimiser = torch.optim.Adam([student], lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        mask_contrast(student, GROUPS, VIEWS, temperature=0.5).backward()
        optimiser.step()
    unit = torch.nn.functional.normalize(student.detach(), dim=1)
    assert unit[0] @ unit[1] > 0.95
    assert unit[0] @ unit[2] < 0.3


@pytest.mark.parametrize(
    "groups", [[0, 1, 2], [0, 0, 0], [-1, -1, -1]], ids=["no partner", "no other", "no mask"]
)
def test_without_anything_to_compare_the_loss_is_zero(groups: list[int]) -> None:
    student = rows(num=3).requires_grad_()
    got = mask_contrast(student, torch.tensor(groups), torch.zeros(3).long())
    got.backward()
    assert got.item() == 0.0
    assert student.grad is not None
    assert student.grad.abs().sum() == 0


def test_no_rows_are_no_error() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert mask_contrast(rows(num=0), none, none).item() == 0.0


@pytest.mark.parametrize("mark", ["valid", "weight", "group"])
def test_rows_that_do_not_count_may_be_anything(mark: str) -> None:
    student, out = rows(), torch.arange(9) == 3
    alone = mask_contrast(student[~out], GROUPS[~out], VIEWS[~out])
    student[3] = math.nan
    student.requires_grad_()
    if mark == "valid":
        got = mask_contrast(student, GROUPS, VIEWS, valid=~out)
    elif mark == "weight":
        got = mask_contrast(student, GROUPS, VIEWS, weight=(~out).double())
    else:
        got = mask_contrast(student, GROUPS.where(~out, -1), VIEWS)
    torch.testing.assert_close(got, alone)
    got.backward()
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


def test_nan_that_counts_is_seen() -> None:
    student = rows()
    student[0, 0] = math.nan
    assert math.isnan(mask_contrast(student, GROUPS, VIEWS).item())


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        mask_contrast(rows(), GROUPS, VIEWS, weight=-torch.ones(9, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf])
def test_a_temperature_out_of_range_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        mask_contrast(rows(), GROUPS, VIEWS, temperature=temperature)
