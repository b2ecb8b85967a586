"""Losses on averages: over super-points, over masks seen in 3D, over what a caption tells of.

A student's rows are averaged over a set of points and compared as one row. The rules on rows that
were not observed are those of the package; a set without points is left out.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from lifting.operator import LiftOperator
from xmodal.loss_checks import check_backward
from xmodal.losses.contrast import info_nce
from xmodal.losses.rows import direction, observed, observed_directions, take
from xmodal.losses.rowwise import cosine, kl


class Pooled(NamedTuple):
    """Averages of teacher and student over the same groups of rows, and weight of each group."""

    teacher: Float[Tensor, "S C"]
    student: Float[Tensor, "S D"]
    weight: Float[Tensor, " S"]


def pool_segments(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M D"],
    segments: Int[Tensor, " M"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
) -> Pooled:
    """Average the observed rows of each segment by their weights.

    Args:
        teacher: Targets.
        student: Predictions.
        segments: Segment of each row; a negative one is none.
        valid: Rows that were observed; all when None.
        weight: Weights of the rows, not negative; equal when None.

    Raises:
        ValueError: If a weight is negative.
    """
    kept, weight = observed(teacher, segments >= 0, valid, weight)
    names, index = torch.unique(segments[kept], return_inverse=True)
    total = weight.new_zeros(len(names)).index_add(0, index, weight)
    share = (weight / total[index])[:, None]
    means = [
        rows.new_zeros(len(names), rows.shape[1]).index_add(0, index, take(rows, kept) * share)
        for rows in (teacher, student)
    ]
    return Pooled(means[0], means[1], total)


def segment_contrast(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M C"],
    segments: Int[Tensor, " M"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
    temperature: float = 0.07,
    ignore_above: float = 1.0,
    segments_cap: int = 2048,
) -> Float[Tensor, ""]:
    """InfoNCE among super-points: rows are averaged over each, and every one counts the same.

    Args:
        teacher: Targets.
        student: Predictions.
        segments: Segment of each row; a negative one is none.
        valid: Rows that were observed; all when None.
        weight: Weights of the rows in the average of their segment; equal when None.
        temperature: Divides cosines, above 0.
        ignore_above: Segments that are this much alike are no negatives; see `info_nce`.
        segments_cap: At most that many segments are compared.

    Raises:
        ValueError: If a weight is negative or a setting is out of range.

    Source:
        Sautier et al., Image-to-Lidar Self-Supervised Distillation (SLidR), CVPR 2022.
    """
    pooled = pool_segments(teacher, student, segments, valid=valid, weight=weight)
    return info_nce(
        pooled.teacher,
        pooled.student,
        temperature=temperature,
        ignore_above=ignore_above,
        rows_cap=segments_cap,
    )


def set_cosine(
    teacher: Float[Tensor, "S C"],
    student: Float[Tensor, "N C"],
    membership: LiftOperator,
    *,
    valid: Bool[Tensor, " S"] | None = None,
    weight: Float[Tensor, " S"] | None = None,
) -> Float[Tensor, ""]:
    """Weighted mean over sets of 1 - cos(row of the set, average of the student over the set).

    Args:
        teacher: One row per set.
        student: One row per point.
        membership: Sets x points.
        valid: Sets that count; all when None.
        weight: Weights of sets, not negative; equal when None.

    Raises:
        ValueError: If a weight is negative or the operator has another shape.

    Source:
        Wang et al., XMask3D, NeurIPS 2024 (mask-level alignment).
    """
    kept, weight = _observed_sets(teacher, membership, valid, weight)
    pooled = pool_sets(student, membership, kept)
    return _or_nothing(cosine(take(teacher, kept), pooled, weight=weight), student, kept)


def set_contrast(
    teacher: Float[Tensor, "S C"],
    student: Float[Tensor, "N C"],
    membership: LiftOperator,
    *,
    valid: Bool[Tensor, " S"] | None = None,
    weight: Float[Tensor, " S"] | None = None,
    temperature: float = 0.07,
    ignore_above: float = 1.0,
    sets_cap: int = 2048,
) -> Float[Tensor, ""]:
    """InfoNCE among sets: which of all the rows (captions, masks) tells of these points?

    Args:
        teacher: One row per set.
        student: One row per point.
        membership: Sets x points.
        valid: Sets that count; all when None.
        weight: Weights of sets, not negative; equal when None.
        temperature: Divides cosines, above 0.
        ignore_above: Sets whose rows are this much alike are no negatives; below 1 it keeps two
            sets with one caption from being told apart.
        sets_cap: At most that many sets are compared.

    Raises:
        ValueError: If a weight is negative, a setting is out of range, or the operator has another
            shape.

    Source:
        Ding et al., PLA: Language-Driven Open-Vocabulary 3D Scene Understanding, CVPR 2023.
    """
    kept, weight = _observed_sets(teacher, membership, valid, weight)
    loss = info_nce(
        take(teacher, kept),
        pool_sets(student, membership, kept),
        weight=weight,
        temperature=temperature,
        ignore_above=ignore_above,
        rows_cap=sets_cap,
    )
    return _or_nothing(loss, student, kept)


def part_distill(
    teacher: Float[Tensor, "S C"],
    student: Float[Tensor, "N C"],
    membership: LiftOperator,
    *,
    valid: Bool[Tensor, " S"] | None = None,
    weight: Float[Tensor, " S"] | None = None,
    backward: float = 1.0,
    gamma: float = 2.0,
    divergence: Literal["cosine", "kl"] = "cosine",
) -> Float[Tensor, ""]:
    """Sets teach the student, and the student re-scores the sets: what it disbelieves counts less.

    A set weighs `weight * (1 - backward + backward * a^gamma)` with its agreement
    a = (1 + mean cosine of its points' rows to its own) / 2, without gradient.

    Args:
        teacher: One row per set; probabilities for `kl`.
        student: One row per point; probabilities for `kl`.
        membership: Sets x points.
        valid: Sets that count; all when None.
        weight: Weights of sets, not negative; equal when None.
        backward: Share of the student's opinion, in [0, 1]; 0 is forward distillation alone.
        gamma: Power of the agreement, above 0.
        divergence: How a set's row and the student's average are compared.

    Raises:
        ValueError: If a weight is negative, a setting is out of range, or the operator has another
            shape.

    Source:
        Umam et al., PartDistill: 3D Shape Part Segmentation by Vision-Language Model Distillation,
        CVPR 2024, which re-scores once, after forward distillation; here at every step.
    """
    check_backward(backward, gamma)
    kept, weight = _observed_sets(teacher, membership, valid, weight)
    rows = take(teacher, kept)
    if backward > 0:
        agreed = agreement(rows, student.detach(), membership.select_rows(kept))
        weight = weight * (1 - backward + backward * agreed.pow(gamma))
    pooled = pool_sets(student, membership, kept)
    compare = cosine if divergence == "cosine" else kl
    return _or_nothing(compare(rows, pooled, weight=weight), student, kept)


def agreement(
    teacher: Float[Tensor, "S C"], student: Float[Tensor, "N C"], membership: LiftOperator
) -> Float[Tensor, " S"]:
    """How much the points of each set agree with its row: (1 + mean cosine) / 2, in [0, 1]."""
    everywhere = torch.arange(len(teacher), device=teacher.device)
    mean = pool_sets(direction(student), membership, everywhere)
    return ((1 + (mean * direction(teacher)).sum(dim=1)) / 2).clamp(0, 1)


def pool_sets(
    student: Float[Tensor, "N C"], membership: LiftOperator, sets: Int64[Tensor, " K"]
) -> Float[Tensor, "K C"]:
    """Average of the student's rows over some of the sets, by the weights of their members.

    Raises:
        ValueError: If the operator does not have one column per row of the student.
    """
    chosen = membership if len(sets) == membership.num_targets else membership.select_rows(sets)
    chosen = chosen.drop_zeros().to(dtype=student.dtype)
    return chosen.mean().apply(student)


def _observed_sets(
    teacher: Tensor, membership: LiftOperator, valid: Tensor | None, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Sets that count and have points, and their weights."""
    if membership.num_targets != len(teacher):
        msg = f"{len(teacher)} sets need a membership of as many rows, not {membership.num_targets}"
        raise ValueError(msg)
    filled = membership.row_sum() > 0
    return observed_directions(teacher, filled if valid is None else filled & valid, weight)


def _or_nothing(loss: Tensor, student: Tensor, kept: Tensor) -> Tensor:
    return loss if len(kept) else student[:0].sum()
