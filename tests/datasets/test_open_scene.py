from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData, PlyElement

from xmodal.datasets import LazyViews, open_scene
from xmodal.datasets.frames import natural_key
from xmodal.errors import DataError, UsageError


def test_views_hold_what_the_files_hold(scene_folder, room):
    scene = open_scene(scene_folder)
    assert scene.name == "scan"
    assert len(scene.images) == len(scene.depths) == 5
    for view, image, depth in zip(room.views, scene.images, scene.depths, strict=True):
        assert image.name == depth.name == view.name
        assert image.camera.hw == room.hw
        rgb = torch.from_numpy(view.rgb).permute(2, 0, 1) / 255
        torch.testing.assert_close(image.rgb, rgb)
        np.testing.assert_allclose(depth.depth_m.numpy(), view.depth_m, atol=6e-4)
        np.testing.assert_allclose(image.camera.T_world_cam.numpy(), view.T_world_cam, atol=1e-6)
        np.testing.assert_allclose(image.camera.K.numpy(), room.K)


def test_frames_are_in_the_order_people_count(scene_folder):
    for folder, suffix in (("color", "png"), ("depth", "png"), ("pose", "txt")):
        for old, new in (("000003", "10"), ("000004", "9")):
            (scene_folder / folder / f"{old}.{suffix}").rename(
                scene_folder / folder / f"{new}.{suffix}"
            )
    assert open_scene(scene_folder).images.names == ("000000", "000001", "000002", "9", "10")
    names = ["b2", "10", "a10", "a9", "1x", "1"]
    assert sorted(names, key=natural_key) == ["1", "1x", "10", "a9", "a10", "b2"]


@pytest.mark.parametrize(
    ("max_frames", "wanted"), [(1, [0]), (2, [0, 4]), (3, [0, 2, 4]), (5, range(5)), (99, range(5))]
)
def test_max_frames_are_evenly_spaced(scene_folder, room, max_frames, wanted):
    scene = open_scene(scene_folder, max_frames=max_frames)
    assert scene.images.names == tuple(room.views[i].name for i in wanted)
    assert scene.report.frames_found == 5
    assert scene.report.frames_used == len(scene.images)


def test_views_decode_on_access_and_remember_a_few(scene_folder):
    scene = open_scene(scene_folder)
    loaded: list[int] = []
    views = LazyViews(
        lambda i: loaded.append(i) or scene.images[i],
        cameras=scene.images.cameras,
        names=scene.images.names,
    )
    assert loaded == []
    assert views[3] is views[-2] is views[2:][1]
    assert loaded == [3]
    assert views[1:].names == scene.images.names[1:]
    assert [view.name for view in views] == list(views.names)
    with pytest.raises(IndexError):
        views[5]


def test_colour_and_depth_of_different_size_have_their_own_intrinsics(scene_folder, room):
    (scene_folder / "intrinsic.txt").unlink()
    K_depth = room.intrinsics((24, 36))
    for view in room.views:
        depth_m, _ = room.cast(view.T_world_cam, K_depth, (24, 36))
        image = Image.fromarray(np.rint(depth_m * 1000).astype(np.uint16))
        image.save(scene_folder / "depth" / f"{view.name}.png")
    (scene_folder / "intrinsic").mkdir()
    for name, K in (("color", room.K), ("depth", K_depth)):
        K4 = np.eye(4)
        K4[:3, :3] = K
        np.savetxt(scene_folder / "intrinsic" / f"intrinsic_{name}.txt", K4)
        np.savetxt(scene_folder / "intrinsic" / f"extrinsic_{name}.txt", np.eye(4))
    scene = open_scene(scene_folder, voxel_m=0.1)
    assert scene.images[0].camera.hw == (48, 64)
    assert scene.depths[0].camera.hw == (24, 36)
    np.testing.assert_allclose(scene.depths[0].camera.K.numpy(), K_depth)
    cloud = scene.cloud()
    expected = room.paint(cloud.xyz.numpy()) / 255
    assert np.abs(cloud.rgb.numpy() - expected).mean() < 0.03


def test_one_intrinsic_file_serves_a_depth_map_of_half_the_size(scene_folder, room):
    K_half = room.intrinsics((24, 32))
    for view in room.views:
        depth_m, _ = room.cast(view.T_world_cam, K_half, (24, 32))
        image = Image.fromarray(np.rint(depth_m * 1000).astype(np.uint16))
        image.save(scene_folder / "depth" / f"{view.name}.png")
    np.testing.assert_allclose(open_scene(scene_folder).depths[0].camera.K.numpy(), K_half)


def test_resized_frames_are_put_right_by_intrinsic_hw(scene_folder, room, write_json):
    np.savetxt(scene_folder / "intrinsic.txt", room.intrinsics((480, 640)))
    with pytest.raises(DataError, match="intrinsic_hw"):
        open_scene(scene_folder)
    write_json(scene_folder / "scene.json", {"intrinsic_hw": [480, 640]})
    np.testing.assert_allclose(open_scene(scene_folder).images[0].camera.K.numpy(), room.K)


def test_lost_poses_are_dropped_and_counted(scene_folder):
    for name, value in (("000001", "-inf"), ("000002", "nan")):
        pose = "\n".join([f"{value} {value} {value} {value}"] * 4)
        (scene_folder / "pose" / f"{name}.txt").write_text(pose)
    scene = open_scene(scene_folder)
    assert scene.images.names == ("000000", "000003", "000004")
    assert scene.report.dropped_poses == ("000001", "000002")
    assert "2 frames dropped: pose lost" in scene.report.lines()


def test_a_rotation_off_by_rounding_is_made_exact(scene_folder, room):
    T = room.views[0].T_world_cam.copy()
    T[:3, :3] *= 1.0005
    np.savetxt(scene_folder / "pose" / "000000.txt", T)
    scene = open_scene(scene_folder)
    R = scene.images[0].camera.T_world_cam[:3, :3]
    torch.testing.assert_close(R @ R.T, torch.eye(3), atol=1e-6, rtol=0)
    assert any("rotations made exact" in note for note in scene.report.notes)


def test_axis_align_moves_poses_points_and_normals_alike(scene_folder, room, write_json):
    cloud = open_scene(scene_folder, voxel_m=0.1).cloud()
    turn = [[0, -1, 0, 1.0], [1, 0, 0, 2.0], [0, 0, 1, 3.0], [0, 0, 0, 1]]
    write_json(scene_folder / "scene.json", {"axis_align": turn, "up": "-y"})
    scene = open_scene(scene_folder, voxel_m=0.1)
    T = torch.tensor(turn, dtype=torch.float32)
    torch.testing.assert_close(
        scene.images[0].camera.T_world_cam,
        T @ torch.from_numpy(room.views[0].T_world_cam).float(),
    )
    assert scene.up.tolist() == [0.0, -1.0, 0.0]
    # Cells of the turned world are the turned cells, because it turns by a right angle.
    assert abs(len(scene.cloud().xyz) - len(cloud.xyz)) < 0.02 * len(cloud.xyz)
    save_cloud(scene_folder / "points.ply", cloud.xyz.numpy(), normals=cloud.normals.numpy())
    given = open_scene(scene_folder).cloud()
    torch.testing.assert_close(given.xyz, cloud.xyz @ T[:3, :3].T + T[:3, 3])
    torch.testing.assert_close(given.normals, cloud.normals @ T[:3, :3].T)


def save_cloud(path, xyz, normals=None, **columns):
    table = {name: xyz[:, i].astype("f4") for i, name in enumerate("xyz")}
    if normals is not None:
        table |= {f"n{name}": normals[:, i].astype("f4") for i, name in enumerate("xyz")}
    table |= columns
    rows = np.empty(len(xyz), dtype=[(n, c.dtype) for n, c in table.items()])
    for name, column in table.items():
        rows[name] = column
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))


def wall(num=50):
    y, z = np.random.default_rng(0).uniform((-1, 0.5), (1, 2), (num, 2)).T
    return np.stack([np.full(num, 2.0), y, z], 1)


def test_given_points_are_used_in_their_order(scene_folder):
    xyz = wall()
    save_cloud(scene_folder / "points.ply", xyz)
    np.testing.assert_allclose(open_scene(scene_folder).cloud().xyz.numpy(), xyz.astype("f4"))


def test_labels_follow_the_points_that_are_kept(scene_folder, write_json):
    xyz = wall()
    xyz[[3, 7]] = np.nan
    ids = np.arange(50, dtype=np.int32) % 4 - 1
    save_cloud(scene_folder / "points.ply", xyz)
    np.save(scene_folder / "labels.npy", ids)
    write_json(scene_folder / "classes.json", ["wall", "mug", "chair"])
    scene = open_scene(scene_folder)
    labels = scene.labels()
    assert scene.cloud().xyz.shape == (48, 3)
    assert scene.report.dropped_points == 2
    assert labels.ids.tolist() == np.delete(ids, [3, 7]).tolist()
    assert labels.ids.dtype == torch.int32
    assert labels.classes == ("wall", "mug", "chair")


def test_classes_may_be_a_mapping_or_label_ids(scene_folder, write_json):
    save_cloud(scene_folder / "points.ply", wall(), label=np.full(50, 5, "u2"))
    write_json(scene_folder / "scene.json", {"label_ids": {"5": "mug"}})
    labels = open_scene(scene_folder).labels()
    assert labels.classes[5] == "mug"
    assert set(labels.ids.tolist()) == {5}
    write_json(scene_folder / "classes.json", {"5": "cup"})
    assert open_scene(scene_folder).labels().classes[5] == "cup"


def test_label_maps_belong_to_the_camera_of_their_size(scene_folder, write_json):
    (scene_folder / "label").mkdir()
    ids = (np.arange(48 * 64).reshape(48, 64) % 3).astype(np.uint8)
    palette = Image.fromarray(ids, mode=None).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata(ids.reshape(-1).tolist())
    palette.save(scene_folder / "label" / "000002.png")
    write_json(scene_folder / "scene.json", {"label_ids": {"1": "mug"}})
    scene = open_scene(scene_folder)
    assert scene.label_maps.names == ("000002",)
    assert scene.label_maps[0].ids.numpy().tolist() == ids.tolist()
    assert scene.label_maps[0].camera is scene.images[2].camera
    assert scene.label_names == {1: "mug"}


def test_boxes_of_the_frames_in_use(scene_folder, write_json):
    boxes = {"frames": {"000000": {"mug": [[1, 2, 3, 4]]}, "000001": {"mug": [[0, 0, 64, 48]]}}}
    write_json(scene_folder / "localisation.json", boxes)
    assert open_scene(scene_folder).boxes["000001"] == {"mug": [(0.0, 0.0, 64.0, 48.0)]}
    assert list(open_scene(scene_folder, max_frames=2).boxes) == ["000000"]
    (scene_folder / "localisation.json").rename(scene_folder / "other.json")
    write_json(scene_folder / "scene.json", {"boxes": "other.json"})
    assert set(open_scene(scene_folder).boxes) == {"000000", "000001"}


def test_colour_only_needs_points(scene_folder):
    shutil.rmtree(scene_folder / "depth")
    with pytest.raises(DataError, match="depth/ to fuse points from"):
        open_scene(scene_folder)
    save_cloud(scene_folder / "points.ply", wall())
    scene = open_scene(scene_folder)
    assert scene.depths is None
    assert len(scene.cloud().xyz) == 50


def test_fingerprint_follows_content_not_place(scene_folder, tmp_path):
    first = open_scene(scene_folder).fingerprint
    copy = shutil.copytree(scene_folder, tmp_path / "elsewhere" / "scan")
    assert open_scene(copy).fingerprint == first
    assert open_scene(copy, max_frames=3).fingerprint != first
    assert open_scene(copy, voxel_m=0.05).fingerprint != first
    pose = copy / "pose" / "000000.txt"
    pose.write_text(pose.read_text() + "\n")
    assert open_scene(copy).fingerprint != first


def test_unknown_settings_are_reported(scene_folder, write_json):
    write_json(scene_folder / "scene.json", {"about": "a room", "depth_scale": 1000})
    notes = open_scene(scene_folder).report.notes
    assert any("about" in note for note in notes)


@pytest.mark.parametrize("setting", [{"voxel_m": 0.0}, {"voxel_m": np.nan}, {"max_frames": 0}])
def test_bad_arguments_are_usage_errors(scene_folder, setting, four_parts):
    with pytest.raises(UsageError) as caught:
        open_scene(scene_folder, **setting)
    four_parts(caught.value, 2)
