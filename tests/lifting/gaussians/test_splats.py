"""`Splats` checks itself: what it accepts, what it refuses and what the message says."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from lifting.gaussians.splats import Splats


def splats(count: int = 3, **other: Any) -> Splats:
    parts: dict[str, Tensor | None] = {
        "means": torch.arange(3.0 * count).reshape(count, 3),
        "quats": torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        "scales": torch.full((count, 3), 0.1),
        "opacities": torch.linspace(0, 1, count),
        "sh": torch.zeros(count, 4, 3),
    }
    return Splats(**(parts | other))  # pyright: ignore[reportArgumentType]


def spoilt(name: str, row: int, value: float) -> Tensor:
    tensor = getattr(splats(), name).clone()
    tensor[row].reshape(-1)[-1:] = value
    return tensor


def test_degree_and_length() -> None:
    assert len(splats()) == 3
    assert splats().sh_degree == 1
    assert splats(sh=None).sh_degree is None
    degrees = [splats(sh=torch.zeros(3, k, 3)).sh_degree for k in (1, 4, 9, 16)]
    assert degrees == [0, 1, 2, 3]
    assert len(splats(0)) == 0


def test_opacities_of_0_and_1_and_quaternions_of_any_length_are_fine() -> None:
    assert splats(opacities=torch.tensor([0.0, 1.0, 0.5])).opacities.tolist() == [0, 1, 0.5]
    assert len(splats(quats=torch.full((3, 4), -7.0))) == 3


def test_select_takes_every_field_in_order() -> None:
    some = splats(sh=torch.arange(36.0).reshape(3, 4, 3))
    taken = some.select(torch.tensor([2, 0, 2]))
    for name in ("means", "quats", "scales", "opacities", "sh"):
        part = getattr(some, name)
        assert torch.equal(getattr(taken, name), torch.stack((part[2], part[0], part[2])))
    assert splats(sh=None).select(torch.tensor([1])).sh is None


def test_to_changes_the_precision_of_all() -> None:
    double = splats().to(dtype=torch.float64)
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert getattr(double, name).dtype == torch.float64
    assert splats(sh=None).to(dtype=torch.float64).sh is None


def test_gradients_pass_through() -> None:
    means = torch.zeros(3, 3, requires_grad=True)
    chosen = splats(means=means).to(dtype=torch.float64).select(torch.tensor([1]))
    chosen.means.sum().backward()
    assert means.grad is not None
    assert means.grad.tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]


def test_splats_cannot_be_changed_but_replaced() -> None:
    some = splats()
    with pytest.raises(FrozenInstanceError):
        some.means = torch.zeros(3, 3)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="scales"):
        replace(some, scales=-some.scales)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("means", math.nan, r"means must be finite; 1 are not, first row 1: \[3\.0, 4\.0, nan\]"),
        ("means", math.inf, "means must be finite"),
        ("quats", math.nan, "quats must be finite and not all zero; 1 are not, first row 1"),
        ("quats", math.inf, "quats must be finite"),
        ("scales", -0.1, r"scales must be finite and above 0 metres \(not logarithms\)"),
        ("scales", 0.0, "scales must be finite and above 0"),
        ("scales", math.inf, "scales must be finite"),
        ("scales", math.nan, "scales must be finite"),
        ("opacities", -0.001, r"opacities must be in \[0, 1\] \(not logits\); 1 are not"),
        ("opacities", 1.001, r"opacities must be in \[0, 1\]"),
        ("opacities", math.nan, r"opacities must be in \[0, 1\]"),
        ("sh", math.nan, "sh must be finite; 1 are not, first row 1"),
        ("sh", math.inf, "sh must be finite"),
    ],
)
def test_a_wrong_number_is_named(name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        splats(**{name: spoilt(name, 1, value)})


def test_a_quaternion_of_zeros_is_refused() -> None:
    quats = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    with pytest.raises(ValueError, match=r"quats .* 2 are not, first row 1"):
        splats(quats=quats)


@pytest.mark.parametrize("size", [0, 2, 3, 15, 25])
def test_a_wrong_degree_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=r"K one of 1, 4, 9, 16 .* got \[3, "):
        splats(sh=torch.zeros(3, size, 3))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("means", (3, 2)),
        ("quats", (3, 3)),
        ("quats", (2, 4)),
        ("scales", (3, 1)),
        ("opacities", (4,)),
        ("opacities", (3, 1)),
        ("sh", (2, 4, 3)),
        ("sh", (3, 4, 4)),
        ("sh", (3, 12)),
    ],
)
def test_a_wrong_shape_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, TypeCheckError)):
        splats(**{name: torch.full(shape, 0.5)})


def test_integers_are_refused() -> None:
    with pytest.raises(TypeCheckError):
        splats(means=torch.zeros(3, 3, dtype=torch.int64))
