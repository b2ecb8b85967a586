"""Losses that compare each row of a student with the teacher's row of the same place.

Each is a mean over rows, weighted by coverage. A row that was not observed (`valid` False or weight
0) is taken out before anything is computed from it, so that neither its value nor NaN in it can
matter; so is a teacher row that says nothing (length 0, or probabilities that sum to 0). With no
row left the loss is 0 and its gradient too. NaN in an observed row gives a loss of NaN.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.loss_checks import check_temperature
from xmodal.losses.rows import (
    LEAST_PROBABILITY,
    SHORTEST,
    direction,
    observed,
    take,
    weighted_mean,
)


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
    kept, weight = observed(teacher, ~(teacher.norm(dim=1) <= SHORTEST), valid, weight)
    cos = (direction(take(teacher, kept)) * direction(take(student, kept))).sum(dim=1)
    return weighted_mean(1.0 - cos, weight, student)


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
    kept, weight = observed(teacher, None, valid, weight)
    return weighted_mean(
        (take(teacher, kept) - take(student, kept)).square().mean(dim=1), weight, student
    )


def smooth_l1(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M C"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
    beta: float = 1.0,
) -> Float[Tensor, ""]:
    """Weighted mean over rows of the smooth L1 difference averaged over channels.

    A difference d counts d^2 / (2 beta) below beta and |d| - beta / 2 above.

    Args:
        teacher: Targets. A row of zeros is a target like any other.
        student: Predictions.
        valid: Rows that were observed; all when None.
        weight: Coverage of the rows, not negative; equal when None.
        beta: Where squares turn into absolute values, in the unit of the rows, above 0. Rows of
            length 1 in C channels differ by about 1 / sqrt(C): beta should be less.

    Raises:
        ValueError: If a weight is negative or beta is not above 0.

    Source:
        Girshick, Fast R-CNN, ICCV 2015, equation 3, with the width beta of its later use.
    """
    if not 0 < beta < float("inf"):
        msg = f"beta must be above 0, not {beta}"
        raise ValueError(msg)
    kept, weight = observed(teacher, None, valid, weight)
    rows = nn.functional.smooth_l1_loss(
        take(student, kept), take(teacher, kept), reduction="none", beta=beta
    )
    return weighted_mean(rows.mean(dim=1), weight, student)


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
    check_temperature(temperature)
    kept, weight = observed(teacher, teacher.sum(dim=1) != 0, valid, weight)
    target, given = take(teacher, kept), take(student, kept)
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
    return weighted_mean(temperature**2 * rows, weight, student)
