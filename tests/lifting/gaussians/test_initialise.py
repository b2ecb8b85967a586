"""First splats: their size from neighbours, discs along normals, and places that cameras share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lifting.cameras import Camera, project
from lifting.gaussians.harmonics import sh_colours
from lifting.gaussians.initialise import splats_at_random, splats_from_points
from lifting.gaussians.projection import rotation_matrices, splat_normals

GREY = 0.5


def grey(xyz: Tensor) -> Tensor:
    return torch.full_like(xyz, GREY)


def cloud(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))


def look_at(
    centre: tuple[float, float, float], target: tuple[float, float, float], **other: Any
) -> Camera:
    forward = np.subtract(target, centre).astype(float)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.1, 0.2, 1.0))
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = np.stack((right, np.cross(forward, right), forward), 1)
    T[:3, 3] = centre
    K = torch.tensor([[40.0, 0, 16], [0, 40, 12], [0, 0, 1]])
    return Camera(K=K, T_world_cam=torch.from_numpy(T), hw=(24, 32), **other)


def ring(count: int = 6, radius_m: float = 3.0) -> list[Camera]:
    turns = [2 * math.pi * i / count for i in range(count)]
    return [
        look_at((radius_m * math.cos(t), radius_m * math.sin(t), 0.5), (0, 0, 0)) for t in turns
    ]


def test_scales_by_hand() -> None:
    # On a line at 0, 1, 3, 7 m each point has exactly three others.
    xyz = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [7, 0, 0]])
    found = splats_from_points(xyz, grey(xyz)).scales
    expected = torch.tensor([11.0, 9, 9, 17]) / 3
    torch.testing.assert_close(found, expected[:, None].repeat(1, 3))


def test_only_the_three_nearest_count() -> None:
    xyz = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3], [9, 9, 9]])
    assert splats_from_points(xyz, grey(xyz)).scales[0].tolist() == pytest.approx([2, 2, 2])


def test_two_points() -> None:
    xyz = torch.tensor([[0.0, 0, 0], [0, 0, 4]])
    assert splats_from_points(xyz, grey(xyz)).scales.tolist() == [[4, 4, 4], [4, 4, 4]]


def test_points_at_one_place_share_the_distance_to_other_places() -> None:
    xyz = torch.tensor([[0.0, 0, 0]] * 10 + [[2.0, 0, 0]])
    assert splats_from_points(xyz, grey(xyz)).scales[:, 0].tolist() == [2.0] * 11


@pytest.mark.parametrize("count", [1, 5])
def test_a_single_place_has_the_scale_that_was_given(count: int) -> None:
    xyz = torch.ones(count, 3)
    assert (splats_from_points(xyz, grey(xyz)).scales == 0.05).all()
    given_scale = splats_from_points(xyz, grey(xyz), lone_scale_m=0.2)
    torch.testing.assert_close(given_scale.scales, torch.full((count, 3), 0.2))


def test_far_points_can_be_cut() -> None:
    xyz = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [500, 0, 0]])
    found = splats_from_points(xyz, grey(xyz), most_scale_m=1.0).scales
    assert found[3].tolist() == [1, 1, 1]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_colours_come_back_and_the_rest_is_as_asked(degree: int) -> None:
    xyz = cloud(20)
    rgb = torch.rand(20, 3, generator=torch.Generator().manual_seed(1))
    made = splats_from_points(xyz, rgb, opacity=0.3, sh_degree=degree)
    assert made.sh_degree == degree
    assert made.sh is not None
    torch.testing.assert_close(sh_colours(made.sh, cloud(20, 2)), rgb)
    torch.testing.assert_close(made.opacities, torch.full((20,), 0.3))
    assert torch.equal(made.means, xyz)
    assert made.means.data_ptr() != xyz.data_ptr()
    assert splats_from_points(xyz, None).sh is None


@given(seed=st.integers(0, 10_000), length=st.floats(0.01, 100))
@settings(deadline=None, max_examples=20)
def test_discs_lie_across_their_normals(seed: int, length: float) -> None:
    xyz = cloud(12, seed)
    normals = torch.nn.functional.normalize(cloud(12, seed + 1), dim=1)
    made = splats_from_points(xyz, grey(xyz), normals * length)
    axis = rotation_matrices(made.quats)[:, :, 2]
    torch.testing.assert_close((axis * normals).sum(1).abs(), torch.ones(12))
    torch.testing.assert_close(made.scales[:, 2], 0.1 * made.scales[:, 0])
    torch.testing.assert_close(made.scales[:, :1], splats_from_points(xyz, None).scales[:, :1])
    seen = splat_normals(made, look_at((9, 9, 9), (0, 0, 0)))
    torch.testing.assert_close((seen * normals).sum(1).abs(), torch.ones(12))


@pytest.mark.parametrize("z", [1.0, -1.0])
def test_normals_along_z_both_ways(z: float) -> None:
    xyz = cloud(4)
    made = splats_from_points(xyz, None, torch.tensor([[0.0, 0, z]]).repeat(4, 1))
    assert made.quats.tolist() == [[1, 0, 0, 0]] * 4


def test_an_unknown_normal_makes_a_ball() -> None:
    xyz = cloud(4)
    normals = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    scales = splats_from_points(xyz, None, normals).scales
    assert (scales[0] == scales[0, 0]).all()
    assert (scales[1:, 2] < scales[1:, 0]).all()


def test_the_order_of_points_does_not_matter() -> None:
    xyz, order = cloud(30), torch.randperm(30, generator=torch.Generator().manual_seed(3))
    one, two = splats_from_points(xyz, None), splats_from_points(xyz[order], None)
    torch.testing.assert_close(one.scales[order], two.scales)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xyz": torch.zeros(0, 3), "rgb": torch.zeros(0, 3)}, "at least one point"),
        ({"xyz": torch.tensor([[0.0, math.nan, 0]] * 4)}, "4 of 4 points .* NaN or infinite"),
        ({"xyz": torch.tensor([[0.0, math.inf, 0]] * 4)}, "NaN or infinite"),
        ({"rgb": torch.full((4, 3), 128.0)}, r"rgb must be in \[0, 1\], got 128 .* by 255"),
        ({"rgb": torch.full((4, 3), -0.1)}, r"rgb must be in \[0, 1\]"),
        ({"rgb": torch.full((4, 3), math.nan)}, "rgb must be finite, but 4 of 4"),
        ({"normals": torch.full((4, 3), math.nan)}, "normals must be finite, but 4 of 4"),
        ({"opacity": 0.0}, r"opacity must be in \(0, 1\], got 0.0"),
        ({"opacity": 1.5}, "opacity must be in"),
        ({"opacity": math.nan}, "opacity must be in"),
        ({"sh_degree": 4}, "must be 0 to 3, got 4"),
        ({"lone_scale_m": 0.0}, "lone_scale_m"),
        ({"lone_scale_m": math.inf}, "lone_scale_m"),
        ({"most_scale_m": -1.0}, "most_scale_m"),
        ({"most_scale_m": math.nan}, "most_scale_m"),
    ],
)
def test_wrong_points_and_settings_are_refused(change: dict[str, Any], message: str) -> None:
    given_parts = {"xyz": cloud(4), "rgb": torch.full((4, 3), GREY)} | change
    with pytest.raises(ValueError, match=message):
        splats_from_points(given_parts.pop("xyz"), given_parts.pop("rgb"), **given_parts)


def views_of(xyz: Tensor, cameras: list[Camera]) -> Tensor:
    return torch.stack([project(xyz, camera).in_image for camera in cameras]).sum(0)


def test_random_splats_are_where_cameras_look() -> None:
    cameras = ring()
    made = splats_at_random(cameras, 500, 0, sh_degree=1)
    assert len(made) == 500
    assert made.sh_degree == 1
    assert (views_of(made.means.double(), cameras) >= 2).all()
    # The axes meet 3.04 m ahead: from 0.3 to 2.5 times that, and the middle is filled.
    for camera in cameras:
        image = project(made.means.double(), camera)
        assert image.depth_m[image.in_image].max() <= 2.5 * 3.05
    assert (torch.linalg.vector_norm(made.means, dim=1) < 1).sum() > 50
    assert made.means.dtype == torch.float32


def test_the_seed_decides() -> None:
    cameras = ring()
    one, two, three = (splats_at_random(cameras, 50, seed).means for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_cameras_in_a_row_fill_a_range_of_their_spacing() -> None:
    row = [look_at((0.1 * i, 0, 0), (0.1 * i, 5, 0)) for i in range(4)]
    made = splats_at_random(row, 200, 0)
    # Pairs are 0.1 to 0.3 m apart, 0.1 or 0.2 in the middle.
    depth = made.means[:, 1]
    assert depth.min() >= 0.2 * 0.99
    assert depth.max() <= 8.0 * 1.01
    assert (views_of(made.means.double(), row) >= 2).all()


def test_more_views_can_be_asked_for() -> None:
    cameras = ring(4)
    made = splats_at_random(cameras, 100, 0, min_views=4)
    assert (views_of(made.means.double(), cameras) == 4).all()


def test_one_camera_with_a_range_of_depth() -> None:
    one = [look_at((0, 0, 0), (0, 3, 0))]
    made = splats_at_random(one, 100, 0, min_views=1, depth_range_m=(1.0, 2.0))
    depth = project(made.means.double(), one[0]).depth_m
    assert depth.min() > 0.999
    assert depth.max() < 2.001


def test_a_lens_is_respected() -> None:
    bent = torch.tensor([-0.2, 0.05, 0.0, 0.0])
    cameras = [look_at((x, -3, 0.2), (0, 0, 0), distortion=bent) for x in (-0.5, 0.5)]
    made = splats_at_random(cameras, 100, 0)
    assert (views_of(made.means.double(), cameras) == 2).all()


@pytest.mark.parametrize(
    ("cameras", "change", "message"),
    [
        (ring(3), {"count": 0}, "count must be at least 1"),
        ([], {}, "got 2 for 0"),
        (ring(1), {}, "a single camera needs min_views=1 and depth_range_m"),
        (ring(3), {"min_views": 4}, "got 4 for 3"),
        (ring(3), {"min_views": 0}, "got 0 for 3"),
        (ring(1), {"min_views": 1}, "say nothing about the distance"),
        (ring(1) * 3, {}, "cameras at one place"),
        (ring(3), {"depth_range_m": (2.0, 1.0)}, "0 < near <= far, got 2 and 1"),
        (ring(3), {"depth_range_m": (0.0, 1.0)}, "0 < near <= far"),
        (ring(3), {"depth_range_m": (1.0, math.inf)}, "0 < near <= far"),
        (ring(3), {"opacity": 2.0}, "opacity"),
        (
            [look_at((0, 0, 0), (0, 5, 0)), look_at((0, -9, 0), (0, -20, 0))],
            {},
            "only 0 of 10 splats .* check the poses",
        ),
    ],
)
def test_cameras_that_share_nothing_and_wrong_settings_are_refused(
    cameras: list[Camera], change: dict[str, Any], message: str
) -> None:
    settings_ = {"count": 10, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        splats_at_random(cameras, **settings_)
