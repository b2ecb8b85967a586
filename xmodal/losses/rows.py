"""What losses share: which rows count, and how much.

A row that was not observed (`valid` False or weight 0) is taken out before anything is computed
from it, so that neither its value nor NaN in it can matter.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

# Shorter rows have no direction that float32 could tell; longer ones are safe to divide by.
SHORTEST = 1e-12
# A probability below this counts as this one, without gradient. Its logit would lie 69 below the
# largest, which training does not reach, and 1 / 1e-30 still fits float32.
LEAST_PROBABILITY = 1e-30


def observed(
    teacher: Float[Tensor, "M C"],
    informative: Bool[Tensor, " M"] | None = None,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
) -> tuple[Int64[Tensor, " K"], Float[Tensor, " K"]]:
    """Rows that count, and their weights.

    Args:
        teacher: Rows, for their number, dtype and device.
        informative: Rows that say something; all when None.
        valid: Rows that were observed; all when None.
        weight: Weights of the rows, not negative; equal when None.

    Raises:
        ValueError: If a weight is negative.
    """
    keep = torch.ones(len(teacher), dtype=torch.bool, device=teacher.device)
    for mark in (informative, valid):
        keep = keep if mark is None else keep & mark
    if weight is None:
        rows = keep.nonzero().squeeze(1)
        return rows, teacher.new_ones(len(rows))
    if bool((weight < 0).any()):
        msg = f"weights of rows must not be negative; the least is {float(weight.min()):g}"
        raise ValueError(msg)
    # a weight of NaN is none that could be left out in silence: it stays, and so does the NaN
    rows = (keep & ~(weight <= 0)).nonzero().squeeze(1)
    return rows, weight[rows].to(teacher.dtype)


def observed_directions(
    teacher: Float[Tensor, "M C"],
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
    rows_cap: int | None = None,
) -> tuple[Int64[Tensor, " K"], Float[Tensor, " K"]]:
    """`observed` without teacher rows of length 0, and at most `rows_cap` of them.

    Raises:
        ValueError: If a weight is negative or `rows_cap` is below 1.
    """
    rows, weight = observed(teacher, ~(teacher.norm(dim=1) <= SHORTEST), valid, weight)
    if rows_cap is None:
        return rows, weight
    chosen = spread(len(rows), rows_cap).to(rows.device)
    return rows[chosen], weight[chosen]


def spread(num: int, cap: int) -> Int64[Tensor, " K"]:
    """Up to `cap` of `num` rows, evenly spaced: bounds memory without drawing a random number.

    Raises:
        ValueError: If `cap` is below 1.
    """
    if cap < 1:
        msg = f"rows_cap must be at least 1, not {cap}"
        raise ValueError(msg)
    every = torch.arange(min(num, cap))
    return every if num <= cap else every * num // cap


def take(values: Float[Tensor, "M C"], kept: Int64[Tensor, " K"]) -> Float[Tensor, "K C"]:
    """Rows that are kept; without a copy, and its backward, in the usual case that all are."""
    return values if len(kept) == len(values) else values.index_select(0, kept)


def direction(rows: Float[Tensor, "M C"]) -> Float[Tensor, "M C"]:
    """Rows of length 1; too short ones become zero, with gradient zero."""
    square = rows.square().sum(dim=1, keepdim=True)
    long = square > SHORTEST**2
    return rows * torch.where(long, torch.where(long, square, 1.0).rsqrt(), 0.0)


def weighted_mean(
    values: Float[Tensor, " K"], weight: Float[Tensor, " K"], student: Float[Tensor, "M C"]
) -> Float[Tensor, ""]:
    """Mean of values by weight; without any, 0 with gradient 0 in the student's rows."""
    if len(values) == 0:
        return student[:0].sum()
    # The largest weight is divided out first, so that tiny coverages do not underflow.
    weight = weight / weight.max()
    return (weight * values).sum() / weight.sum()
