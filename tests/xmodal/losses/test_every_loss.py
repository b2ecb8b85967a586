"""Rules that hold for every loss: rows that must not count, gradients, weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lifting.operator import LiftOperator
from xmodal import losses

Loss = Callable[..., Tensor]
NAN = float("nan")
ROWS, WIDTH = 8, 5
SEGMENTS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
# every set has rows on both sides of what the tests hide, so no set loses all of its points
SETS = LiftOperator.from_coo(
    torch.arange(ROWS).repeat_interleave(2),
    torch.tensor([0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 0]),
    torch.linspace(0.5, 2.0, 16, dtype=torch.float64),
    shape=(ROWS, ROWS),
)


def queue() -> losses.QueueContrast:
    """A queue that earlier steps have filled, outside training, so that calls do not change it."""
    made = losses.QueueContrast(WIDTH, 6).double()
    made(rows(7), rows(8))
    return made.eval()


def queue_similarity() -> losses.QueueSimilarity:
    """As `queue`, for the loss that compares likeness to the queue."""
    made = losses.QueueSimilarity(WIDTH, 6).double()
    made(rows(7), rows(8))
    return made.eval()


def classes() -> losses.DirectionNorm:
    made = losses.DirectionNorm(WIDTH, 3).double()
    made(rows(7), rows(8))
    return made.eval()


def critic() -> nn.Module:
    torch.manual_seed(0)
    return losses.LipschitzCritic(WIDTH, 4).double().eval()


def scales(teacher: Tensor, student: Tensor, *, valid: Any = None, weight: Any = None) -> Tensor:
    """`multi_scale` takes observed rows only, as its op gives it; negative weights reach it."""
    keep = torch.ones(len(teacher), dtype=torch.bool) if valid is None else valid
    keep = keep if weight is None else keep & (weight != 0)
    groups = [None, SEGMENTS[: len(teacher)][keep], torch.zeros_like(SEGMENTS)[: int(keep.sum())]]
    mass = None if weight is None else weight[keep]
    return losses.multi_scale(teacher[keep], student[keep], groups, weight=mass)


def segments(teacher: Tensor, student: Tensor, **marks: Any) -> Tensor:
    return losses.segment_contrast(teacher, student, SEGMENTS[: len(teacher)], **marks)


def of_sets(loss: Loss, **settings: Any) -> Loss:
    def call(teacher: Tensor, student: Tensor, **marks: Any) -> Tensor:
        members = SETS if len(teacher) == ROWS else SETS.select_rows(torch.arange(len(teacher)))
        if len(student) != ROWS:
            empty = torch.zeros(0, dtype=torch.int64)
            members = LiftOperator.from_coo(
                empty, empty, torch.zeros(0, dtype=torch.float64), shape=(0, 0)
            )
        return loss(teacher, student, members, **marks, **settings)

    return call


LOSSES: dict[str, Callable[[], Loss]] = {
    "cosine": lambda: losses.cosine,
    "mse": lambda: losses.mse,
    "smooth_l1": lambda: lambda t, s, **m: losses.smooth_l1(t, s, beta=0.3, **m),
    "info_nce": lambda: losses.info_nce,
    "info_nce soft": lambda: lambda t, s, **m: losses.info_nce(t, s, soft=True, **m),
    "info_nce ignore": lambda: lambda t, s, **m: losses.info_nce(t, s, ignore_above=0.1, **m),
    "info_nce capped": lambda: lambda t, s, **m: losses.info_nce(t, s, rows_cap=3, **m),
    "sampled": lambda: lambda t, s, **m: losses.sampled_info_nce(t, s, num_negatives=99, **m),
    "queue": queue,
    "queue_similarity": queue_similarity,
    "cwcl": lambda: losses.cwcl,
    "cwcl capped": lambda: lambda t, s, **m: losses.cwcl(t, s, rows_cap=3, **m),
    "correlation": lambda: losses.correlation,
    "correlation capped": lambda: lambda t, s, **m: losses.correlation(t, s, rows_cap=3, **m),
    "similarity": lambda: losses.similarity,
    "affinity": lambda: losses.affinity,
    "segments": lambda: segments,
    "wasserstein": lambda: lambda t, s, **m: losses.wasserstein(t, s, epsilon=0.5, **m),
    "critic": critic,
    "direction_norm": classes,
    "decoupled": lambda: losses.decoupled,
    "multi_scale": lambda: scales,
}
SET_LOSSES: dict[str, Callable[[], Loss]] = {
    "set_cosine": lambda: of_sets(losses.set_cosine),
    "set_contrast": lambda: of_sets(losses.set_contrast),
    "part_distill": lambda: of_sets(losses.part_distill),
    "forward": lambda: of_sets(losses.part_distill, backward=0.0),
}
EVERY = pytest.mark.parametrize("name", [*LOSSES, *SET_LOSSES])
# The weights that `part_distill` gives are without gradient by intent: the student's opinion is a
# constant of the step.
SMOOTH = pytest.mark.parametrize("name", [n for n in (*LOSSES, *SET_LOSSES) if n != "part_distill"])
# In the others rows are bound to groups or places.
UNORDERED = pytest.mark.parametrize(
    "name", [n for n in LOSSES if n not in ("segments", "multi_scale") and "capped" not in n]
)
BY_ROW = pytest.mark.parametrize("name", LOSSES)


def loss_of(name: str) -> Loss:
    return (LOSSES | SET_LOSSES)[name]()


def rows(seed: int, num: int = ROWS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, WIDTH, generator=generator, dtype=torch.float64)


@BY_ROW
@pytest.mark.parametrize("mark", ["valid", "weight"])
@pytest.mark.parametrize("filler", [NAN, math.inf, 0.0])
def test_unobserved_rows_change_neither_loss_nor_gradient(
    name: str, mark: str, filler: float
) -> None:
    loss = loss_of(name)
    teacher, student = rows(0), rows(1)
    seen = SEGMENTS % 2 == 0  # whole segments, so that the rest are numbered as before
    seen[2:4] = True
    seen[4:6] = False
    alone = student[seen].clone().requires_grad_()
    kept = {"segments": lambda t, s: losses.segment_contrast(t, s, SEGMENTS[seen])}
    if name == "multi_scale":
        groups = [None, SEGMENTS[seen], torch.zeros(int(seen.sum()), dtype=torch.int64)]
        expected = losses.multi_scale(teacher[seen], alone, groups)
    else:
        expected = kept.get(name, loss)(teacher[seen], alone)
    expected.backward()

    spoilt, given = teacher.clone(), student.clone()
    spoilt[~seen] = given[~seen] = filler
    given.requires_grad_()
    marks: dict[str, Any] = {mark: seen if mark == "valid" else seen.double()}
    got = loss(spoilt, given, **marks)
    got.backward()
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(given.grad[seen], alone.grad, rtol=1e-8, atol=1e-12)
    assert given.grad[~seen].abs().sum() == 0


@pytest.mark.parametrize("name", SET_LOSSES)
@pytest.mark.parametrize("filler", [NAN, math.inf, 0.0])
def test_unobserved_sets_do_not_count(name: str, filler: float) -> None:
    loss, seen = loss_of(name), torch.arange(ROWS) % 3 != 1
    spoilt = rows(0)
    expected = loss(spoilt, rows(1), valid=seen)
    spoilt[~seen] = filler
    assert torch.equal(loss(spoilt, rows(1), valid=seen), expected)
    assert torch.equal(loss(spoilt, rows(1), weight=seen.double()), expected)


@pytest.mark.parametrize("loss", [losses.set_cosine, losses.set_contrast, losses.part_distill])
def test_sets_without_points_and_points_without_sets_do_not_count(loss: Loss) -> None:
    members = LiftOperator.from_coo(
        torch.tensor([0, 0, 2]), torch.tensor([0, 1, 2]), torch.ones(3), shape=(3, 5)
    )
    student = rows(1, 5)
    student[3:] = NAN
    student.requires_grad_()
    got = loss(rows(0, 3), student, members)
    got.backward()
    kept = members.select_rows(torch.tensor([0, 2]))
    expected = loss(rows(0, 3)[[0, 2]], student.detach().nan_to_num(0.0), kept)
    torch.testing.assert_close(got.detach(), expected)
    assert torch.equal(student.grad[3:], torch.zeros(2, WIDTH, dtype=torch.float64))


@EVERY
@pytest.mark.parametrize("num", [0, ROWS])
def test_no_observed_row_gives_zero_loss_and_gradient(name: str, num: int) -> None:
    student = rows(1, num).requires_grad_()
    got = loss_of(name)(rows(0, num), student, valid=torch.zeros(num, dtype=torch.bool))
    got.backward()
    assert got.item() == 0.0
    assert student.grad.abs().sum() == 0


@EVERY
def test_a_single_row_is_no_error(name: str) -> None:
    one = torch.arange(ROWS) == 2
    student = rows(1).requires_grad_()
    got = loss_of(name)(rows(0), student, valid=one)
    got.backward()
    assert math.isfinite(got.item())
    assert torch.isfinite(student.grad).all()


@EVERY
@pytest.mark.parametrize("side", ["teacher", "student"])
def test_nan_in_an_observed_row_is_not_hidden(name: str, side: str) -> None:
    given = {"teacher": rows(0), "student": rows(1)}
    given[side][0, 2] = NAN
    assert math.isnan(loss_of(name)(given["teacher"], given["student"]).item())


@SMOOTH
def test_gradients_agree_with_finite_differences(name: str) -> None:
    loss, teacher = loss_of(name), rows(0)
    weight = torch.tensor([1.0, 2.0, 0.0, 0.5, 1.0, 3.0, 0.1, 1.0])
    student = rows(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(teacher, s, weight=weight), (student,))


@EVERY
def test_only_ratios_of_weights_matter(name: str) -> None:
    loss, weight = loss_of(name), torch.rand(ROWS) + 0.1
    a = loss(rows(0), rows(1), weight=weight)
    b = loss(rows(0), rows(1), weight=(weight.double() * 1e20).float())
    assert a.item() == pytest.approx(b.item(), rel=1e-5)


@UNORDERED
def test_the_order_of_rows_does_not_matter(name: str) -> None:
    order = torch.tensor([3, 1, 4, 0, 5, 2, 7, 6])
    loss = loss_of(name)
    a, b = loss(rows(0), rows(1)), loss(rows(0)[order], rows(1)[order])
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@EVERY
def test_a_negative_weight_is_refused(name: str) -> None:
    weight = torch.ones(ROWS)
    weight[3] = -1
    with pytest.raises(ValueError, match="must not be negative"):
        loss_of(name)(rows(0), rows(1), weight=weight)


@BY_ROW
def test_rows_that_do_not_match_are_refused(name: str) -> None:
    with pytest.raises((TypeError, IndexError, RuntimeError)):
        loss_of(name)(rows(0), rows(1, 7))


@pytest.mark.parametrize(
    "name", ["cosine", "mse", "decoupled", "similarity", "affinity", "multi_scale"]
)
def test_a_student_that_is_its_teacher_is_at_the_least_value(name: str) -> None:
    student = rows(0).requires_grad_()
    got = loss_of(name)(rows(0), student)
    got.backward()
    assert got.item() == pytest.approx(0.0, abs=1e-9)
    assert student.grad.abs().max() < 1e-9
