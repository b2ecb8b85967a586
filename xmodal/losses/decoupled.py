"""Decoupled contrast at several scales: points, super-points, the whole.

A contrast's soft-max mixes two messages: how sure the teacher is of the own row, and how the rest
is spread over the others. Decoupled, the second counts also where the first is sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xmodal.loss_checks import check_decoupled
from xmodal.losses.pooled import pool_segments
from xmodal.losses.rows import (
    direction,
    observed_directions,
    take,
    weighted_mean,
)

Scale = Literal["point", "segment", "whole"]


def decoupled(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M C"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
    temperature: float = 0.1,
    target: float = 1.0,
    others: float = 1.0,
    rows_cap: int | None = 1024,
) -> Float[Tensor, ""]:
    """KL between the teacher's and the student's contrast, own row and other rows apart.

    With soft-maxes over cosines to all teacher rows, p_i(j) of t_i . t_j and q_i(j) of s_i . t_j,
    row i adds `target` times the binary KL of (p_i(i), 1 - p_i(i)) from the student's, and `others`
    times the KL of both soft-maxes over j != i alone. It is 0 at s = t.

    Args:
        teacher: Targets, of any length; rows of length 0 are left out.
        student: Predictions.
        valid: Rows that were observed; all when None.
        weight: Weights of the rows' terms, not negative; equal when None.
        temperature: Divides cosines on both sides, above 0.
        target: Factor of the own row's part.
        others: Factor of the other rows' part.
        rows_cap: At most that many rows, evenly spaced, are compared: memory is its square.

    Raises:
        ValueError: If a weight is negative or a setting is out of range.

    Source:
        Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, on a contrast in place of class
        logits.
    """
    check_decoupled(temperature, target, others)
    kept, weight = observed_directions(teacher, valid, weight, rows_cap)
    keys, queries = direction(take(teacher, kept)), direction(take(student, kept))
    if len(kept) < 2:
        return (take(student, kept) * 0).sum()
    values = _apart(keys @ keys.T, queries @ keys.T, temperature, target, others)
    return weighted_mean(values, weight, student)


def multi_scale(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M C"],
    groups: Sequence[Int[Tensor, " M"] | None],
    *,
    weight: Float[Tensor, " M"] | None = None,
    temperature: float = 0.1,
    target: float = 1.0,
    others: float = 1.0,
    rows_cap: int = 1024,
) -> Float[Tensor, ""]:
    """Mean of `decoupled` over scales: rows as they are, or averaged over groups.

    Args:
        teacher: Targets; all observed.
        student: Predictions.
        groups: For each scale the group of every row (negative for none), or None for the rows
            themselves. A scale of a single group, such as a whole scene, has no others of its own:
            its average is told from the rows.
        weight: Weights of rows, in their average and in their term; equal when None.
        temperature: See `decoupled`.
        target: See `decoupled`.
        others: See `decoupled`.
        rows_cap: See `decoupled`.

    Raises:
        ValueError: If a weight is negative or a setting is out of range.

    Source:
        Wei et al., Scale Decoupled Distillation, CVPR 2024.
    """
    factors = (temperature, target, others)
    check_decoupled(*factors)
    losses: list[Tensor] = []
    for group in groups:
        if group is None:
            first, second, mass = teacher, student, weight
        else:
            pooled = pool_segments(teacher, student, group, weight=weight)
            first, second, mass = pooled.teacher, pooled.student, None
        if len(first) == 1 and group is not None:
            kept, _ = observed_directions(teacher, None, weight, rows_cap)
            keys = direction(torch.cat([first, take(teacher, kept)]))
            told, given = direction(first) @ keys.T, direction(second) @ keys.T
            losses.append(_apart(told, given, *factors).sum())
            continue
        losses.append(
            decoupled(
                first,
                second,
                weight=mass,
                temperature=temperature,
                target=target,
                others=others,
                rows_cap=rows_cap,
            )
        )
    return torch.stack(losses).mean() if losses else student[:0].sum()


def _apart(told: Tensor, given: Tensor, temperature: float, target: float, others: float) -> Tensor:
    """Both parts of each row of cosines [M, N]; the own one of row i is column i."""
    own = torch.eye(*told.shape, dtype=torch.bool, device=told.device)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for cosines in (told, given):
        logits = cosines / temperature
        whole = logits.logsumexp(dim=1)
        rest = logits.masked_fill(own, -torch.inf)
        total = rest.logsumexp(dim=1)
        # -inf - (-inf) would be no number, and its gradient neither: the own column is set apart
        spread = (logits - total[:, None]).masked_fill(own, 0.0)
        parts.append((logits.diagonal() - whole, total - whole, spread))
    (sure_t, rest_t, spread_t), (sure_s, rest_s, spread_s) = parts
    binary = sure_t.exp() * (sure_t - sure_s) + rest_t.exp() * (rest_t - rest_s)
    inner = (spread_t.exp().masked_fill(own, 0.0) * (spread_t - spread_s)).sum(dim=1)
    return target * binary + others * inner
