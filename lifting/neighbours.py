"""Nearest neighbours of points on a CPU, also among many points at the same place."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor


def nearest_neighbours(
    queries: Float[Tensor, "Q 3"],
    points: Float[Tensor, "N 3"],
    k: int,
    *,
    max_distance_m: float = float("inf"),
) -> tuple[Float[Tensor, "Q k"], Int64[Tensor, "Q k"]]:
    """The k nearest points of each query, nearest first, found exactly by a k-d tree.

    Args:
        queries: Where to look from; finite.
        points: What to find; finite. Many points at one place make the search slow: pass
            `distinct_sites` instead.
        k: How many to find.
        max_distance_m: Points farther away, metres, are not found; those at it are.

    Returns:
        Distances in metres, float64, infinite where fewer than k were found, and indices into
        `points`, -1 there.

    Raises:
        ValueError: If k is below 1, the limit is not positive, or a coordinate is not finite.
    """
    if k < 1:
        raise ValueError(f"the number of neighbours must be at least 1, got {k}")
    if not max_distance_m > 0:
        raise ValueError(f"max_distance_m must be above 0, got {max_distance_m}")
    check_cloud(queries)
    check_cloud(points)
    shape = (queries.shape[0], k)
    device = queries.device
    if not points.shape[0] or not queries.shape[0]:
        return (
            torch.full(shape, torch.inf, dtype=torch.float64, device=device),
            torch.full(shape, -1, dtype=torch.int64, device=device),
        )
    tree: Any = KDTree(as_array(points))  # typed too narrowly for `k` as a list
    # The tree's limit is exclusive; the next number above makes it inclusive.
    limit = float(np.nextafter(max_distance_m, np.inf))
    distance, index = tree.query(
        as_array(queries),
        k=list(range(1, k + 1)),
        distance_upper_bound=limit,
        workers=torch.get_num_threads(),
    )
    index = np.where(np.isfinite(distance), index, -1)
    return torch.from_numpy(distance).to(device), torch.from_numpy(index).to(device)


def distinct_sites(
    xyz: Float[Tensor, "N 3"], *attributes: Float[Tensor, "N _"]
) -> tuple[Int64[Tensor, " S"], Int64[Tensor, " N"]]:
    """Distinct places of a cloud, in an order that does not depend on the order of its points.

    Args:
        xyz: Points.
        *attributes: Break ties between points at one place.

    Returns:
        One point per place, places sorted by x, y, z; and the place of each point.
    """
    positions = as_array(xyz)
    # lexsort takes its main key last. Adding zero turns -0.0 into 0.0, which is the same place.
    keys = [column + 0.0 for part in (xyz, *attributes) for column in as_array(part).T]
    order = np.lexsort(keys[::-1])
    ranked = positions[order]
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (ranked[1:] != ranked[:-1]).any(axis=1)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.cumsum(starts) - 1
    return (
        torch.from_numpy(order[starts]).to(xyz.device),
        torch.from_numpy(place).to(xyz.device),
    )


def check_cloud(xyz: Float[Tensor, "N 3"]) -> None:
    """Refuse what is not a finite cloud.

    Raises:
        ValueError: If the shape is not [N, 3] or a coordinate is NaN or infinite.
    """
    if xyz.ndim != 2 or xyz.shape[1] != 3:
        raise ValueError(f"a cloud has the shape [N, 3], got {list(xyz.shape)}")
    bad = int((~torch.isfinite(xyz)).any(dim=1).sum())
    if bad:
        raise ValueError(
            f"{bad} of {xyz.shape[0]} points have a coordinate that is NaN or infinite; "
            "drop them first"
        )


def as_array(x: Tensor) -> NDArray[Any]:
    """The values as float64 in host memory."""
    return x.detach().to("cpu", torch.float64).contiguous().numpy()
