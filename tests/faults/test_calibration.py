"""Fault matrix rows 15 and 16: intrinsics and poses that cannot be right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.datasets import open_scene
from xmodal.datasets.calibration import check_intrinsics, read_pose, rotation_error, to_pose
from xmodal.errors import DataError

GOOD_K = np.array([[58.0, 0, 32], [0, 58, 24], [0, 0, 1]])


def changed(row, column, value):
    K = GOOD_K.copy()
    K[row, column] = value
    return K


INTRINSICS = {
    "fx zero": changed(0, 0, 0.0),
    "fy negative": changed(1, 1, -58.0),
    "nan": changed(0, 2, np.nan),
    "skew": changed(0, 1, 12.0),
    "bottom row": changed(2, 0, 1.0),
    "transposed": GOOD_K.T.copy(),
    "normalised": GOOD_K / 64,
    "for twice the size": np.diag([2.0, 2, 1]) @ GOOD_K,
    "for half the size": np.diag([0.5, 0.5, 1]) @ GOOD_K,
    "squeezed": changed(0, 0, 5800.0),
    "centre outside": changed(0, 2, 500.0),
}


@pytest.mark.parametrize("name", INTRINSICS)
def test_wrong_intrinsics_name_the_camera(scene_folder, four_parts, name):
    np.savetxt(scene_folder / "intrinsic.txt", INTRINSICS[name])
    with pytest.raises(DataError) as caught:
        open_scene(scene_folder)
    four_parts(caught.value)
    assert "camera" in str(caught.value)
    assert "intrinsic" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "1 2 3", "a b c", "1 2\n3", "1 2 3\n4 5 6", "\x00\xff", "1 2 3 " * 40_000]
)
def test_files_that_are_no_matrix_are_refused(scene_folder, four_parts, text):
    (scene_folder / "intrinsic.txt").write_text(text)
    with pytest.raises(DataError, match=r"intrinsic\.txt") as caught:
        open_scene(scene_folder)
    four_parts(caught.value)


def test_missing_intrinsics_are_refused(scene_folder, four_parts):
    (scene_folder / "intrinsic.txt").unlink()
    with pytest.raises(DataError, match="camera intrinsics") as caught:
        open_scene(scene_folder)
    four_parts(caught.value)


@settings(deadline=None, max_examples=40)
@given(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([(0, 0), (1, 1), (0, 2), (1, 2)]),
)
def test_any_number_in_an_intrinsic_matrix_is_judged(value, place):
    wrong = check_intrinsics(changed(*place, value), hw=(48, 64), where="the camera")
    fits = {(0, 0): 6.4 < value < 1920, (1, 1): 29 < value < 116, (0, 2): 19.2 < value < 44.8}
    fits[1, 2] = 14.4 < value < 33.6
    if not fits[place]:
        assert wrong
        assert all("the camera" in text for text in wrong)
    elif place in ((0, 2), (1, 2)):
        assert not wrong


def pose(R=None, t=(0.0, 0.0, 0.0), bottom=(0.0, 0.0, 0.0, 1.0)):
    T = np.eye(4)
    T[:3, :3] = np.eye(3) if R is None else R
    T[:3, 3], T[3] = t, bottom
    return T


SHEAR = np.eye(3)
SHEAR[0, 1] = 0.02
POSES = {
    "scaled": pose(1.01 * np.eye(3)),
    "twice": pose(2.0 * np.eye(3)),
    "mirrored": pose(np.diag([1.0, 1, -1])),
    "sheared": pose(SHEAR),
    "zero": np.zeros((4, 4)),
    "bottom row": pose(bottom=(0.0, 0, 0, 2)),
    "transposed": pose(t=(1.0, 2, 3)).T.copy(),
    "far away": pose(t=(5e5, 0, 0)),
}


@pytest.mark.parametrize("name", POSES)
def test_a_pose_that_is_not_rigid_names_its_file(scene_folder, four_parts, name):
    np.savetxt(scene_folder / "pose" / "000002.txt", POSES[name])
    with pytest.raises(DataError, match=r"pose/000002\.txt") as caught:
        open_scene(scene_folder)
    four_parts(caught.value)
    if name in ("scaled", "mirrored", "sheared", "zero"):
        assert "||R R^T - I||" in caught.value.got


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-0.5, 0.5), min_size=9, max_size=9))
def test_a_perturbed_rotation_is_repaired_or_refused(noise):
    T = pose(np.eye(3) + np.array(noise).reshape(3, 3))
    if rotation_error(T) > 5e-3:
        with pytest.raises(DataError, match=r"\|\|R R\^T - I\|\|"):
            to_pose(T, "pose")
    else:
        assert rotation_error(to_pose(T, "pose").T_world_cam) < 1e-12


@pytest.mark.parametrize("text", ["", "1 2 3", "no numbers", "1 0 0 0\n0 1 0 0\n0 0 1"])
def test_files_that_are_no_pose_are_refused(tmp_path, four_parts, text):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(DataError) as caught:
        read_pose(tmp_path / "p.txt")
    four_parts(caught.value)


@pytest.mark.parametrize("shape", [(4, 4), (3, 4), (1, 16), (16, 1)])
def test_poses_may_be_written_in_several_shapes(tmp_path, shape):
    T = pose(t=(1.0, 2.0, 3.0))
    np.savetxt(tmp_path / "p.txt", T[: shape[0]] if shape[1] == 4 else T.reshape(shape))
    np.testing.assert_array_equal(read_pose(tmp_path / "p.txt").T_world_cam, T)


def test_cameras_in_millimetres_are_refused(scene_folder, room, four_parts):
    for view in room.views:
        T = view.T_world_cam.copy()
        T[:3, 3] *= 1000
        np.savetxt(scene_folder / "pose" / f"{view.name}.txt", T)
    with pytest.raises(DataError, match="look like millimetres") as caught:
        open_scene(scene_folder)
    four_parts(caught.value)


def test_sensors_with_different_poses_are_refused(scene_folder, room, four_parts):
    folder = scene_folder / "intrinsic"
    folder.mkdir()
    np.savetxt(folder / "intrinsic_color.txt", room.K)
    np.savetxt(folder / "extrinsic_depth.txt", pose(t=(0.02, 0, 0)))
    with pytest.raises(DataError, match="share the pose") as caught:
        open_scene(scene_folder)
    four_parts(caught.value)


def test_poses_the_wrong_way_round_are_refused(scene_folder, room, four_parts):
    for view in room.views:
        np.savetxt(scene_folder / "pose" / f"{view.name}.txt", np.linalg.inv(view.T_world_cam))
    with pytest.raises(DataError, match="invert every pose matrix") as caught:
        open_scene(scene_folder)
    four_parts(caught.value)


def test_a_camera_that_stands_still_is_no_reason_to_refuse(scene_folder, room):
    for view in room.views:
        np.savetxt(scene_folder / "pose" / f"{view.name}.txt", np.eye(4))
    assert len(open_scene(scene_folder).images) == 5
