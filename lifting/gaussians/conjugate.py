"""Conjugate gradients for many right-hand sides at once, with a matrix that is never formed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Solution(NamedTuple):
    """What the iterations found.

    Attributes:
        x: The solution, one column per right-hand side.
        residuals: |b - A x| / |b|, the largest of all columns: before the first step, and after
            each. It is the recurrence's own residual, exact up to rounding.
    """

    x: Float[Tensor, "M C"]
    residuals: tuple[float, ...]


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    b: Float[Tensor, "M C"],
    *,
    start: Float[Tensor, "M C"] | None = None,
    diagonal: Float[Tensor, " M"] | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
) -> Solution:
    """Solve A x = b for a symmetric positive (semi-)definite A, all columns together.

    Every column has its own step size, so columns do not disturb each other: each is solved as if
    alone. A column that has arrived stops moving. Where A is singular, x stays what `start` was in
    the directions that A does not see.

    Args:
        product: A x for any x of the shape of `b`; must not change x.
        b: The right-hand sides.
        start: Where to begin; None for zero.
        diagonal: Diagonal of A, to precondition with (Jacobi). Rows where it is 0 stay at `start`.
        tolerance: Stop when every column's relative residual is at most this.
        max_iterations: Stop after so many products with a direction.

    Raises:
        ValueError: If a setting is out of range, a shape does not fit or a number is not finite.

    Source:
        Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems, 1952.
    """
    _check(b, start, diagonal, tolerance, max_iterations)
    inverse = None if diagonal is None else _safe_inverse(diagonal)[:, None]
    x = torch.zeros_like(b) if start is None else start.clone()
    residual = b.clone() if start is None else b - product(start)
    # A right-hand side of zero has the solution zero: judge its residual by its own size.
    size = torch.linalg.vector_norm(b, dim=0)
    size = torch.where(size > 0, size, torch.ones_like(size))
    error = torch.linalg.vector_norm(residual, dim=0) / size
    residuals = [_largest(error)]
    direction = torch.zeros_like(b)
    before = torch.zeros_like(size)
    for _ in range(max_iterations):
        active = error > tolerance
        if not bool(active.any()):
            break
        scaled = residual if inverse is None else residual * inverse
        now = (residual * scaled).sum(0)
        direction.mul_(torch.where(before > 0, now / _nonzero(before), torch.zeros_like(now)))
        direction.add_(scaled)
        before = now
        image = product(direction)
        curvature = (direction * image).sum(0)
        # No curvature: A does not see this direction, or rounding has used up the column.
        moving = active & (curvature > 0)
        step = torch.where(moving, now / _nonzero(curvature), torch.zeros_like(now))
        x.addcmul_(direction, step[None])
        residual.addcmul_(image, step[None], value=-1)
        error = torch.linalg.vector_norm(residual, dim=0) / size
        residuals.append(_largest(error))
        if not bool(moving.any()):
            break
    return Solution(x, tuple(residuals))


def _safe_inverse(diagonal: Tensor) -> Tensor:
    return torch.where(diagonal > 0, 1 / _nonzero(diagonal), torch.zeros_like(diagonal))


def _nonzero(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.ones_like(x))


def _largest(error: Tensor) -> float:
    return float(error.max()) if error.numel() else 0.0


def _check(
    b: Tensor,
    start: Tensor | None,
    diagonal: Tensor | None,
    tolerance: float,
    max_iterations: int,
) -> None:
    if not tolerance >= 0:
        raise ValueError(f"conjugate_gradients needs a tolerance of 0 or more, got {tolerance}")
    if max_iterations < 0:
        raise ValueError(
            f"conjugate_gradients needs max_iterations of 0 or more, got {max_iterations}"
        )
    if start is not None and start.shape != b.shape:
        raise ValueError(
            f"conjugate_gradients: start must have the shape of b {list(b.shape)}, got "
            f"{list(start.shape)}"
        )
    if diagonal is not None and diagonal.shape != b.shape[:1]:
        raise ValueError(
            f"conjugate_gradients: diagonal must have {len(b)} numbers, got {diagonal.numel()}"
        )
    for name, value in (("b", b), ("start", start), ("diagonal", diagonal)):
        if value is not None and not bool(value.isfinite().all()):
            raise ValueError(f"conjugate_gradients: {name} must be finite, got NaN or infinity")
    if diagonal is not None and bool((diagonal < 0).any()):
        raise ValueError(
            "conjugate_gradients: a negative diagonal is not that of a positive definite matrix"
        )
