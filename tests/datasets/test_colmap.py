"""COLMAP models, text and binary."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from lifting.cameras import project
from xmodal.datasets import open_scene
from xmodal.datasets.colmap import read_colmap_cloud
from xmodal.errors import DataError, UsageError
from xmodal.ply import write_points
from xmodal.runs.settings import default_fit
from xmodal.values import Points


@pytest.mark.parametrize("text", [True, False])
def test_a_model_is_the_room_it_was_written_from(tmp_path, room, colmap, text):
    model = colmap.model_of(room)
    scene = open_scene(colmap.write_scene(tmp_path / "a", room, text=text, model=model))
    assert scene.report.layout == "COLMAP"
    assert scene.images.names == tuple(view.name for view in room.views)
    assert scene.depths is None
    assert scene.has_cloud
    for camera, view in zip(scene.images.cameras, room.views, strict=True):
        np.testing.assert_allclose(camera.T_world_cam, view.T_world_cam, atol=1e-6)
        np.testing.assert_allclose(camera.K, room.K, rtol=1e-6)
        assert camera.distortion is None
    np.testing.assert_array_equal(
        (scene.images[2].rgb * 255).round().byte().permute(1, 2, 0), room.views[2].rgb
    )
    cloud = scene.cloud()
    np.testing.assert_allclose(cloud.xyz, [p[1] for p in model.points], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cloud.rgb * 255, [p[2] for p in model.points], atol=1e-4)
    # Points were made from the first view, whose pixels must show them.
    assert bool(project(cloud.xyz, scene.images.cameras[0]).in_image.all())


@pytest.mark.parametrize(
    "place", ["sparse", "colmap/sparse/0", "colmap", ".", "calibration", "sparse/mine"]
)
def test_places_of_models(tmp_path, room, colmap, place):
    root = colmap.write_scene(tmp_path / "a", room, place=place)
    scene = open_scene(root)
    assert len(scene.images) == 5
    assert "COLMAP model" in scene.report.notes[0]


def test_a_pose_by_hand(tmp_path, room, colmap):
    """A quarter turn about z and two units forward: world (1, 0, 0) becomes camera (0, 1, 2)."""
    model = colmap.model_of(room, num_points=0)
    half = math.sqrt(0.5)
    model.images[0] = (1, (half, 0.0, 0.0, half), (0.0, 0.0, 2.0), 3, "000000.png")
    root = colmap.write_scene(tmp_path / "a", room, model=model)
    camera = open_scene(root, need=["views"]).images.cameras[0]
    np.testing.assert_allclose(camera.centre, [0, 0, -2], atol=1e-6)
    seen = project(torch.tensor([[1.0, 0.0, 0.0]]), camera)
    np.testing.assert_allclose(seen.uv[0], [32.0, 24.0 + 57.6 / 2], rtol=1e-6)
    np.testing.assert_allclose(seen.depth_m, [2.0])


LENSES = [
    ("SIMPLE_PINHOLE", (60.0, 31.0, 25.0), (60, 60), "pinhole", None),
    ("PINHOLE", (60.0, 61.0, 31.0, 25.0), (60, 61), "pinhole", None),
    ("SIMPLE_RADIAL", (60.0, 31.0, 25.0, 0.1), (60, 60), "pinhole", [0.1, 0, 0, 0]),
    ("SIMPLE_RADIAL", (60.0, 31.0, 25.0, 0.0), (60, 60), "pinhole", None),
    ("RADIAL", (60.0, 31.0, 25.0, 0.1, -0.02), (60, 60), "pinhole", [0.1, -0.02, 0, 0]),
    (
        "OPENCV",
        (60.0, 61.0, 31.0, 25.0, 0.1, -0.02, 0.003, 0.004),
        (60, 61),
        "pinhole",
        [0.1, -0.02, 0.003, 0.004],
    ),
    (
        "FULL_OPENCV",
        (60.0, 61.0, 31.0, 25.0, 0.1, 0.02, 0.003, 0.004, 0.05, 0.06, 0.07, 0.08),
        (60, 61),
        "pinhole",
        [0.1, 0.02, 0.003, 0.004, 0.05, 0.06, 0.07, 0.08],
    ),
    (
        "OPENCV_FISHEYE",
        (60.0, 61.0, 31.0, 25.0, 0.01, 0.02, 0.03, 0.04),
        (60, 61),
        "fisheye",
        [0.01, 0.02, 0.03, 0.04],
    ),
    ("SIMPLE_RADIAL_FISHEYE", (60.0, 31.0, 25.0, 0.01), (60, 60), "fisheye", [0.01, 0, 0, 0]),
    ("RADIAL_FISHEYE", (60.0, 31.0, 25.0, 0.01, 0.02), (60, 60), "fisheye", [0.01, 0.02, 0, 0]),
]


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize(("lens", "parameters", "focal", "model", "coefficients"), LENSES)
def test_lenses(tmp_path, room, colmap, text, lens, parameters, focal, model, coefficients):
    made = colmap.model_of(room, lens=lens, parameters=parameters, num_points=0)
    scene = open_scene(
        colmap.write_scene(tmp_path / "a", room, text=text, model=made), need=["views"]
    )
    camera = scene.images.cameras[1]
    np.testing.assert_allclose(camera.K, [[focal[0], 0, 31], [0, focal[1], 25], [0, 0, 1]])
    assert camera.model == model
    if coefficients is None:
        assert camera.distortion is None
    else:
        np.testing.assert_allclose(camera.distortion, coefficients, rtol=1e-6)


def test_intrinsics_follow_pictures_that_were_resized(tmp_path, room, colmap):
    model = colmap.model_of(room, parameters=(115.2, 115.2, 64.0, 48.0))
    model.cameras[0] = (*model.cameras[0][:2], 128, 96, model.cameras[0][4])
    scene = open_scene(colmap.write_scene(tmp_path / "a", room, model=model))
    np.testing.assert_allclose(scene.images.cameras[0].K, room.K, rtol=1e-6)


@pytest.mark.parametrize("hw", [(257, 343), (265, 353), (18, 24), (17, 23)])
def test_sizes_are_rounded_when_pictures_are_resized(tmp_path, room, colmap, hw):
    """Either may be the smaller one; its rounding is half a pixel of its own."""
    root = colmap.write_scene(tmp_path / "a", room)
    for view in room.views:
        path = root / "images" / f"{view.name}.png"
        Image.open(path).resize((hw[1], hw[0])).save(path)
    assert open_scene(root).images.cameras[0].hw == hw


def test_pictures_of_different_sizes_keep_their_own(tmp_path, room, colmap):
    model = colmap.model_of(room)
    model.cameras.append((9, "PINHOLE", 48, 64, (57.6, 57.6, 24.0, 32.0)))
    model.images[1] = (*model.images[1][:3], 9, model.images[1][4])
    root = colmap.write_scene(tmp_path / "a", room, model=model)
    Image.new("RGB", (48, 64)).save(root / "images" / "000001.png")
    scene = open_scene(root)
    assert [camera.hw for camera in scene.images.cameras][:3] == [(48, 64), (64, 48), (48, 64)]
    assert scene.images[1].rgb.shape == (3, 64, 48)
    assert float(scene.images.cameras[1].K[1, 2]) == 32.0


def test_exif_rotation_is_ignored_as_colmap_does(tmp_path, room, colmap):
    root = colmap.write_scene(tmp_path / "a", room)
    path = root / "images" / "000000.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    image = open_scene(root).images[0]
    assert image.rgb.shape == (3, 48, 64)
    np.testing.assert_allclose(image.rgb.permute(1, 2, 0) * 255, room.views[0].rgb, atol=1e-3)


def test_exif_rotation_is_applied_where_the_model_has_the_turned_shape(tmp_path, room, colmap):
    """Some tools turn photos by their tag before they map them."""
    upright = colmap.model_of(room)
    root = colmap.write_scene(tmp_path / "a", room, model=upright)
    exif = Image.Exif()
    exif[0x0112] = 6
    for view in room.views:
        path = root / "images" / f"{view.name}.png"
        # Orientation 6: the viewer turns the stored pixels clockwise.
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    scene = open_scene(root)
    assert scene.images.cameras[0].hw == (48, 64)
    image = scene.images[0]
    np.testing.assert_allclose(image.rgb.permute(1, 2, 0) * 255, room.views[0].rgb, atol=1e-3)


@pytest.mark.parametrize("name", ["000001.png", "a 1.png", "one more photo.png"])
def test_lines_of_points_may_be_missing(tmp_path, room, colmap, name):
    """Tools that write poses alone leave them out; names with blanks are not taken for points."""
    root = colmap.write_scene(tmp_path / "a", room)
    path = root / "sparse/0/images.txt"
    lines = [line for line in path.read_text().splitlines() if line.endswith("png")]
    path.write_text("\n".join(lines).replace("000001.png", name) + "\n")
    (root / "images" / "000001.png").rename(root / "images" / name)
    scene = open_scene(root)
    whole = open_scene(colmap.write_scene(tmp_path / "b", room))
    renamed = [f"{n}.png".replace("000001.png", name)[:-4] for n in whole.images.names]
    assert set(scene.images.names) == set(renamed)
    for mine, camera in zip(renamed, whole.images.cameras, strict=True):
        found = scene.images.cameras[scene.images.names.index(mine)]
        np.testing.assert_allclose(found.T_world_cam, camera.T_world_cam)


def test_a_file_of_cameras_that_ends_inside_a_line_is_reported(tmp_path, room, colmap):
    """The last number may have lost digits, which nobody can see."""
    root = colmap.write_scene(tmp_path / "a", room)
    path = root / "sparse/0/cameras.txt"
    assert not any("ends inside" in note for note in open_scene(root).report.notes)
    path.write_text(path.read_text().rstrip())
    assert any("cameras.txt ends inside a line" in n for n in open_scene(root).report.notes)


def test_text_as_people_and_windows_write_it(tmp_path, room, colmap):
    root = colmap.write_scene(tmp_path / "a", room)
    path = root / "sparse/0/images.txt"
    lines = path.read_text().splitlines()
    assert lines[-2].endswith("000004.png")
    # No line of points below the last picture, a name with blanks, Windows' line ends and mark.
    lines = [line.replace("000001.png", "my photo 1.png") for line in lines[:-1]]
    path.write_bytes(
        b"\xef\xbb\xbf" + "\r\n".join([*lines[:2], "", "# one more", *lines[2:]]).encode()
    )
    (root / "images" / "000001.png").rename(root / "images" / "my photo 1.png")
    scene = open_scene(root)
    assert set(scene.images.names) == {"000000", "my photo 1", "000002", "000003", "000004"}


def test_names_with_folders_and_pictures_elsewhere(tmp_path, room, colmap):
    model = colmap.model_of(room)
    model.images = [(*image[:4], f"cam{i % 2}/0.png") for i, image in enumerate(model.images[:2])]
    root = tmp_path / "a"
    model.write(root / "sparse/0", text=True)
    for i in (0, 1):
        (root / f"photos/cam{i}").mkdir(parents=True)
        Image.fromarray(room.views[i].rgb).save(root / f"photos/cam{i}/0.png")
    scene = open_scene(root)
    assert scene.images.names == ("cam0-0", "cam1-0")
    np.testing.assert_allclose(
        scene.images.cameras[1].T_world_cam, room.views[1].T_world_cam, atol=1e-6
    )


def test_binary_goes_before_text(tmp_path, room, colmap):
    root = colmap.write_scene(tmp_path / "a", room, text=False)
    other = colmap.model_of(room)
    other.images = other.images[:2]
    other.write(root / "sparse/0", text=True)
    assert len(open_scene(root).images) == 5


def test_the_report_says_what_is_not_used(tmp_path, room, colmap):
    model = colmap.model_of(room)
    model.images = model.images[:4]
    root = colmap.write_scene(tmp_path / "a", room, model=model)
    model.write(root / "sparse/1", text=True)
    path = root / "sparse/0/images.txt"
    path.write_text(path.read_text().replace("images: 4", "images: 40"))
    notes = "\n".join(open_scene(root).report.notes)
    assert "1 pictures are not in the COLMAP model" in notes
    assert "other parts of the reconstruction are not used: 1" in notes
    assert "announces 40 images and has 4" in notes
    assert "in its own unit" in notes


def test_missing_pictures_are_left_out_when_asked(tmp_path, room, colmap, write_json):
    root = colmap.write_scene(tmp_path / "a", room)
    (root / "images/000003.png").unlink()
    write_json(root / "scene.json", {"skip_missing": True})
    scene = open_scene(root)
    assert scene.images.names == ("000000", "000001", "000002", "000004")
    assert "1 listed pictures are not there" in scene.report.notes


@pytest.mark.parametrize("text", [True, False])
def test_points_can_be_filtered(tmp_path, room, colmap, text):
    model = colmap.model_of(room)
    model.points[5] = (5, (math.nan, 0.0, 0.0), (1, 2, 3), 0.0, [(1, 1)] * 4)
    folder = model.write(tmp_path / "m", text=text)
    path = folder / ("points3D.txt" if text else "points3D.bin")
    everything = read_colmap_cloud(path)
    assert len(everything.points.xyz) == 29
    assert everything.num_dropped == 1
    assert everything.scalars["track_length"][:4].tolist() == [1, 2, 1, 2]
    assert everything.scalars["error_px"][:4].tolist() == [0, 0.25, 0.5, 0.75]
    some = read_colmap_cloud(path, min_track=2, max_error_px=0.5)
    wanted = [i for i in range(30) if i % 2 and i % 4 <= 2 and i != 5]
    assert torch.nonzero(some.kept).squeeze(1).tolist() == wanted
    assert set(some.scalars["track_length"]) == {2}


@pytest.mark.parametrize("text", [True, False])
def test_a_scene_without_any_cloud(tmp_path, room, colmap, four_parts, text):
    model = colmap.model_of(room, num_points=0)
    root = colmap.write_scene(tmp_path / "a", room, text=text, model=model)
    scene = open_scene(root, need=["views"])
    assert not scene.has_cloud
    assert "the model has no points" in scene.report.notes
    for ask in (scene.cloud, lambda: open_scene(root)):
        with pytest.raises(DataError, match="points") as caught:
            ask()
        four_parts(caught.value)


def test_points_ply_goes_before_the_points_of_the_model(tmp_path, room, colmap):
    root = colmap.write_scene(tmp_path / "a", room)
    xyz = torch.rand(11, 3) + torch.tensor([1.0, 0, 1])
    write_points(root / "points.ply", Points(xyz=xyz, offsets=torch.tensor([0, 11])))
    assert len(open_scene(root).cloud().xyz) == 11


def test_units_of_a_reconstruction_may_be_any(tmp_path, room, colmap):
    model = colmap.model_of(room)
    model.images = [(i, q, tuple(900 * x for x in t), c, n) for i, q, t, c, n in model.images]
    root = colmap.write_scene(tmp_path / "a", room, model=model)
    assert len(open_scene(root, need=["views"]).images) == 5


def test_the_fingerprint_covers_the_model(tmp_path, room, colmap):
    root = colmap.write_scene(tmp_path / "a", room)
    first = open_scene(root).fingerprint
    path = root / "sparse/0/points3D.txt"
    path.write_text(path.read_text() + "99 1.0 0.5 1.0 9 9 9 0.5 1 1 2 2\n")
    assert open_scene(root).fingerprint != first


def test_axis_align_moves_poses_and_points(tmp_path, room, colmap):
    root = colmap.write_scene(tmp_path / "a", room)
    plain = open_scene(root)
    turn = [[0, -1, 0, 3], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    (root / "scene.json").write_text(json.dumps({"axis_align": turn}))
    moved = open_scene(root)
    before = project(plain.cloud().xyz, plain.images.cameras[0]).uv
    torch.testing.assert_close(
        project(moved.cloud().xyz, moved.images.cameras[0]).uv, before, atol=1e-2, rtol=0
    )


def fit_of(scene, **given):
    return default_fit(scene, **({"num": None, "steps": None, "seed": 0} | given))


def test_splats_of_a_model_are_fitted_and_some_photos_are_kept_for_tests(tmp_path, room, colmap):
    """Points of structure from motion are corners: no scene of splats without a fit."""
    root = colmap.write_scene(tmp_path / "a", room)
    scene = open_scene(root, need=["views"])
    assert scene.sparse_points
    fit = fit_of(scene)
    assert (fit.start, fit.hold_out, fit.opacity) == ("both", 8, 0.1)
    assert fit.steps > 0
    assert (fit_of(scene, steps=0).start, fit_of(scene, steps=0).steps) == ("cloud", 0)
    assert fit_of(scene, num=77, steps=9).num == 77


@pytest.mark.parametrize(("photos", "hold_out"), [(1, None), (3, None), (4, 8)])
def test_few_photos_are_all_fitted(tmp_path, room, colmap, photos, hold_out):
    model = colmap.model_of(room)
    model.images = model.images[:photos]
    scene = open_scene(colmap.write_scene(tmp_path / "a", room, model=model), need=["views"])
    assert fit_of(scene).hold_out == hold_out


def test_what_the_undistorter_leaves_is_found(tmp_path, room, colmap):
    root = tmp_path / "a"
    colmap.model_of(room).write(root / "dense/sparse", text=True)
    colmap.write_pictures(root, room, "dense/images")
    assert len(open_scene(root).images) == 5


def test_a_file_of_points_that_is_short_is_reported(tmp_path, room, colmap):
    root = colmap.write_scene(tmp_path / "a", room)
    path = root / "sparse/0/points3D.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-4]))
    assert "points3D.txt announces 30 points and has 26" in open_scene(root).report.notes


def test_a_cloud_beside_a_model_is_a_scan(tmp_path, room, colmap):
    root = colmap.write_scene(tmp_path / "a", room)
    cloud = read_colmap_cloud(root / "sparse/0/points3D.txt").points
    write_points(root / "points.ply", cloud)
    scene = open_scene(root)
    assert not scene.sparse_points
    assert fit_of(scene).steps == 0


@pytest.mark.parametrize("lost", ["empty", "missing"])
def test_splats_of_a_model_without_points_are_swept_for(tmp_path, room, colmap, lost, four_parts):
    root = colmap.write_scene(tmp_path / "a", room)
    points = root / "sparse/0/points3D.txt"
    points.write_text("# 3D point list\n") if lost == "empty" else points.unlink()
    scene = open_scene(root, need=["views"])
    assert fit_of(scene).start == "sweep"
    with pytest.raises(UsageError) as caught:
        fit_of(scene, steps=0)
    four_parts(caught.value, 2)
