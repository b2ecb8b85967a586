"""Colours that depend on the direction of view: real spherical harmonics up to degree 3."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lifting.gaussians.splats import SH_SIZES

# Of the constant harmonic: sqrt(1 / 4 pi).
_C0 = math.sqrt(1 / (4 * math.pi))


def sh_basis(directions: Float[Tensor, "M 3"], degree: int) -> Float[Tensor, "M K"]:
    """Real orthonormal spherical harmonics with the Condon-Shortley sign, as 3DGS orders them.

    Args:
        directions: Of any length above zero; of a zero vector only the constant is not 0.
        degree: 0 to 3.

    Returns:
        `(degree + 1)^2` values: degree by degree, each from order -l to l.

    Raises:
        ValueError: If the degree is not 0 to 3.

    Source:
        Sloan, Efficient spherical harmonic evaluation, JCGT 2013; the files of Kerbl et al. 2023.
    """
    _check_degree(degree)
    length = torch.linalg.vector_norm(directions.detach(), dim=1, keepdim=True)
    length = length.where(length > 0, torch.ones_like(length))
    # Divided by the length as a constant first, so that the zero vector has a finite gradient.
    unit = directions / length
    square = unit.square().sum(1, keepdim=True)
    unit = unit * square.where(square > 0, torch.ones_like(square)).rsqrt()
    x, y, z = unit.unbind(1)
    columns = [torch.full_like(x, _C0)]
    for degree_columns in (_linear, _quadratic, _cubic)[:degree]:
        columns += degree_columns(x, y, z)
    return torch.stack(columns, 1)


def sh_colours(
    sh: Float[Tensor, "M K 3"], directions: Float[Tensor, "M 3"], *, degree: int | None = None
) -> Float[Tensor, "M 3"]:
    """Colours of splats seen along directions: 0.5 + the sum of harmonics, cut at 0.

    Differentiable in both.

    Args:
        sh: Coefficients of degree 0 to 3, RGB last.
        directions: From the camera to the splats, of any length, world frame.
        degree: Leave out the coefficients above it; all count by default.

    Raises:
        ValueError: If the number of coefficients is not 1, 4, 9 or 16, the degree is above
            theirs, or the rows differ.
    """
    stored = SH_SIZES.get(sh.shape[1])
    if stored is None:
        raise ValueError(f"sh must have 1, 4, 9 or 16 coefficients per colour, got {sh.shape[1]}")
    degree = stored if degree is None else degree
    if degree > stored:
        raise ValueError(f"degree {degree} was asked for, but sh holds degree {stored} only")
    if len(sh) != len(directions):
        raise ValueError(f"one direction per splat: {len(sh)} splats, {len(directions)} directions")
    basis = sh_basis(directions, degree)
    return (0.5 + torch.einsum("mk,mkc->mc", basis, sh[:, : basis.shape[1]])).clamp_min(0)


def sh_from_rgb(rgb: Float[Tensor, "M 3"], degree: int = 0) -> Float[Tensor, "M K 3"]:
    """Coefficients of colours that are the same from all sides.

    Args:
        rgb: Usually in [0, 1].
        degree: Of the result, 0 to 3; the coefficients above the constant are 0.

    Raises:
        ValueError: If the degree is not 0 to 3.
    """
    _check_degree(degree)
    constant = ((rgb - 0.5) / _C0)[:, None]
    return torch.cat((constant, rgb.new_zeros(len(rgb), (degree + 1) ** 2 - 1, 3)), 1)


def _check_degree(degree: int) -> None:
    if degree not in SH_SIZES.values():
        raise ValueError(f"the degree of spherical harmonics must be 0 to 3, got {degree}")


def _linear(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    c = math.sqrt(3 / (4 * math.pi))
    return [-c * y, c * z, -c * x]


def _quadratic(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    c = math.sqrt(15 / (4 * math.pi))
    middle = math.sqrt(5 / (16 * math.pi))
    return [
        c * x * y,
        -c * y * z,
        middle * (2 * z * z - x * x - y * y),
        -c * x * z,
        0.5 * c * (x * x - y * y),
    ]


def _cubic(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    outer = math.sqrt(35 / (32 * math.pi))
    c = math.sqrt(105 / (4 * math.pi))
    inner = math.sqrt(21 / (32 * math.pi))
    middle = math.sqrt(7 / (16 * math.pi))
    xx, yy, zz = x * x, y * y, z * z
    return [
        -outer * y * (3 * xx - yy),
        c * x * y * z,
        -inner * y * (4 * zz - xx - yy),
        middle * z * (2 * zz - 3 * xx - 3 * yy),
        -inner * x * (4 * zz - xx - yy),
        0.5 * c * z * (xx - yy),
        -outer * x * (xx - 3 * yy),
    ]
