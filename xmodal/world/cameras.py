"""Where the cameras stand: paths around the table, kept clear of what is on it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from xmodal.world.meshes import Reals
from xmodal.world.room import ROOM_HALF_M, TABLE_TOP_M

PathName: TypeAlias = Literal["orbit", "two_rings", "arc", "dome"]
PATHS: tuple[PathName, ...] = ("orbit", "two_rings", "arc", "dome")

# What every camera looks at: a little above the middle of the table.
_TARGET = np.array([0.0, 0.0, TABLE_TOP_M + 0.06])
_WALL_M = 0.3


def camera_path(
    path: PathName, num_views: int, *, seed: int, keep_clear: Float[Reals, "O 4"]
) -> Float[Reals, "V 4 4"]:
    """Poses `T_world_cam` (OpenCV axes) of the views.

    Args:
        path: `orbit`: once around, near and far, low and high in turn. `two_rings`: a low ring,
            then a high one. `arc`: half a turn in front of the table. `dome`: anywhere on the
            upper half sphere, drawn by `seed`.
        num_views: Number of views.
        seed: Seed of `dome` and of the direction that the other paths start from.
        keep_clear: Spheres (x, y, z, radius) that no camera may come near; one that does is moved
            away from the table until it is clear.
    """
    random = np.random.default_rng((seed, 3))
    start = float(random.uniform(0, 2 * np.pi)) if seed else -np.pi / 2
    k = np.arange(num_views)
    if path == "dome":
        azimuth = random.uniform(0, 2 * np.pi, num_views)
        elevation = np.radians(random.uniform(18, 62, num_views))
        distance = random.uniform(1.0, 1.4, num_views)
    elif path == "two_rings":
        lower = (num_views + 1) // 2
        ring = np.where(
            k < lower,
            2 * np.pi * k / lower,
            2 * np.pi * (k - lower + 0.5) / max(1, num_views - lower),
        )
        azimuth, elevation = start + ring, np.radians(np.where(k < lower, 24.0, 46.0))
        distance = np.where(k < lower, 1.2, 1.12)
    else:
        turn = (
            2 * np.pi * k / num_views
            if path == "orbit"
            else np.pi * (k / max(1, num_views - 1) - 0.5)
        )
        azimuth, elevation = start + turn, np.radians(np.where(k % 2 == 0, 27.0, 41.0))
        distance = np.array([1.08, 1.18, 1.28])[k % 3]
    return np.stack(
        [
            _clear_pose(float(a), float(e), float(d), keep_clear)
            for a, e, d in zip(azimuth, elevation, distance, strict=True)
        ]
    )


def look_at(eye: Float[Reals, 3], target: Float[Reals, 3]) -> Float[Reals, "4 4"]:
    """`T_world_cam` of an upright camera at `eye` that looks at `target` (not straight down)."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    pose[:3, 3] = eye
    return pose


def _clear_pose(
    azimuth: float, elevation: float, distance: float, keep_clear: Float[Reals, "O 4"]
) -> Float[Reals, "4 4"]:
    way = np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
    reach = ROOM_HALF_M - _WALL_M
    while True:
        eye = _TARGET + distance * way
        gaps = np.linalg.norm(keep_clear[:, :3] - eye, axis=1) - keep_clear[:, 3]
        if not len(gaps) or gaps.min() > 0 or bool((np.abs(eye[:2]) > reach).any()):
            return look_at(eye, _TARGET)
        distance += 0.05
