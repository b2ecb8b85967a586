"""Super-points: an over-segmentation of a cloud by surface orientation and colour."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from lifting.neighbours import as_array, check_cloud, distinct_sites, nearest_neighbours
from lifting.points import estimate_normals

__all__ = ["superpoints"]


def superpoints(
    xyz: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"] | None = None,
    rgb: Float[Tensor, "N 3"] | None = None,
    *,
    num_neighbours: int = 10,
    scale: float = 0.3,
    min_size: int = 20,
    colour_weight: float = 1.0,
    max_edge_m: float = float("inf"),
) -> Int64[Tensor, " N"]:
    """Cut a cloud into segments that hardly bend and hardly change colour.

    Neighbouring points are joined by edges that weigh 1 - |n . n'| plus the colour difference, and
    segments grow along edges of rising weight as long as the edge is not stronger than what lies
    inside both sides. The result does not depend on the order of the points: ties fall to the
    smaller coordinates. Points at one place are one site and share a segment.

    Args:
        xyz: Points, metres; finite.
        normals: Unit normals of either sign, zero where unknown (which separates nothing).
            Estimated from `num_neighbours` neighbours when left out.
        rgb: Colours in [0, 1]; segments ignore colour when left out.
        num_neighbours: Edges per point, before doubles are dropped; at least 2.
        scale: Preference for large segments: a segment of n points still accepts `scale / n`
            more than its largest inner edge.
        min_size: Segments with fewer sites join the neighbour they differ least from, if they
            have any.
        colour_weight: Weight of the colour difference, which is 1 from black to white.
        max_edge_m: Longer edges are dropped, so that nothing merges across a larger gap.

    Returns:
        Segment of each point, numbered from 0 by smallest coordinates.

    Raises:
        ValueError: If a coordinate, normal or colour is not finite, lengths differ, or an option
            is out of range.

    Source:
        Felzenszwalb and Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 2004,
        section 3, on the k-nearest-neighbour graph of the points.
    """
    check_cloud(xyz)
    _check_options(num_neighbours, scale, min_size, colour_weight)
    if normals is None:
        normals = estimate_normals(xyz, max(num_neighbours, 3))
    _check_attribute("normals", normals, xyz)
    if rgb is not None:
        _check_attribute("rgb", rgb, xyz)
    attributes = (normals,) if rgb is None else (normals, rgb)
    sites, place = distinct_sites(xyz, *attributes)
    at = xyz[sites]
    edges = _edges(at, num_neighbours, max_edge_m)
    weight = _dissimilarity(
        edges, normals[sites], None if rgb is None else rgb[sites], colour_weight
    )
    # Stable, over edges already in order of their sites: equal weights have one order, too.
    order = np.argsort(weight, kind="stable")
    label = _merge(edges[order], weight[order], sites.numel(), scale, min_size)
    return torch.from_numpy(label).to(xyz.device)[place]


def _edges(at: Tensor, num_neighbours: int, max_edge_m: float) -> NDArray[np.int64]:
    """Undirected edges of the neighbour graph, each once, in order of its two sites."""
    _, near = nearest_neighbours(at, at, num_neighbours + 1, max_distance_m=max_edge_m)
    neighbour = near.cpu().numpy()
    site = np.broadcast_to(np.arange(len(neighbour))[:, None], neighbour.shape)
    keep = (neighbour >= 0) & (neighbour != site)
    a, b = site[keep], neighbour[keep]
    pair = np.unique(np.minimum(a, b) * len(neighbour) + np.maximum(a, b))
    return np.stack(np.divmod(pair, max(len(neighbour), 1)), axis=1)


def _dissimilarity(
    edges: NDArray[np.int64], normals: Tensor, rgb: Tensor | None, colour_weight: float
) -> NDArray[np.float64]:
    """How much the two sites of each edge differ: 0 alike, 1 perpendicular or black and white."""
    direction = as_array(normals)
    a, b = edges.T
    known: Any = direction.any(axis=1)
    # The sign of a normal is a guess, so opposite normals count as equal.
    cosine = np.minimum(np.abs((direction[a] * direction[b]).sum(axis=1)), 1)
    weight = np.where(known[a] & known[b], 1 - cosine, 0)
    if rgb is not None:
        colour = as_array(rgb)
        step = np.linalg.norm(colour[a] - colour[b], axis=1) / np.sqrt(3)
        weight = weight + colour_weight * step
    return weight


def _merge(
    edges: NDArray[np.int64],
    weight: NDArray[np.float64],
    num_sites: int,
    scale: float,
    min_size: int,
) -> NDArray[np.int64]:
    """Segment of each site."""
    from lifting.backends.numba_points import merge_segments, number_segments

    parent, size = np.arange(num_sites), np.ones(num_sites, np.int64)
    merge_segments(edges, weight, parent, size, np.full(num_sites, scale), scale, 0)
    # Second pass: only small segments merge, so nothing is similar enough any more.
    never = np.full(num_sites, -np.inf)
    merge_segments(edges, weight, parent, size, never, -np.inf, min_size)
    label = np.empty(num_sites, np.int64)
    number_segments(parent, label)
    return label


def _check_options(num_neighbours: int, scale: float, min_size: int, colour_weight: float) -> None:
    if num_neighbours < 2:
        raise ValueError(f"num_neighbours must be at least 2, got {num_neighbours}")
    if not (scale >= 0 and np.isfinite(scale)):
        raise ValueError(f"scale must be a finite number of 0 or more, got {scale}")
    if min_size < 1:
        raise ValueError(f"min_size must be at least 1, got {min_size}")
    if not (colour_weight >= 0 and np.isfinite(colour_weight)):
        raise ValueError(f"colour_weight must be a finite number of 0 or more, got {colour_weight}")


def _check_attribute(name: str, values: Tensor, xyz: Tensor) -> None:
    if values.shape != xyz.shape:
        raise ValueError(
            f"{name} must have the shape of the cloud {list(xyz.shape)}, got {list(values.shape)}"
        )
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
