"""Weights between losses: as the user says, by the size of their gradients, learnt, in harmony.

Losses of several teachers or modalities differ in scale by orders of magnitude; left alone, the
largest decides what the student learns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xmodal.train.harmony import gradients_of, harmonised, held_back

BalanceMode = Literal["none", "grad_norm", "uncertainty", "harmonise", "ogm", "agm"]
# A gradient shorter than this is none: its loss had no rows, and its size says nothing.
_SHORTEST = 1e-12


class Balance(nn.Module):
    """The weighted sum of losses.

    - `none`: the sum of weight times loss.
    - `grad_norm`: losses are scaled so that the norms of their gradients in the shared rows,
      averaged over steps, are in the ratio of the weights; their weighted mean stays what it was.
      The averages are buffers.
    - `uncertainty`: the sum of weight times (exp(-s) loss + s / 2) with a learnt s per loss, the
      logarithm of its variance. The s are parameters, which the optimiser must have.
    - `harmonise`: the sum of weight times loss, but each loss's gradient loses what works against
      that of another, see `harmonised`.
    - `ogm`: the sum of weight times loss, but gradients of a student whose losses fall faster than
      those of the others are made shorter, see `held_back`. Averages of losses are buffers.
    - `agm`: the sum of weight times loss, but gradients of what each stream adds to a fusion are
      multiplied, see `xmodal.train.modulation`.

    Args:
        weights: Factor of each loss, above 0.
        mode: What else decides.
        momentum: Share of the old average of a gradient's norm at each step, in [0, 1).

    Raises:
        ValueError: If there is no weight, one is not above 0, or the momentum is out of range.

    Source:
        Chen et al., GradNorm, ICML 2018, with equal training rates, where its optimum has a closed
        form. Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018.
    """

    def __init__(
        self, weights: Sequence[float], mode: BalanceMode = "none", *, momentum: float = 0.9
    ) -> None:
        super().__init__()
        if not weights or not all(0 < weight < float("inf") for weight in weights):
            msg = f"a balance needs weights above 0, one for each loss, not {list(weights)}"
            raise ValueError(msg)
        if not 0 <= momentum < 1:
            msg = f"momentum must be in [0, 1), not {momentum}"
            raise ValueError(msg)
        self.weights, self.mode, self.momentum = tuple(weights), mode, momentum
        if mode == "grad_norm":
            self.register_buffer("norms", torch.zeros(len(weights)))
            self.register_buffer("seen", torch.zeros(len(weights), dtype=torch.bool))
        if mode == "uncertainty":
            self.log_variance = nn.Parameter(torch.zeros(len(weights)))
        if mode == "ogm":
            self.register_buffer("first", torch.zeros(len(weights)))
            self.register_buffer("now", torch.zeros(len(weights)))

    def forward(
        self,
        losses: Sequence[Float[Tensor, ""]],
        shared: Tensor | Sequence[Tensor] | None = None,
    ) -> Float[Tensor, ""]:
        """The total to descend.

        Args:
            losses: One for each weight, in their order. One that is exactly 0 had no rows: it moves
                no average and no variance.
            shared: What `grad_norm` measures gradients in: rows of the student, or of several.
                Without it, or outside training, the averages so far are used.

        Raises:
            ValueError: If there is not one loss for each weight.
        """
        if len(losses) != len(self.weights):
            msg = f"this balance has weights for {len(self.weights)} losses, not {len(losses)}"
            raise ValueError(msg)
        if self.mode == "grad_norm" and self.training and shared is not None:
            self._measure(losses, [shared] if isinstance(shared, Tensor) else list(shared))
        total = losses[0].new_zeros(())
        for index, (loss, factor) in enumerate(zip(losses, self.factors(), strict=True)):
            total = total + factor.to(loss) * loss
            if self.mode == "uncertainty" and float(loss.detach()) != 0:
                total = total + self.weights[index] / 2 * self.log_variance[index].to(loss)
        return total

    def factors(self) -> Float[Tensor, " L"]:
        """What each loss is multiplied by now; differentiable for `uncertainty`."""
        if self.mode == "uncertainty":
            return self.log_variance.new_tensor(self.weights) * (-self.log_variance).exp()
        weights = torch.tensor(self.weights)
        if self.mode != "grad_norm":
            return weights
        norms, seen = cast("Tensor", self.norms), cast("Tensor", self.seen)
        weights = weights.to(norms)
        if not bool(seen.any()):
            return weights
        # weight x norm x factor is in the ratio of the weights; the sum of norms does not change
        common = (weights * norms)[seen].sum() / weights[seen].sum()
        return weights * torch.where(seen, common / norms.clamp_min(_SHORTEST), 1.0)

    @staticmethod
    def harmonise(losses: Sequence[Float[Tensor, ""]], parameters: Sequence[Tensor]) -> None:
        """Add to the gradients of parameters what harmony leaves of those of the losses.

        Args:
            losses: What is to descend, each with its factor.
            parameters: What learns.
        """
        found = harmonised(gradients_of(losses, parameters))
        for parameter, gradient in zip(parameters, found, strict=False):
            if gradient is not None:
                old = parameter.grad
                parameter.grad = gradient if old is None else old + gradient

    def modulation(
        self, losses: Mapping[int, float], of: Mapping[str, Sequence[int]]
    ) -> dict[str, float]:
        """Factors of students' gradients, for `ogm`; 1 for all otherwise.

        Args:
            losses: Losses of this step by their number, which the averages take in.
            of: Numbers of the losses of each student that is compared with the others.
        """
        if self.mode != "ogm":
            return dict.fromkeys(of, 1.0)
        first, now = cast("Tensor", self.first), cast("Tensor", self.now)
        for index, loss in losses.items():
            if not 0 < loss < float("inf"):
                continue  # no rows, or not finite: the loop deals with that
            if float(first[index]) == 0:
                first[index] = now[index] = loss
            now[index] = self.momentum * now[index] + (1 - self.momentum) * loss
        left = (now / first.clamp_min(_SHORTEST)).tolist()
        begun = (first > 0).tolist()
        progress: dict[str, float] = {}
        for name, indices in of.items():
            mine = [left[index] for index in indices if begun[index]]
            progress[name] = sum(mine) / len(mine) if mine else float("nan")
        return held_back(progress)

    def _measure(self, losses: Sequence[Tensor], shared: Sequence[Tensor]) -> None:
        norms, seen = cast("Tensor", self.norms), cast("Tensor", self.seen)
        at = [tensor for tensor in shared if tensor.requires_grad]
        for index, loss in enumerate(losses):
            if not loss.requires_grad or not at:
                continue
            parts = cast(
                "Sequence[Tensor | None]",
                torch.autograd.grad(loss, at, retain_graph=True, allow_unused=True),
            )
            squares = [part.square().sum() for part in parts if part is not None]
            norm = float(sum(squares, loss.new_zeros(())).sqrt())
            if not _SHORTEST < norm < float("inf"):
                continue  # no rows, or not finite: the loop deals with that
            old = float(norms[index]) if bool(seen[index]) else norm
            norms[index] = self.momentum * old + (1 - self.momentum) * norm
            seen[index] = True
