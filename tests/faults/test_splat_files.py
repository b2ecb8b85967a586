"""Splat files that are cut, lie, or hold rows that make no splat."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement

from xmodal.errors import DataError
from xmodal.splats.files import read_splat_file, read_splats

NAMES = [
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
]
COUNT = 40


def table(names=(), drop=(), kind="f4"):
    wanted = [n for n in (*NAMES, *names) if n not in drop]
    rows = np.empty(COUNT, dtype=[(n, kind) for n in wanted])
    rng = np.random.default_rng(0)
    for name in wanted:
        rows[name] = rng.normal(size=COUNT)
    return rows


def save(path, rows, *, text=False):
    data = PlyData([PlyElement.describe(rows, "vertex")], text=text)
    data.byte_order = "=" if text else "<"
    data.write(str(path))
    return path


def refused(path, four_parts, match=None):
    with pytest.raises(DataError, match=match) as caught:
        read_splats(path)
    four_parts(caught.value)
    return caught.value


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("part", range(16))
def test_a_truncated_file_is_refused(tmp_path, four_parts, part, text):
    path = save(tmp_path / "s.ply", table(), text=text)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * part // 16])
    refused(path, four_parts)


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_cut_of_a_binary_file_is_silent(tmp_path, data):
    path = save(tmp_path / "s.ply", table())
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DataError):
        read_splats(path)


def test_no_cut_of_a_text_file_is_silent(tmp_path):
    """Not even one inside the last number, which then reads as another."""
    path = save(tmp_path / "s.ply", table()[:1], text=True)
    whole = path.read_bytes()
    assert len(read_splats(path)) == 1
    body = whole.index(b"end_header")
    for cut in [*range(0, body, 29), *range(body, len(whole) - 30, 5), *range(-30, 0)]:
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError):
            read_splats(path)


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_both_byte_orders_read_the_same_and_cut_alike(tmp_path, kind, four_parts):
    rows = table(kind=kind)
    little = save(tmp_path / "little.ply", rows)
    big = tmp_path / "big.ply"
    data = PlyData([PlyElement.describe(rows, "vertex")], byte_order=">")
    data.write(str(big))
    assert b"binary_big_endian" in big.read_bytes()
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert torch.equal(getattr(read_splats(big), name), getattr(read_splats(little), name))
    whole = big.read_bytes()
    body = whole.index(b"end_header")
    row = len(NAMES) * int(kind[1])
    # In the header, before and in the first row, between rows, and one byte short.
    for cut in (0, 3, body - 1, body + 4, body + 11, body + 11 + row, len(whole) - row, -1):
        big.write_bytes(whole[:cut])
        refused(big, four_parts)


@pytest.mark.parametrize("count", ["100000000000", "-5", "41", "39", "1e9", ""], ids=repr)
@pytest.mark.parametrize("text", [False, True])
def test_a_count_that_lies_is_refused_before_allocation(tmp_path, four_parts, count, text):
    path = save(tmp_path / "s.ply", table(), text=text)
    data = path.read_bytes().replace(b"element vertex 40", f"element vertex {count}".encode())
    path.write_bytes(data)
    tracemalloc.start()
    try:
        refused(path, four_parts)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_trailing_bytes(tmp_path, four_parts):
    path = save(tmp_path / "s.ply", table())
    path.write_bytes(path.read_bytes() + b"0123")
    refused(path, four_parts, "4 more bytes")


@pytest.mark.parametrize("name", [n for n in NAMES if n[0] != "n"])
def test_a_missing_property_is_named(tmp_path, four_parts, name):
    error = refused(save(tmp_path / "s.ply", table(drop=[name])), four_parts)
    assert name in error.wanted or "three scales" in error.wanted


def test_all_missing_properties_are_named_at_once(tmp_path, four_parts):
    error = refused(save(tmp_path / "s.ply", table(drop=["rot_3", "f_dc_1"])), four_parts)
    assert "f_dc_1, rot_3" in error.wanted


@pytest.mark.parametrize("count", [1, 3, 8, 10, 23, 44, 46, 72])
def test_harmonics_of_no_degree(tmp_path, four_parts, count):
    rows = table(names=[f"f_rest_{i}" for i in range(count)])
    error = refused(save(tmp_path / "s.ply", rows), four_parts, "degree")
    assert str(count) in error.got


def test_harmonics_with_a_gap(tmp_path, four_parts):
    rows = table(names=[f"f_rest_{i}" for i in (0, 1, 2, 3, 4, 5, 6, 7, 9)])
    refused(save(tmp_path / "s.ply", rows), four_parts, "f_rest_9")


def test_a_plain_cloud_is_told_apart(tmp_path, four_parts):
    rows = np.zeros(5, dtype=[(n, "f4") for n in "xyz"] + [("red", "u1")])
    refused(save(tmp_path / "s.ply", rows), four_parts, "plain point cloud")


def test_compressed_and_flat_splats_are_told_apart(tmp_path, four_parts):
    rows = np.zeros(5, dtype=[("packed_position", "u4"), ("packed_rotation", "u4")])
    refused(save(tmp_path / "a.ply", rows), four_parts, "compressed")
    refused(save(tmp_path / "b.ply", table(drop=["scale_2"])), four_parts, "flat")


def test_files_that_are_no_ply(tmp_path, four_parts):
    refused(tmp_path / "missing.ply", four_parts, "no such file")
    refused(tmp_path, four_parts)
    (tmp_path / "s.splat").write_bytes(bytes(64))
    refused(tmp_path / "s.splat", four_parts, "a PLY file")


def test_a_file_without_vertices(tmp_path, four_parts):
    path = save(tmp_path / "s.ply", table())
    path.write_bytes(path.read_bytes().replace(b"element vertex", b"element splats"))
    refused(path, four_parts, "splats")


BAD = [
    ("x", np.nan, "finite x"),
    ("y", np.inf, "finite x"),
    ("f_dc_2", np.nan, "harmonics"),
    ("opacity", np.nan, "opacity"),
    ("rot_1", np.nan, "quaternions"),
    ("rot_2", np.inf, "quaternions"),
    ("scale_0", np.nan, "scale"),
    ("scale_1", np.inf, "scale"),
    ("scale_1", -np.inf, "scale"),
    ("scale_2", 89.0, "scale"),
    ("scale_2", -105.0, "scale"),
    ("scale_0", 1e30, "scale"),
]


@pytest.mark.parametrize(("name", "value", "says"), BAD, ids=str)
def test_bad_rows_are_refused_or_dropped(tmp_path, four_parts, name, value, says):
    rows = table()
    rows[name][[5, 9]] = value
    path = save(tmp_path / "s.ply", rows)
    error = refused(path, four_parts, says)
    assert error.got == "2 bad rows of 40, first in row 5"
    file = read_splat_file(path, on_bad="drop")
    assert file.num_dropped == 2
    assert torch.nonzero(~file.kept).squeeze(1).tolist() == [5, 9]
    np.testing.assert_array_equal(file.splats.means[:, 2], np.delete(rows["z"], [5, 9]))


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e30])
def test_quaternions_without_a_length(tmp_path, four_parts, length):
    rows = table()
    for i in range(4):
        rows[f"rot_{i}"][3] = length
    path = save(tmp_path / "s.ply", rows)
    assert "row 3" in refused(path, four_parts, "not zero").got
    assert len(read_splat_file(path, on_bad="drop").splats) == COUNT - 1


def test_doubles_beyond_float32(tmp_path, four_parts):
    rows = table(kind="f8")
    rows["x"][0] = 1e300
    refused(save(tmp_path / "s.ply", rows), four_parts, "finite x")


def test_one_row_with_several_faults_names_them_all(tmp_path, four_parts):
    rows = table()
    rows["x"][0] = rows["opacity"][0] = np.nan
    error = refused(save(tmp_path / "s.ply", rows), four_parts)
    assert "finite x" in error.wanted
    assert "opacity" in error.wanted


def test_dropping_everything_leaves_no_splat(tmp_path):
    rows = table()
    rows["x"] = np.nan
    file = read_splat_file(save(tmp_path / "s.ply", rows), on_bad="drop")
    assert len(file.splats) == 0
    assert file.num_dropped == COUNT


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_flipped_bytes_give_splats_or_a_data_error(tmp_path_factory, data):
    """Whatever the numbers become, what is read passes the checks of `Splats`."""
    path = save(tmp_path_factory.mktemp("flip") / "s.ply", table())
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    try:
        splats = read_splat_file(path, on_bad="drop").splats
    except DataError:
        return
    splats.validate()
