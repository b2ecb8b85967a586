"""What pixels show, taught to what they are made of."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lifting.operator import LiftOperator
from xmodal.losses.rows import LEAST_PROBABILITY, SHORTEST, direction


def shown_rows(
    pixels: Float[Tensor, "P C"],
    splats: Float[Tensor, "M C"],
    weights: LiftOperator,
    *,
    by: Literal["cosine", "kl"] = "cosine",
) -> Float[Tensor, ""]:
    """Mean disagreement between pixels and the splats in them, over all pairs with a weight.

    Pairs are never formed: both measures are linear in what the pixel shows once that is a
    direction, or a probability, so pixels are summed over a splat first. 0 without any pair.

    Args:
        pixels: What each pixel shows, of any length; no gradient reaches it.
        splats: Rows that learn.
        weights: How much a pixel (row) teaches a splat (column), not negative.
        by: `cosine`: one minus the cosine. `kl`: divergence of the splat's probabilities from
            those of the pixel.
    """
    pixels, taught = pixels.detach().to(splats.dtype), weights.transpose()
    if by == "cosine":
        told = pixels.norm(dim=1) > SHORTEST
        target, given = direction(pixels), direction(splats)
        entropy = told.to(splats)
    else:
        total = pixels.sum(dim=1, keepdim=True)
        told = total.squeeze(1) > SHORTEST
        target = pixels / torch.where(told[:, None], total, torch.ones_like(total))
        given = splats.clamp_min(LEAST_PROBABILITY).log()
        entropy = torch.special.xlogy(target, target).sum(dim=1)
    sums = taught.apply(torch.stack((told.to(splats), entropy * told), dim=1))
    mass = sums[:, 0].sum()
    if not bool(mass > 0):
        return splats[:0].sum()
    agreement = (taught.apply(target * told[:, None]) * given).sum()
    return (sums[:, 1].sum() - agreement) / mass
