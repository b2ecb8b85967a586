"""`transforms.json` of nerfstudio, instant-ngp and Polycam."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from lifting.cameras import project
from xmodal.datasets import open_scene
from xmodal.errors import DataError
from xmodal.ply import write_points
from xmodal.values import Points

TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def write(root, room, *, save_depth=None, keys=None, per_frame=None):
    """The room as nerfstudio would write it."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    frames = []
    for view in room.views:
        Image.fromarray(view.rgb).save(root / "images" / f"{view.name}.png")
        entry = {
            "file_path": f"images/{view.name}.png",
            "transform_matrix": (view.T_world_cam @ TO_OPENGL).tolist(),
        }
        if save_depth is not None:
            (root / "depth").mkdir(exist_ok=True)
            save_depth(root / "depth" / f"{view.name}.png", view.depth_m)
            entry["depth_file_path"] = f"depth/{view.name}.png"
        frames.append(entry | (per_frame or {}))
    K, (h, w) = room.K, room.hw
    shared = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "w": w, "h": h}
    content = (shared if keys is None else keys) | {"frames": frames}
    (root / "transforms.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def scan(tmp_path, room, save_depth):
    return write(tmp_path / "nerf", room, save_depth=save_depth)


def change(root, index=None, **keys):
    path = root / "transforms.json"
    content = json.loads(path.read_text())
    target = content if index is None else content["frames"][index]
    target |= keys
    for key in [key for key, value in target.items() if value == "remove"]:
        del target[key]
    path.write_text(json.dumps(content))


def test_opengl_poses_become_opencv_s(scan, scene_folder):
    scene, folder = open_scene(scan), open_scene(scene_folder)
    assert scene.report.layout == "transforms.json"
    assert scene.images.names == folder.images.names
    for ours, theirs in zip(scene.images.cameras, folder.images.cameras, strict=True):
        torch.testing.assert_close(ours.T_world_cam, theirs.T_world_cam, atol=1e-6, rtol=0)
        torch.testing.assert_close(ours.K, theirs.K)
        assert ours.distortion is None
    torch.testing.assert_close(scene.cloud().xyz, folder.cloud().xyz, atol=1e-5, rtol=0)


def test_a_pose_by_hand(tmp_path, room):
    """At the origin OpenGL looks along -z with y up: OpenCV's axes are x, -y, -z of the world."""
    root = write(tmp_path / "a", room, per_frame={"transform_matrix": np.eye(4).tolist()})
    camera = open_scene(root, need=["views"]).images.cameras[0]
    ahead = torch.tensor([[0.0, 0.0, -2.0], [0.0, 1.0, -2.0], [0.0, 0.0, 2.0]])
    seen = project(ahead, camera)
    np.testing.assert_allclose(seen.uv[0], [32.0, 24.0])
    assert seen.uv[1, 1] < 24.0
    assert seen.in_image.tolist()[0]
    assert not seen.in_image[2]


def test_field_of_view_alone_gives_the_focal_length(tmp_path, room):
    root = write(tmp_path / "a", room, keys={"camera_angle_x": math.pi / 2})
    K = open_scene(root, need=["views"]).images.cameras[0].K
    np.testing.assert_allclose(K, [[32.0, 0, 32.0], [0, 32.0, 24.0], [0, 0, 1]], rtol=1e-6)


def test_both_fields_of_view(tmp_path, room):
    keys = {"camera_angle_x": math.pi / 2, "camera_angle_y": 2 * math.atan(0.5)}
    K = open_scene(write(tmp_path / "a", room, keys=keys), need=["views"]).images.cameras[0].K
    np.testing.assert_allclose([K[0, 0], K[1, 1]], [32.0, 48.0], rtol=1e-6)


def test_intrinsics_follow_pictures_that_were_resized(scan, room):
    change(scan, w=128, h=96, fl_x=115.2, fl_y=115.2, cx=64, cy=48)
    K = open_scene(scan).images.cameras[0].K
    np.testing.assert_allclose(K, room.K, rtol=1e-6)


def test_a_frame_may_have_intrinsics_of_its_own(scan, room):
    change(scan, 2, fl_x=60.0, fl_y=60.0)
    scene = open_scene(scan)
    assert [round(float(c.K[0, 0]), 1) for c in scene.images.cameras] == [
        57.6,
        57.6,
        60,
        57.6,
        57.6,
    ]
    assert float(scene.depths.cameras[2].K[0, 0]) == 60.0


def test_depth_of_half_the_size_has_half_the_focal_length(scan, room):
    for path in (scan / "depth").iterdir():
        Image.open(path).resize((32, 24), Image.Resampling.NEAREST).save(path)
    cameras = open_scene(scan).depths.cameras
    np.testing.assert_allclose(cameras[0].K[:2], room.K[:2] / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("keys", "model", "coefficients"),
    [
        (
            {"k1": 0.05, "k2": -0.08, "p1": -0.001, "p2": 0.002},
            "pinhole",
            [0.05, -0.08, -0.001, 0.002],
        ),
        ({"k1": 0.05, "k3": 0.01}, "pinhole", [0.05, 0, 0, 0, 0.01]),
        ({"k1": 0.05, "k4": 0.01, "camera_model": "OPENCV_FISHEYE"}, "fisheye", [0.05, 0, 0, 0.01]),
        ({"k1": 0.05, "is_fisheye": True}, "fisheye", [0.05, 0, 0, 0]),
    ],
)
def test_lenses(scan, keys, model, coefficients):
    change(scan, **keys)
    scene = open_scene(scan)
    for camera in (scene.images.cameras[1], scene.depths.cameras[1]):
        assert camera.model == model
        np.testing.assert_allclose(camera.distortion, coefficients, rtol=1e-6)


def test_integer_depth_scale_is_metres_a_unit(scan, room, save_depth):
    for view in room.views:
        save_depth(scan / "depth" / f"{view.name}.png", view.depth_m, 4000.0)
    change(scan, integer_depth_scale=1 / 4000)
    np.testing.assert_allclose(open_scene(scan).depths[0].depth_m, room.views[0].depth_m, atol=2e-4)


def test_the_cloud_of_the_file_is_used(tmp_path, room):
    root = write(tmp_path / "a", room)
    xyz = torch.rand(50, 3) * torch.tensor([4.0, 4, 2.5]) - torch.tensor([2.0, 2, 0])
    write_points(root / "sparse_pc.ply", Points(xyz=xyz, offsets=torch.tensor([0, 50])))
    change(root, ply_file_path="sparse_pc.ply", applied_transform=np.eye(4)[:3].tolist())
    scene = open_scene(root)
    torch.testing.assert_close(scene.cloud().xyz, xyz)
    assert "applied_transform" in scene.report.notes[0]
    before = scene.fingerprint
    xyz[0] += 0.1
    write_points(root / "sparse_pc.ply", Points(xyz=xyz, offsets=torch.tensor([0, 50])))
    assert open_scene(root).fingerprint != before


def test_names_without_an_ending_and_twice(tmp_path, room):
    """As the synthetic scenes of NeRF name them."""
    root = write(tmp_path / "a", room)
    for index, place in enumerate(["train/r_0", "train/r_1", "test/r_0"]):
        (root / place).parent.mkdir(exist_ok=True)
        (root / f"images/{room.views[index].name}.png").rename(root / f"{place}.png")
        change(root, index, file_path=f"./{place}")
    names = open_scene(root, need=["views"]).images.names
    assert set(names) >= {"train-r_0", "train-r_1", "test-r_0"}


def test_colour_alone_opens_where_points_are_not_needed(tmp_path, room, four_parts):
    root = write(tmp_path / "a", room)
    with pytest.raises(DataError, match="colour frames and poses alone"):
        open_scene(root)
    scene = open_scene(root, need=["views"])
    assert len(scene.images) == 5
    with pytest.raises(DataError, match=r"or points\.ply to lift to") as caught:
        scene.cloud()
    four_parts(caught.value)


SCALED = (2 * np.eye(4)).tolist()
MIRRORED = np.diag([1.0, 1, -1, 1]).tolist()
FAULTS = {
    "not json": (lambda r: (r / "transforms.json").write_text("{"), "JSON"),
    "a list": (lambda r: (r / "transforms.json").write_text("[]"), "an object with"),
    "no frames": (lambda r: change(r, frames=[]), "at least one entry"),
    "frames of words": (lambda r: change(r, frames=["a"]), "an object with"),
    "no path": (lambda r: change(r, 1, file_path="remove"), "frames[1]"),
    "missing picture": (lambda r: change(r, 1, file_path="images/none.png"), "none.png"),
    "outside": (lambda r: change(r, 1, file_path="../../secret.png"), "inside the scene folder"),
    "absolute": (lambda r: change(r, 1, file_path="/etc/passwd"), "inside the scene folder"),
    "no pose": (lambda r: change(r, 1, transform_matrix="remove"), "transform_matrix"),
    "pose of three": (lambda r: change(r, 1, transform_matrix=[[1, 0, 0]] * 3), "four rows"),
    "ragged pose": (lambda r: change(r, 1, transform_matrix=[[1], [1, 2]]), "four rows"),
    "pose of words": (lambda r: change(r, 1, transform_matrix=[["a"] * 4] * 4), "four rows"),
    "scaled pose": (lambda r: change(r, 1, transform_matrix=SCALED), "frames[1]"),
    "mirrored pose": (lambda r: change(r, 1, transform_matrix=MIRRORED), "det R = -1"),
    "no focal length": (lambda r: change(r, fl_x="remove", fl_y="remove"), "camera_angle_x"),
    "focal length zero": (lambda r: change(r, fl_x=0), "`fl_x` above 0"),
    "focal length true": (lambda r: change(r, fl_x=True), "a finite number"),
    "focal length NaN": (lambda r: change(r, fl_x=math.nan), "a finite number"),
    "angle of a circle": (lambda r: change(r, fl_x="remove", camera_angle_x=7.0), "field of view"),
    "another shape": (lambda r: change(r, w=48, h=64), "of the shape of the picture"),
    "equirectangular": (lambda r: change(r, camera_model="EQUIRECTANGULAR"), "camera_model"),
    "k4 of a pinhole": (lambda r: change(r, k4=0.1), "`k4` of 0"),
    "depth for one": (lambda r: change(r, 1, depth_file_path="remove"), "none for 1 of 5"),
    "missing cloud": (lambda r: change(r, ply_file_path="none.ply"), "none.ply"),
    "depth unit zero": (lambda r: change(r, integer_depth_scale=0), "integer_depth_scale"),
    "centre outside": (lambda r: change(r, cx=500.0), "centre"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_file_is_one_clear_error(scan, four_parts, name):
    damage, word = FAULTS[name]
    damage(scan)
    with pytest.raises(DataError) as caught:
        open_scene(scan).cloud()
    four_parts(caught.value)
    assert word in str(caught.value)
