"""Point clouds: voxels and surface normals."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.backends import resolve_backend
from lifting.neighbours import check_cloud, distinct_sites, nearest_neighbours
from lifting.operator import LiftOperator
from lifting.scatter import segment_pattern

__all__ = ["Voxels", "estimate_normals", "segment_operator", "voxelize"]

# Normals are computed for this many points at a time: about 30 MB at 30 neighbours.
_NORMALS_AT_ONCE = 1 << 15
# A neighbourhood whose second spread is this much below its first is a line: it has no plane.
# Rounding of float32 coordinates a few metres from the origin, centimetres apart, stays below it.
_LINE = 1e-8


@dataclass(frozen=True, kw_only=True, eq=False)
class Voxels:
    """The occupied cells of a regular grid.

    Attributes:
        index: Voxel of each point.
        coords: Integer cell of each voxel: it covers [coords, coords + 1) * voxel_m. Voxels are
            numbered by their first point, so those of a sample stand together.
        offsets: Where each sample's voxels begin and end.
        voxel_m: Side of a cell, metres.
    """

    index: Int64[Tensor, " N"]
    coords: Int64[Tensor, "V 3"]
    offsets: Int64[Tensor, " B1"]
    voxel_m: float

    @property
    def num_voxels(self) -> int:
        """Number of occupied cells."""
        return self.coords.shape[0]

    @property
    def batch(self) -> Int64[Tensor, " V"]:
        """Sample of each voxel."""
        sample = torch.arange(self.offsets.numel() - 1, device=self.offsets.device)
        return torch.repeat_interleave(sample, self.offsets.diff(), output_size=self.num_voxels)

    def centres_m(self) -> Float[Tensor, "V 3"]:
        """Middle of each cell, metres, in the frame of the points."""
        return ((self.coords.to(torch.float64) + 0.5) * self.voxel_m).to(torch.float32)

    def operator(self) -> LiftOperator:
        """Membership, voxels x points, weight 1: `operator().lift(rows)` is the voxel mean."""
        return segment_operator(self.index, self.num_voxels)


def segment_operator(ids: Int64[Tensor, " N"], num_segments: int | None = None) -> LiftOperator:
    """Membership of points in segments as an operator, segments x points, weight 1.

    Args:
        ids: Segment of each point; -1 for a point in none.
        num_segments: Number of segments; one more than the largest id when left out.

    Raises:
        ValueError: If an id is below -1 or not below `num_segments`.
    """
    largest = int(ids.max()) if ids.numel() else -1
    num = largest + 1 if num_segments is None else num_segments
    member = ids >= 0
    if bool((ids < -1).any()):
        raise ValueError(f"segment ids start at 0, with -1 for none, got {int(ids.min())}")
    if bool(member.all()):
        crow, col = segment_pattern(ids, num)
    else:
        points = torch.nonzero(member)[:, 0]
        crow, order = segment_pattern(ids[points], num)
        col = points[order]
    return LiftOperator(
        crow=crow,
        col=col,
        weight=torch.ones(col.numel(), device=ids.device),
        num_sources=ids.numel(),
    )


def voxelize(
    xyz: Float[Tensor, "N 3"],
    voxel_m: float,
    offsets: Int64[Tensor, " B1"] | None = None,
    *,
    backend: str = "auto",
) -> Voxels:
    """Find the cells of a regular grid that hold points.

    A point on the border of two cells belongs to the upper one: its cell is
    floor(xyz / voxel_m), computed in float64 from the stored coordinates, on every backend alike.
    Cells are numbered exactly within the cloud's bounding box, so two cells never share a key.

    Args:
        xyz: Points, metres; finite.
        voxel_m: Side of a cell, metres.
        offsets: Where each sample's points begin and end; cells of different samples are
            different voxels. One sample when left out.
        backend: `auto`, `torch` (sorts keys) or `numba` (hashes them); both give the same voxels
            in the same order.

    Raises:
        ValueError: If a coordinate is not finite, `voxel_m` is not positive, `offsets` does not
            fit, or the cloud is so wide that cells can no longer be told apart.
    """
    check_voxel_size(voxel_m)
    if xyz.ndim != 2 or xyz.shape[1] != 3:
        raise ValueError(f"a cloud has the shape [N, 3], got {list(xyz.shape)}")
    bounds = _sample_bounds(offsets, xyz.shape[0])
    chosen = resolve_backend(backend, xyz.device, "voxelize")
    # Half precision is widened; float32 holds every half exactly.
    points = xyz.detach().to(torch.promote_types(xyz.dtype, torch.float32)).contiguous()
    find = _voxels_numba if chosen == "numba" else _voxels_torch
    index, coords, first = find(points, voxel_m, bounds)
    # Voxels are numbered by first point, so each sample's begin where its points begin.
    borders = torch.tensor(bounds, dtype=torch.int64, device=first.device)
    offsets = torch.searchsorted(first, borders)
    return Voxels(index=index, coords=coords, offsets=offsets, voxel_m=voxel_m)


def estimate_normals(
    xyz: Float[Tensor, "N 3"],
    k: int = 16,
    *,
    viewpoint: Float[Tensor, 3] | Float[Tensor, "N 3"] | None = None,
) -> Float[Tensor, "N 3"]:
    """Unit normals of the plane through each point's nearest neighbours.

    Points at the same place count once, so repeats neither weigh nor hide the surface.

    Args:
        xyz: Points, metres; finite.
        k: Number of neighbours, the point itself included; at least 3.
        viewpoint: Where the surface was seen from, once or per point; normals turn towards it.
            Without one the sign is fixed by making the component of largest size positive.

    Returns:
        One normal per point, in the dtype of `xyz`; zero where the neighbours lie on a line or
        at one place, so that no plane exists.

    Raises:
        ValueError: If k is below 3 or a coordinate is not finite.

    Source:
        Hoppe et al., Surface Reconstruction from Unorganized Points, SIGGRAPH 1992, section 3.2.
    """
    if k < 3:
        raise ValueError(f"a plane needs at least 3 points, got k = {k}")
    check_cloud(xyz)
    sites, place = distinct_sites(xyz)
    points = xyz[sites].to(torch.float64)
    _, neighbour = nearest_neighbours(points, points, k)
    normal = torch.zeros_like(points)
    for start in range(0, points.shape[0], _NORMALS_AT_ONCE):
        piece = slice(start, start + _NORMALS_AT_ONCE)
        normal[piece] = _plane_normals(points, neighbour[piece])
    normal = normal[place]
    if viewpoint is not None:
        towards = viewpoint.to(normal) - xyz.to(normal)
        away = (normal * towards).sum(dim=1, keepdim=True) < 0
        normal = torch.where(away, -normal, normal)
    return normal.to(xyz.dtype)


def check_voxel_size(voxel_m: float) -> None:
    """Refuse a cell size that is not a positive number.

    Raises:
        ValueError: If it is zero, negative or not finite.
    """
    if not (voxel_m > 0 and np.isfinite(voxel_m)):
        raise ValueError(f"voxel_m must be a positive number of metres, got {voxel_m}")


def _plane_normals(points: Tensor, neighbour: Tensor) -> Tensor:
    """Normals of planes through the points `neighbour` names; -1 stands for none."""
    found = (neighbour >= 0)[..., None].to(points.dtype)
    near = points[neighbour.clamp(min=0)] * found
    count = found.sum(dim=1)
    centred = (near - (near.sum(dim=1) / count)[:, None]) * found
    spread, axes = torch.linalg.eigh(centred.mT @ centred)
    normal = axes[..., 0]
    leading = normal.gather(1, normal.abs().argmax(dim=1, keepdim=True))
    normal = torch.where(leading < 0, -normal, normal)
    has_plane = (count[:, 0] >= 3) & (spread[:, 1] > _LINE * spread[:, 2])
    return torch.where(has_plane[:, None], normal, 0)


def _sample_bounds(offsets: Tensor | None, num_points: int) -> list[int]:
    if offsets is None:
        return [0, num_points]
    bounds: list[int] = offsets.tolist()
    rising = all(a <= b for a, b in pairwise(bounds))
    if not bounds or bounds[0] != 0 or bounds[-1] != num_points or not rising:
        raise ValueError(
            f"offsets must rise from 0 to the number of points {num_points}, got {bounds}"
        )
    return bounds


def _grid(
    low: list[float], high: list[float], voxel_m: float, samples: int, spacing: float
) -> tuple[list[int], list[int]]:
    """First cell and number of cells per axis, or a refusal where numbers would run out.

    Args:
        low: Smallest coordinates.
        high: Largest coordinates.
        voxel_m: Side of a cell.
        samples: Number of samples.
        spacing: Relative distance between neighbouring numbers of the coordinates' dtype.
    """
    if not all(np.isfinite([*low, *high])):
        raise ValueError("the cloud has coordinates that are NaN or infinite; drop them first")
    reach = max(abs(x) for x in (*low, *high))
    if reach * spacing > voxel_m:
        raise ValueError(
            f"coordinates as large as {reach:g} m are stored {reach * spacing:.2g} m apart, "
            f"coarser than voxel_m = {voxel_m:g}: drop outliers, move the origin to the cloud, or "
            "use float64"
        )
    first = [int(np.floor(x / voxel_m)) for x in low]
    size = [int(np.floor(x / voxel_m)) - f + 1 for x, f in zip(high, first, strict=True)]
    cells = size[0] * size[1] * size[2] * samples
    if cells >= 1 << 63:
        raise ValueError(
            f"a cloud of {samples} x {size[0]} x {size[1]} x {size[2]} cells of {voxel_m:g} m has "
            "more cells than int64 can number: drop outliers or take larger voxels"
        )
    return first, size


def _no_voxels(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    none = torch.empty(0, dtype=torch.int64, device=device)
    return none, none.new_empty(0, 3), none.clone()


def _voxels_numba(
    points: Tensor, voxel_m: float, bounds: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Voxel of each point; cell and first point of each voxel."""
    from lifting.backends.jit import even_bounds, run_ranges
    from lifting.backends.numba_points import cell_keys, cloud_bounds, number_keys

    num = points.shape[0]
    if not num:
        return _no_voxels(points.device)
    xyz: Any = points.numpy()
    low, high = np.empty(3, xyz.dtype), np.empty(3, xyz.dtype)
    if not cloud_bounds(xyz, low, high):
        low[0] = np.nan
    spacing = float(np.finfo(xyz.dtype).eps)
    first_cell, size = _grid(low.tolist(), high.tolist(), voxel_m, len(bounds) - 1, spacing)
    grid = np.array([*first_cell, size[1], size[2]], np.int64)
    keys = np.empty(num, np.int64)
    for sample, (begin, end) in enumerate(pairwise(bounds)):
        base = sample * size[0] * size[1] * size[2]
        pieces = [begin + b for b in even_bounds(end - begin, 8 * (end - begin))]
        run_ranges(cell_keys, pieces, xyz, voxel_m, grid, base, keys)
    index, first = np.empty(num, np.int64), np.empty(num, np.int64)
    # A slot for every fourth point, up to 4 MB: such a table seldom has to grow more than once.
    bits = min(max(num.bit_length() - 2, 4), 18)
    first = first[: number_keys(keys, index, first, bits)].copy()
    # In numpy: torch would wake its threads for a thousandth of the work.
    coords = np.floor(xyz[first].astype(np.float64) / voxel_m).astype(np.int64)
    return torch.from_numpy(index), torch.from_numpy(coords), torch.from_numpy(first)


def _voxels_torch(
    points: Tensor, voxel_m: float, bounds: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Voxel of each point; cell and first point of each voxel."""
    num = points.shape[0]
    if not num:
        return _no_voxels(points.device)
    low, high = points.amin(dim=0), points.amax(dim=0)
    samples = len(bounds) - 1
    spacing = torch.finfo(points.dtype).eps
    first_cell, size = _grid(low.tolist(), high.tolist(), voxel_m, samples, spacing)
    coords = torch.floor(points.to(torch.float64) / voxel_m).to(torch.int64)
    cell = coords - torch.tensor(first_cell, device=points.device)
    borders = torch.tensor(bounds, device=points.device)
    sample = torch.repeat_interleave(
        torch.arange(samples, device=points.device), borders.diff(), output_size=num
    )
    keys = ((sample * size[0] + cell[:, 0]) * size[1] + cell[:, 1]) * size[2] + cell[:, 2]
    ranked, order = torch.sort(keys, stable=True)
    starts = torch.ones(num, dtype=torch.bool, device=points.device)
    starts[1:] = ranked[1:] != ranked[:-1]
    # Stable order: the first of each run is the first point of its cell.
    first, by_first = torch.sort(order[starts])
    number = torch.empty_like(by_first)
    number[by_first] = torch.arange(first.numel(), device=points.device)
    index = torch.empty_like(order)
    index[order] = number[torch.cumsum(starts, 0) - 1]
    return index, coords[first], first
