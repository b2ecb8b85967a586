"""Spherical harmonics: the signs that files have, orthonormality, and colours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import sph_harm_y
from torch import Tensor
from torch.autograd import gradcheck

from lifting.gaussians.harmonics import sh_basis, sh_colours, sh_from_rgb

C0, C1 = 0.28209479177387814, 0.4886025119029199


def sphere(rings: int = 12) -> tuple[Tensor, Tensor]:
    """Directions and weights that integrate polynomials of degree 2 x 3 exactly."""
    cosine, weight = np.polynomial.legendre.leggauss(rings)
    around = 2 * math.pi * np.arange(2 * rings) / (2 * rings)
    z, phi = (part.ravel() for part in np.meshgrid(cosine, around, indexing="ij"))
    sine = np.sqrt(1 - z * z)
    xyz = np.stack((sine * np.cos(phi), sine * np.sin(phi), z), 1)
    return torch.from_numpy(xyz), torch.from_numpy(np.repeat(weight, 2 * rings) * math.pi / rings)


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        # The signs of the files: -y, z, -x; then xy, -yz, 2zz-xx-yy, -xz, xx-yy.
        ((1, 0, 0), [C0, 0, 0, -C1, 0, 0, -0.31539156525252005, 0, 0.5462742152960396]),
        ((0, 1, 0), [C0, -C1, 0, 0, 0, 0, -0.31539156525252005, 0, -0.5462742152960396]),
        ((0, 0, 1), [C0, 0, C1, 0, 0, 0, 0.6307831305050401, 0, 0]),
        ((0, 3, 4), [C0, -0.6 * C1, 0.8 * C1, 0, 0, -0.48 * 1.0925484305920792]),
        ((3, 4, 0), [C0, -0.8 * C1, 0, -0.6 * C1, 0.48 * 1.0925484305920792]),
    ],
)
def test_by_hand(direction: tuple[int, int, int], expected: list[float]) -> None:
    basis = sh_basis(torch.tensor([direction]).double(), 3)[0]
    assert basis[: len(expected)].tolist() == pytest.approx(expected)


def test_degree_three_by_hand() -> None:
    x, y, z = 2 / 7, 3 / 7, 6 / 7
    expected = [
        -0.5900435899266435 * y * (3 * x * x - y * y),
        2.890611442640554 * x * y * z,
        -0.4570457994644658 * y * (4 * z * z - x * x - y * y),
        0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y),
        -0.4570457994644658 * x * (4 * z * z - x * x - y * y),
        1.445305721320277 * z * (x * x - y * y),
        -0.5900435899266435 * x * (x * x - 3 * y * y),
    ]
    basis = sh_basis(torch.tensor([[2, 3, 6]]).double(), 3)[0, 9:]
    assert basis.tolist() == pytest.approx(expected)


def test_orthonormal_over_the_sphere() -> None:
    directions, weight = sphere()
    basis = sh_basis(directions, 3)
    gram = basis.T @ (basis * weight[:, None])
    torch.testing.assert_close(gram, torch.eye(16).double(), rtol=0, atol=1e-12)


def test_like_the_complex_harmonics_with_their_phase() -> None:
    directions, _ = sphere(4)
    x, y, z = directions.numpy().T
    theta, phi = np.arccos(z), np.arctan2(y, x)
    columns = []
    for order in range(4):
        for m in range(-order, order + 1):
            value = sph_harm_y(order, abs(m), theta, phi)
            part = value.imag if m < 0 else value.real
            columns.append(part * (math.sqrt(2) if m else 1))
    expected = torch.from_numpy(np.stack(columns, 1))
    torch.testing.assert_close(sh_basis(directions, 3), expected, rtol=0, atol=1e-12)


@given(
    rgb=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    direction=st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3),
    degree=st.integers(0, 3),
)
@settings(deadline=None, max_examples=30)
def test_plain_colours_are_the_same_from_everywhere(
    rgb: list[float], direction: list[float], degree: int
) -> None:
    colour = torch.tensor([rgb]).double()
    sh = sh_from_rgb(colour, degree)
    assert sh.shape == (1, (degree + 1) ** 2, 3)
    found = sh_colours(sh, torch.tensor([direction]).double())
    torch.testing.assert_close(found, colour, rtol=0, atol=1e-12)


def test_colours_by_hand_and_cut_at_zero() -> None:
    sh = torch.zeros(2, 4, 3).double()
    sh[:, 3, 0], sh[:, 3, 1], sh[:, 0, 2] = 0.5, 5.0, 0.25 / C0
    found = sh_colours(sh, torch.tensor([[-2, 0, 0], [2, 0, 0]]).double())
    expected = [[0.5 + 0.5 * C1, 0.5 + 5 * C1, 0.75], [0.5 - 0.5 * C1, 0, 0.75]]
    torch.testing.assert_close(found, torch.tensor(expected).double())


def test_a_lower_degree_leaves_the_rest_out() -> None:
    g = torch.Generator().manual_seed(0)
    sh, directions = torch.randn(5, 16, 3, generator=g), torch.randn(5, 3, generator=g)
    for degree, size in enumerate((1, 4, 9, 16)):
        found = sh_colours(sh, directions, degree=degree)
        torch.testing.assert_close(found, sh_colours(sh[:, :size], directions))


def test_gradcheck() -> None:
    g = torch.Generator().manual_seed(1)
    sh = (0.3 * torch.randn(4, 16, 3, generator=g, dtype=torch.float64)).requires_grad_()
    directions = torch.randn(4, 3, generator=g, dtype=torch.float64).requires_grad_()
    assert gradcheck(sh_colours, [sh, directions])


def test_a_camera_in_the_centre_sees_the_constant_and_no_nan() -> None:
    sh = torch.randn(1, 16, 3, generator=torch.Generator().manual_seed(2))
    nowhere = torch.zeros(1, 3, requires_grad=True)
    colour = sh_colours(sh, nowhere)
    torch.testing.assert_close(colour, sh_colours(sh[:, :1], torch.ones(1, 3)))
    colour.sum().backward()
    assert nowhere.grad is not None
    assert nowhere.grad.isfinite().all()


def test_no_splats() -> None:
    assert sh_colours(torch.zeros(0, 9, 3), torch.zeros(0, 3)).shape == (0, 3)
    assert sh_from_rgb(torch.zeros(0, 3), 2).shape == (0, 9, 3)


@pytest.mark.parametrize("size", [0, 2, 15, 25])
def test_a_wrong_number_of_coefficients_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"1, 4, 9 or 16 .* got {size}"):
        sh_colours(torch.zeros(1, size, 3), torch.ones(1, 3))


@pytest.mark.parametrize("degree", [-1, 4])
def test_a_wrong_degree_is_refused(degree: int) -> None:
    with pytest.raises(ValueError, match=f"0 to 3, got {degree}"):
        sh_from_rgb(torch.zeros(1, 3), degree)
    with pytest.raises(ValueError, match=f"0 to 3, got {degree}"):
        sh_basis(torch.ones(1, 3), degree)


def test_more_than_is_stored_is_refused() -> None:
    with pytest.raises(ValueError, match="degree 2 was asked for, but sh holds degree 1"):
        sh_colours(torch.zeros(1, 4, 3), torch.ones(1, 3), degree=2)
