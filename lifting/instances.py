"""Things without classes: super-points joined where the 2D masks of many views agree.

A super-point's place in the masks of a view is one product of operators, `S @ W`: super-points x
points times points x masks. Two super-points that touch belong together as far as their rows of
that product look alike, view by view.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.neighbours import distinct_sites, nearest_neighbours
from lifting.operator import LiftOperator

__all__ = ["MaskAgreement", "grow_regions", "number_by_size", "touching_segments"]


def touching_segments(
    xyz: Float[Tensor, "N 3"], ids: Int64[Tensor, " N"], *, gap_m: float, num_neighbours: int = 8
) -> Int64[Tensor, "E 2"]:
    """Pairs of segments of which two points are neighbours.

    Args:
        xyz: Points, metres; finite.
        ids: Segment of each point; -1 for none, which touches nothing.
        gap_m: Points farther apart do not touch, metres.
        num_neighbours: Neighbours of each point that are looked at.

    Returns:
        Each pair once, the smaller id first, in ascending order.
    """
    sites, _ = distinct_sites(xyz)
    at, here = xyz[sites], ids[sites]
    _, near = nearest_neighbours(at, at, num_neighbours + 1, max_distance_m=gap_m)
    there = torch.where(near >= 0, here[near.clamp_min(0)], -1)
    mine = here[:, None].expand_as(there)
    touch = (there >= 0) & (mine >= 0) & (there != mine)
    pairs = torch.stack([mine[touch], there[touch]], dim=1).sort(dim=1).values
    return torch.unique(pairs, dim=0)


@dataclass(kw_only=True, eq=False)
class MaskAgreement:
    """How much the views' masks say that touching segments are one thing; views add up.

    Attributes:
        segments: Membership, segments x points.
        pairs: Segments that touch.
        likeness: Sum over views of evidence x cosine between the two segments' shares of masks.
        evidence: Sum over views of how well both were seen, and that a mask says anything there.
        covered: Largest share of each segment that one view's masks cover.
    """

    segments: LiftOperator
    pairs: Int64[Tensor, "E 2"]
    likeness: Float[Tensor, " E"] = field(init=False)
    evidence: Float[Tensor, " E"] = field(init=False)
    covered: Float[Tensor, " P"] = field(init=False)

    def __post_init__(self) -> None:
        self.likeness = torch.zeros(len(self.pairs), dtype=torch.float64)
        self.evidence = torch.zeros(len(self.pairs), dtype=torch.float64)
        self.covered = torch.zeros(self.segments.num_targets, dtype=torch.float64)
        self._size = self.segments.crow.diff().to(torch.float64).clamp_min(1)

    def add(self, masks: LiftOperator, seen: Int64[Tensor, " n"]) -> None:
        """Add what one view says.

        Args:
            masks: The view's lift, all points x masks. Rows sum to 1, or to 0 outside all masks.
            seen: Points that the view sees.
        """
        visible = torch.zeros(self.segments.num_sources, dtype=torch.float64)
        visible[seen] = 1
        num_seen = self.segments.apply(visible[:, None])[:, 0]
        shares = (self.segments @ masks).to(dtype=torch.float64)
        covered = shares.row_sum() / num_seen.clamp_min(1)
        self.covered = torch.maximum(self.covered, covered * num_seen / self._size)
        one, other = self.pairs.unbind(dim=1)
        share_seen = num_seen / self._size
        # A pair outside all masks tells nothing; one in a mask beside one in none tells a border.
        told = torch.maximum(covered[one], covered[other])
        evidence = share_seen[one] * share_seen[other] * told
        self.evidence += evidence
        self.likeness += evidence * _cosine(shares, one, other)


def _cosine(shares: LiftOperator, one: Tensor, other: Tensor) -> Tensor:
    """Cosine between rows of an operator; 0 where one of them is empty."""
    wide = shares.to_dense()
    length = wide.norm(dim=1)
    wide = wide / torch.where(length > 0, length, 1.0)[:, None]
    return (wide[one] * wide[other]).sum(dim=1)


def grow_regions(
    pairs: Int64[Tensor, "E 2"],
    likeness: Float[Tensor, " E"],
    evidence: Float[Tensor, " E"],
    *,
    num_segments: int,
    threshold: float,
) -> Int64[Tensor, " P"]:
    """Join segments, the likest first, until no two neighbours are like enough.

    The likeness of two regions is the mean over all pairs across their border, weighted by
    evidence, so one confused view does not chain two things together.

    Args:
        pairs: Segments that touch.
        likeness: Evidence x likeness of each pair.
        evidence: Evidence of each pair; pairs without any are not joined.
        num_segments: Number of segments.
        threshold: Least likeness, in (0, 1].

    Returns:
        Region of each segment: the smallest segment in it. Ties fall to smaller numbers.

    Source:
        Yang et al., SAM3D, 2023, and Yin et al., SAI3D, CVPR 2024, section 3.3, for growing
        regions of super-points by mask affinity; here with average linkage.
    """
    borders: list[dict[int, tuple[float, float]]] = [{} for _ in range(num_segments)]
    queue: list[tuple[float, int, int]] = []
    for (one, other), like, sure in zip(
        pairs.tolist(), likeness.tolist(), evidence.tolist(), strict=True
    ):
        if sure > 0:
            borders[one][other] = borders[other][one] = (like, sure)
            queue.append((-like / sure, one, other))
    heapq.heapify(queue)
    region = list(range(num_segments))
    while queue and -queue[0][0] >= threshold:
        negative, one, other = heapq.heappop(queue)
        border = borders[one].get(other)
        if border is None or -border[0] / border[1] != negative:
            continue  # the pair has grown since, and waits in the queue under its new likeness
        region[other] = one
        _absorb(borders, queue, one, other)
    for index in range(num_segments):  # a region points to a smaller one, which is settled already
        region[index] = region[region[index]]
    return torch.tensor(region, dtype=torch.int64)


def _absorb(
    borders: list[dict[int, tuple[float, float]]],
    queue: list[tuple[float, int, int]],
    one: int,
    other: int,
) -> None:
    """Give the borders of region `other` to region `one`."""
    del borders[one][other]
    for third, (like, sure) in borders[other].items():
        if third == one:
            continue
        del borders[third][other]
        before = borders[one].get(third, (0.0, 0.0))
        now = (before[0] + like, before[1] + sure)
        borders[one][third] = borders[third][one] = now
        heapq.heappush(queue, (-now[0] / now[1], min(one, third), max(one, third)))
    borders[other] = {}


def number_by_size(labels: Int64[Tensor, " N"], *, min_points: int) -> Int64[Tensor, " N"]:
    """Number labels from 0 by falling size, ties by the label; small ones become -1.

    Args:
        labels: Any numbers of 0 or more; -1 for none.
        min_points: Labels of fewer points become -1.
    """
    found, place = np.unique(labels.numpy(), return_inverse=True)
    size = np.bincount(place, minlength=len(found))
    size = np.where(found >= 0, size, 0)
    order = np.argsort(-size, kind="stable")
    number = np.full(len(found), -1, dtype=np.int64)
    kept = order[(size[order] >= max(min_points, 1))]
    number[kept] = np.arange(len(kept))
    return torch.from_numpy(number[place.reshape(-1)])
