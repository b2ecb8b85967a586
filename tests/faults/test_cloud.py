"""Fault matrix rows 1 to 5: clouds that are cut, lie, or hold nothing usable."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement

from xmodal.datasets import open_scene
from xmodal.errors import DataError
from xmodal.ply import read_points


def ply_bytes(tmp_path, *, text=False, xyz=None) -> bytes:
    if xyz is None:
        xyz = np.random.default_rng(0).normal(size=(100, 3))
    rows = np.empty(len(xyz), dtype=[(n, "f4") for n in "xyz"])
    for column, name in enumerate("xyz"):
        rows[name] = xyz[:, column]
    faces = np.zeros(3 if len(xyz) else 0, dtype=[("vertex_indices", "i4", (3,))])
    elements = [PlyElement.describe(rows, "vertex"), PlyElement.describe(faces, "face")]
    PlyData(elements, text=text, byte_order="=" if text else "<").write(str(tmp_path / "made.ply"))
    return (tmp_path / "made.ply").read_bytes()


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("part", range(16))
def test_a_truncated_cloud_is_refused(tmp_path, four_parts, part, text):
    data = ply_bytes(tmp_path, text=text)
    path = tmp_path / "c.ply"
    path.write_bytes(data[: len(data) * part // 16])
    with pytest.raises(DataError) as caught:
        read_points(path)
    four_parts(caught.value)


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_cut_of_a_binary_cloud_is_silent(tmp_path, data):
    whole = ply_bytes(tmp_path)
    path = tmp_path / "c.ply"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DataError):
        read_points(path)


def test_truncation_names_element_and_bytes(tmp_path):
    path = tmp_path / "c.ply"
    path.write_bytes(ply_bytes(tmp_path)[:-600])
    with pytest.raises(DataError, match=r"element `vertex`, at least 1200 bytes") as caught:
        read_points(path)
    assert "enough for" in caught.value.got


@pytest.mark.parametrize(
    "count", ["100000000000", "9" * 40, "-5", "1e9", "101", "99", "", "0x10"], ids=repr
)
@pytest.mark.parametrize("text", [False, True])
def test_a_header_that_lies_is_refused_before_allocation(tmp_path, four_parts, count, text):
    data = ply_bytes(tmp_path, text=text)
    path = tmp_path / "c.ply"
    path.write_bytes(data.replace(b"element vertex 100", f"element vertex {count}".encode()))
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            read_points(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    four_parts(caught.value)
    assert peak < 20e6


READ_UNDER_LIMIT = """
import resource, sys
from pathlib import Path
from xmodal.errors import DataError
from xmodal.ply import read_points

# A gigabyte beyond what the imports have mapped; torch alone maps more than that.
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (1 << 30), resource.RLIM_INFINITY))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refused = 0
for path in map(Path, sys.argv[1:]):
    try:
        read_points(path)
    except DataError:
        refused += 1
print(refused, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc for the memory in use")
def test_headers_that_lie_take_no_memory_under_a_limit(tmp_path):
    """In a process of its own with 1 GiB to spare; the peak grows by less than 200 MB."""
    lies = [b"100000000000", b"-100000000000", b"18446744073709551616", b"2147483648"]
    paths: list[str] = []
    for text in (False, True):
        whole = ply_bytes(tmp_path, text=text)
        for element, count in ((b"vertex", b"100"), (b"face", b"3")):
            for lie in lies:
                changed = b"element %b %b" % (element, count), b"element %b %b" % (element, lie)
                paths.append(str(tmp_path / f"{len(paths)}.ply"))
                Path(paths[-1]).write_bytes(whole.replace(*changed))
    done = subprocess.run(
        [sys.executable, "-c", READ_UNDER_LIMIT, *paths],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    refused, grown_kb = map(int, done.stdout.split())
    assert refused == len(paths) == 16
    assert grown_kb < 200_000


HEADERS = {
    "empty": b"",
    "no ply": b"plx\nformat ascii 1.0\n",
    "no format": b"ply\nelement vertex 0\nproperty float x\nend_header\n",
    "unknown format": b"ply\nformat binary_middle_endian 1.0\nend_header\n",
    "no end": b"ply\nformat ascii 1.0\nelement vertex 0\n",
    "endless": b"ply\nformat ascii 1.0\n" + b"comment x\n" * 20_000,
    "unknown type": b"ply\nformat ascii 1.0\nelement vertex 0\nproperty quad x\nend_header\n",
    "no vertex": b"ply\nformat ascii 1.0\nelement camera 0\nproperty float x\nend_header\n",
    "no y": b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nend_header\n",
    "no element": b"ply\nformat ascii 1.0\nend_header\n",
    "words": b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
    b"property float z\nend_header\na b c\n",
    "few columns": b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
    b"property float z\nend_header\n1.0  2.0\n",
    "twice x": b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float x\n"
    b"property float z\nend_header\n1 2 3\n",
    "list x": b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar float x\n"
    b"property float y\nproperty float z\nend_header\n1 2 3 4\n",
    "negative colour": b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\n"
    b"property float y\nproperty float z\nproperty float red\nproperty float green\n"
    b"property float blue\nend_header\n1 2 3 -1 0 0\n",
    "not ascii": b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
    b"property float z\nend_header\n\xff\xfe 2 3\n",
}


@pytest.mark.parametrize("name", HEADERS)
def test_other_broken_clouds_are_refused(tmp_path, four_parts, name):
    path = tmp_path / "c.ply"
    path.write_bytes(HEADERS[name])
    with pytest.raises(DataError) as caught:
        read_points(path)
    four_parts(caught.value)


@pytest.mark.parametrize("text", [False, True])
def test_trailing_bytes_are_refused(tmp_path, four_parts, text):
    path = tmp_path / "c.ply"
    path.write_bytes(ply_bytes(tmp_path, text=text) + b"1 2 3\n" * 80)
    with pytest.raises(DataError) as caught:
        read_points(path)
    four_parts(caught.value)


def test_bad_vertices_can_be_refused(tmp_path, four_parts):
    xyz = np.zeros((10, 3))
    xyz[4] = np.nan
    path = tmp_path / "c.ply"
    path.write_bytes(ply_bytes(tmp_path, xyz=xyz))
    with pytest.raises(DataError, match="1 of 10, first in row 4") as caught:
        read_points(path, on_bad="raise")
    four_parts(caught.value)


def test_a_missing_cloud_is_refused(tmp_path, four_parts):
    with pytest.raises(DataError, match="no such file") as caught:
        read_points(tmp_path / "none.ply")
    four_parts(caught.value)


@pytest.mark.parametrize(
    ("xyz", "message"),
    [
        (np.zeros((0, 3)), "at least one finite point"),
        (np.full((3, 3), np.nan), "3 of them not finite"),
        (np.array([[2000.0, 0, 1300]]) * 1000, "none in any image"),
        (np.array([[-2.0, 0, 1.3]]), "none in any image"),
    ],
    ids=["empty", "nan", "millimetres", "behind"],
)
def test_points_that_no_camera_can_see_are_refused(
    scene_folder, tmp_path, four_parts, xyz, message
):
    (scene_folder / "points.ply").write_bytes(ply_bytes(tmp_path, xyz=xyz))
    scene = open_scene(scene_folder)
    with pytest.raises(DataError, match=message) as caught:
        scene.cloud()
    four_parts(caught.value)


@pytest.mark.parametrize("num", [1, 5])
def test_one_point_and_identical_points_are_a_cloud(scene_folder, tmp_path, num):
    xyz = np.tile([[2.0, 0.0, 1.3]], (num, 1))
    (scene_folder / "points.ply").write_bytes(ply_bytes(tmp_path, xyz=xyz))
    assert open_scene(scene_folder).cloud().xyz.shape == (num, 3)
