"""Sets of points, transport, class means, standardised rows: cases worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lifting.operator import LiftOperator
from xmodal.losses import (
    DirectionNorm,
    LipschitzCritic,
    Standardise,
    agreement,
    info_nce,
    part_distill,
    set_contrast,
    set_cosine,
    sinkhorn,
    wasserstein,
)

E1, E2 = [1.0, 0.0], [0.0, 1.0]
AXES = torch.tensor([E1, E2])
KINDS = pytest.mark.parametrize("kind", ["channel", "phi", "whiten"])


def rows(seed: int, num: int = 8, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, width, generator=generator, dtype=torch.float64)


def members(*sets: dict[int, float], num: int = 3) -> LiftOperator:
    entries = [(i, j, w) for i, one in enumerate(sets) for j, w in one.items()]
    row, col, weight = zip(*entries, strict=True)
    return LiftOperator.from_coo(
        torch.tensor(row), torch.tensor(col), torch.tensor(weight), shape=(len(sets), num)
    )


# Sets of points.


def test_a_set_is_its_points_average_by_weight() -> None:
    student = torch.tensor([E1, E2, [-1.0, 0.0]])
    # 3 parts E1 and 4 parts E2: cosine 0.6 to E1
    both = members({0: 3.0, 1: 4.0})
    assert float(set_cosine(torch.tensor([E1]), student, both)) == pytest.approx(0.4)


def test_sets_overlap_and_weigh() -> None:
    student = torch.tensor([E1, E2, E2])
    two = members({0: 1.0}, {0: 1.0, 1: 1.0})
    got = set_cosine(AXES, student, two, weight=torch.tensor([1.0, 3.0]))
    assert float(got) == pytest.approx((0 + 3 * (1 - math.sqrt(0.5))) / 4)


def test_contrast_of_sets_is_contrast_of_their_averages() -> None:
    student = rows(1)
    index = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    each = LiftOperator.from_coo(index, torch.arange(8), torch.ones(8), shape=(4, 8))
    pooled = torch.stack([part.mean(0) for part in student.split([2, 3, 1, 2])])
    got = set_contrast(rows(0, 4), student, each)
    torch.testing.assert_close(got, info_nce(rows(0, 4), pooled))


def test_two_sets_with_one_caption_are_not_told_apart() -> None:
    teacher, student = torch.tensor([E1, E1, E2]), torch.tensor([E1, E1, E2])
    each = members({0: 1.0}, {1: 1.0}, {2: 1.0})
    got = set_contrast(teacher, student, each, temperature=1.0, ignore_above=0.99)
    pair, triple = math.log(1 + math.exp(-1)), math.log(1 + 2 * math.exp(-1))
    assert float(got) == pytest.approx((2 * pair + triple) / 3)


def test_agreement_is_of_points_not_of_their_average() -> None:
    # points at 0 and 90 degrees, one twice as long: the mean cosine to E1 is 1/2 all the same
    student = torch.tensor([E1, [0.0, 2.0]])
    got = agreement(torch.tensor([E1]), student, members({0: 1.0, 1: 1.0}, num=2))
    assert float(got) == pytest.approx((1 + 0.5) / 2)


def test_what_the_student_disbelieves_counts_less() -> None:
    student = torch.tensor([E1, E2, E1])
    each = members({0: 1.0}, {1: 1.0})
    teacher = torch.tensor([E1, E1])  # right, and at right angles: agreements 1 and 1/2
    forward = part_distill(teacher, student, each, backward=0.0)
    assert float(forward) == pytest.approx(1 / 2)
    back = part_distill(teacher, student, each, backward=1.0, gamma=1.0)
    assert float(back) == pytest.approx((0.5 * 1) / 1.5)
    sharp = part_distill(teacher, student, each, backward=1.0, gamma=2.0)
    assert float(sharp) == pytest.approx((0.25 * 1) / 1.25)
    half = part_distill(teacher, student, each, backward=0.5, gamma=1.0)
    assert float(half) == pytest.approx((0.75 * 1) / 1.75)


def test_the_students_opinion_has_no_gradient() -> None:
    student = rows(1, 3).requires_grad_()
    each, teacher = members({0: 1.0, 1: 2.0}, {1: 1.0, 2: 1.0}), rows(0, 2)
    part_distill(teacher, student, each).backward()
    twin = student.detach().clone().requires_grad_()
    weight = agreement(teacher, student.detach(), each) ** 2
    set_cosine(teacher, twin, each, weight=weight).backward()
    torch.testing.assert_close(student.grad, twin.grad)


def test_parts_teach_probabilities() -> None:
    student = torch.tensor([[0.5, 0.5], [0.9, 0.1], [1.0, 0.0]])
    both = members({0: 1.0, 1: 1.0})
    got = part_distill(torch.tensor([E1]), student, both, backward=0.0, divergence="kl")
    assert float(got) == pytest.approx(-math.log(0.7))


@pytest.mark.parametrize("loss", [set_cosine, set_contrast, part_distill])
def test_memberships_of_another_shape_are_refused(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="2 sets"):
        loss(rows(0, 2), rows(1, 3), members({0: 1.0}))
    with pytest.raises(ValueError, match="sources"):
        loss(rows(0, 1), rows(1, 4), members({0: 1.0}))


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"backward": -0.1}, "share"), ({"backward": 1.1}, "share"), ({"gamma": 0.0}, "gamma")],
)
def test_re_scoring_that_means_nothing_is_refused(settings: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        part_distill(rows(0, 1), rows(1, 3), members({0: 1.0}), **settings)


# Transport.


def test_transport_between_two_and_two_by_hand() -> None:
    # by symmetry the plan is [[p, q], [q, p]] / 2 with p / q = exp(1 / epsilon), p + q = 1
    cost, half = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double(), torch.tensor([0.5, 0.5]).double()
    epsilon = 0.5
    p = 1 / (1 + math.exp(-1 / epsilon))
    entropy = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    got = sinkhorn(cost, half, half, epsilon=epsilon)
    assert float(got) == pytest.approx((1 - p) + epsilon * entropy)


def test_the_gradient_of_transport_is_the_plan() -> None:
    cost = rows(0, 4, 6).abs().requires_grad_()
    first, second = torch.full((4,), 0.25).double(), torch.arange(1.0, 7.0).double() / 21
    settings = {"epsilon": 0.5, "iterations": 200}
    sinkhorn(cost, first, second, **settings).backward()
    torch.testing.assert_close(cost.grad.sum(dim=1), first)
    torch.testing.assert_close(cost.grad.sum(dim=0), second)
    assert torch.autograd.gradcheck(lambda c: sinkhorn(c, first, second, **settings), (cost,))


def test_a_small_epsilon_is_plain_transport() -> None:
    # moving 1 to 2 and 2 to 1 costs nothing: logarithms neither overflow nor vanish
    cost = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    half = torch.tensor([0.5, 0.5])
    assert float(sinkhorn(cost, half, half, epsilon=1e-3)) == pytest.approx(1e-3 * math.log(2))


def test_the_order_of_rows_is_not_known() -> None:
    assert float(wasserstein(rows(0), rows(0).flip(0))) == pytest.approx(0.0, abs=1e-9)
    assert float(wasserstein(rows(0), rows(1))) > 0.05


def test_one_row_travels_to_the_other() -> None:
    assert float(wasserstein(AXES[:1], AXES[1:])) == pytest.approx(1.0)


def test_the_critic_is_as_steep_as_allowed() -> None:
    torch.manual_seed(0)
    critic = LipschitzCritic(5, 4)
    for side in (critic.teacher_side, critic.student_side):
        assert float(torch.linalg.matrix_norm(side.weight.detach(), 2)) <= 1 + 1e-4


def test_a_new_critic_sees_directions() -> None:
    # both sides start alike, an orthogonal map of full width: scores are cosines
    torch.manual_seed(0)
    critic = LipschitzCritic(2, 2)
    assert critic(AXES, AXES).item() == pytest.approx(2 - (1 - 0), abs=1e-4)
    assert critic(AXES, AXES.flip(0)).item() == pytest.approx(2 - (0 - 1), abs=1e-4)


def test_descent_trains_critic_and_student_together() -> None:
    torch.manual_seed(0)
    teacher = rows(0, 64).float()
    student, critic = torch.nn.Linear(3, 5), LipschitzCritic(5, 8)
    seen = teacher @ rows(5, 5, 3).float()
    optimiser = torch.optim.Adam([*student.parameters(), *critic.parameters()], lr=0.05)
    values: list[float] = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = critic(teacher, student(seen))
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert values[-1] < values[0] - 0.2
    assert min(values) >= 0


@pytest.mark.parametrize("settings", [{"epsilon": 0.0}, {"epsilon": math.nan}, {"iterations": 0}])
def test_transport_that_means_nothing_is_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        wasserstein(rows(0), rows(1), **settings)


def test_a_critic_without_width_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LipschitzCritic(5, 0)


# Direction and norm.


def test_direction_and_norm_by_hand() -> None:
    net = DirectionNorm(2, 2, pseudo="arg_max", momentum=0.0)
    teacher = 2 * AXES  # means 2 E1 and 2 E2; lengths 2
    assert float(net(teacher, teacher)) == pytest.approx(0.0)
    # too short: <s, e> / |t| = 1/2; long enough: 1
    assert float(net(teacher, AXES)) == pytest.approx(0.5)
    assert float(net(teacher, 5 * teacher)) == pytest.approx(0.0)
    # 0.6 E1 + 0.8 E2 of length 10: direction alone
    student = torch.tensor([[6.0, 8.0], [0.0, 2.0]])
    assert float(net(teacher, student)) == pytest.approx((0.4 + 0) / 2)


def test_class_means_move_by_momentum_and_weight() -> None:
    net = DirectionNorm(2, 2, pseudo="arg_max", momentum=0.75)
    net(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), AXES)
    net(
        torch.tensor([[5.0, 4.0], [1.0, 0.0], [0.0, 7.0]]),
        torch.zeros(3, 2),
        weight=torch.tensor([1.0, 3.0, 0.0]),
    )
    # class 0: 3/4 of (1, 0) and 1/4 of (5 + 3, 4) / 4; class 1 saw nothing that counts
    torch.testing.assert_close(net.means, torch.tensor([[1.25, 0.25], [0.0, 1.0]]))


def test_classes_are_found_among_rows() -> None:
    net = DirectionNorm(3, 3)
    axes = torch.eye(3)
    teacher = torch.cat([axes[i].expand(5, 3) + 0.01 * rows(i, 5, 3).float() for i in range(3)])
    net(teacher, teacher)
    assert bool(net.seen.all())
    found = net.classes(teacher).view(3, 5)
    assert (found == found[:, :1]).all()
    assert len(set(found[:, 0].tolist())) == 3


def test_equal_rows_make_one_class() -> None:
    net = DirectionNorm(2, 4)
    net(AXES[:1].expand(6, 2), AXES[:1].expand(6, 2))
    assert net.seen.tolist() == [True, False, False, False]
    # the others wait for rows that differ
    net(AXES, AXES)
    assert net.seen.tolist() == [True, True, False, False]


def test_means_stay_outside_training_and_survive_a_checkpoint() -> None:
    net, twin = DirectionNorm(5, 3), DirectionNorm(5, 3)
    net(rows(0).float(), rows(1).float())
    twin.load_state_dict(net.state_dict())
    before = net.means.clone()
    net.eval()
    twin.eval()
    got = net(rows(2).float(), rows(3).float())
    assert torch.equal(net.means, before)
    assert torch.equal(twin(rows(2).float(), rows(3).float()), got)


def test_a_class_that_was_never_met_says_nothing() -> None:
    net = DirectionNorm(2, 2, pseudo="arg_max").eval()
    student = AXES.clone().requires_grad_()
    got = net(AXES, student)
    got.backward()
    assert got.item() == 0.0
    assert student.grad.abs().sum() == 0


def test_bad_rows_spoil_no_means() -> None:
    net, spoilt = DirectionNorm(5, 3), rows(0).float()
    net(rows(2).float(), rows(1).float())
    spoilt[0, 0] = math.nan
    assert math.isnan(float(net(spoilt, rows(1).float())))
    assert torch.isfinite(net.means).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"num_classes": 0},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"num_classes": 4, "pseudo": "arg_max"},
    ],
)
def test_class_means_that_cannot_be_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=r"num_classes|arg_max"):
        DirectionNorm(5, **settings)


# Standardised rows.


def correlated(num: int = 4000) -> Tensor:
    turn, _ = torch.linalg.qr(rows(1, 5))
    return 3 + rows(0, num) * torch.tensor([3.0, 1.0, 1.0, 0.5, 0.5]) @ turn


@KINDS
def test_channels_get_mean_zero_and_variance_one(kind: Any) -> None:
    net, seen = Standardise(5, kind).double(), correlated()
    net.fit(seen)
    mapped = net(seen)
    torch.testing.assert_close(mapped.mean(dim=0), torch.zeros(5).double(), atol=1e-6, rtol=0)
    variance = mapped.var(dim=0, correction=0)
    torch.testing.assert_close(variance, torch.ones(5).double())
    torch.testing.assert_close(net.restore(mapped), seen)


def test_phi_scales_errors_alike_and_whitening_removes_correlation() -> None:
    seen = correlated()
    phi, white = Standardise(5, "phi").double(), Standardise(5, "whiten").double()
    phi.fit(seen)
    white.fit(seen)
    ratio = torch.pdist(phi(seen[:20])) / torch.pdist(seen[:20])
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    covariance = torch.cov(white(seen).T, correction=0)
    torch.testing.assert_close(covariance, torch.eye(5).double(), rtol=0, atol=1e-9)


def test_whitening_does_not_blow_up_noise() -> None:
    seen = correlated()
    seen[:, 4] = seen[:, 0] + 1e-9 * seen[:, 4]
    white = Standardise(5, "whiten").double()
    white.fit(seen)
    # the direction without variance keeps 1e-4 of the mean variance at most: a factor of 100
    mean_variance = float(seen.var(dim=0, correction=0).mean())
    largest = float(torch.linalg.matrix_norm(white.forth, 2))
    assert largest == pytest.approx(100 / math.sqrt(mean_variance), rel=1e-3)


@KINDS
def test_statistics_stand_still_when_enough_was_seen(kind: Any) -> None:
    net = Standardise(5, kind, fit_rows=20)
    net.fit(rows(0, 12).float())
    first = net.forth.clone()
    net.fit(rows(1, 12).float())
    second = net.forth.clone()
    net.fit(100 * rows(2, 12).float())
    assert not torch.equal(first, second)
    assert torch.equal(net.forth, second)


@KINDS
def test_unobserved_rows_and_evaluation_teach_nothing(kind: Any) -> None:
    net, twin, seen = Standardise(5, kind), Standardise(5, kind), rows(0, 30).float()
    net.fit(seen[:20])
    spoilt = seen.clone()
    spoilt[20:] = math.nan
    marks = torch.arange(30) < 20
    twin.fit(spoilt, valid=marks)
    twin.eval()
    twin.fit(seen)
    assert torch.equal(net.forth, twin.forth)
    assert int(twin.count) == 20


@KINDS
@pytest.mark.parametrize("num", [0, 1, 3])
def test_few_rows_give_finite_numbers(kind: Any, num: int) -> None:
    net = Standardise(5, kind)
    net.fit(rows(0, num).float())
    assert torch.isfinite(net(rows(1).float())).all()
    assert num > 1 or torch.equal(net(rows(1).float()), rows(1).float())
    same = Standardise(5, kind)
    same.fit(torch.ones(9, 5))
    assert torch.isfinite(same(torch.ones(2, 5))).all()


@KINDS
def test_standardisation_is_differentiable_and_survives_a_checkpoint(kind: Any) -> None:
    net, twin = Standardise(5, kind).double(), Standardise(5, kind).double()
    net.fit(correlated(50))
    twin.load_state_dict(net.state_dict())
    assert torch.equal(net(rows(3)), twin(rows(3)))
    assert torch.autograd.gradcheck(net, (rows(3, 2).requires_grad_(),))


@pytest.mark.parametrize("sizes", [(0, 10), (5, 0)])
def test_standardisation_of_nothing_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Standardise(sizes[0], "channel", fit_rows=sizes[1])
