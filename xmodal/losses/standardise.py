"""Standardised features: channels of a teacher brought to zero mean and like scale.

Teachers differ in the scale and the correlation of their channels by orders of magnitude, and a
squared difference sees mostly the largest.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.losses.rows import observed

Standardisation = Literal["channel", "phi", "whiten"]
# A direction with less of the mean variance than this is noise: it is not blown up any further.
_LEAST_SHARE = 1e-4
# Less variance than this share of the mean square is the rounding of equal rows.
_ROUNDING = 1e-12


class Standardise(nn.Module):
    """An affine map of teacher rows, fitted to the first rows of training and then kept.

    It is fitted anew at each call in training until `fit_rows` rows were seen, then stands still,
    so that the student's target does. Its sums are buffers. Before the first call it changes
    nothing.

    Args:
        channels: Width of the rows.
        kind: `channel`: each channel by its own mean and deviation. `phi`: centred, turned so that
            all channels have the same variance, and scaled by one number, which keeps errors in
            proportion. `whiten`: centred and de-correlated by the symmetric root (ZCA), so that
            every direction counts alike.
        fit_rows: Rows to fit to.

    Raises:
        ValueError: If a number is below 1.

    Source:
        Ranzinger et al., PHI-S: Distribution Balancing for Label-Free Multi-Teacher Distillation,
        2024 (its Hadamard rotation exists for some widths only; here plane rotations
        that equalise the variances exactly, Bendel and Mickey 1978, serve any width).
        Whitening: Miles et al., VkD: Improving Knowledge Distillation using Orthogonal
        Projections, CVPR 2024.
    """

    def __init__(self, channels: int, kind: Standardisation, *, fit_rows: int = 32768) -> None:
        super().__init__()
        if min(channels, fit_rows) < 1:
            msg = f"channels and fit_rows must be at least 1, not {channels} and {fit_rows}"
            raise ValueError(msg)
        self.kind, self.fit_rows = kind, fit_rows
        # float64: sums of squares of many rows cancel
        wide = torch.float64
        full = (channels,) if kind == "channel" else (channels, channels)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("total", torch.zeros(channels, dtype=wide))
        self.register_buffer("moment", torch.zeros(full, dtype=wide))
        self.register_buffer("mean", torch.zeros(channels))
        start = torch.ones(channels) if kind == "channel" else torch.eye(channels)
        self.register_buffer("forth", start)
        self.register_buffer("back", start.clone())

    def fit(
        self,
        rows: Float[Tensor, "M C"],
        *,
        valid: Bool[Tensor, " M"] | None = None,
        weight: Float[Tensor, " M"] | None = None,
    ) -> None:
        """Learn from teacher rows, in training and until enough were seen.

        Rows that were not observed, and rows that are not finite, are left out.

        Raises:
            ValueError: If a weight is negative.
        """
        count, total, moment = (cast("Tensor", getattr(self, n)) for n in _SUMS)
        if not self.training or int(count) >= self.fit_rows:
            return
        kept, _ = observed(rows, torch.isfinite(rows).all(dim=1), valid, weight)
        seen = rows.detach()[kept].to(total)
        count += len(seen)
        total += seen.sum(dim=0)
        moment += seen.square().sum(dim=0) if self.kind == "channel" else seen.T @ seen
        if int(count) > 1:
            self._solve(total / count, moment / count)

    def forward(self, rows: Float[Tensor, "M C"]) -> Float[Tensor, "M C"]:
        """Rows in standardised coordinates."""
        mean, forth = (cast("Tensor", getattr(self, n)).to(rows) for n in ("mean", "forth"))
        centred = rows - mean
        return centred * forth if self.kind == "channel" else centred @ forth

    def restore(self, rows: Float[Tensor, "M C"]) -> Float[Tensor, "M C"]:
        """Rows in the teacher's own coordinates: the inverse."""
        mean, back = (cast("Tensor", getattr(self, n)).to(rows) for n in ("mean", "back"))
        return (rows * back if self.kind == "channel" else rows @ back) + mean

    def _solve(self, mean: Tensor, moment: Tensor) -> None:
        full = self.kind != "channel"
        square = moment.diagonal() if full else moment
        mean_variance = float((square - mean.square()).mean())
        if not mean_variance > _ROUNDING * float(square.mean()):
            return  # equal rows have no scale
        floor = mean_variance * _LEAST_SHARE
        if not full:
            back = (moment - mean.square()).clamp_min(floor).sqrt()
            forth = 1 / back
        else:
            values, axes = torch.linalg.eigh(moment - mean[:, None] * mean)
            if self.kind == "whiten":
                root = values.clamp_min(floor).sqrt()
                forth, back = (axes / root) @ axes.T, (axes * root) @ axes.T
            else:
                turned = axes @ _equalising(values.clamp_min(0))
                forth, back = turned / mean_variance**0.5, turned.T * mean_variance**0.5
        for name, value in (("mean", mean), ("forth", forth), ("back", back)):
            cast("Tensor", getattr(self, name)).copy_(value)


_SUMS = ("count", "total", "moment")


def _equalising(variances: Tensor) -> Tensor:
    """A rotation after which uncorrelated channels of these variances all have their mean."""
    num, mean = len(variances), float(variances.mean())
    rotation = torch.eye(num, dtype=variances.dtype, device=variances.device)
    left = variances.tolist()
    low = [i for i in range(num) if left[i] < mean]
    high = [i for i in range(num) if left[i] > mean]
    while low and high:
        i, j = low[-1], high[-1]
        # cos^2 a + sin^2 b = mean makes channel i exact; it is never turned again, and channel j
        # stays uncorrelated with all that are left
        sine2 = (mean - left[i]) / (left[j] - left[i])
        c, s = (1 - sine2) ** 0.5, sine2**0.5
        first, second = rotation[:, i].clone(), rotation[:, j].clone()
        rotation[:, i], rotation[:, j] = c * first + s * second, c * second - s * first
        left[j] = left[i] + left[j] - mean
        low.pop()
        if left[j] <= mean:
            high.pop()
            if left[j] < mean:
                low.append(j)
    return rotation
