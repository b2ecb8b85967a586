"""Contrast: a student's row must be nearer to its own teacher row than to others (InfoNCE).

Rows are compared by direction. The rules on rows that were not observed are those of the package.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xmodal.loss_checks import check_contrast, check_counts
from xmodal.losses.queue import TeacherQueue
from xmodal.losses.rows import direction, observed_directions, take, weighted_mean

# Rows that share their sampled negatives: few enough that negatives differ, enough for a GEMM.
_BLOCK = 256


def info_nce(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M C"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
    temperature: float = 0.07,
    soft: bool = False,
    ignore_above: float = 1.0,
    rows_cap: int | None = None,
) -> Float[Tensor, ""]:
    """Which of all teacher rows of the batch is mine? Cross-entropy of a soft-max over cosines.

    The loss of row i is -log softmax_j(s_i . t_j / temperature) at j = i, with unit rows.

    Args:
        teacher: Keys, of any length; rows of length 0 are left out.
        student: Queries, of any length.
        valid: Rows that were observed; all when None.
        weight: Weights of the rows' terms, not negative; equal when None.
        temperature: Divides cosines, above 0.
        soft: Every other row counts as a positive, too, as far as its teacher row is like the own
            one: by the soft-max of t_i . t_j / temperature. The least value is then at s = t.
        ignore_above: Teacher rows whose cosine to the own one is above this are no negatives; 1
            keeps all.
        rows_cap: At most that many rows, evenly spaced, are compared: memory is its square.

    Raises:
        ValueError: If a weight is negative or a setting is out of range.

    Source:
        van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018,
        equation 4. Soft: Srinivasa et al., CWCL, NeurIPS 2023, with the soft-max of Fang et al.,
        SEED, ICLR 2021, in place of (1 + cosine) / 2, which hardly tells rows of one room apart.
        Ignored negatives: Mahmoud et al., Self-Supervised Image-to-Point Distillation via
        Semantically Tolerant Contrastive Loss, CVPR 2023.
    """
    check_contrast(temperature, ignore_above, soft=soft)
    kept, weight = observed_directions(teacher, valid, weight, rows_cap)
    keys, queries = direction(take(teacher, kept)), direction(take(student, kept))
    own = torch.arange(len(kept), device=keys.device)
    alike = keys @ keys.T if soft or ignore_above < 1 else None
    logits = queries @ keys.T
    values = _cross_entropy(logits, own, alike, temperature, ignore_above, soft=soft)
    return weighted_mean(values, weight, student)


def sampled_info_nce(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M C"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
    temperature: float = 0.07,
    num_negatives: int = 64,
    soft: bool = False,
    ignore_above: float = 1.0,
) -> Float[Tensor, ""]:
    """`info_nce` against some other rows of the batch, drawn at random: linear in the rows.

    Rows come in blocks of up to 256 that share their negatives, drawn by torch's own generator. A
    draw of the own row is no negative. With `num_negatives` of at least the number of rows this is
    `info_nce`.

    Args:
        teacher: See `info_nce`.
        student: See `info_nce`.
        valid: See `info_nce`.
        weight: See `info_nce`.
        temperature: See `info_nce`.
        num_negatives: Negatives of each row, at least 1.
        soft: See `info_nce`.
        ignore_above: See `info_nce`.

    Raises:
        ValueError: If a weight is negative or a setting is out of range.

    Source:
        Xie et al., PointContrast, ECCV 2020 (PointInfoNCE).
    """
    check_contrast(temperature, ignore_above, soft=soft)
    check_counts(num_negatives=num_negatives)
    kept, weight = observed_directions(teacher, valid, weight)
    keys, queries = direction(take(teacher, kept)), direction(take(student, kept))
    parts: list[Tensor] = []
    for block in torch.arange(len(kept)).split(_BLOCK):
        drawn = torch.randperm(len(kept))[:num_negatives].to(keys.device)
        rows = block.to(keys.device)
        mine, others = keys[rows], keys[drawn]
        alike = torch.cat([(mine * mine).sum(dim=1, keepdim=True), mine @ others.T], dim=1)
        positive = (queries[rows] * mine).sum(dim=1, keepdim=True)
        logits = torch.cat([positive, queries[rows] @ others.T], dim=1)
        own = torch.zeros(len(rows), dtype=torch.long, device=keys.device)
        drawn_self = nn.functional.pad(drawn == rows[:, None], (1, 0))
        values = _cross_entropy(
            logits, own, alike, temperature, ignore_above, soft=soft, dropped=drawn_self
        )
        parts.append(values)
    every = torch.cat(parts) if parts else queries.sum(dim=1)
    return weighted_mean(every, weight, student)


class QueueContrast(TeacherQueue):
    """InfoNCE against teacher rows of earlier steps: many negatives at a linear cost.

    In training the teacher rows of a call enter the queue once its loss is known, oldest out first.
    While the queue is empty the loss is 0. For its settings see `TeacherQueue`.

    Source:
        He et al., Momentum Contrast, CVPR 2020, equation 1 and algorithm 1. A frozen teacher's keys
        do not age, so no momentum encoder is needed.
    """

    def forward(
        self,
        teacher: Float[Tensor, "M C"],
        student: Float[Tensor, "M C"],
        *,
        valid: Bool[Tensor, " M"] | None = None,
        weight: Float[Tensor, " M"] | None = None,
        temperature: float = 0.07,
        soft: bool = False,
        ignore_above: float = 1.0,
    ) -> Float[Tensor, ""]:
        """The loss; arguments as for `info_nce`.

        Raises:
            ValueError: If a weight is negative or a setting is out of range.
        """
        check_contrast(temperature, ignore_above, soft=soft)
        kept, weight = observed_directions(teacher, valid, weight)
        keys, queries = direction(take(teacher, kept)), direction(take(student, kept))
        queue = self.filled().to(keys)
        positive = (queries * keys).sum(dim=1, keepdim=True)
        logits = torch.cat([positive, queries @ queue.T], dim=1)
        alike = None
        if soft or ignore_above < 1:
            itself = (keys * keys).sum(dim=1, keepdim=True)
            alike = torch.cat([itself, keys @ queue.T], dim=1)
        own = torch.zeros(len(kept), dtype=torch.long, device=keys.device)
        values = _cross_entropy(logits, own, alike, temperature, ignore_above, soft=soft)
        if self.training:
            self._enter(keys.detach())
        return weighted_mean(values, weight, student)


def _cross_entropy(
    cosines: Tensor,
    own: Tensor,
    alike: Tensor | None,
    temperature: float,
    ignore_above: float,
    *,
    soft: bool,
    dropped: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of each row; `own` is its positive, `alike` cosines among teacher rows."""
    logits = cosines / temperature
    if ignore_above < 1 and alike is not None:
        near = (alike > ignore_above).scatter(1, own[:, None], value=False)
        dropped = near if dropped is None else dropped | near
    if dropped is not None:
        logits = logits.masked_fill(dropped, -torch.inf)
    if not soft or alike is None:
        return nn.functional.cross_entropy(logits, own, reduction="none")
    told = alike / temperature
    log_given = logits.log_softmax(dim=1)
    if dropped is not None:
        # 0 x -inf is no number: what was dropped has share 0 and any finite logarithm
        told = told.masked_fill(dropped, -torch.inf)
        log_given = log_given.masked_fill(dropped, 0.0)
    return -(told.softmax(dim=1) * log_given).sum(dim=1)
