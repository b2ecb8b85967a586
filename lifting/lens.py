"""Lens models: OpenCV's pinhole polynomial and the Kannala-Brandt fisheye.

Both map ideal image coordinates `xy = (x/z, y/z)` to distorted ones. A lens polynomial is only
meaningful up to some radius: beyond it the polynomial turns round and points far outside the field
of view would land in the middle of the image. `valid_radius` finds where that can start.

Source:
    OpenCV calib3d documentation (pinhole with 4, 5 or 8 coefficients); Kannala and Brandt, A
    generic camera model and calibration method, TPAMI 2006, as parametrised by OpenCV's fisheye.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Bool, Float
from numpy.polynomial import Polynomial
from torch import Tensor

LensModel = Literal["pinhole", "fisheye"]

# Rays further than atan(1000) = 89.94 degrees off the axis are never imaged by z-depth cameras;
# the bound also keeps the sixth powers of the radius inside float32.
MAX_RADIUS = 1e3
_NEWTON_STEPS = 50
# Residual of an inverted lens in normalised coordinates: a millionth of a pixel at f = 1000.
_CONVERGED = 1e-9


@lru_cache(maxsize=1024)
def valid_radius(model: LensModel, coefficients: tuple[float, ...]) -> float:
    """Radius |xy| inside which the lens model is one-to-one.

    The distortion's Jacobian is positive definite on the whole disc (radial part minus a bound on
    the tangential part), which makes the map injective there. The result is slightly smaller than
    the true fold when tangential terms are present.

    Args:
        model: Lens model.
        coefficients: As in `Camera.distortion`; zeros for an ideal lens.

    Returns:
        A radius in normalised coordinates, at most `MAX_RADIUS`.
    """
    if model == "fisheye":
        k1, k2, k3, k4 = coefficients
        slope = Polynomial([1, 0, 3 * k1, 0, 5 * k2, 0, 7 * k3, 0, 9 * k4])
        theta = min(_first_positive_root(slope), math.atan(MAX_RADIUS))
        return math.tan(theta)
    k1, k2, p1, p2, k3, k4, k5, k6 = pad_coefficients(coefficients)
    r = Polynomial([0, 1])
    numerator = Polynomial([1, 0, k1, 0, k2, 0, k3])
    denominator = Polynomial([1, 0, k4, 0, k5, 0, k6])
    # The tangential Jacobian is symmetric with eigenvalues at most 6 |p| r.
    tangential = 6 * math.hypot(p1, p2) * r
    radial_slope = (numerator + r * numerator.deriv()) * denominator
    radial_slope = radial_slope - r * numerator * denominator.deriv()
    conditions = (
        radial_slope - tangential * denominator**2,
        numerator - tangential * denominator,
        denominator,
    )
    return min(MAX_RADIUS, *(_first_positive_root(condition) for condition in conditions))


def _first_positive_root(polynomial: Polynomial) -> float:
    """Smallest positive root of a polynomial that is 1 at zero."""
    # The roots' inverses are the roots of the reversed polynomial, whose leading coefficient is
    # then 1: tiny high powers, which calibrations have, do no harm.
    inverses = Polynomial(polynomial.coef[::-1]).roots()
    # A double root (slope touches zero) comes back with a tiny imaginary part: a fold as well.
    real = [float(q.real) for q in inverses if abs(q.imag) <= 1e-6 * abs(q)]
    largest = max(real, default=0.0)
    return 1 / largest if largest > 1 / MAX_RADIUS else math.inf


def pad_coefficients(coefficients: tuple[float, ...]) -> tuple[float, ...]:
    """OpenCV's pinhole coefficients with the omitted ones as zeros: k1 k2 p1 p2 k3 k4 k5 k6."""
    return (*coefficients, *(0.0 for _ in range(8 - len(coefficients))))


def distort(
    xy: Float[Tensor, "N 2"], model: LensModel, coefficients: tuple[float, ...]
) -> Float[Tensor, "N 2"]:
    """Apply a lens to ideal coordinates; only meaningful inside `valid_radius`.

    Args:
        xy: Ideal coordinates x/z, y/z.
        model: Lens model.
        coefficients: As in `Camera.distortion`.
    """
    r2 = xy.square().sum(-1)
    if model == "fisheye":
        # At the axis theta/r tends to 1; the clamp keeps its gradient finite.
        r = r2.clamp_min(1e-12).sqrt()
        theta = r.atan()
        return xy * (_fisheye_angle(theta, coefficients)[0] / r)[:, None]
    k1, k2, p1, p2, k3, k4, k5, k6 = pad_coefficients(coefficients)
    x, y = xy.unbind(-1)
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    radial = radial / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    tangential_x = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    tangential_y = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return torch.stack((x * radial + tangential_x, y * radial + tangential_y), -1)


def undistort(
    xy: Float[Tensor, "N 2"], model: LensModel, coefficients: tuple[float, ...]
) -> tuple[Float[Tensor, "N 2"], Bool[Tensor, " N"]]:
    """Invert a lens by Newton's method in float64; differentiable in `xy`.

    Args:
        xy: Distorted coordinates (u - cx)/fx, (v - cy)/fy.
        model: Lens model.
        coefficients: As in `Camera.distortion`.

    Returns:
        Ideal coordinates, and whether each has a solution inside `valid_radius`. Rows without one
        are zero.
    """
    target = xy.detach().double()
    solve = _invert_fisheye if model == "fisheye" else _invert_pinhole
    solution, inverse_jacobian = solve(target, coefficients, valid_radius(model, coefficients))
    residual = (distort(solution, model, coefficients) - target).abs().amax(-1)
    converged = residual <= _CONVERGED * (1 + target.abs().amax(-1))
    solution = solution.where(converged[:, None], torch.zeros_like(solution)).to(xy.dtype)
    if xy.requires_grad:
        # Implicit function theorem: the solution moves by the inverse Jacobian.
        inverse_jacobian = inverse_jacobian * converged[:, None, None]
        offset = (xy - xy.detach())[:, :, None]
        solution = solution + (inverse_jacobian.to(xy.dtype) @ offset).squeeze(-1)
    return solution, converged


def _fisheye_angle(theta: Tensor, coefficients: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Imaged radius of an angle off the axis, and its derivative."""
    k1, k2, k3, k4 = coefficients
    t = theta * theta
    angle = theta * (1 + t * (k1 + t * (k2 + t * (k3 + t * k4))))
    slope = 1 + t * (3 * k1 + t * (5 * k2 + t * (7 * k3 + t * 9 * k4)))
    return angle, slope


def _invert_fisheye(
    target: Tensor, coefficients: tuple[float, ...], radius: float
) -> tuple[Tensor, Tensor]:
    wanted = target.norm(dim=-1)
    limit = math.atan(radius)
    # Bisection keeps the bracket, so it also copes with slopes near zero at the valid radius.
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, limit)
    theta = wanted.clamp(max=limit)
    for _ in range(_NEWTON_STEPS):
        angle, slope = _fisheye_angle(theta, coefficients)
        low, high = low.where(angle > wanted, theta), high.where(angle <= wanted, theta)
        newton = theta - (angle - wanted) / slope
        theta = newton.where((newton > low) & (newton < high), (low + high) / 2)
    r = theta.tan()
    direction = target / wanted.clamp_min(1e-12)[:, None]
    solution = torch.where(wanted[:, None] > 1e-12, direction * r[:, None], target)
    # Radial and tangential stretch of the inverse: dr/dtarget and r/|target|.
    stretch = (1 + r * r) / _fisheye_angle(theta, coefficients)[1]
    around = torch.where(wanted > 1e-12, r / wanted.clamp_min(1e-12), torch.ones_like(r))
    outer = direction[:, :, None] * direction[:, None, :]
    eye = torch.eye(2, dtype=target.dtype, device=target.device)
    return solution, around[:, None, None] * eye + (stretch - around)[:, None, None] * outer


def _invert_pinhole(
    target: Tensor, coefficients: tuple[float, ...], radius: float
) -> tuple[Tensor, Tensor]:
    solution = _invert_radial(target, coefficients, radius)
    step = torch.ones(len(target), 1, dtype=target.dtype, device=target.device)
    error = (target - distort(solution, "pinhole", coefficients)).norm(dim=-1, keepdim=True)
    inverse = _inverse_pinhole_jacobian(solution, coefficients)
    for _ in range(_NEWTON_STEPS):
        missing = target - distort(solution, "pinhole", coefficients)
        candidate = solution + step * (inverse @ missing[:, :, None]).squeeze(-1)
        candidate = (
            candidate * (radius / candidate.norm(dim=-1).clamp_min(1e-12)).clamp(max=1.0)[:, None]
        )
        left = (target - distort(candidate, "pinhole", coefficients)).norm(dim=-1, keepdim=True)
        better = left < error
        # Halve the step where it overshot; the map is one-to-one, so short steps always improve.
        step = torch.where(better, (2 * step).clamp(max=1.0), step / 2)
        solution, error = candidate.where(better, solution), left.where(better, error)
        inverse = _inverse_pinhole_jacobian(solution, coefficients)
        if bool((error <= 1e-13).all()):
            break
    return solution, inverse


def _invert_radial(target: Tensor, coefficients: tuple[float, ...], radius: float) -> Tensor:
    """Invert the radial part alone by a table; close enough for Newton even beside a pole."""
    # Even steps of the angle off the axis, short of the radius itself, where a pole may be.
    angle = torch.linspace(
        0, math.atan(radius) * (1 - 1e-6), 4097, dtype=target.dtype, device=target.device
    )
    ideal = angle.tan()
    on_axis = torch.stack((ideal, torch.zeros_like(ideal)), -1)
    radial = (*coefficients[:2], 0.0, 0.0, *coefficients[4:])
    imaged = distort(on_axis, "pinhole", radial)[:, 0].contiguous()
    wanted = target.norm(dim=-1)
    after = torch.searchsorted(imaged, wanted).clamp(1, len(imaged) - 1)
    low, high = imaged[after - 1], imaged[after]
    share = ((wanted - low) / (high - low)).clamp(0, 1)
    r = ideal[after - 1] + share * (ideal[after] - ideal[after - 1])
    return target * (r / wanted.clamp_min(1e-12)).where(wanted > 1e-12, 1.0)[:, None]


def _inverse_pinhole_jacobian(xy: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    k1, k2, p1, p2, k3, k4, k5, k6 = pad_coefficients(coefficients)
    x, y = xy.unbind(-1)
    r2 = x * x + y * y
    top, top_slope = 1 + r2 * (k1 + r2 * (k2 + r2 * k3)), k1 + r2 * (2 * k2 + r2 * 3 * k3)
    low, low_slope = 1 + r2 * (k4 + r2 * (k5 + r2 * k6)), k4 + r2 * (2 * k5 + r2 * 3 * k6)
    radial = top / low
    slope = 2 * (top_slope - radial * low_slope) / low
    xx = radial + slope * x * x + 2 * p1 * y + 6 * p2 * x
    yy = radial + slope * y * y + 6 * p1 * y + 2 * p2 * x
    xy_ = slope * x * y + 2 * p1 * x + 2 * p2 * y
    determinant = xx * yy - xy_ * xy_
    inverse = torch.stack((torch.stack((yy, -xy_), -1), torch.stack((-xy_, xx), -1)), -2)
    return inverse / determinant.where(determinant.abs() > 1e-12, 1e-12)[:, None, None]
