"""First splats of a fit: from points with colours, or at random where cameras look."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.cameras import Camera, pixel_rays, project
from lifting.gaussians.harmonics import sh_from_rgb
from lifting.gaussians.splats import Splats
from lifting.neighbours import check_cloud, distinct_sites, nearest_neighbours

_NUM_NEIGHBOURS = 3
# Of a disc along its normal, against its radius: thin, yet with room to become round in a fit.
_DISC_THICKNESS = 0.1
# Pairs of cameras whose axes are compared; a sample of this many gives the median well enough.
_MOST_PAIRS = 4096
# Axes closer to parallel than about 1 degree meet nowhere in particular.
_LEAST_SINE = 0.02
# The region to fill, against the distance at which the optical axes pass each other.
_NEAREST, _FARTHEST = 0.3, 2.5
# The same against the spacing of cameras whose axes never meet (a row, a drive).
_NEAREST_SPACINGS, _FARTHEST_SPACINGS = 2.0, 40.0
# Rounds of drawing before giving up on cameras that hardly share anything.
_MOST_ROUNDS = 64


def splats_from_points(
    xyz: Float[Tensor, "N 3"],
    rgb: Float[Tensor, "N 3"] | None,
    normals: Float[Tensor, "N 3"] | None = None,
    *,
    opacity: float = 0.1,
    sh_degree: int = 0,
    lone_scale_m: float = 0.05,
    most_scale_m: float = math.inf,
) -> Splats:
    """One splat per point, as large as the distance to its neighbours.

    A point's scale is its mean distance to the 3 nearest other places; points at one place share
    it. With normals (a cloud from depth images) splats are discs, a tenth as thick as wide;
    without (structure from motion), and where a normal is zero, they are balls.

    Args:
        xyz: World frame, metres.
        rgb: Colours in [0, 1], the same from all sides; None for splats without colour.
        normals: World frame, of any length; their sign does not matter, zero means unknown.
        opacity: Of every splat.
        sh_degree: Degree of the harmonics that hold the colours, 0 to 3.
        lone_scale_m: Scale when all points are at one place, metres.
        most_scale_m: Greater scales are cut to it, metres: far outliers of a reconstruction.

    Raises:
        ValueError: If there are no points, something is not finite or out of range, or the rows
            differ.

    Source:
        Kerbl et al., 3D Gaussian splatting, SIGGRAPH 2023, section 5.1.
    """
    _check_points(xyz, rgb, normals)
    if not 0 < opacity <= 1:
        raise ValueError(f"opacity must be in (0, 1], got {opacity}")
    if not (lone_scale_m > 0 and math.isfinite(lone_scale_m) and most_scale_m > 0):
        raise ValueError(
            "lone_scale_m must be finite and it and most_scale_m above 0, got "
            f"{lone_scale_m} and {most_scale_m}"
        )
    spacing = _spacing(xyz, lone_scale_m).clamp(max=most_scale_m).to(xyz)
    quats = xyz.new_tensor((1, 0, 0, 0)).repeat(len(xyz), 1)
    scales = spacing[:, None].repeat(1, 3)
    if normals is not None:
        length = torch.linalg.vector_norm(normals, dim=1)
        known = length > 0
        quats[known] = _turn_z_along(normals[known] / length[known, None]).to(quats)
        scales[known, 2] *= _DISC_THICKNESS
    return Splats(
        means=xyz.detach().clone(),
        quats=quats,
        scales=scales.clamp_min(torch.finfo(scales.dtype).tiny),
        opacities=xyz.new_full((len(xyz),), opacity),
        sh=None if rgb is None else sh_from_rgb(rgb.detach().to(xyz), sh_degree),
    )


def splats_at_random(
    cameras: Sequence[Camera],
    count: int,
    seed: int,
    *,
    depth_range_m: tuple[float, float] | None = None,
    min_views: int = 2,
    opacity: float = 0.1,
    sh_degree: int = 0,
) -> Splats:
    """Grey splats where cameras look, for photos with poses but without points.

    Places are drawn along random rays of random cameras, evenly in depth, and kept when enough
    cameras see them (occlusion is not known). The same seed gives the same splats.

    Args:
        cameras: All cameras of the scene, any lens.
        count: Number of splats.
        seed: Of the random numbers.
        depth_range_m: Nearest and farthest z-depth to fill, metres. By default 0.3 to 2.5 times
            the median distance at which optical axes pass each other, or, for cameras that look
            the same way, 2 to 40 times their spacing.
        min_views: Cameras that must see a place between these depths.
        opacity: Of every splat.
        sh_degree: Degree of the harmonics that hold the colours, 0 to 3.

    Raises:
        ValueError: If there are fewer cameras than `min_views`, no depth range can be had from
            them, or they share no place within it.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not 1 <= min_views <= len(cameras):
        raise ValueError(
            f"min_views must be 1 to the number of cameras, got {min_views} for {len(cameras)}; "
            "a single camera needs min_views=1 and depth_range_m"
        )
    generator = torch.Generator().manual_seed(seed)
    near_m, far_m = depth_range_m or viewed_depths_m(cameras, generator)
    if not (math.isfinite(far_m) and 0 < near_m <= far_m):
        raise ValueError(f"depth_range_m must be 0 < near <= far, got {near_m:g} and {far_m:g}")
    found: list[Tensor] = []
    missing = count
    for _ in range(_MOST_ROUNDS):
        xyz = _draw(cameras, max(count, 256), (near_m, far_m), generator)
        found.append(xyz[_seen(xyz, cameras, near_m, far_m) >= min_views][:missing])
        missing -= len(found[-1])
        if not missing:
            break
    else:
        raise ValueError(
            f"only {count - missing} of {count} splats could be placed where {min_views} of "
            f"{len(cameras)} cameras look at depths {near_m:g} to {far_m:g} m; check the poses' "
            "axes and scale, give depth_range_m, or lower min_views"
        )
    places = torch.cat(found).float()
    return splats_from_points(
        places, torch.full_like(places, 0.5), opacity=opacity, sh_degree=sh_degree
    )


def _check_points(xyz: Tensor, rgb: Tensor | None, normals: Tensor | None) -> None:
    check_cloud(xyz)
    if not len(xyz):
        raise ValueError("splats need at least one point to start from, got none")
    for name, rows in (("rgb", rgb), ("normals", normals)):
        if rows is None:
            continue
        if rows.shape != xyz.shape:
            raise ValueError(f"{name} must have shape {list(xyz.shape)}, got {list(rows.shape)}")
        bad = int((~rows.isfinite()).any(1).sum())
        if bad:
            raise ValueError(f"{name} must be finite, but {bad} of {len(rows)} rows are not")
    if rgb is not None and bool(((rgb < 0) | (rgb > 1)).any()):
        raise ValueError(
            f"rgb must be in [0, 1], got {float(rgb.min()):g} to {float(rgb.max()):g}; "
            "divide 8-bit colours by 255"
        )


def _spacing(xyz: Tensor, lone_scale_m: float) -> Tensor:
    """Mean distance of each point's place to the nearest other places, metres."""
    sites, place = distinct_sites(xyz)
    if len(sites) == 1:
        return xyz.new_full((len(xyz),), lone_scale_m)
    others = min(_NUM_NEIGHBOURS, len(sites) - 1)
    # The nearest of all is the place itself.
    distance, _ = nearest_neighbours(xyz[sites], xyz[sites], others + 1)
    return distance[:, 1:].mean(1)[place]


def _turn_z_along(normals: Tensor) -> Tensor:
    """Quaternions that turn the z axis along unit normals or against them."""
    # A disc has no front: turning by at most a quarter keeps the formula far from its pole.
    x, y, z = normals.where(normals[:, 2:] >= 0, -normals).unbind(1)
    quats = torch.stack((1 + z, -y, x, torch.zeros_like(z)), 1)
    return torch.nn.functional.normalize(quats, dim=1)


def viewed_depths_m(cameras: Sequence[Camera], generator: torch.Generator) -> tuple[float, float]:
    """Nearest and farthest z-depth of what cameras look at, metres, from their poses alone.

    0.3 to 2.5 times the median distance at which optical axes pass each other, or, for cameras
    that look the same way, 2 to 40 times their spacing.

    Args:
        cameras: At least two at different places.
        generator: Picks pairs when there are very many.

    Raises:
        ValueError: If all cameras are at one place.
    """
    poses = torch.stack([camera.T_world_cam.detach().cpu().double() for camera in cameras])
    centres, axes = poses[:, :3, 3], poses[:, :3, 2]
    pairs = torch.combinations(torch.arange(len(cameras)))
    if len(pairs) > _MOST_PAIRS:
        pairs = pairs[torch.randperm(len(pairs), generator=generator)[:_MOST_PAIRS]]
    i, j = pairs.unbind(1)
    # Closest approach of two lines: depth along either axis, from the normal equations.
    apart = centres[j] - centres[i]
    cosine = (axes[i] * axes[j]).sum(1)
    sine2 = 1 - cosine.square()
    along_i, along_j = (apart * axes[i]).sum(1), (apart * axes[j]).sum(1)
    depth_i = (along_i - cosine * along_j) / sine2
    depth_j = (cosine * along_i - along_j) / sine2
    meets = (sine2 > _LEAST_SINE**2) & (depth_i > 0) & (depth_j > 0)
    if bool(meets.any()):
        middle = float(torch.cat((depth_i[meets], depth_j[meets])).median())
        return _NEAREST * middle, _FARTHEST * middle
    spacing = float(torch.linalg.vector_norm(apart, dim=1).median()) if len(pairs) else 0.0
    if spacing == 0:
        raise ValueError(
            "cameras at one place say nothing about the distance of the scene; give depth_range_m"
        )
    return _NEAREST_SPACINGS * spacing, _FARTHEST_SPACINGS * spacing


def _draw(
    cameras: Sequence[Camera],
    count: int,
    depth_range_m: tuple[float, float],
    generator: torch.Generator,
) -> Float[Tensor, "N 3"]:
    """Random places in the views of the cameras, each camera equally often."""
    near_m, far_m = depth_range_m
    share = math.ceil(count / len(cameras))
    places: list[Tensor] = []
    for camera in cameras:
        uvz = torch.rand(share, 3, generator=generator, dtype=torch.float64)
        uv = uvz[:, :2] * uvz.new_tensor((camera.hw[1], camera.hw[0]))
        rays, valid = pixel_rays(uv, camera)
        depth_m = near_m + (far_m - near_m) * uvz[:, 2:]
        places.append((rays * depth_m + camera.centre.to(rays))[valid])
    xyz = torch.cat(places)
    return xyz[torch.randperm(len(xyz), generator=generator)]


def _seen(
    xyz: Tensor, cameras: Sequence[Camera], near_m: float, far_m: float
) -> Int64[Tensor, " N"]:
    """How many cameras have each place in their image between two depths."""
    count = torch.zeros(len(xyz), dtype=torch.int64)
    # A place is on its own camera's border up to rounding: leave room for it.
    low, high = near_m * (1 - 1e-9), far_m * (1 + 1e-9)
    for camera in cameras:
        image = project(xyz, camera)
        count += image.in_image & (image.depth_m >= low) & (image.depth_m <= high)
    return count
