"""The same room in every layout gives the same scene."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.lib.recfunctions import repack_fields
from PIL import Image
from scipy.spatial.transform import Rotation

from xmodal.datasets import open_scene
from xmodal.errors import DataError


def check_same_room(scene, room, names=None):
    assert scene.images.names == tuple(names or (view.name for view in room.views))
    for view, image, depth in zip(room.views, scene.images, scene.depths, strict=True):
        np.testing.assert_allclose(image.camera.T_world_cam.numpy(), view.T_world_cam, atol=1e-5)
        np.testing.assert_allclose(depth.depth_m.numpy(), view.depth_m, atol=1e-3)
        assert image.rgb.shape == (3, *room.hw)


@pytest.fixture
def seven_scenes(room, tmp_path, save_depth):
    root = tmp_path / "seq-01"
    root.mkdir()
    for view in room.views:
        stem = f"frame-{view.name}"
        Image.fromarray(view.rgb).save(root / f"{stem}.color.png")
        save_depth(root / f"{stem}.depth.png", view.depth_m)
        np.savetxt(root / f"{stem}.pose.txt", view.T_world_cam)
    np.savetxt(root / "intrinsic.txt", room.K)
    return root


def test_seven_scenes_sequence(seven_scenes, room):
    scene = open_scene(seven_scenes)
    assert scene.report.layout == "7-Scenes"
    check_same_room(scene, room, [f"frame-{view.name}" for view in room.views])


def test_seven_scenes_with_several_sequences(seven_scenes, room):
    root = seven_scenes.parent
    (seven_scenes / "intrinsic.txt").rename(root / "intrinsic.txt")
    (root / "seq-10").mkdir()
    for path in seven_scenes.glob("frame-000000.*"):
        (root / "seq-10" / path.name).write_bytes(path.read_bytes())
    scene = open_scene(root)
    assert scene.images.names[0] == "seq-01-frame-000000"
    assert scene.images.names[-1] == "seq-10-frame-000000"
    assert len(scene.images) == 6


def test_seven_scenes_default_intrinsics_are_for_640x480_only(seven_scenes):
    (seven_scenes / "intrinsic.txt").unlink()
    with pytest.raises(DataError, match="64 x 48"):
        open_scene(seven_scenes)
    for path in seven_scenes.glob("*.png"):
        Image.open(path).resize((640, 480), Image.Resampling.NEAREST).save(path)
    scene = open_scene(seven_scenes)
    assert scene.images[0].camera.K[0].tolist() == [585.0, 0.0, 320.0]
    assert "585" in scene.report.lines()[-1]


def test_65535_is_no_reading(seven_scenes):
    path = seven_scenes / "frame-000000.depth.png"
    stored = np.array(Image.open(path))
    stored[:10] = 65535
    stored[10:20] = 0
    Image.fromarray(stored).save(path)
    depth_m = open_scene(seven_scenes).depths[0].depth_m
    assert (depth_m[:20] == 0).all()
    assert (depth_m[20:] > 0).all()


def test_frame_names_may_carry_the_seven_scenes_endings(scene_folder, room):
    for folder in ("color", "depth", "pose"):
        for path in (scene_folder / folder).iterdir():
            path.rename(path.with_name(f"frame-{path.stem}.{folder}{path.suffix}"))
    check_same_room(open_scene(scene_folder), room, [f"frame-{v.name}" for v in room.views])


def test_scannet_export_with_mesh_and_labels(scene_folder, room):
    from plyfile import PlyData, PlyElement

    for folder in ("color", "depth", "pose"):
        for path in (scene_folder / folder).iterdir():
            path.rename(path.with_name(f"{int(path.stem)}{path.suffix}"))
    (scene_folder / "pose" / "3.txt").write_text("\n".join(["-inf -inf -inf -inf"] * 4))
    vertices = np.zeros(4, dtype=[("x", "f4"), ("y", "f4"), ("z", "f4"), ("label", "u2")])
    vertices["x"], vertices["z"], vertices["label"] = 2.0, [1, 1.2, 1.4, 1.6], [0, 1, 5, 40]
    faces = np.zeros(2, dtype=[("vertex_indices", "i4", (3,))])
    both = [PlyElement.describe(vertices, "vertex"), PlyElement.describe(faces, "face")]
    PlyData(both).write(str(scene_folder / "scene0000_00_vh_clean_2.labels.ply"))
    both[0] = PlyElement.describe(repack_fields(vertices[["x", "y", "z"]]), "vertex")
    PlyData(both).write(str(scene_folder / "scene0000_00_vh_clean_2.ply"))
    scene = open_scene(scene_folder)
    assert scene.images.names == ("0", "1", "2", "4")
    assert scene.cloud().xyz.shape == (4, 3)
    labels = scene.labels()
    assert labels.ids.tolist() == [-1, 0, 4, 39]
    assert [labels.classes[i] for i in (0, 4, 39)] == ["wall", "chair", "otherprop"]


def test_replica(room, tmp_path, save_depth, write_json):
    root = tmp_path / "room0"
    (root / "results").mkdir(parents=True)
    for view in room.views:
        Image.fromarray(view.rgb).save(root / "results" / f"frame{view.name}.jpg", quality=95)
        save_depth(root / "results" / f"depth{view.name}.png", view.depth_m, 6553.5)
    np.savetxt(root / "traj.txt", [view.T_world_cam.reshape(-1) for view in room.views])
    K = room.K
    camera = {"fx": K[0, 0], "fy": K[1, 1], "cx": K[0, 2], "cy": K[1, 2], "scale": 6553.5}
    write_json(tmp_path / "cam_params.json", {"camera": camera})
    scene = open_scene(root)
    assert scene.report.layout == "Replica"
    check_same_room(scene, room)


def write_tum(root, room, save_depth):
    for folder in ("rgb", "depth"):
        (root / folder).mkdir(parents=True)
    lists: dict[str, list[str]] = {"rgb": [], "depth": [], "groundtruth": []}
    for index, view in enumerate(room.views):
        time_s = 1305031102.0 + index
        Image.fromarray(view.rgb).save(root / "rgb" / f"{time_s:.6f}.png")
        save_depth(root / "depth" / f"{time_s + 0.01:.6f}.png", view.depth_m, 5000)
        lists["rgb"].append(f"{time_s:.6f} rgb/{time_s:.6f}.png")
        lists["depth"].append(f"{time_s + 0.01:.6f} depth/{time_s + 0.01:.6f}.png")
        q = Rotation.from_matrix(view.T_world_cam[:3, :3]).as_quat()
        numbers = [time_s - 0.005, *view.T_world_cam[:3, 3], *q]
        lists["groundtruth"].append(" ".join(f"{n:.7f}" for n in numbers))
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("# comment\n" + "\n".join(lines) + "\n")
    np.savetxt(root / "intrinsic.txt", room.K)
    return lists


def test_tum_pairs_by_time(room, tmp_path, save_depth):
    lists = write_tum(tmp_path / "fr1", room, save_depth)
    scene = open_scene(tmp_path / "fr1")
    assert scene.report.layout == "TUM RGB-D"
    names = [line.split()[0] for line in lists["rgb"]]
    check_same_room(scene, room, names)
    assert scene.images[1].camera.time_s == 1305031103.0


def test_tum_frames_without_a_pose_in_time_are_dropped(room, tmp_path, save_depth):
    lists = write_tum(tmp_path / "fr1", room, save_depth)
    (tmp_path / "fr1" / "groundtruth.txt").write_text("\n".join(lists["groundtruth"][1:]))
    scene = open_scene(tmp_path / "fr1")
    assert len(scene.images) == 4
    assert len(scene.report.dropped_poses) == 1


def test_tum_associations_in_either_order(room, tmp_path, save_depth):
    lists = write_tum(tmp_path / "fr1", room, save_depth)
    pairs = zip(lists["depth"], lists["rgb"], strict=True)
    associations = tmp_path / "fr1" / "associations.txt"
    associations.write_text("\n".join(f"{depth} {rgb}" for depth, rgb in pairs))
    check_same_room(open_scene(tmp_path / "fr1"), room, [line.split()[0] for line in lists["rgb"]])
