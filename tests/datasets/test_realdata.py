from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lifting.cameras import pixel_centres, pixel_rays, project, unproject
from xmodal.datasets import open_scene
from xmodal.datasets.photos import held_out, undistorted
from xmodal.errors import DataError

DATA = os.environ.get("XMODAL_DATA")
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not DATA, reason="XMODAL_DATA is unset: it names the folder of real data"),
]


def agreement(scene, a: int, b: int) -> float:
    """Share of pixels of frame a that frame b sees at the same depth, within 5 cm."""
    depth, other = scene.depths[a], scene.depths[b]
    rows, columns = torch.nonzero(depth.depth_m > 0)[::13].unbind(1)
    uv = torch.stack((columns + 0.5, rows + 0.5), 1)
    xyz = unproject(uv, depth.depth_m[rows, columns], depth.camera)
    seen = project(xyz, other.camera)
    column, row = seen.uv[seen.in_image].long().unbind(1)
    measured = other.depth_m[row, column]
    off = (measured - seen.depth_m[seen.in_image])[measured > 0]
    assert len(off) > 100
    return float((off.abs() < 0.05).float().mean())


def test_kitchen_opens_and_its_frames_agree():
    scene = open_scene(Path(DATA) / "7scenes_redkitchen")
    assert len(scene.images) == 63
    assert scene.images[0].rgb.shape == (3, 480, 640)
    assert set(scene.boxes) == {"000000", "000304", "000608", "000912"}
    assert 1.0 < scene.report.median_depth_m < 3.0
    assert np.median([agreement(scene, i, i + 1) for i in range(0, 62, 6)]) > 0.9
    assert len(scene.fingerprint) == 64


def test_kitchen_fuses_into_a_cloud_that_lies_where_depth_was_measured():
    scene = open_scene(Path(DATA) / "7scenes_redkitchen", voxel_m=0.05, max_frames=4)
    cloud = scene.cloud()
    assert len(cloud.xyz) > 5000
    depth = scene.depths[1]
    seen = project(cloud.xyz, depth.camera)
    column, row = seen.uv[seen.in_image].long().unbind(1)
    off = depth.depth_m[row, column] - seen.depth_m[seen.in_image]
    agrees = (off.abs() < 0.05) & (depth.depth_m[row, column] > 0)
    assert agrees.float().mean() > 0.6


def test_apc_depth_bits_are_rotated():
    root = Path(DATA) / "apc_shelf_two_objects"
    scene = open_scene(root)
    assert len(scene.images) == 15
    assert scene.settings.depth_encoding == "rotated3"
    # Read as plain values nothing would agree; the provider states 90 to 97 % within 2 cm.
    assert np.median([agreement(scene, i, i + 1) for i in range(14)]) > 0.85
    assert scene.label_names[48] == "pipe cleaners"
    assert set(scene.label_maps[0].ids.unique().tolist()) <= {0, 48, 132}


@pytest.mark.parametrize("name", ["7scenes_redkitchen", "apc_shelf_two_objects"])
def test_inverted_poses_of_real_scenes_are_refused(tmp_path, name):
    root = Path(DATA) / name
    for path in root.iterdir():
        if path.name != "pose":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "pose").mkdir()
    for path in (root / "pose").iterdir():
        np.savetxt(tmp_path / "pose" / path.name, np.linalg.inv(np.loadtxt(path)))
    with pytest.raises(DataError, match="invert every pose matrix"):
        open_scene(tmp_path)


def test_fox_in_transforms_json():
    """The cameras of a capture that goes round a thing: their axes meet in front of all of them."""
    scene = open_scene(Path(str(DATA)) / "fox_half", need=["views"])
    assert scene.report.layout == "transforms.json"
    assert scene.report.frames_used == 50
    assert scene.depths is None
    image = scene.images[7]
    assert image.rgb.shape == (3, 960, 540)
    assert float(image.camera.K[0, 0]) == pytest.approx(687.76)
    assert image.camera.distortion.tolist() == pytest.approx(
        [0.0578421, -0.0805099, -0.000980296, 0.00015575]
    )
    poses = torch.stack([camera.T_world_cam for camera in scene.images.cameras]).double()
    centre, axis = poses[:, :3, 3], poses[:, :3, 2]
    across = torch.eye(3, dtype=torch.float64) - axis[:, :, None] * axis[:, None, :]
    meeting = torch.linalg.solve(across.sum(0), (across @ centre[:, :, None]).sum(0)[:, 0])
    seen = [project(meeting[None].float(), camera) for camera in scene.images.cameras]
    assert np.mean([bool(one.in_image[0]) for one in seen]) > 0.9
    # Upright pictures: y of the camera points down, against the mean up of the capture.
    up = -poses[:, :3, 1].mean(0)
    assert float(up.norm()) > 0.7


@pytest.fixture(scope="module")
def fox():
    return Path(DATA) / "fox_half"


def test_fox_opens_without_points_smaller_and_straight(fox):
    scene = open_scene(fox, need=["views"], max_side_px=240, undistort=True)
    assert len(scene.images) == 50
    assert not scene.has_cloud
    fit, test = held_out(scene.images.names)
    assert (len(fit), len(test)) == (43, 7)
    image = scene.images[test[3]]
    assert image.rgb.shape == (3, 240, 135)
    assert image.camera.coefficients is None
    assert image.camera.hw == (240, 135)
    with pytest.raises(DataError, match="depth/ to fuse points from"):
        scene.cloud()


def test_fox_s_lens_is_taken_out_to_a_twentieth_of_a_pixel(fox):
    camera = open_scene(fox, need=["views"]).images.cameras[0]
    uv = pixel_centres(camera.hw)
    straight = undistorted(uv.T.reshape(2, *camera.hw), camera)
    assert bool(straight.valid.all())
    rays, _ = pixel_rays(uv, straight.camera)
    expected = project(rays + straight.camera.centre, camera).uv
    assert float((straight.image.reshape(2, -1).T - expected).abs().max()) < 0.05
    # The field of view stays: focal lengths grow by two in a hundred at most.
    assert (straight.camera.K.diagonal()[:2] / camera.K.diagonal()[:2]).max() < 1.02


def test_fox_agrees_with_itself_as_a_colmap_model(fox, tmp_path, colmap):
    """The same cameras written as COLMAP would, read again."""
    scene = open_scene(fox, need=["views"], max_frames=4)
    camera = scene.images.cameras[0]
    K, lens = camera.K.double(), camera.coefficients
    parameters = (*(float(x) for x in (K[0, 0], K[1, 1], K[0, 2], K[1, 2])), *lens)
    model = colmap.Model(cameras=[(1, "OPENCV", camera.hw[1], camera.hw[0], parameters)])
    for index, (name, view) in enumerate(
        zip(scene.images.names, scene.images.cameras, strict=True)
    ):
        T = np.linalg.inv(view.T_world_cam.double().numpy())
        pose = colmap.quaternion(T[:3, :3]), tuple(float(x) for x in T[:3, 3])
        model.images.append((index + 1, *pose, 1, f"{name}.jpg"))
    model.write(tmp_path / "sparse/0", text=False)
    (tmp_path / "images").symlink_to(fox / "images")
    again = open_scene(tmp_path, need=["views"])
    assert again.images.names == scene.images.names
    for ours, theirs in zip(again.images.cameras, scene.images.cameras, strict=True):
        torch.testing.assert_close(ours.T_world_cam, theirs.T_world_cam, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.K, theirs.K)
        assert ours.coefficients == pytest.approx(theirs.coefficients)
    assert torch.equal(again.images[2].rgb, scene.images[2].rgb)
