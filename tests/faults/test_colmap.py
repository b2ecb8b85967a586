"""COLMAP models that are cut, lie, or do not fit their pictures."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from xmodal.datasets import open_scene
from xmodal.datasets.colmap_files import read_cameras, read_images, read_points3d
from xmodal.errors import DataError

READERS = {"cameras": read_cameras, "images": read_images, "points3D": read_points3d}


@pytest.fixture(scope="session")
def files(room, colmap, tmp_path_factory):
    """Bytes of a whole model, by name."""
    folder = tmp_path_factory.mktemp("model")
    colmap.model_of(room).write(folder, text=True)
    colmap.model_of(room).write(folder, text=False)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refused(ask, four_parts, match=None):
    with pytest.raises(DataError, match=match) as caught:
        ask()
    four_parts(caught.value)
    return caught.value


@pytest.mark.parametrize("name", list(READERS))
@pytest.mark.parametrize("part", range(16))
def test_a_truncated_binary_file_is_refused(tmp_path, four_parts, files, name, part):
    path = tmp_path / f"{name}.bin"
    data = files[path.name]
    path.write_bytes(data[: len(data) * part // 16])
    refused(lambda: READERS[name](path), four_parts)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(list(READERS)), data=st.data())
def test_no_cut_of_a_binary_file_is_silent(tmp_path, files, name, data):
    path = tmp_path / f"{name}.bin"
    whole = files[path.name]
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DataError):
        READERS[name](path)


@pytest.mark.parametrize("name", list(READERS))
@pytest.mark.parametrize("change", [-1, 1, 10**6, 2**62])
def test_counts_that_lie_are_refused_before_allocation(tmp_path, four_parts, files, name, change):
    path = tmp_path / f"{name}.bin"
    data = files[path.name]
    (count,) = struct.unpack_from("<Q", data)
    path.write_bytes(struct.pack("<Q", count + change) + data[8:])
    refused(lambda: READERS[name](path), four_parts)


def test_inner_counts_that_lie(tmp_path, four_parts, files):
    data = bytearray(files["images.bin"])
    at = data.index(b"000001.png\0") + 11
    data[at : at + 8] = struct.pack("<Q", 2**60)
    (tmp_path / "images.bin").write_bytes(bytes(data))
    refused(lambda: read_images(tmp_path / "images.bin"), four_parts, "image 2 of 5")
    data = bytearray(files["points3D.bin"])
    data[8 + 43 : 8 + 51] = struct.pack("<Q", 2**60)
    (tmp_path / "points3D.bin").write_bytes(bytes(data))
    refused(lambda: read_points3d(tmp_path / "points3D.bin"), four_parts, "point 1 of 30")


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(list(READERS)), ending=st.sampled_from(["bin", "txt"]), data=st.data())
def test_damaged_files_are_read_or_refused_but_never_crash(tmp_path, files, name, ending, data):
    path = tmp_path / f"{name}.{ending}"
    raw = bytearray(files[path.name])
    for _ in range(data.draw(st.integers(1, 5))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    try:
        READERS[name](path)
    except DataError:
        return


CAMERA_LINES = [
    ("1 PINHOLE 64 48 50 50 32", "4 parameters"),
    ("1 PINHOLE 64 48 50 50 32 24 0", "5 parameters"),
    ("1 BROWN 64 48 50 50 32 24", "BROWN"),
    ("1 PINHOLE", "CAMERA_ID MODEL"),
    ("x PINHOLE 64 48 50 50 32 24", "invalid literal"),
    ("1 PINHOLE 64 48 fifty 50 32 24", "could not convert"),
    ("1 PINHOLE 64 48 nan 50 32 24", "finite parameters"),
    ("1 PINHOLE 0 48 50 50 32 24", "0 x 48"),
    ("1 PINHOLE -64 48 50 50 32 24", "-64 x 48"),
    ("1 PINHOLE 64 48 50 50 32 24\n1 PINHOLE 64 48 50 50 32 24", "camera 1 twice"),
]


@pytest.mark.parametrize(("line", "says"), CAMERA_LINES)
def test_wrong_cameras_name_their_line(tmp_path, four_parts, line, says):
    path = tmp_path / "cameras.txt"
    path.write_text(f"# comment\n{line}\n")
    error = refused(lambda: read_cameras(path), four_parts, says)
    assert "cameras.txt:" in error.where


IMAGE_LINES = [
    ("1 1 0 0 0 0 0 0 3", "IMAGE_ID QW"),
    ("1 1 0 0 0 0 0 zero 3 a.png", "could not convert"),
    ("1 1 0 0 0 0 0 0 3.5 a.png", "invalid literal"),
    ("1 1 0 0 0 0 0 0 3 a.png\n1 2", "an empty line where there is none"),
    ("1 1 0 0 0 0 0 0 3 a.png\n10.5 20.25 1 11", "an empty line"),
    ("1 1 0 0 0 0 0 0 3 a.png\n\n2 1 0 0 0 0 0 0 3 a.png", "names that differ"),
]


@pytest.mark.parametrize(("line", "says"), IMAGE_LINES)
def test_wrong_images_name_their_line(tmp_path, four_parts, line, says):
    path = tmp_path / "images.txt"
    path.write_text(f"{line}\n")
    error = refused(lambda: read_images(path), four_parts, says)
    assert "images.txt:" in error.where


POINT_LINES = [
    ("1 0 0 0 9 9 9", "POINT3D_ID"),
    ("1 0 0 0 9 9 9 0.5 1", "pairs"),
    ("1 0 0 zero 9 9 9 0.5", "could not convert"),
    ("1 0 0 0 9 9 300 0.5", "from 0 to 255"),
    ("1 0 0 0 9 9 -1 0.5", "from 0 to 255"),
    ("1 0 0 0 9 9 0.5 0.5", "invalid literal"),
]


@pytest.mark.parametrize(("line", "says"), POINT_LINES)
def test_wrong_points_name_their_line(tmp_path, four_parts, line, says):
    path = tmp_path / "points3D.txt"
    path.write_text(f"{line}\n")
    error = refused(lambda: read_points3d(path), four_parts, says)
    assert "points3D.txt:1" in error.where


def test_text_that_is_none_and_files_that_are_not_there(tmp_path, four_parts):
    for name, reader in READERS.items():
        refused(lambda n=name, r=reader: r(tmp_path / f"{n}.txt"), four_parts, "No such file")
        (tmp_path / f"{name}.txt").write_bytes(b"\xff\xfe\x00")
        refused(lambda n=name, r=reader: r(tmp_path / f"{n}.txt"), four_parts, "UTF-8")


def test_an_unknown_number_of_a_model(tmp_path, four_parts, files):
    data = bytearray(files["cameras.bin"])
    data[12:16] = struct.pack("<i", 77)
    (tmp_path / "cameras.bin").write_bytes(bytes(data))
    refused(lambda: read_cameras(tmp_path / "cameras.bin"), four_parts, "77")


@pytest.fixture
def opened(tmp_path, room, colmap, four_parts):
    """Write a spoilt model with its pictures, open it, and check the error."""

    def check(spoil, match, *, model=None, text=True):
        made = model or colmap.model_of(room)
        root = colmap.write_scene(tmp_path / "a", room, text=text, model=made)
        spoil(root)
        return refused(lambda: open_scene(root).cloud(), four_parts, match)

    return check


QUATERNIONS = [(0.0, 0.0, 0.0, 0.0), (2.0, 0.0, 0.0, 0.0), (math.nan, 0.0, 0.0, 1.0)]


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("q", QUATERNIONS, ids=str)
def test_quaternions_that_are_no_rotation(room, colmap, opened, q, text):
    model = colmap.model_of(room)
    model.images[2] = (3, q, (0.0, 0.0, 0.0), 3, "000002.png")
    opened(lambda root: None, "length 1", model=model, text=text)


@pytest.mark.parametrize("t", [(math.inf, 0.0, 0.0), (0.0, math.nan, 0.0)], ids=str)
def test_translations_that_are_not_finite(room, colmap, opened, t):
    model = colmap.model_of(room)
    model.images[0] = (1, (1.0, 0.0, 0.0, 0.0), t, 3, "000000.png")
    opened(lambda root: None, "finite TX TY TZ", model=model)


def test_a_camera_too_far_away(room, colmap, opened):
    model = colmap.model_of(room)
    model.images[0] = (1, (1.0, 0.0, 0.0, 0.0), (1e6, 0.0, 0.0), 3, "000000.png")
    opened(lambda root: None, "of the origin", model=model)


def test_a_camera_that_is_missing(room, colmap, opened):
    model = colmap.model_of(room)
    model.images[1] = (*model.images[1][:3], 8, model.images[1][4])
    opened(lambda root: None, "camera 8", model=model)


@pytest.mark.parametrize(
    ("lens", "parameters"),
    [
        ("FOV", (60.0, 60.0, 32.0, 24.0, 0.9)),
        ("THIN_PRISM_FISHEYE", (60.0, 60.0, 32.0, 24.0, *[0.0] * 8)),
    ],
)
def test_lenses_without_an_equal_here(room, colmap, opened, lens, parameters):
    model = colmap.model_of(room, lens=lens, parameters=parameters)
    error = opened(lambda root: None, lens, model=model, text=False)
    assert "image_undistorter" in error.fix


def test_a_picture_that_is_missing(opened):
    error = opened(lambda root: (root / "images/000003.png").unlink(), "1 are missing: 000003")
    assert "skip_missing" in error.fix


def test_no_pictures_at_all(opened):
    opened(lambda root: (root / "images").rename(root / "sparse/pictures"), "images/000000.png")


def test_a_model_without_pictures(room, colmap, opened):
    model = colmap.model_of(room)
    model.images = []
    opened(lambda root: None, "registered picture", model=model)


def test_half_a_model(opened):
    error = opened(lambda root: (root / "sparse/0/images.txt").unlink(), "both .bin or both .txt")
    assert "cameras.txt" in error.got


def test_pictures_of_another_shape(opened):
    def turn(root):
        Image.new("RGB", (48, 64)).save(root / "images/000001.png")

    opened(turn, "64 x 48 for a picture of 48 x 64")


def test_a_damaged_picture(opened):
    opened(lambda root: (root / "images/000001.png").write_bytes(b"PNG"), "000001.png")


@pytest.mark.parametrize("name", ["../images/000001.png", "/etc/000001.png"])
def test_names_that_leave_their_folder(room, colmap, opened, name):
    model = colmap.model_of(room)
    model.images[1] = (*model.images[1][:4], name)
    opened(lambda root: None, "inside their folder|missing", model=model)


@pytest.mark.parametrize("parameters", [(-60.0, 60.0, 32.0, 24.0), (60.0, 60.0, 320.0, 24.0)])
def test_intrinsics_that_do_not_fit(room, colmap, opened, parameters):
    opened(lambda root: None, "intrinsics", model=colmap.model_of(room, parameters=parameters))


def test_points_that_no_camera_sees(room, colmap, opened):
    model = colmap.model_of(room)
    model.points = [(1, (0.0, 0.0, 900.0), (1, 2, 3), 0.1, [])]
    opened(lambda root: None, "none in any image", model=model)


def test_points_that_are_not_numbers(room, colmap, opened):
    model = colmap.model_of(room)
    model.points = [(1, (math.nan, 0.0, 1.0), (1, 2, 3), 0.1, [])]
    opened(lambda root: None, "at least one finite point", model=model)


def test_all_faults_come_in_one_message(room, colmap, opened):
    model = colmap.model_of(room)
    model.images[1] = (*model.images[1][:3], 8, model.images[1][4])
    model.images[2] = (3, (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 3, "000002.png")
    error = opened(lambda root: None, "2 faults", model=model)
    assert "camera 8" in error.got
    assert np.all([part in error.got for part in ("images.txt:5", "images.txt:7")])
