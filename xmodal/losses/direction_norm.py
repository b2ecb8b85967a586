"""Direction and norm: a student's rows should point to their class and be long enough.

Classes need no labels: a teacher row's class is its largest channel, or the nearest of a number of
class means that are found along the way.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from xmodal.losses.rows import SHORTEST, direction, observed_directions, spread, take, weighted_mean

# Enough rows to find first class means among; the search is linear in it for every class.
_SEED_ROWS = 2048


class DirectionNorm(nn.Module):
    """Mean of 1 - <s, e_k> / max(|s|, |t|), e_k the direction of the mean of the row's class.

    A student row shorter than its teacher's is drawn out along its class's direction; a longer one
    is turned only. It says nothing of what tells rows of one class apart, so it goes beside a loss
    that does. Class means are moving averages over the calls in training, kept in buffers.

    Args:
        channels: Width of both sides.
        num_classes: Number of classes; must be `channels` for `arg_max`.
        pseudo: `arg_max`: a row's class is its largest channel. `nearest`: the class mean with the
            highest cosine; the first means are rows far from one another.
        momentum: Share of the old mean at each call, in [0, 1).

    Raises:
        ValueError: If a setting is out of range.

    Source:
        Wang et al., Improving Knowledge Distillation via Regularizing Feature Norm and Direction,
        2023; class means by pseudo-class in place of labels.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int = 32,
        *,
        pseudo: Literal["nearest", "arg_max"] = "nearest",
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        if num_classes < 1 or not 0 <= momentum < 1:
            msg = (
                f"num_classes must be at least 1 and momentum in [0, 1): {num_classes}, {momentum}"
            )
            raise ValueError(msg)
        if pseudo == "arg_max" and num_classes != channels:
            msg = f"arg_max has one class per channel: {channels}, not {num_classes}"
            raise ValueError(msg)
        self.pseudo, self.momentum = pseudo, momentum
        self.register_buffer("means", torch.zeros(num_classes, channels))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    def forward(
        self,
        teacher: Float[Tensor, "M C"],
        student: Float[Tensor, "M C"],
        *,
        valid: Bool[Tensor, " M"] | None = None,
        weight: Float[Tensor, " M"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss, in [0, 2]; in training the means learn from the teacher's rows first.

        Args:
            teacher: Targets; rows of length 0 are left out.
            student: Predictions. One of length 0 counts 1.
            valid: Rows that were observed; all when None.
            weight: Weights of rows, not negative; equal when None.

        Raises:
            ValueError: If a weight is negative.
        """
        kept, weight = observed_directions(teacher, valid, weight)
        target, given = take(teacher, kept), take(student, kept)
        finite = bool(torch.isfinite(target).all())
        if self.training and finite and len(kept):
            self._learn(target.detach(), weight.detach())
        seen, means = cast("Tensor", self.seen), cast("Tensor", self.means)
        known = seen[self.classes(target)]
        if not bool(known.all()):  # a class that training never met has no direction
            target, given, weight = target[known], given[known], weight[known]
        towards = direction(means.to(target))[self.classes(target)]
        given_length = given.square().sum(dim=1).clamp_min(SHORTEST**2).sqrt()
        length = torch.maximum(given_length, target.norm(dim=1))
        values = 1 - (given * towards).sum(dim=1) / length
        # NaN in a teacher row enters through its length
        return weighted_mean(values, weight, student)

    def classes(self, teacher: Float[Tensor, "M C"]) -> Int64[Tensor, " M"]:
        """Class of each teacher row."""
        if self.pseudo == "arg_max":
            return teacher.argmax(dim=1)
        seen, means = cast("Tensor", self.seen), cast("Tensor", self.means)
        cosines = direction(teacher) @ direction(means.to(teacher)).T
        return cosines.masked_fill(~seen, -torch.inf).argmax(dim=1)

    def _learn(self, rows: Tensor, weight: Tensor) -> None:
        seen, means = cast("Tensor", self.seen), cast("Tensor", self.means)
        if self.pseudo == "nearest" and not bool(seen.all()):
            self._seed(rows)
        index = self.classes(rows)
        total = weight.new_zeros(len(means)).index_add(0, index, weight)
        sums = rows.new_zeros(means.shape).index_add(0, index, rows * weight[:, None])
        now = total > 0
        mean = (sums[now] / total[now][:, None]).to(means)
        old = torch.where(seen[now][:, None], means[now], mean)
        means[now] = self.momentum * old + (1 - self.momentum) * mean
        seen |= now

    def _seed(self, rows: Tensor) -> None:
        """Fill classes without a mean by rows far from all others (farthest first)."""
        seen, means = cast("Tensor", self.seen), cast("Tensor", self.means)
        unit = direction(rows[spread(len(rows), _SEED_ROWS).to(rows.device)])
        known = direction(means[seen].to(unit))
        nearest = unit.new_full((len(unit),), -1.0)
        if len(known):
            nearest = (unit @ known.T).amax(dim=1)
        for place in (~seen).nonzero().squeeze(1).tolist():
            chosen = int(nearest.argmin())
            # 1e-4: equal rows differ by rounding; a second class for them would stay empty
            if float(nearest[chosen]) > 1 - 1e-4:
                return
            means[place] = unit[chosen].to(means)
            seen[place] = True
            nearest = torch.maximum(nearest, unit @ unit[chosen])
