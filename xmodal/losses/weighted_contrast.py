"""Contrast in which every other row is a positive as far as its teacher row is like the own one.

Rows are compared by direction. The rules on rows that were not observed are those of the package.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.loss_checks import check_temperature
from xmodal.losses.rows import direction, observed_directions, take, weighted_mean


def cwcl(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M C"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
    temperature: float = 0.07,
    both_ways: bool = True,
    rows_cap: int | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of a soft-max over teacher rows, with continuous weights for all of them.

    With unit rows, row i adds -sum_j w_ij log softmax_j(s_i . t_j / T) / sum_j w_ij, where
    w_ij = (1 + t_i . t_j) / 2. The teacher is asked the other way round by an ordinary contrast, as
    likeness among the student's rows says nothing yet.

    Args:
        teacher: Keys, of any length; rows of length 0 are left out.
        student: Queries, of any length.
        valid: Rows that were observed; all when None.
        weight: Weights of the rows' terms, not negative; equal when None.
        temperature: Divides cosines, above 0.
        both_ways: Also ask which student row is a teacher row's own; the loss is then the mean of
            both.
        rows_cap: At most that many rows, evenly spaced, are compared: memory is its square.

    Raises:
        ValueError: If a weight is negative or the temperature is not above 0.

    Source:
        Srinivasa et al., CWCL: Cross-Modal Transfer with Continuously Weighted Contrastive Loss,
        NeurIPS 2023, section 3.
    """
    check_temperature(temperature)
    kept, weight = observed_directions(teacher, valid, weight, rows_cap)
    keys, queries = direction(take(teacher, kept)), direction(take(student, kept))
    logits = queries @ keys.T / temperature
    share = (1 + keys @ keys.T) / 2
    # Rounding may leave opposite rows a hair below 0; a row is always like itself, so no sum is 0.
    share = share.clamp_min(0)
    values = -(share * logits.log_softmax(dim=1)).sum(dim=1) / share.sum(dim=1)
    if both_ways:
        own = torch.arange(len(kept), device=keys.device)
        values = (values + nn.functional.cross_entropy(logits.T, own, reduction="none")) / 2
    return weighted_mean(values, weight, student)
