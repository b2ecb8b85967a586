"""Depths of a textured wall, found from photos of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import grid_sample, interpolate

from lifting.cameras import Camera, pixel_centres, pixel_rays
from lifting.gaussians.photos import Photo
from lifting.gaussians.plane_sweep import PlaneSweep, swept_points

HW = (30, 40)
WALL_M = 2.0


def camera_at(x_m: float, y_m: float = 0.0) -> Camera:
    T_world_cam = torch.eye(4, dtype=torch.float64)
    T_world_cam[:2, 3] = torch.tensor([x_m, y_m])
    K = torch.tensor([[40.0, 0.0, 20.0], [0.0, 40.0, 15.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return Camera(K=K, T_world_cam=T_world_cam, hw=HW)


def wall_photos(*, textured: bool = True) -> list[Photo]:
    """Photos of the plane z = 2 m, smooth noise on it."""
    chance = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, 48, 48, generator=chance)
    paint = interpolate(noise, (480, 480), mode="bicubic").clamp(0, 1)
    if not textured:
        paint = torch.full_like(paint, 0.5)
    photos: list[Photo] = []
    for x_m, y_m in ((0.0, 0.0), (0.2, 0.0), (-0.2, 0.05), (0.1, 0.2), (0.0, -0.2)):
        camera = camera_at(x_m, y_m)
        rays, _ = pixel_rays(pixel_centres(HW), camera)
        xyz = camera.centre.float() + rays.float() * WALL_M
        # The painted square is 4 m wide.
        grid = (xyz[:, :2] / 2).view(1, *HW, 2)
        rgb = grid_sample(paint, grid, align_corners=False)[0]
        photos.append(Photo(rgb=rgb, camera=camera))
    return photos


SETTINGS = PlaneSweep(max_side_px=40, num_depths=32, depth_range_m=(1.0, 6.0))


def test_finds_the_wall_and_its_colours() -> None:
    photos = wall_photos()
    xyz, rgb = swept_points(photos, SETTINGS)
    assert len(xyz) > 0.5 * len(photos) * HW[0] * HW[1]
    error = (xyz[:, 2] - WALL_M).abs()
    assert float(error.median()) < 0.03
    assert float((error < 0.15).float().mean()) > 0.95
    first = photos[0].rgb.flatten(1).T
    assert bool(((rgb[:1] - first).abs().sum(1) < 1e-6).any())


def test_a_wall_without_texture_has_no_points() -> None:
    xyz, rgb = swept_points(wall_photos(textured=False), SETTINGS)
    assert xyz.shape == rgb.shape == (0, 3)


def test_pixels_that_are_not_valid_give_no_points() -> None:
    valid = torch.zeros(HW, dtype=torch.bool)
    valid[10:20, 10:30] = True
    photos = [replace(photo, valid=valid) for photo in wall_photos()]
    xyz, _ = swept_points(photos, SETTINGS)
    assert 0 < len(xyz) <= len(photos) * int(valid.sum())


def test_cameras_at_one_place_see_no_depth() -> None:
    photo = wall_photos()[0]
    xyz, _ = swept_points([photo, photo], SETTINGS)
    assert len(xyz) == 0
    with pytest.raises(ValueError, match="cameras at one place"):
        swept_points([photo, photo], replace(SETTINGS, depth_range_m=None))


def test_one_photo_is_not_enough() -> None:
    with pytest.raises(ValueError, match="at least two photos, got 1"):
        swept_points(wall_photos()[:1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_depths": 2}, "num_depths >= 3"),
        ({"max_side_px": 5}, "max_side_px >= 10"),
        ({"num_neighbours": 0}, "num_neighbours >= 1"),
        ({"least_score": 1.0}, r"least_score must be in \[0, 1\), got 1"),
        ({"depth_range_m": (2.0, 1.0)}, "0 < near < far"),
    ],
)
def test_wrong_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlaneSweep(**changes)
