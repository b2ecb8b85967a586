"""Things without classes and without masks: what is left when the large planes are taken away."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from lifting.instances import number_by_size
from lifting.neighbours import check_cloud, distinct_sites, nearest_neighbours
from lifting.points import estimate_normals

__all__ = ["large_plane", "linked_parts", "plane_free_segments"]

# Planes are tried through so many points: one on a plane of 5 % is missed once in 28,000 times.
_TRIES = 200
# Points on which a plane is tried; its share of the cloud is exact within one per cent.
_SAMPLE = 10_000
# Normals may lean so far from the plane's: 25 degrees, the error of normals at a few centimetres.
_LEAST_COSINE = 0.9


def plane_free_segments(
    xyz: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"] | None = None,
    *,
    plane_m: float = 0.02,
    plane_share: float = 0.05,
    gap_m: float = 0.04,
    min_points: int = 30,
    max_planes: int = 8,
    seed: int = 0,
) -> Int64[Tensor, " N"]:
    """Take away large planes one after another; what hangs together in the rest is a thing.

    A plane is a segment of its own. The result does not depend on the order of the points.

    Args:
        xyz: Points, metres; finite.
        normals: Unit normals of either sign; estimated when left out.
        plane_m: Largest distance of a point from its plane, metres.
        plane_share: Smaller planes, as a share of all points, are parts of things.
        gap_m: Points farther apart do not hang together, metres.
        min_points: Smaller segments become -1.
        max_planes: At most so many planes are taken away.
        seed: Which planes are tried.

    Returns:
        Segment of each point, numbered from 0 by falling size; -1 for none.

    Raises:
        ValueError: If a coordinate is not finite or an option is out of range.

    Source:
        Fischler and Bolles, Random Sample Consensus, 1981, with oriented points as samples.
    """
    check_cloud(xyz)
    if not (plane_m > 0 and gap_m > 0 and 0 < plane_share <= 1):
        raise ValueError(
            "plane_m and gap_m must be above 0 and plane_share in (0, 1], got "
            f"{plane_m}, {gap_m} and {plane_share}"
        )
    if not len(xyz):
        return torch.zeros(0, dtype=torch.int64)
    known = estimate_normals(xyz) if normals is None else normals
    sites, place = distinct_sites(xyz, known)
    at, facing = xyz[sites].double(), known[sites].double()
    label = torch.full((len(sites),), -1, dtype=torch.int64)
    left = torch.arange(len(sites))
    generator = torch.Generator().manual_seed(seed)
    for plane in range(max_planes):
        inside = large_plane(at[left], facing[left], plane_m=plane_m, generator=generator)
        if int(inside.sum()) < max(plane_share * len(sites), min_points):
            break
        label[left[inside]] = plane
        left = left[~inside]
    label[left] = max_planes + linked_parts(at[left], gap_m=gap_m)
    return number_by_size(label[place], min_points=min_points)


def large_plane(
    xyz: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"],
    *,
    plane_m: float,
    generator: torch.Generator,
) -> Bool[Tensor, " N"]:
    """Points of the plane that holds most of them, among planes through single oriented points.

    Args:
        xyz: Points, metres.
        normals: Unit normals of either sign; zero where unknown: such points lie on no plane.
        plane_m: Largest distance from the plane, metres.
        generator: Chooses the points that planes are tried through.
    """
    num = len(xyz)
    if not num:
        return torch.zeros(0, dtype=torch.bool)
    tried = torch.randint(num, (_TRIES,), generator=generator)
    judged = torch.randperm(num, generator=generator)[:_SAMPLE]
    votes = torch.stack(
        [_on_plane(xyz[judged], normals[judged], xyz[i], normals[i], plane_m).sum() for i in tried]
    )
    best = tried[votes.argmax()]
    inside = _on_plane(xyz, normals, xyz[best], normals[best], plane_m)
    if int(inside.sum()) < 3:
        return inside
    # Once more through the middle of what was found: a single normal leans a few degrees.
    middle = xyz[inside].mean(dim=0)
    spread = (xyz[inside] - middle).T @ (xyz[inside] - middle)
    return _on_plane(xyz, normals, middle, torch.linalg.eigh(spread)[1][:, 0], plane_m)


def linked_parts(xyz: Float[Tensor, "N 3"], *, gap_m: float) -> Int64[Tensor, " N"]:
    """Parts of a cloud that hang together: each point is linked to its eight nearest ones.

    Args:
        xyz: Distinct points, metres.
        gap_m: Links are no longer than this, metres.
    """
    if not len(xyz):
        return torch.zeros(0, dtype=torch.int64)
    _, near = nearest_neighbours(xyz, xyz, 9, max_distance_m=gap_m)
    row, column = (near >= 0).nonzero(as_tuple=True)
    linked = near[row, column]
    shape = (len(xyz), len(xyz))
    graph = coo_matrix((np.ones(len(row), np.int8), (row.numpy(), linked.numpy())), shape=shape)
    _, label = connected_components(graph, directed=False)
    return torch.from_numpy(label.astype(np.int64))


def _on_plane(xyz: Tensor, normals: Tensor, at: Tensor, normal: Tensor, plane_m: float) -> Tensor:
    near = ((xyz - at) @ normal).abs() <= plane_m
    return near & ((normals @ normal).abs() >= _LEAST_COSINE)
