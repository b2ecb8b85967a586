"""Averages over sets of points, by their coverage."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lifting.operator import LiftOperator
from xmodal.values import Points


class Pooled(NamedTuple):
    """Features of sets of points."""

    rows: Float[Tensor, "M C"]
    valid: Bool[Tensor, " M"]
    weight: Float[Tensor, " M"]


def pool(membership: LiftOperator, cloud: Points) -> Pooled | None:
    """Average the rows of each set's observed points, each by its coverage.

    Args:
        membership: Sets x points.
        cloud: The points; without `weight` they count alike, without `valid` all were observed.

    Returns:
        Averages and their coverage; None if the points have no features.

    Raises:
        ValueError: If a feature is not finite or a weight is negative.
    """
    if cloud.rows is None:
        return None
    weight = torch.ones(len(cloud.xyz)) if cloud.weight is None else cloud.weight
    if cloud.valid is not None:
        weight = weight * cloud.valid
    # `drop_zeros`: what was not observed must not be read, whatever is stored there.
    lifted = membership.scale_columns(weight).drop_zeros().lift(cloud.rows)
    return Pooled(rows=lifted.rows, valid=lifted.valid, weight=lifted.weight)
