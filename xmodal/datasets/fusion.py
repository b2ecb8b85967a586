"""Points from depth frames: a weighted average per voxel, one frame in memory at a time.

A voxel average, not a TSDF: the lift needs one point per place with a colour and a normal, not a
watertight surface. The average needs no truncation band (memory is that of the occupied voxels) and
no marching cubes, and it treats thin and single-sided surfaces as they were measured. What a TSDF
does better, removing what later views see through, is a second pass here: the views vote. See
docs/adr/0002-voxel-average.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from lifting.cameras import project
from lifting.points import voxelize
from lifting.visibility import DepthNoise
from xmodal.datasets.surfels import Surfels, frame_surfels
from xmodal.values import Depth, Image, Points, Views

# Sensor noise that still places a reading within a few voxels; and never below 5 cm, so that fine
# voxels do not empty the far half of a room.
_MAX_SIGMA_VOXELS = 5.0
_MAX_SIGMA_FLOOR_M = 0.05
# A voxel that one view alone saw needs this many readings there: a real surface fills a voxel,
# an outlier is a speck.
_LONE_VIEW_READINGS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Fused:
    """Result of `fuse_depth`.

    Attributes:
        points: World frame, metres, with colours and unit normals, in order of
            first sight.
        num_views: Views that saw each point.
        num_readings: Valid depth readings of all frames.
        num_edges: Of these, dropped at depth edges.
        num_far: Of these, dropped as too noisy.
        num_weak: Voxels dropped for want of support.
        num_carved: Voxels dropped because more views saw through them than saw them.
    """

    points: Points
    num_views: Int[Tensor, " M"]
    num_readings: int
    num_edges: int
    num_far: int
    num_weak: int
    num_carved: int


@dataclass(frozen=True, eq=False)
class _Voxels:
    """Sums per voxel: weight, weighted offset from the voxel's corner, colour and normal."""

    coords: Int64[Tensor, "V 3"]
    sums: Float[Tensor, "V 10"]
    counts: Int64[Tensor, "V 2"]  # views, readings


def fuse_depth(
    images: Views[Image],
    depths: Views[Depth],
    *,
    voxel_m: float,
    noise: DepthNoise | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fused:
    """Average all depth readings of a scene per voxel.

    Args:
        images: Colour views, for colours.
        depths: Depth views of the same poses, in the same order.
        voxel_m: Side of a voxel, metres; about the distance of neighbouring points.
        noise: Depth noise of the sensor; structured light by default.
        progress: Called with frames done and frames in all.

    Returns:
        One point per supported voxel: the mean of its readings by inverse variance. A voxel counts
        when two views saw it, or one view with at least three readings in it, and when no more
        views measure a surface well behind it than measure it.

    Raises:
        ValueError: If `voxel_m` is not positive, or too small for the extent of the scene.
    """
    if not voxel_m > 0:
        raise ValueError(f"voxel_m must be positive, got {voxel_m}")
    noise = noise or DepthNoise()
    max_sigma_m = max(_MAX_SIGMA_VOXELS * voxel_m, _MAX_SIGMA_FLOOR_M)
    total, pending = _empty(), list[_Voxels]()
    readings = edges = far = waiting = 0
    for done, (image, depth) in enumerate(zip(images, depths, strict=True), start=1):
        surfels = frame_surfels(image, depth, noise=noise, max_sigma_m=max_sigma_m)
        readings += int((depth.depth_m > 0).sum())
        edges, far = edges + surfels.num_edges, far + surfels.num_far
        pending.append(_frame_voxels(surfels, voxel_m))
        waiting += len(pending[-1].coords)
        # Merging costs the size of both sides, so it waits until the new side is half the old:
        # the cost per frame then stays the same however large the scene grows.
        if waiting > max(len(total.coords) // 2, 1 << 18):
            total, pending, waiting = _merge([total, *pending]), [], 0
        if progress is not None:
            progress(done, len(depths))
    voxels = _merge([total, *pending])
    strong = (voxels.counts[:, 0] >= 2) | (voxels.counts[:, 1] >= _LONE_VIEW_READINGS)
    points, num_views = _finish(voxels, strong, voxel_m)
    solid = _solid(points.xyz, depths, replace(noise, margin_m=voxel_m))
    return Fused(
        points=_select(points, solid),
        num_views=num_views[solid],
        num_readings=readings,
        num_edges=edges,
        num_far=far,
        num_weak=int((~strong).sum()),
        num_carved=int((~solid).sum()),
    )


def _empty() -> _Voxels:
    none = torch.empty(0, dtype=torch.int64)
    return _Voxels(none.view(0, 3), torch.empty(0, 10), none.view(0, 2))


def _frame_voxels(surfels: Surfels, voxel_m: float) -> _Voxels:
    voxels = voxelize(surfels.xyz, voxel_m)
    corner = (voxels.coords.double() * voxel_m).float()
    # Offsets from the corner keep a millimetre exact in float32 sums of thousands of readings.
    offset = surfels.xyz - corner[voxels.index]
    w = surfels.weight[:, None]
    rows = torch.cat((w, w * offset, w * surfels.rgb, w * surfels.normal), dim=1)
    sums = torch.zeros(voxels.num_voxels, 10).index_add_(0, voxels.index, rows)
    counts = torch.ones(voxels.num_voxels, 2, dtype=torch.int64)
    counts[:, 1] = torch.bincount(voxels.index, minlength=voxels.num_voxels)
    return _Voxels(voxels.coords, sums, counts)


def _merge(parts: list[_Voxels]) -> _Voxels:
    # Cells as points of a grid with unit cells: integers are exact in float64.
    cells = voxelize(torch.cat([p.coords for p in parts]).double(), 1.0)
    num = cells.num_voxels
    sums, counts = torch.zeros(num, 10), torch.zeros(num, 2, dtype=torch.int64)
    sums.index_add_(0, cells.index, torch.cat([p.sums for p in parts]))
    counts.index_add_(0, cells.index, torch.cat([p.counts for p in parts]))
    return _Voxels(cells.coords, sums, counts)


def _finish(voxels: _Voxels, strong: Tensor, voxel_m: float) -> tuple[Points, Tensor]:
    sums = voxels.sums[strong]
    mean = sums[:, 1:] / sums[:, :1]
    corner = voxels.coords[strong].double() * voxel_m
    length = torch.linalg.vector_norm(mean[:, 6:], dim=1, keepdim=True)
    points = Points(
        xyz=(corner + mean[:, :3].double()).float(),
        offsets=torch.tensor([0, len(sums)]),
        rgb=mean[:, 3:6].clamp(0, 1),
        normals=mean[:, 6:] / length.clamp_min(1e-12),
    )
    return points, voxels.counts[strong, 0]


def _solid(
    xyz: Float[Tensor, "M 3"], depths: Views[Depth], noise: DepthNoise
) -> Bool[Tensor, " M"]:
    """Whether at least as many views measure a point as measure a surface well behind it.

    Poses drift: two passes over one wall leave two sheets, and the nearer one would hide what lies
    behind it from every later step.
    """
    votes = torch.zeros(len(xyz), dtype=torch.int32)
    for depth in depths:
        projection = project(xyz, depth.camera)
        seen = torch.nonzero(projection.in_image).squeeze(1)
        column, row = projection.uv[seen].long().unbind(1)
        measured = depth.depth_m[row, column]
        behind = measured - projection.depth_m[seen]
        tolerance = noise.tolerance_m(measured)
        agrees = behind.abs() <= tolerance
        # One more margin before "through": a point at the tolerance's edge is no evidence.
        through = behind > tolerance + noise.margin_m
        votes[seen] += ((agrees.int() - through.int()) * (measured > 0)).to(votes.dtype)
    return votes >= 0


def _select(points: Points, kept: Bool[Tensor, " M"]) -> Points:
    assert points.rgb is not None and points.normals is not None, "fusion makes both"
    return Points(
        xyz=points.xyz[kept],
        offsets=torch.tensor([0, int(kept.sum())]),
        rgb=points.rgb[kept],
        normals=points.normals[kept],
    )
