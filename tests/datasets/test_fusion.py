from __future__ import annotations

import numpy as np
import pytest
import torch

from lifting.cameras import Camera
from lifting.visibility import DepthNoise
from xmodal.datasets import open_scene
from xmodal.datasets.fusion import fuse_depth
from xmodal.datasets.surfels import frame_surfels
from xmodal.errors import DataError
from xmodal.values import Depth, Image


def frame(depth_m, x=0.0, name="f"):
    """A camera at (x, 0, 0) that looks along world z; 40 px focal length."""
    depth_m = torch.as_tensor(depth_m, dtype=torch.float32)
    height, width = depth_m.shape
    K = torch.tensor([[40.0, 0, width / 2], [0, 40.0, height / 2], [0, 0, 1]])
    T = torch.eye(4)
    T[0, 3] = x
    camera = Camera(K=K, T_world_cam=T, hw=(height, width))
    image = Image(rgb=torch.full((3, height, width), 0.5), camera=camera, name=name)
    return image, Depth(depth_m=depth_m, camera=camera, name=name)


def fuse(*frames, **options):
    return fuse_depth([f[0] for f in frames], [f[1] for f in frames], **options)


def test_the_fused_room_lies_on_its_walls_with_their_colours(scene_folder, room):
    scene = open_scene(scene_folder, voxel_m=0.05)
    cloud = scene.cloud()
    xyz = cloud.xyz.numpy()
    off = np.minimum(np.abs(xyz - room.low), np.abs(xyz - room.high)).min(1)
    # Corners average two walls inside one voxel.
    assert np.quantile(off, 0.95) < 0.005
    assert off.max() < 0.05
    expected = room.paint(xyz) / 255
    assert np.abs(cloud.rgb.numpy() - expected).mean() < 0.02
    inward = ((room.low + room.high) / 2 - xyz) * cloud.normals.numpy()
    assert (inward.sum(1) > 0).all()
    # Where walls meet, a normal is measured across both.
    assert (cloud.normals.abs().amax(1) > 0.98).float().mean() > 0.8
    torch.testing.assert_close(
        torch.linalg.vector_norm(cloud.normals, dim=1), torch.ones(len(xyz)), atol=1e-5, rtol=0
    )
    assert scene.cloud() is cloud
    assert scene.report.fused["points"] == len(xyz)


def test_a_flat_wall_by_hand():
    depth_m = np.full((8, 8), 2.0)
    fused = fuse(frame(depth_m), voxel_m=0.5)
    # Pixels lie at x = (c + 0.5 - 4) / 20: -0.175 to 0.175, so the wall covers four cells.
    assert fused.points.xyz.shape == (4, 3)
    corners = {tuple(row) for row in fused.points.xyz.double().round(decimals=4).tolist()}
    assert corners == {(x, y, 2.0) for x in (-0.1, 0.1) for y in (-0.1, 0.1)}
    # Pixels too near the border have a guess, a thousandth of the weight.
    normals = torch.tensor([[0.0, 0, -1]] * 4)
    torch.testing.assert_close(fused.points.normals, normals, atol=1e-3, rtol=0)
    assert fused.num_views.tolist() == [1] * 4
    assert fused.num_readings == 64


def test_nearer_readings_weigh_more():
    near, far = frame(np.full((8, 8), 1.0)), frame(np.full((8, 8), 4.0))
    weights = [
        frame_surfels(*f, noise=DepthNoise(), max_sigma_m=1.0).weight.mean() for f in (near, far)
    ]
    sigma = DepthNoise().sigma_m(torch.tensor([1.0, 4.0])) + 5e-4
    torch.testing.assert_close(weights[0] / weights[1], (sigma[1] / sigma[0]) ** 2)


def test_mixed_pixels_of_an_edge_are_dropped():
    depth_m = np.full((20, 20), 1.0)
    depth_m[:, 10:] = 3.0
    depth_m[:, 9] = 2.0
    fused = fuse(frame(depth_m), voxel_m=0.02)
    z = fused.points.xyz[:, 2]
    assert not ((z > 1.05) & (z < 2.95)).any()
    assert fused.num_edges == 3 * 20


def test_a_slanted_surface_is_no_edge():
    # 60 degrees: depth grows by 1.73 x the sideways distance.
    u = (np.arange(40) + 0.5 - 20) / 40
    depth_m = np.tile(2.0 / (1 - 1.73 * u), (40, 1))
    assert fuse(frame(depth_m), voxel_m=0.02).num_edges == 0


def test_a_speck_of_one_view_is_dropped():
    depth_m = np.zeros((20, 20))
    depth_m[2, 2] = 2.0
    fused = fuse(frame(depth_m), frame(np.full((20, 20), 1.0), x=5.0), voxel_m=0.1)
    assert fused.num_weak >= 1
    assert not (fused.points.xyz[:, 2] > 1.5).any()


def test_noisy_readings_are_dropped():
    assert fuse(frame(np.full((8, 8), 9.0)), voxel_m=0.02).num_far == 64


def test_what_more_views_see_through_is_carved():
    wall = np.full((20, 20), 2.0)
    ghost = np.full((20, 20), 1.0)
    fused = fuse(frame(ghost), frame(wall), frame(wall, x=0.02), voxel_m=0.05)
    assert (fused.points.xyz[:, 2] - 2.0).abs().max() < 0.01
    assert fused.num_carved > 0
    tie = fuse(frame(ghost), frame(wall), voxel_m=0.05)
    assert (tie.points.xyz[:, 2] < 1.5).any()


def test_views_may_come_in_any_order(scene_folder):
    scene = open_scene(scene_folder)
    forward = fuse_depth(scene.images, scene.depths, voxel_m=0.1)
    backward = fuse_depth(scene.images[::-1], scene.depths[::-1], voxel_m=0.1)

    def ordered(points):
        cell = (points.xyz / 0.1).floor().long()
        order = np.lexsort(cell.numpy().T)
        return points.xyz[order], points.rgb[order]

    for a, b in zip(ordered(forward.points), ordered(backward.points), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_progress_counts_frames(scene_folder):
    seen: list[tuple[int, int]] = []
    open_scene(scene_folder).cloud(lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]


def test_no_reading_gives_no_point():
    fused = fuse(frame(np.zeros((8, 8))), voxel_m=0.1)
    assert fused.points.xyz.shape == (0, 3)
    assert fused.num_readings == 0


def test_tiny_frames_have_guessed_normals():
    fused = fuse(frame(np.full((2, 2), 1.0)), voxel_m=1.5)
    torch.testing.assert_close(
        torch.linalg.vector_norm(fused.points.normals, dim=1), torch.ones(len(fused.points.xyz))
    )


@pytest.mark.parametrize("voxel_m", [0.0, -1.0, float("nan")])
def test_a_voxel_has_a_size(voxel_m):
    with pytest.raises(ValueError, match="voxel_m"):
        fuse(frame(np.full((8, 8), 1.0)), voxel_m=voxel_m)


def test_depth_and_colour_must_pair():
    image, depth = frame(np.full((8, 8), 1.0))
    with pytest.raises(ValueError, match="zip"):
        fuse_depth([image], [depth, depth], voxel_m=0.1)


def test_a_scene_whose_depth_is_all_noise_is_an_error(scene_folder, save_depth, four_parts):
    for path in (scene_folder / "depth").iterdir():
        save_depth(path, np.full((48, 64), 15.0))
    for path in (scene_folder / "pose").iterdir():
        np.savetxt(path, np.eye(4))
    with pytest.raises(DataError, match="depth readings that agree") as caught:
        open_scene(scene_folder).cloud()
    four_parts(caught.value)
