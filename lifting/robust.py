"""Robust lifting: a second pass in which sources that disagree with the mean weigh less."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifting.backends.torch_csr import entry_dots
from lifting.moments import Lifted
from lifting.views import ViewPart


@dataclass(frozen=True, kw_only=True)
class RobustLift:
    """Weights of the second pass: w / (1 + (d / (tuning * D))^2).

    d = 1 - cosine between a source's feature and the target's mean of the first pass, and D is the
    weighted mean of d over the target's sources. The scale comes from the target itself, so the
    same setting serves teachers whose features lie close together or far apart. All sources are
    judged by the same mean: the result does not depend on the order of views.

    Attributes:
        tuning: Smaller trusts the majority more; large values return the plain mean.

    Raises:
        ValueError: If `tuning` is not positive and finite.

    Source:
        One step of iteratively re-weighted least squares with the Cauchy weight (Holland and
        Welsch, Robust regression using iteratively reweighted least-squares, 1977).
    """

    tuning: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tuning) and self.tuning > 0):
            raise ValueError(f"robust lifting needs a tuning > 0, got {self.tuning}")


def reweight(
    parts: Sequence[ViewPart],
    lifted: Lifted,
    robust: RobustLift,
    backend: str = "auto",
) -> Float[Tensor, "M C"]:
    """The mean of the second pass.

    Args:
        parts: The views.
        lifted: Result of the first pass over the same parts.
        robust: The weights.
        backend: Who multiplies.

    Returns:
        One row per target; zero where nothing was observed. Coverage and disagreement remain
        those of the first pass: being outvoted does not make a view unseen.
    """
    mean = lifted.rows
    distances = [_distance(part, mean) for part in parts]
    spread = torch.zeros_like(lifted.weight)
    for part, distance in zip(parts, distances, strict=True):
        weight = part.operator.weight.to(spread)
        spread.index_add_(0, part.targets[part.operator.row], weight * distance)
    safe = torch.where(lifted.valid, lifted.weight, torch.ones_like(lifted.weight))
    scale = robust.tuning * spread / safe
    total, weight = torch.zeros_like(mean), torch.zeros_like(lifted.weight)
    for part, distance in zip(parts, distances, strict=True):
        operator = part.operator
        scale_here = scale[part.targets[operator.row]]
        agreed = scale_here <= 0  # all sources are alike: nothing to weigh
        off = distance / torch.where(agreed, torch.ones_like(scale_here), scale_here)
        factor = torch.where(agreed, torch.ones_like(off), 1 / (1 + off.square()))
        second = operator.with_weight(operator.weight.to(factor) * factor)
        total.index_add_(0, part.targets, second.apply(part.rows.to(mean), backend=backend))
        weight.index_add_(0, part.targets, second.row_sum())
    return total / torch.where(lifted.valid, weight, torch.ones_like(weight))[:, None]


def _distance(part: ViewPart, mean: Tensor) -> Float[Tensor, " nnz"]:
    """1 - cosine between each entry's feature and its target's mean; 1 without a direction."""
    operator, rows, here = part.operator, part.rows.to(mean), mean[part.targets]
    dots = entry_dots(operator.crow, operator.col, here, rows)
    length = torch.linalg.vector_norm(rows, dim=1)[operator.col]
    norms = length * torch.linalg.vector_norm(here, dim=1)[operator.row]
    cosine = torch.where(norms > 0, dots / norms.clamp_min(1e-38), torch.zeros_like(dots))
    return (1 - cosine).clamp_min(0)
