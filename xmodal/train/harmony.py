"""Gradients of several losses that do not work against each other, and students that keep pace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

Gradient = Sequence[Tensor | None]
"""The gradient of one loss: a tensor for each parameter, None where the loss does not reach."""


def gradients_of(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Gradient]:
    """The gradient of each loss that has one; the graph stays as long as it is needed."""
    reached = [loss for loss in losses if loss.requires_grad]
    return [
        cast(
            "Gradient",
            torch.autograd.grad(
                loss, list(parameters), retain_graph=place + 1 < len(reached), allow_unused=True
            ),
        )
        for place, loss in enumerate(reached)
    ]


def harmonised(gradients: Sequence[Gradient]) -> list[Tensor | None]:
    """The sum of gradients, each without what works against another.

    Where two losses reach the same parameters and their gradients there point apart (a product
    below 0), each loses its part along the other. What one loss alone reaches stays as it is. The
    others are met in random order, from torch's own generator.

    Args:
        gradients: One for each loss; parameters in one order.

    Source:
        Yu et al., Gradient Surgery for Multi-Task Learning (PCGrad), NeurIPS 2020, algorithm 1.
    """
    if not gradients:
        return []
    changed = [[None if g is None else g.clone() for g in gradient] for gradient in gradients]
    for index, mine in enumerate(changed):
        for other in torch.randperm(len(gradients)).tolist():
            if other != index:
                _make_peace(mine, gradients[other])
    return [_sum([gradient[place] for gradient in changed]) for place in range(len(gradients[0]))]


def _make_peace(mine: list[Tensor | None], other: Gradient) -> None:
    """Take from a gradient its part against another one, in the parameters that both reach."""
    shared = [(g, h) for g, h in zip(mine, other, strict=True) if g is not None and h is not None]
    product = sum(float((g * h).sum()) for g, h in shared)
    square = sum(float(h.square().sum()) for _, h in shared)
    if product < 0 < square:
        for g, h in shared:
            g -= (product / square) * h


def _sum(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return None if not there else torch.stack(there).sum(dim=0)


def held_back(progress: Mapping[str, float], strength: float = 1.0) -> dict[str, float]:
    """Factors of the gradients of several students: below 1 for those that are ahead.

    With the progress of a student being the part of its first loss that is left, and rho how many
    times more is left of the others on average, the factor is 1 - tanh(strength (rho - 1)) where
    rho is above 1, else 1.

    Args:
        progress: Part of the first loss that is left, by student; those without are left out.
        strength: How much a lead costs.

    Source:
        Peng et al., Balanced Multimodal Learning via On-the-fly Gradient Modulation, CVPR 2022,
        equations 8 to 10 (OGM, without its noise), with losses in place of class scores, so that
        edges without labels can be compared, and without a step at rho = 1.
    """
    known = {name: left for name, left in progress.items() if math.isfinite(left) and left > 0}
    if len(known) < 2:
        return dict.fromkeys(progress, 1.0)
    factors = dict.fromkeys(progress, 1.0)
    for name, left in known.items():
        others = [value for other, value in known.items() if other != name]
        lead = sum(others) / len(others) / left - 1
        if lead > 0:
            factors[name] = 1 - math.tanh(strength * lead)
    return factors
