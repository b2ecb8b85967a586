"""Moments: what a lift accumulates, and the averages it ends in.

Moments of disjoint sets of sources add up, so views can arrive one at a time in any order; the one
division happens in `Moments.finish`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Lifted:
    """Averaged features of M targets.

    Attributes:
        rows: Weighted mean of the sources that reach a target; zero where there are none.
        valid: False where nothing was observed. "Not observed" is not "not there".
        weight: Coverage, the sum of lift weights.
        num_views: How many views reach the target.
        disagreement: 1 - |sum w f/|f|| / sum w, in [0, 1]: 0 when all sources point the same way
            in feature space, 1 when they cancel out. Zero where nothing was observed.
    """

    rows: Float[Tensor, "M C"]
    valid: Bool[Tensor, " M"]
    weight: Float[Tensor, " M"]
    num_views: Int64[Tensor, " M"]
    disagreement: Float[Tensor, " M"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Sums over sources, per target.

    Attributes:
        sum: Sum of w f.
        weight: Sum of w.
        count: Number of views with a positive weight.
        resultant: Sum of w f / |f|, a vector: lengths do not add up, vectors do. A feature of
            length zero has no direction and adds nothing.
    """

    sum: Float[Tensor, "M C"]
    weight: Float[Tensor, " M"]
    count: Int64[Tensor, " M"]
    resultant: Float[Tensor, "M C"]

    @staticmethod
    def zeros(
        num_targets: int,
        channels: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Moments:
        """Moments of no views at all."""
        return Moments(
            sum=torch.zeros(num_targets, channels, dtype=dtype, device=device),
            weight=torch.zeros(num_targets, dtype=dtype, device=device),
            count=torch.zeros(num_targets, dtype=torch.int64, device=device),
            resultant=torch.zeros(num_targets, channels, dtype=dtype, device=device),
        )

    def add(self, other: Moments) -> Moments:
        """Moments of both sets of sources together.

        Raises:
            ValueError: If the two do not describe equally many targets and channels.
        """
        if self.sum.shape != other.sum.shape:
            raise ValueError(
                f"moments of shape {tuple(self.sum.shape)} and {tuple(other.sum.shape)} "
                "do not add up: both must have the same targets and channels"
            )
        return Moments(
            sum=self.sum + other.sum,
            weight=self.weight + other.weight,
            count=self.count + other.count,
            resultant=self.resultant + other.resultant,
        )

    def finish(self) -> Lifted:
        """Divide once: the weighted mean, and how much to trust it."""
        valid = self.weight > 0
        # A denominator of one where nothing was seen: the sums there are zero, and stay zero.
        safe = torch.where(valid, self.weight, torch.ones_like(self.weight))
        mean = self.sum / safe[:, None]
        length = torch.linalg.vector_norm(self.resultant, dim=1)
        return Lifted(
            rows=torch.where(valid[:, None], mean, torch.zeros_like(mean)),
            valid=valid,
            weight=self.weight,
            num_views=self.count,
            disagreement=disagreement_of(length, self.weight),
        )


def disagreement_of(
    length: Float[Tensor, " M"], weight: Float[Tensor, " M"]
) -> Float[Tensor, " M"]:
    """Disagreement from the resultant's length and the coverage, both per target."""
    valid = weight > 0
    safe = torch.where(valid, weight, torch.ones_like(weight))
    # Rounding may lift the ratio a hair above one; disagreement is never negative.
    spread = (1 - length / safe).clamp(0, 1)
    return torch.where(valid, spread, torch.zeros_like(spread))
