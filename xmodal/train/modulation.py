"""Streams of a fusion that keep pace: gradients by what each stream's share alone would answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

# A factor beyond this would be one step of a stream that is far behind; clipping cuts it anyway.
_MOST = 10.0


class AdaptiveModulation(nn.Module):
    """Factors of the gradients of a fusion's streams.

    Of each stream there is a loss: that of the part of the fused rows that it adds. With s the
    negative loss and S its mean over all steps so far, a stream's lead over the others is
    `r = exp(mean of s - s')`, its usual lead `R = exp(mean of S - S')`, and its factor
    `exp(strength (R - r))`, at most 10: who is farther ahead than usual is held back, who has
    fallen behind is pushed. What is usual is learnt, so a stream that always knows more may.

    Sums of losses and numbers of steps are buffers, part of checkpoints.

    Args:
        num: Streams.
        strength: How much a lead counts.

    Raises:
        ValueError: If there are fewer than two streams, or the strength is not above 0.

    Source:
        Li et al., Boosting Multi-modal Model Performance with Adaptive Gradient Modulation, ICCV
        2023, section 3.2; our bound.
    """

    def __init__(self, num: int, strength: float = 1.0) -> None:
        super().__init__()
        if num < 2 or not 0 < strength < math.inf:
            msg = (
                f"modulation needs two streams or more and a strength above 0, not {num}, "
                f"{strength}"
            )
            raise ValueError(msg)
        self.strength = strength
        self.register_buffer("total", torch.zeros(num, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros(num, dtype=torch.float64))

    def factors(self, losses: Sequence[float]) -> list[float]:
        """Factors for this step, whose losses the means take in; 1 for a stream without a loss.

        Args:
            losses: One for each stream; 0 or what is not finite says that it had no rows, or that
                the step is lost.

        Raises:
            ValueError: If there is not one for each stream.
        """
        total, steps = cast("Tensor", self.total), cast("Tensor", self.steps)
        if len(losses) != len(total):
            msg = f"this modulation is of {len(total)} streams, not {len(losses)}"
            raise ValueError(msg)
        known = [i for i, loss in enumerate(losses) if 0 < loss < math.inf]
        for index in known:
            total[index] += losses[index]
            steps[index] += 1
        factors = [1.0] * len(losses)
        if len(known) < 2:
            return factors
        usual = {i: float(total[i] / steps[i]) for i in known}
        for index in known:
            others = [i for i in known if i != index]
            # Scores are negative losses, so the signs turn.
            now = sum(losses[i] for i in others) / len(others) - losses[index]
            often = sum(usual[i] for i in others) / len(others) - usual[index]
            factors[index] = _factor(self.strength, now, often)
        return factors


def modulated(parts: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """The sum of parts as it is, with the gradient of each part times its factor."""
    scaled = [
        part if factor == 1 else factor * part + (1 - factor) * part.detach()
        for part, factor in zip(parts, factors, strict=True)
    ]
    return torch.stack(scaled).sum(dim=0)


def _factor(strength: float, now: float, often: float) -> float:
    highest = math.log(_MOST)
    # An exponential of an exponential: a lead of some hundred nats is infinite, and the factor 0.
    lead = math.inf if now > 700 else math.exp(now)
    usual = math.inf if often > 700 else math.exp(often)
    if lead == usual:
        return 1.0
    power = strength * (usual - lead)
    return math.exp(min(power, highest)) if power > -700 else 0.0
