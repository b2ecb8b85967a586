"""Several embeddings of one moment become one, whichever of them are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from detectors.spaces import Space, to_space

How = Literal["mean", "gated", "confidence", "router"]


@dataclass(frozen=True, eq=False)
class Fused:
    """Rows of several sources made one.

    Attributes:
        rows: One row for each sample; zeros where no source is there.
        valid: Samples with at least one source.
        share: How much of each row is of each source: 0 where it is missing, else they add up to 1.
    """

    rows: Float[Tensor, "B C"]
    valid: Bool[Tensor, " B"]
    share: Float[Tensor, "B S"]


class Fusion(nn.Module):
    """Sources brought to one width and added by shares that leave out what is missing.

    Args:
        in_channels: Width of each source.
        out_channels: Width of the fused rows.
        how: `mean`: all that are there alike. `gated`: a gate looks at all sources at once.
            `confidence`: each source's share grows with its own confidence, the logarithm of the
            sum of its exponentials, which is high for a sure vote (rows are class logits).
            `router`: each source is scored by itself and the best `top` are taken.
        space: Space of the fused rows.
        drop: While training, each source that is there is hidden with this chance; one always
            stays.
        top: Sources that a router takes.

    Raises:
        ValueError: If there are no sources, or a number is out of range.

    Source:
        `confidence`: Zhang et al., Provable Dynamic Fusion for Low-Quality Multimodal Data (QMF),
        ICML 2023, section 3.3 (energy score); `gated`: Arevalo et al., Gated Multimodal Units,
        ICLR workshops 2017; `router`: Shazeer et al., Outrageously Large Neural Networks, ICLR
        2017, section 2.1 (without noise).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        *,
        how: How = "gated",
        space: Space = "raw",
        drop: float = 0.0,
        top: int = 1,
    ) -> None:
        super().__init__()
        if not in_channels or min(*in_channels, out_channels) < 1:
            msg = f"sources of {tuple(in_channels)} channels cannot become rows of {out_channels}"
            raise ValueError(msg)
        if not 0 <= drop < 1 or not 1 <= top <= len(in_channels):
            msg = (
                f"drop ({drop}) must be 0 or more and below 1, top ({top}) from 1 to the number "
                f"of sources ({len(in_channels)})"
            )
            raise ValueError(msg)
        self.space: Space = space
        self.how: How = how
        self.drop, self.top = drop, top
        self.in_channels, self.out_channels = tuple(in_channels), out_channels
        self.into = nn.ModuleList(nn.Linear(width, out_channels) for width in in_channels)
        sources = len(in_channels)
        if how == "gated":
            hidden = max(out_channels // 4, 16)
            self.gate = nn.Sequential(
                nn.Linear(sources * (out_channels + 1), hidden),
                nn.ReLU(),
                nn.Linear(hidden, sources),
            )
        if how == "router":
            self.scores = nn.ModuleList(nn.Linear(out_channels, 1) for _ in range(sources))
        if how == "confidence":
            self.log_sharpness = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        rows: Sequence[Float[Tensor, "B _"]],
        present: Bool[Tensor, "B S"],
        sample: Int[Tensor, " B"] | None = None,
    ) -> Fused:
        """Fuse the sources that are there.

        Args:
            rows: Rows of each source; what they hold where it is missing has no effect.
            present: Which sources each sample has.
            sample: Rows with the same number are cells of one sample, of which `drop` hides a
                source altogether; None where each row is a sample.

        Raises:
            ValueError: If there are other sources than the module was made for.
        """
        self._check(rows, present)
        if self.training and self.drop > 0:
            present = dropped(present, self.drop, sample)
        return self._fuse(rows, present)

    def responses(
        self,
        rows: Sequence[Float[Tensor, "B _"]],
        present: Bool[Tensor, "B S"],
        sample: Int[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "S B C"], Bool[Tensor, "B S"]]:
        """What each source adds to the fused rows, by the Shapley value; differentiable.

        The mean, over all orders in which sources can come in, of how much a source changes the
        row when it does; without any source the row is zero. They add up to the fused rows. There
        are two to the power of the number of sources rows to fuse.

        Args:
            rows: Rows of each source.
            present: Which sources each sample has.
            sample: As in a call.

        Returns:
            The additions, zero for a source that a sample lacks; and which sources were there
            after training's random hiding.

        Raises:
            ValueError: If there are other sources than the module was made for.

        Source:
            Li et al., Boosting Multi-modal Model Performance with Adaptive Gradient Modulation,
            ICCV 2023, section 3.1.
        """
        self._check(rows, present)
        if self.training and self.drop > 0:
            present = dropped(present, self.drop, sample)
        num = len(self.in_channels)
        made: dict[frozenset[int], Tensor] = {}
        for size in range(num + 1):
            for some in combinations(range(num), size):
                mask = torch.zeros(num, dtype=torch.bool, device=present.device)
                mask[list(some)] = True
                made[frozenset(some)] = self._fuse(rows, present & mask).rows
        found = [
            sum(
                (
                    _order_share(len(some), num) * (made[some | {index}] - fused)
                    for some, fused in made.items()
                    if index not in some
                ),
                made[frozenset()],
            )
            for index in range(num)
        ]
        return torch.stack(found), present

    def _check(self, rows: Sequence[Tensor], present: Tensor) -> None:
        widths = tuple(part.shape[1] for part in rows)
        if widths != self.in_channels or present.shape[1] != len(self.in_channels):
            msg = (
                f"sources have {self.in_channels} channels, not {widths}, {present.shape[1]} marks"
            )
            raise ValueError(msg)

    def _fuse(self, rows: Sequence[Tensor], present: Tensor) -> Fused:
        mark = present[:, :, None]
        clean = [
            # Not a product: what is missing may hold NaN.
            torch.where(mark[:, index], part, torch.zeros_like(part))
            for index, part in enumerate(rows)
        ]
        votes = torch.stack(
            [layer(part) for layer, part in zip(self.into, clean, strict=True)], dim=1
        )
        votes = votes * mark.to(votes.dtype)
        share = self._share(votes, present)
        valid = present.any(dim=1)
        fused = to_space((votes * share[:, :, None]).sum(dim=1), self.space)
        return Fused(fused * valid[:, None].to(fused.dtype), valid, share)

    def _share(self, votes: Tensor, present: Tensor) -> Tensor:
        """Shares of the sources, [B, S]."""
        scores = votes.new_zeros(present.shape)
        if self.how == "gated":
            scores = self.gate(torch.cat([votes.flatten(1), present.to(votes.dtype)], dim=1))
        elif self.how == "confidence":
            # As in the source, confidence is not learnt by making a vote merely larger.
            energy = votes.detach().logsumexp(dim=2)
            scores = energy * self.log_sharpness.exp()
        elif self.how == "router":
            scores = torch.cat(
                [layer(votes[:, index]) for index, layer in enumerate(self.scores)], dim=1
            )
            present = present & _best(scores, present, self.top)
        return shares(scores, present)


def shares(scores: Float[Tensor, "B S"], present: Bool[Tensor, "B S"]) -> Float[Tensor, "B S"]:
    """Soft-max of scores over what is there; zeros where nothing is."""
    lowest = torch.finfo(scores.dtype).min
    share = scores.masked_fill(~present, lowest).softmax(dim=1)
    return share * present.to(scores.dtype)


def dropped(
    present: Bool[Tensor, "B S"], chance: float, sample: Int[Tensor, " B"] | None = None
) -> Bool[Tensor, "B S"]:
    """Sources left after hiding each with a chance; of those that were there, one always stays.

    Drawn from torch's global generator on the CPU, whose state is part of checkpoints.

    Args:
        present: Which sources there are.
        chance: Of each to be hidden.
        sample: Rows with the same number, from 0, lose the same; None where each row is by itself.
    """
    if sample is not None and len(sample):
        whole = torch.zeros(int(sample.max()) + 1, present.shape[1], device=present.device)
        whole = whole.index_add(0, sample, present.to(whole.dtype)) > 0
        # Of a cell that has only what its sample loses, nothing is left to see.
        return dropped(whole, chance)[sample] & present
    draw = torch.rand(present.shape).to(present.device)
    safest = draw.masked_fill(~present, -1.0).argmax(dim=1, keepdim=True)
    kept = (draw >= chance).scatter(1, safest, torch.ones_like(safest, dtype=torch.bool))
    return kept & present


def _order_share(before: int, num: int) -> float:
    """Share of all orders of sources in which some of them, `before` many, come before one."""
    return factorial(before) * factorial(num - before - 1) / factorial(num)


def _best(scores: Tensor, present: Tensor, top: int) -> Tensor:
    order = scores.masked_fill(~present, torch.finfo(scores.dtype).min).topk(top, dim=1).indices
    return torch.zeros_like(present).scatter(1, order, torch.ones_like(order, dtype=torch.bool))
