"""Explicit steps after a lift: shrinkage and smoothing. Neither ever happens by itself.

Both work in place when asked, a slice at a time, so that features on disk (a tensor over a
memory-mapped file) of any size are changed without a second copy in memory.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lifting.completion import completion_operators
from lifting.moments import Lifted
from lifting.neighbours import nearest_neighbours
from lifting.operator import LiftOperator
from lifting.points import segment_operator

# Numbers worked on at a time: 32 MB of float32, several per slice.
_SLICE = 1 << 23
# Points whose neighbours are looked up at a time: 16 MB at 32 neighbours.
_QUERIES = 1 << 16


def shrink(
    lifted: Lifted,
    prior: Float[Tensor, " C"] | None = None,
    strength: float = 1.0,
    *,
    in_place: bool = False,
) -> Lifted:
    """Pull averages toward a prior, the more the fewer views they rest on.

    A row becomes (num_views * row + strength * prior) / (num_views + strength): the prior counts
    as much as `strength` views. A single odd view then no longer outshines a point that many views
    agree on.

    Args:
        lifted: Averages; their rows are read through `num_views`.
        prior: What to pull toward; None for the mean of all observed rows, weighted by views.
        strength: How many views the prior counts as; 0 changes nothing.
        in_place: Overwrite `lifted.rows`.

    Returns:
        The averages with new rows. Unobserved rows stay zero and unobserved.

    Raises:
        ValueError: If the strength is negative or not finite, or the prior does not fit.
    """
    if not (math.isfinite(strength) and strength >= 0):
        raise ValueError(f"shrinkage needs a finite strength of zero or more, got {strength}")
    rows = lifted.rows
    views = torch.where(lifted.valid, lifted.num_views, 0)
    if prior is None:
        prior = _mean_row(rows, views)
    if prior.shape != rows.shape[1:]:
        raise ValueError(
            f"a prior for rows of width {rows.shape[1]} is a vector of that width, got "
            f"{list(prior.shape)}"
        )
    out = rows if in_place else torch.empty_like(rows)
    keep = (views / (views + strength).clamp_min(1e-30)).to(rows.dtype)
    step = max(1, _SLICE // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        share = keep[part, None]
        pulled = rows[part] * share + prior.to(rows) * (1 - share)
        out[part] = torch.where(lifted.valid[part, None], pulled, 0)
    return replace(lifted, rows=out)


def smooth(
    xyz: Float[Tensor, "N 3"],
    rows: Float[Tensor, "N C"],
    valid: Bool[Tensor, " N"],
    radius_m: float,
    *,
    max_neighbours: int = 32,
    in_place: bool = False,
) -> Float[Tensor, "N C"]:
    """Average each observed point with its observed neighbours.

    Args:
        xyz: Points, metres; finite.
        rows: Features.
        valid: Which points were observed; the others neither give nor take.
        radius_m: How far a neighbour may be, metres.
        max_neighbours: At most this many nearest points, the point itself among them.
        in_place: Overwrite `rows`.

    Returns:
        The smoothed rows; rows of unobserved points as they were.

    Raises:
        ValueError: As `smoothing_operator`, or if there is not one row per point.
    """
    if rows.shape[0] != xyz.shape[0]:
        raise ValueError(f"{xyz.shape[0]} points need as many rows, got {rows.shape[0]}")
    average = smoothing_operator(xyz, valid, radius_m, max_neighbours)
    out = rows if in_place else rows.clone()
    # Channels do not mix, so a slice of columns can be replaced while the rest waits: neighbours
    # are never read after they were written.
    step = max(1, _SLICE // max(1, rows.shape[0]))
    for start in range(0, rows.shape[1], step):
        columns = slice(start, start + step)
        average_here = average.apply(rows[:, columns].contiguous())
        out[:, columns] = torch.where(valid[:, None], average_here.to(rows.dtype), rows[:, columns])
    return out


def smoothing_operator(
    xyz: Float[Tensor, "N 3"],
    valid: Bool[Tensor, " N"],
    radius_m: float,
    max_neighbours: int = 32,
) -> LiftOperator:
    """Mean over the observed neighbours of each observed point, itself included.

    Args:
        xyz: Points, metres; finite.
        valid: Which points were observed.
        radius_m: How far a neighbour may be, metres, inclusive.
        max_neighbours: At most this many nearest points.

    Returns:
        Points x points; rows of observed points sum to one, the others are empty.

    Raises:
        ValueError: If the radius is not positive, a coordinate of an observed point is not finite,
            or there is not one flag per point.
    """
    if valid.shape != xyz.shape[:1]:
        raise ValueError(f"{len(xyz)} points need as many valid flags, got {list(valid.shape)}")
    if not (math.isfinite(radius_m) and radius_m > 0):
        raise ValueError(f"smoothing needs a finite radius above 0 m, got {radius_m}")
    observed = torch.nonzero(valid).squeeze(1)
    points = xyz.detach()[observed]
    columns, lengths = _neighbours(points, radius_m, min(max_neighbours, max(len(points), 1)))
    count = torch.zeros(len(xyz), dtype=torch.int64, device=xyz.device)
    count[observed] = lengths
    crow = torch.zeros(len(xyz) + 1, dtype=torch.int64, device=xyz.device)
    torch.cumsum(count, 0, out=crow[1:])
    weight = torch.repeat_interleave(1 / lengths.clamp_min(1).to(torch.float32), lengths)
    return LiftOperator(crow=crow, col=observed[columns], weight=weight, num_sources=len(xyz))


def share_segments(
    rows: Float[Tensor, "N C"],
    valid: Bool[Tensor, " N"],
    segments: Int64[Tensor, " N"],
    share: float,
    *,
    in_place: bool = False,
) -> Float[Tensor, "N C"]:
    """Move each observed point toward the mean over the observed points of its segment.

    Args:
        rows: Features.
        valid: Which points were observed; the others neither give nor take.
        segments: Segment of each point, -1 for points in none: they keep their rows.
        share: How far: 0 keeps the rows, 1 gives every point of a segment the same row.
        in_place: Overwrite `rows`.

    Returns:
        The mixed rows; rows of unobserved points as they were.

    Raises:
        ValueError: If the share lies outside [0, 1] or there is not one row and flag per point.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of a segment must lie in [0, 1], got {share}")
    if not rows.shape[:1] == valid.shape == segments.shape:
        raise ValueError(
            f"{len(segments)} points need as many rows and flags, "
            f"got {rows.shape[0]} and {valid.shape[0]}"
        )
    out = rows if in_place else rows.clone()
    taking = torch.nonzero(valid & (segments >= 0)).squeeze(1)
    if not len(taking):
        return out
    where = torch.where(valid, segments, torch.full_like(segments, -1))
    means = segment_operator(where, int(segments.max()) + 1).mean().apply(rows)
    for part in taking.split(max(1, _SLICE // max(1, rows.shape[1]))):
        out[part] = torch.lerp(rows[part], means[segments[part]].to(rows.dtype), share)
    return out


def complete(
    xyz: Float[Tensor, "N 3"], lifted: Lifted, k: int, max_distance_m: float
) -> tuple[Lifted, Bool[Tensor, " N"]]:
    """Fill unobserved points from their nearest observed neighbours, in place.

    Args:
        xyz: Points, metres; finite.
        lifted: Averages; rows of filled points are overwritten.
        k: Number of neighbours to average.
        max_distance_m: Farther neighbours are not used.

    Returns:
        The averages and which points were filled. A filled point is valid, but keeps coverage 0
        and no views: nobody saw it.

    Raises:
        ValueError: As `completion.completion_operators`.
    """
    average, places = completion_operators(xyz, lifted.valid, k, max_distance_m)
    filled = average.crow.diff() > 0
    target = torch.nonzero(filled).squeeze(1)
    # Bounded like everything here: targets whose neighbours' rows fit one slice.
    step = max(1, _SLICE // max(1, k * lifted.rows.shape[1]))
    for start in range(0, len(target), step):
        part = target[start : start + step]
        local = average.select_rows(part)
        used, position = torch.unique(local.col, return_inverse=True)
        chosen = places.select_rows(used)
        points, source = torch.unique(chosen.col, return_inverse=True)
        donors = replace(chosen, col=source, num_sources=len(points)).apply(lifted.rows[points])
        found = replace(local, col=position, num_sources=len(used)).apply(donors)
        lifted.rows[part] = found.to(lifted.rows.dtype)
    return replace(lifted, valid=lifted.valid | filled), filled


def _neighbours(
    points: Tensor, radius_m: float, max_neighbours: int
) -> tuple[Int64[Tensor, " nnz"], Int64[Tensor, " n"]]:
    """Neighbours of each point laid end to end, and how many each has."""
    columns: list[Tensor] = [torch.zeros(0, dtype=torch.int64, device=points.device)]
    lengths = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for start in range(0, len(points), _QUERIES):
        part = slice(start, start + _QUERIES)
        _, near = nearest_neighbours(points[part], points, max_neighbours, max_distance_m=radius_m)
        found = near >= 0
        lengths[part] = found.sum(1)
        columns.append(near[found])
    return torch.cat(columns), lengths


def _mean_row(rows: Tensor, views: Tensor) -> Tensor:
    """Mean row weighted by views, summed in float64 a slice at a time."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    step = max(1, _SLICE // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        total += (rows[part].T @ views[part].to(rows.dtype)).double()
    return (total / views.sum().clamp_min(1)).to(rows.dtype)
