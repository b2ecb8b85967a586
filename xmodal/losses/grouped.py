"""Contrast among a student's own rows, by what belongs together in a picture."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xmodal.loss_checks import check_temperature
from xmodal.losses.rows import direction, observed_directions, take, weighted_mean


def mask_contrast(
    student: Float[Tensor, "M C"],
    groups: Int[Tensor, " M"],
    views: Int[Tensor, " M"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
    temperature: float = 0.1,
) -> Float[Tensor, ""]:
    """Pull rows of one mask together, and push rows of other masks of the same view away.

    With unit rows z, Z_i the sum of exp(z_i . z_j / temperature) over all other rows j of the view,
    and P_i the other rows of the mask, row i has the loss mean over p in P_i of
    log Z_i - z_i . z_p / temperature. Masks of different views are not compared: they may show the
    same thing.

    Args:
        student: One row per pixel; rows of length 0 are left out.
        groups: Mask of each row; a negative one is none.
        views: View of each row.
        valid: Rows that count; all when None.
        weight: Weights of the rows' terms, not negative; equal when None.
        temperature: Divides cosines, above 0.

    Returns:
        The weighted mean over rows that have both a row to be like and one to be unlike; memory is
        the square of the rows of one view.

    Raises:
        ValueError: If a weight is negative or the temperature is not above 0.

    Source:
        Zheng et al., GaussianGrasper, RA-L 2024 (pixels of masks); in the form of Khosla et al.,
        Supervised Contrastive Learning, NeurIPS 2020, equation 2.
    """
    check_temperature(temperature)
    grouped = groups >= 0 if valid is None else valid & (groups >= 0)
    kept, weight = observed_directions(student, grouped, weight)
    rows, group, view = direction(take(student, kept)), groups[kept], views[kept]
    order = torch.argsort(view, stable=True)
    sizes: list[int] = torch.unique_consecutive(view[order], return_counts=True)[1].tolist()
    values: list[Tensor] = []
    counted: list[Tensor] = []
    for block in order.split(sizes) if sizes else ():
        same = group[block, None] == group[block]
        own = torch.eye(len(block), dtype=torch.bool, device=rows.device)
        alike = same & ~own
        counts = (alike.any(1) & ~same.all(1)).nonzero().squeeze(1)
        if len(counts) == 0:
            continue
        logits = rows[block[counts]] @ rows[block].T / temperature
        total = logits.masked_fill(own[counts], float("-inf")).logsumexp(1, keepdim=True)
        away = torch.where(alike[counts], total - logits, 0.0).sum(1)
        values.append(away / alike[counts].sum(1))
        counted.append(block[counts])
    if not values:
        return student[:0].sum()
    return weighted_mean(torch.cat(values), weight[torch.cat(counted)], student)
