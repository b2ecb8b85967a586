"""Rows of teacher and student brought side by side, without those that do not count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lifting.operator import LiftOperator
    from xmodal.values import Embedding, Gaussians, Grids, Points, PointSets

    Rowed = Points | Gaussians | Embedding | Grids

Rows = Literal["all", "masked", "visible"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Rows of teacher and student on the same observed points, and how much each counts.

    `segments` are numbered over all samples; `sample` says which one a row is from.
    """

    teacher: Tensor
    student: Tensor
    weight: Tensor | None
    segments: Tensor | None
    sample: Tensor


@dataclass(frozen=True, kw_only=True)
class SetPair:
    """Rows of sets that count, rows of the student, and which points each set has.

    `groups` and `views` are those of the sets, where they have them.
    """

    teacher: Tensor
    student: Tensor
    membership: LiftOperator
    weight: Tensor
    groups: Tensor | None = None
    views: Tensor | None = None


def meet(
    teacher: Rowed,
    student: Rowed,
    *,
    coverage_half: float = 1.0,
    agreement_power: float = 0.0,
    rows: Rows = "all",
) -> Pair:
    """Observed rows of both; coverage as a weight that saturates: `c / (c + coverage_half)`.

    Coverage is a sum over views. Taken as it is, the middle of the room would count fifty times as
    much as what two views saw.

    Args:
        teacher: Targets.
        student: Predictions on the same points, or recordings. Where it says which of its rows are
            valid (a recording may lack what it sees), the others do not count.
        coverage_half: Coverage of half the full weight; 0 for one weight for all.
        agreement_power: Weights are multiplied by `(1 - disagreement)` to this power where the
            teacher knows how much its views disagree.
        rows: Which points count by whether the student saw their inputs.

    Raises:
        DataError: If one has no rows, their numbers differ, or the student does not say what was
            masked.
    """
    import torch

    if teacher.rows is None or student.rows is None or len(teacher.rows) != len(student.rows):
        sizes = ["none" if p.rows is None else str(len(p.rows)) for p in (teacher, student)]
        raise DataError(
            "distillation",
            wanted="teacher and student rows on the same points",
            got=f"{sizes[0]} teacher rows, {sizes[1]} student rows",
            fix="let both nodes stand on the same support (`on:`)",
        )
    weight = None if teacher.weight is None else _saturated(teacher.weight, coverage_half)
    covered = None if weight is None else ~(weight <= 0)
    disagreement: Tensor | None = getattr(teacher, "disagreement", None)
    if disagreement is not None and agreement_power > 0:
        agreement = (1 - disagreement).clamp(0, 1) ** agreement_power
        weight = agreement if weight is None else weight * agreement
    chosen = chosen_rows(student, rows)
    own = None if student.valid is None or bool(student.valid.all()) else student.valid
    for mark in (teacher.valid, covered, own):
        if mark is not None:
            chosen = mark if chosen is None else chosen & mark
    segments: Tensor | None = getattr(teacher, "segments", None)
    segments = getattr(student, "segments", None) if segments is None else segments
    pair = Pair(
        teacher=teacher.rows,
        student=student.rows,
        weight=weight,
        segments=None if segments is None else _by_sample(segments, student.offsets),
        sample=_sample(student.offsets, len(student.rows), teacher.rows.device),
    )
    if chosen is None or bool(chosen.all()):
        return pair
    kept = torch.nonzero(chosen).squeeze(1)
    return Pair(
        teacher=pair.teacher[kept],
        student=pair.student[kept],
        weight=None if weight is None else weight[kept],
        segments=None if pair.segments is None else pair.segments[kept],
        sample=pair.sample[kept],
    )


def meet_sets(
    teacher: PointSets,
    student: Points | Gaussians,
    *,
    coverage_half: float = 1.0,
    rows: Rows = "all",
) -> SetPair:
    """Sets and the student's rows; sets weigh by coverage as points do in `meet`.

    Raises:
        DataError: If the student has no rows, not one row for each point that the sets are of, or
            does not say what was masked.
    """
    given = student.rows
    if given is None or len(given) != teacher.membership.num_sources:
        raise DataError(
            "distillation from sets of points",
            wanted=f"a student row for each of {teacher.membership.num_sources} points",
            got="no rows" if given is None else f"{len(given)} student rows",
            fix="let the sets stand on the student's points (`on:`)",
        )
    kept = (teacher.valid & ~(teacher.weight <= 0)).nonzero().squeeze(1)
    chosen, membership = chosen_rows(student, rows), teacher.membership.select_rows(kept)
    if chosen is not None:
        membership = membership.scale_columns(chosen.to(membership.weight.dtype)).drop_zeros()
    return SetPair(
        teacher=teacher.rows[kept],
        student=given,
        membership=membership,
        weight=_saturated(teacher.weight[kept], coverage_half),
        groups=None if teacher.groups is None else teacher.groups[kept],
        views=None if teacher.views is None else teacher.views[kept],
    )


def rendered(pair: SetPair) -> SetPair:
    """The pair with the student's average over each set in the place of its points."""
    import torch

    from lifting.operator import LiftOperator

    # A set without any share in the student's points has nothing to be rendered from.
    kept = (pair.membership.row_sum() > 0).nonzero().squeeze(1)
    members = pair.membership.select_rows(kept).mean()
    own = LiftOperator.identity(len(kept), dtype=members.weight.dtype)
    return SetPair(
        teacher=pair.teacher[kept],
        student=members.apply(pair.student.to(torch.float32)),
        membership=own.to(device=pair.student.device),
        weight=pair.weight[kept],
        groups=None if pair.groups is None else pair.groups[kept],
        views=None if pair.views is None else pair.views[kept],
    )


def chosen_rows(student: Rowed, rows: Rows) -> Tensor | None:
    """Points that count by whether the student saw their inputs; None for all.

    Raises:
        DataError: If the student does not say what was masked.
    """
    if rows == "all":
        return None
    masked: Tensor | None = getattr(student, "masked", None)
    if masked is None:
        raise DataError(
            "distillation",
            wanted=f"a student that says which points were masked, for `rows: {rows}`",
            got="no mask",
            fix="give the student's op a `mask_ratio` above 0, or write `rows: all`",
        )
    return masked if rows == "masked" else ~masked


def need_segments(pair: Pair, name: str) -> Tensor:
    """Segment of each row.

    Raises:
        DataError: If neither teacher nor student has segments.
    """
    if pair.segments is None:
        raise DataError(
            f"distillation by `{name}`",
            wanted="points with segments on the teacher or the student",
            got="points without",
            fix="lift the teacher to super-points, or choose a loss on single points",
        )
    return pair.segments


def need_groups(pair: SetPair, name: str) -> tuple[Tensor, Tensor]:
    """Group and view of each set.

    Raises:
        DataError: If the sets do not have both.
    """
    if pair.groups is None or pair.views is None:
        raise DataError(
            f"distillation by `{name}`",
            wanted="sets that know which mask of which view they are of",
            got="sets without groups" if pair.groups is None else "groups without views",
            fix="lift the masks with `op: splat_pixels`, or choose a loss on single sets",
        )
    return pair.groups, pair.views


def _saturated(weight: Tensor, coverage_half: float) -> Tensor:
    if coverage_half > 0:
        return weight / (weight + coverage_half)
    return (weight > 0).to(weight.dtype)


def _sample(offsets: Tensor, num: int, device: torch.device) -> Tensor:
    import torch

    index = torch.arange(len(offsets) - 1).repeat_interleave(offsets.diff().cpu(), output_size=num)
    return index.to(device)


def _by_sample(segments: Tensor, offsets: Tensor) -> Tensor:
    """Segments numbered over all samples, so that equal numbers of two samples stay apart."""
    import torch

    if len(offsets) <= 2 or len(segments) == 0:
        return segments
    sample = _sample(offsets, len(segments), segments.device)
    return torch.where(segments < 0, -1, segments + sample * (segments.max() + 1))
