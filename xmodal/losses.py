"""Distillation losses: how far a student's rows are from its teacher's.

Each is a mean over rows, weighted by coverage. A row that was not observed (`valid` False or weight
0) is taken out before anything is computed from it, so that neither its value nor NaN in it can
matter; so is a teacher row that says nothing (length 0, or probabilities that sum to 0). With no
row left the loss is 0 and its gradient too. NaN in an observed row gives a loss of NaN.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Shorter rows have no direction that float32 could tell; longer ones are safe to divide by.
_SHORTEST = 1e-12
# A probability below this counts as this one, without gradient. Its logit would lie 69 below the
# largest, which training does not reach, and 1 / 1e-30 still fits float32.
LEAST_PROBABILITY = 1e-30


def cosine(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M C"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
) -> Float[Tensor, ""]:
    """Weighted mean of 1 - cos(teacher, student), in [0, 2].

    Args:
        teacher: Targets, of any length; rows of length 0 are left out.
        student: Predictions, of any length. One of length 0 has cosine 0 and gradient 0.
        valid: Rows that were observed; all when None.
        weight: Coverage of the rows, not negative; equal when None.

    Raises:
        ValueError: If a weight is negative.

    Source:
        Peng et al., OpenScene, CVPR 2023, equation 2.
    """
    kept, weight = _observed(teacher, ~(teacher.norm(dim=1) <= _SHORTEST), valid, weight)
    cos = (_direction(_rows(teacher, kept)) * _direction(_rows(student, kept))).sum(dim=1)
    return _mean(1.0 - cos, weight, student)


def mse(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M C"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
) -> Float[Tensor, ""]:
    """Weighted mean over rows of the squared difference averaged over channels.

    Args:
        teacher: Targets. A row of zeros is a target like any other.
        student: Predictions.
        valid: Rows that were observed; all when None.
        weight: Coverage of the rows, not negative; equal when None.

    Raises:
        ValueError: If a weight is negative.

    Source:
        Romero et al., FitNets, ICLR 2015, equation 3 (without its factor 1/2).
    """
    informative = torch.ones(len(teacher), dtype=torch.bool, device=teacher.device)
    kept, weight = _observed(teacher, informative, valid, weight)
    return _mean(
        (_rows(teacher, kept) - _rows(student, kept)).square().mean(dim=1), weight, student
    )


def kl(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M C"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """Weighted mean of T^2 KL(teacher || student), both softened to `p^(1/T)` and normalised.

    The student gives probabilities, as everywhere on the graph, not logits; their logarithm is as
    exact as a log-soft-max down to 1e-30. The least value is 0, at equality, for every temperature:
    below 1 the peaks of the teacher count more, above 1 its tail.

    Args:
        teacher: Probabilities; rows are normalised, rows that sum to 0 are left out.
        student: Probabilities, positive.
        valid: Rows that were observed; all when None.
        weight: Coverage of the rows, not negative; equal when None.
        temperature: T, above 0.

    Raises:
        ValueError: If a probability of an observed row or a weight is negative, or the temperature
            is not above 0.

    Source:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2.
    """
    if not temperature > 0:
        msg = f"temperature must be above 0, not {temperature}"
        raise ValueError(msg)
    kept, weight = _observed(teacher, teacher.sum(dim=1) != 0, valid, weight)
    target, given = _rows(teacher, kept), _rows(student, kept)
    if len(kept) and min(float(rows.detach().amin()) for rows in (target, given)) < 0:
        msg = "kl compares probabilities, but some are negative; use cosine or mse for other rows"
        raise ValueError(msg)
    log_given = given.clamp_min(LEAST_PROBABILITY).log()
    if temperature != 1.0:
        target = target.pow(1.0 / temperature)
        log_given = (log_given / temperature).log_softmax(dim=1)
    target = target / target.sum(dim=1, keepdim=True)
    log_target = target.clamp_min(LEAST_PROBABILITY).log()
    rows = torch.linalg.vecdot(target, log_target) - torch.linalg.vecdot(target, log_given)
    return _mean(temperature**2 * rows, weight, student)


def _observed(
    teacher: Tensor, informative: Tensor, valid: Tensor | None, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rows that count, and their weights."""
    keep = informative if valid is None else informative & valid
    if weight is None:
        rows = keep.nonzero().squeeze(1)
        return rows, teacher.new_ones(len(rows))
    if bool((weight < 0).any()):
        msg = f"weights of rows must not be negative; the least is {float(weight.min()):g}"
        raise ValueError(msg)
    rows = (keep & (weight > 0)).nonzero().squeeze(1)
    return rows, weight[rows].to(teacher.dtype)


def _rows(values: Tensor, kept: Tensor) -> Tensor:
    """Rows that are kept; without a copy, and its backward, in the usual case that all are."""
    return values if len(kept) == len(values) else values.index_select(0, kept)


def _direction(rows: Tensor) -> Tensor:
    """Rows of length 1; too short ones become zero, with gradient zero."""
    square = rows.square().sum(dim=1, keepdim=True)
    long = square > _SHORTEST**2
    return rows * torch.where(long, torch.where(long, square, 1.0).rsqrt(), 0.0)


def _mean(values: Tensor, weight: Tensor, student: Tensor) -> Tensor:
    if len(values) == 0:
        return student[:0].sum()
    # The largest weight is divided out first, so that tiny coverages do not underflow.
    weight = weight / weight.max()
    return (weight * values).sum() / weight.sum()
