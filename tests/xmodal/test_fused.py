"""The fused losses against their plain forms: value, gradient, what they leave out and refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xmodal import losses
from xmodal.losses import fused, rowwise

Loss = Callable[..., Tensor]
PAIRS: dict[str, tuple[Loss, Loss]] = {
    "cosine": (fused.cosine, rowwise.cosine),
    "kl": (fused.kl, rowwise.kl),
}


def rows(name: str, num: int = 200, channels: int = 33, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    pair = [torch.randn(num, channels, generator=generator, dtype=dtype) for _ in range(2)]
    return [x.softmax(dim=1) for x in pair] if name == "kl" else pair


def gradient(loss: Loss, teacher: Tensor, student: Tensor, **options: Tensor):
    student = student.clone().requires_grad_()
    value = 3 * loss(teacher, student, **options)
    value.backward()
    return value.detach(), student.grad


def check(name: str, teacher: Tensor, student: Tensor, **options: Tensor) -> None:
    ours, plain = (gradient(loss, teacher, student, **options) for loss in PAIRS[name])
    torch.testing.assert_close(ours[0], plain[0])
    torch.testing.assert_close(ours[1], plain[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PAIRS)
def test_value_and_gradient_are_those_of_the_plain_form(name: str, dtype: torch.dtype) -> None:
    teacher, student = rows(name, dtype=dtype)
    check(name, teacher, student)
    weight = torch.linspace(0, 2, len(student)).to(dtype)
    valid = torch.arange(len(student)) % 3 > 0
    check(name, teacher, student, weight=weight)
    check(name, teacher, student, valid=valid)
    check(name, teacher, student, valid=valid, weight=weight * 1e-30)


@pytest.mark.parametrize("name", PAIRS)
def test_rows_of_several_blocks_and_of_odd_layout(name: str) -> None:
    teacher, student = rows(name, num=3000, channels=300, dtype=torch.float32)
    check(name, teacher, student)
    check(name, teacher.T.contiguous().T, student.T.contiguous().T)
    check(name, teacher[::2], student[1::2])


@pytest.mark.parametrize("name", PAIRS)
def test_gradient_by_finite_differences(name: str) -> None:
    teacher, student = rows(name, num=4, channels=5)
    weight = torch.tensor([0.5, 1, 0, 2], dtype=torch.float64)
    loss = PAIRS[name][0]
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(teacher, s, weight=weight), student)


def test_the_teacher_gets_a_gradient_where_it_asks() -> None:
    teacher, student = rows("cosine", num=4, channels=5)
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: fused.cosine(t, student), teacher)
    student.requires_grad_()
    assert torch.autograd.gradcheck(fused.cosine, (teacher, student))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("what", ["weight", "teacher"])
def test_gradients_that_kernels_do_not_give_come_from_the_plain_form(name: str, what: str) -> None:
    teacher, student = rows(name, num=4, channels=5)
    weight = torch.tensor([0.5, 1, 0.2, 2], dtype=torch.float64)
    asked = {"weight": weight, "teacher": teacher}[what].requires_grad_()
    loss = PAIRS[name][0]
    assert torch.autograd.gradcheck(lambda _: loss(teacher, student, weight=weight), asked)


def test_cosine_by_hand() -> None:
    teacher = torch.tensor([[2.0, 0], [0, 3], [0, 0]])
    student = torch.tensor([[5.0, 0], [4, 3], [1, 1]], requires_grad=True)
    loss = fused.cosine(teacher, student, weight=torch.tensor([1.0, 3, 9]))
    assert loss.item() == pytest.approx((1 * 0 + 3 * (1 - 0.6)) / 4)
    loss.backward()
    wanted = -0.75 * (torch.tensor([0, 1.0]) / 5 - 0.6 * torch.tensor([4, 3.0]) / 25)
    assert student.grad is not None
    torch.testing.assert_close(student.grad[1], wanted)
    assert student.grad[2].tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", PAIRS)
def test_a_teacher_of_lower_precision_counts_as_what_it_holds(
    name: str, dtype: torch.dtype
) -> None:
    teacher, student = rows(name, dtype=torch.float32)
    teacher = teacher.to(dtype)
    ours = gradient(PAIRS[name][0], teacher, student)
    plain = gradient(PAIRS[name][1], teacher.float(), student)
    torch.testing.assert_close(ours[0], plain[0])
    torch.testing.assert_close(ours[1], plain[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", PAIRS)
def test_what_was_not_observed_does_not_matter(name: str, bad: float) -> None:
    teacher, student = rows(name)
    valid = torch.arange(len(student)) % 4 > 0
    weight = torch.ones(len(student), dtype=torch.float64)
    weight[1::4] = 0
    clean = gradient(PAIRS[name][0], teacher, student, valid=valid, weight=weight)
    dead = ~valid | (weight == 0)
    teacher[dead], student[dead] = bad, bad
    dirty = gradient(PAIRS[name][0], teacher, student, valid=valid, weight=weight)
    assert torch.equal(clean[0], dirty[0])
    assert torch.equal(clean[1], dirty[1])
    assert not dirty[1][dead].any()


@pytest.mark.parametrize("name", PAIRS)
def test_silent_teachers_and_students_of_length_zero(name: str) -> None:
    teacher, student = rows(name)
    teacher[3] = 0
    student[4] = 0
    check(name, teacher, student)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("num", [0, 5])
def test_without_a_row_the_loss_is_zero_and_its_gradient_too(name: str, num: int) -> None:
    teacher, student = rows(name, num=num)
    value, slope = gradient(
        PAIRS[name][0], teacher, student, valid=torch.zeros(num, dtype=torch.bool)
    )
    assert value == 0
    assert slope is not None and slope.shape == student.shape and not slope.any()


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("side", [0, 1])
def test_nan_in_an_observed_row_is_a_loss_of_nan(name: str, side: int) -> None:
    pair = rows(name)
    pair[side][7, 2] = float("nan")
    assert PAIRS[name][0](*pair).isnan()


def test_a_second_backward_pass_gives_the_same() -> None:
    teacher, student = rows("cosine")
    student.requires_grad_()
    loss = fused.cosine(teacher, student)
    first = torch.autograd.grad(loss, student, retain_graph=True)[0]
    again = torch.autograd.grad(2 * loss, student)[0]
    torch.testing.assert_close(again, 2 * first)


def test_kl_at_other_temperatures_is_the_plain_form() -> None:
    teacher, student = rows("kl")
    assert fused.kl(teacher, student, temperature=2.0) == rowwise.kl(
        teacher, student, temperature=2.0
    )


def test_the_package_gives_the_fused_forms() -> None:
    assert losses.cosine is fused.cosine
    assert losses.kl is fused.kl


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_negative_weights_are_refused(name: str) -> None:
    teacher, student = rows(name)
    weight = torch.ones(len(student), dtype=torch.float64)
    weight[5] = -0.5
    with pytest.raises(ValueError, match=r"least is -0\.5"):
        PAIRS[name][0](teacher, student, weight=weight)


@pytest.mark.parametrize("side", [0, 1])
def test_negative_probabilities_are_refused(side: int) -> None:
    pair = rows("kl")
    pair[side][150, 2] = -0.1
    with pytest.raises(ValueError, match="negative"):
        fused.kl(*pair)
    valid = torch.arange(200) != 150
    assert fused.kl(*pair, valid=valid).isfinite()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        fused.kl(*rows("kl"), temperature=temperature)


@pytest.mark.parametrize("name", PAIRS)
def test_second_derivatives_are_refused(name: str) -> None:
    teacher, student = rows(name)
    student.requires_grad_()
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(PAIRS[name][0](teacher, student), student, create_graph=True)


def test_memory_beside_the_gradient_is_a_few_numbers_a_row() -> None:
    """What autograd keeps: the two inputs, which exist anyway, and three numbers a row."""
    teacher, student = rows("cosine", num=1000, channels=300, dtype=torch.float32)
    student.requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        fused.cosine(teacher, student)
    own = [x for x in kept if x.data_ptr() not in (teacher.data_ptr(), student.data_ptr())]
    assert sum(x.numel() for x in own) == 3 * 1000
