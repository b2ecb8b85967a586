"""Filling unobserved points from observed neighbours, within a stated distance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lifting.neighbours import check_cloud, distinct_sites, nearest_neighbours
from lifting.operator import LiftOperator
from lifting.points import segment_operator

__all__ = ["Completion", "complete_knn", "completion_operators"]


class Completion(NamedTuple):
    """Rows after filling.

    Attributes:
        rows: Observed rows as they were, filled rows, and zero where neither.
        filled: True where a row was filled. What is neither observed nor filled stays unobserved.
    """

    rows: Float[Tensor, "N C"]
    filled: Bool[Tensor, " N"]


def complete_knn(
    xyz: Float[Tensor, "N 3"],
    rows: Float[Tensor, "N C"],
    valid: Bool[Tensor, " N"],
    k: int = 4,
    max_distance_m: float = 0.1,
    *,
    backend: str = "auto",
) -> Completion:
    """Give unobserved points the average of their nearest observed neighbours.

    Args:
        xyz: Points, metres; finite.
        rows: Features; those of unobserved points are ignored.
        valid: Which points were observed.
        k: Number of neighbours to average.
        max_distance_m: Farther neighbours are not used; without one the point stays unobserved.
        backend: See `lifting.backends.resolve_backend`.

    Returns:
        The rows and which of them were filled. Differentiable in the rows.

    Raises:
        ValueError: As `completion_operators`, or if there is not one row per point.
    """
    if rows.shape[0] != xyz.shape[0]:
        raise ValueError(f"{xyz.shape[0]} points need as many rows, got {rows.shape[0]}")
    average, places = completion_operators(xyz, valid, k, max_distance_m)
    kept = torch.where(valid[:, None], rows, 0)
    filled = average.crow.diff() > 0
    target = torch.nonzero(filled)[:, 0]
    # Only the rows to fill are computed; the others are copied.
    found = average.select_rows(target).apply(places.apply(kept, backend=backend), backend=backend)
    return Completion(kept.index_copy(0, target, found.to(rows.dtype)), filled)


def completion_operators(
    xyz: Float[Tensor, "N 3"], valid: Bool[Tensor, " N"], k: int, max_distance_m: float
) -> tuple[LiftOperator, LiftOperator]:
    """The averages that fill unobserved points, as two operators to be applied one after the other.

    Observed points at one place count as one neighbour, the average of their rows: the second
    operator, places x points, forms it. The first, points x places, weighs places by the inverse
    of their distance; its rows of observed points, and of points that nothing can fill, are empty.
    All non-empty rows of both add up to one. They are not composed: if ten thousand points at one
    place lack a row and as many have one, the product has a hundred million entries.

    Args:
        xyz: Points, metres; finite.
        valid: Which points were observed.
        k: Number of neighbouring places to average.
        max_distance_m: Farther neighbours are not used.

    Raises:
        ValueError: If k is below 1, the distance not positive, a coordinate not finite, or there
            is not one flag per point.
    """
    check_cloud(xyz)
    num = xyz.shape[0]
    if valid.shape != (num,):
        raise ValueError(f"{num} points need as many valid flags, got {list(valid.shape)}")
    donors, missing = torch.nonzero(valid)[:, 0], torch.nonzero(~valid)[:, 0]
    donor_site, donor_place = distinct_sites(xyz[donors])
    asked_site, asked_place = distinct_sites(xyz[missing])
    distance, near = nearest_neighbours(
        xyz[missing[asked_site]], xyz[donors[donor_site]], k, max_distance_m=max_distance_m
    )
    found = near >= 0
    # A donor at the same place (a nanometre) drowns out the others, yet its weight stays finite.
    closeness = torch.where(found, 1 / distance.clamp(min=1e-9), 0)
    total = closeness.sum(dim=1, keepdim=True)
    share = closeness / torch.where(total > 0, total, 1)
    # Only the places that somebody asks for are averaged.
    used, near_used = torch.unique(near[found], return_inverse=True)
    number = torch.full_like(donor_site, -1)
    number[used] = torch.arange(used.numel(), device=number.device)
    rank = torch.full_like(near, -1)
    rank[found] = near_used
    row, column = torch.nonzero(found[asked_place], as_tuple=True)
    average = LiftOperator.from_coo(
        missing[row],
        rank[asked_place][row, column],
        share[asked_place][row, column].to(torch.float32),
        shape=(num, used.numel()),
    )
    place = torch.full((num,), -1, dtype=torch.int64, device=xyz.device)
    place[donors] = number[donor_place]
    return average, segment_operator(place, used.numel()).mean()
