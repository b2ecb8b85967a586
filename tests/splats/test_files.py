"""Splat files: as the reference trainer and gsplat write them, round trips, and `.splat`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement

from lifting.gaussians.splats import Splats
from xmodal.errors import DataError
from xmodal.splats.files import read_splat_file, read_splats, write_dot_splat, write_splats

REFERENCE = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
LAST = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


def names_of(degree, normals=True):
    names = REFERENCE if normals else [n for n in REFERENCE if n[0] != "n"]
    return [*names, *(f"f_rest_{i}" for i in range(3 * ((degree + 1) ** 2 - 1))), *LAST]


def table_of(count=7, degree=3, kind="f4", names=None, seed=0):
    """Random rows; the number of a property is its place among all of a full file."""
    rng = np.random.default_rng(seed)
    rows = np.empty(count, dtype=[(name, kind) for name in names or names_of(degree)])
    for name in names_of(3):
        column = rng.normal(size=count)
        if name in rows.dtype.names:
            rows[name] = column
    return rows


def save(path, rows, *, text=False, byte_order="<"):
    data = PlyData([PlyElement.describe(rows, "vertex")], text=text)
    data.byte_order = "=" if text else byte_order
    data.write(str(path))
    return path


def random_splats(count, degree, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return Splats(
        means=torch.randn(count, 3, generator=g, dtype=dtype),
        quats=torch.randn(count, 4, generator=g, dtype=dtype),
        scales=torch.randn(count, 3, generator=g, dtype=dtype).mul(3).exp(),
        opacities=torch.rand(count, generator=g, dtype=dtype),
        sh=torch.randn(count, (degree + 1) ** 2, 3, generator=g, dtype=dtype),
    )


def assert_same(got, wanted):
    torch.testing.assert_close(got.means, wanted.means, rtol=0, atol=0)
    torch.testing.assert_close(got.quats, wanted.quats, rtol=0, atol=0)
    torch.testing.assert_close(got.sh, wanted.sh, rtol=0, atol=0)
    torch.testing.assert_close(got.scales, wanted.scales, rtol=1e-6, atol=0)
    torch.testing.assert_close(got.opacities, wanted.opacities, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "style", [{"text": True}, {"byte_order": "<"}, {"byte_order": ">"}], ids=str
)
def test_the_reference_layout(tmp_path, degree, style):
    rows = table_of(degree=degree)
    splats = read_splats(save(tmp_path / "s.ply", rows, **style))
    size = (degree + 1) ** 2
    assert splats.sh_degree == degree
    assert splats.sh.shape == (7, size, 3)
    np.testing.assert_allclose(splats.means[:, 1], rows["y"], rtol=1e-6)
    np.testing.assert_allclose(splats.scales[:, 2], np.exp(rows["scale_2"]), rtol=1e-6)
    np.testing.assert_allclose(splats.opacities, 1 / (1 + np.exp(-rows["opacity"])), rtol=1e-6)
    np.testing.assert_allclose(splats.quats[:, 0], rows["rot_0"], rtol=1e-6)
    np.testing.assert_allclose(splats.sh[:, 0, 2], rows["f_dc_2"], rtol=1e-6)
    for harmonic in range(size - 1):
        for channel in range(3):  # all of red, then all of green, then all of blue
            wanted = rows[f"f_rest_{channel * (size - 1) + harmonic}"]
            np.testing.assert_allclose(splats.sh[:, harmonic + 1, channel], wanted, rtol=1e-6)


@pytest.mark.parametrize("degree", [0, 3])
def test_gsplat_s_layout_without_normals_reads_the_same(tmp_path, degree):
    ours = read_splats(save(tmp_path / "a.ply", table_of(degree=degree)))
    bare = table_of(names=names_of(degree, normals=False))
    assert_same(read_splats(save(tmp_path / "b.ply", bare)), ours)


@settings(deadline=None, max_examples=20)
@given(order=st.permutations(names_of(1)), kind=st.sampled_from(["f4", "f8"]))
def test_the_order_and_the_precision_of_properties_do_not_matter(tmp_path_factory, order, kind):
    folder = tmp_path_factory.mktemp("order")
    wanted = read_splats(save(folder / "a.ply", table_of(degree=1)))
    assert_same(read_splats(save(folder / "b.ply", table_of(names=order, kind=kind))), wanted)


def test_what_is_written_has_the_reference_s_header(tmp_path):
    write_splats(tmp_path / "s.ply", random_splats(5, 3))
    lines = (tmp_path / "s.ply").read_bytes().split(b"end_header\n")[0].decode().splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 5"]
    assert lines[3:] == [f"property float {name}" for name in names_of(3)]
    body = np.frombuffer((tmp_path / "s.ply").read_bytes()[-5 * 62 * 4 :], "<f4").reshape(5, 62)
    assert (body[:, 3:6] == 0).all()


@settings(deadline=None, max_examples=25)
@given(count=st.integers(0, 20), degree=st.integers(0, 3), seed=st.integers(0, 1000))
def test_writing_and_reading_is_the_identity(tmp_path_factory, count, degree, seed):
    path = tmp_path_factory.mktemp("round") / "s.ply"
    splats = random_splats(count, degree, seed)
    write_splats(path, splats)
    assert_same(read_splats(path), splats)


def test_reading_and_writing_gives_the_numbers_of_the_file_back(tmp_path):
    rows = table_of(count=500)
    for name in ("scale_0", "scale_1", "scale_2", "opacity"):
        rows[name] = np.sign(rows[name]) * (2 + np.abs(rows[name]))
    write_splats(tmp_path / "b.ply", read_splats(save(tmp_path / "a.ply", rows)))
    again = PlyData.read(str(tmp_path / "b.ply"))["vertex"].data
    for name in names_of(3):
        if name not in ("nx", "ny", "nz", "opacity"):
            np.testing.assert_array_equal(again[name], rows[name], err_msg=name)
    np.testing.assert_allclose(again["opacity"], rows["opacity"], atol=1e-4)


def test_opacities_of_exactly_0_and_1_stay(tmp_path):
    splats = random_splats(4, 0)
    splats.opacities[:2] = torch.tensor([0.0, 1.0])
    write_splats(tmp_path / "s.ply", splats)
    assert read_splats(tmp_path / "s.ply").opacities[:2].tolist() == [0.0, 1.0]
    stored = PlyData.read(str(tmp_path / "s.ply"))["vertex"].data["opacity"]
    assert np.isfinite(stored).all()


def test_an_infinite_logit_is_an_opacity_of_1(tmp_path):
    rows = table_of(2, 0)
    rows["opacity"] = [np.inf, -np.inf]
    assert read_splats(save(tmp_path / "s.ply", rows)).opacities.tolist() == [1.0, 0.0]


def test_double_precision_and_splats_without_colour(tmp_path):
    splats = random_splats(3, 0, dtype=torch.float64)
    bare = Splats(
        means=splats.means, quats=splats.quats, scales=splats.scales, opacities=splats.opacities
    )
    write_splats(tmp_path / "s.ply", bare)
    back = read_splats(tmp_path / "s.ply")
    assert back.means.dtype == torch.float32
    assert (back.sh == 0).all()
    assert back.sh.shape == (3, 1, 3)


def test_scalars_travel_along(tmp_path):
    scalars = {
        "score": torch.arange(4) / 4,
        "label": torch.tensor([3, -1, 2, 0]),
        "seen": torch.tensor([True, False, True, True]),
    }
    write_splats(tmp_path / "s.ply", random_splats(4, 1), scalars=scalars)
    back = read_splat_file(tmp_path / "s.ply").scalars
    assert set(back) == set(scalars)
    for name, values in scalars.items():
        np.testing.assert_allclose(back[name], values.numpy())


@pytest.mark.parametrize("name", ["x", "opacity", "rot_4", "rotation", "scale_x", "f_rest_99", ""])
def test_scalars_have_names_of_their_own(tmp_path, name):
    with pytest.raises(ValueError, match="new name"):
        write_splats(tmp_path / "s.ply", random_splats(2, 0), scalars={name: torch.zeros(2)})


def test_scalars_have_one_value_a_splat(tmp_path):
    with pytest.raises(ValueError, match="2 values"):
        write_splats(tmp_path / "s.ply", random_splats(2, 0), scalars={"a": torch.zeros(3)})


def test_a_failed_write_leaves_the_old_file(tmp_path, four_parts):
    (tmp_path / "file").write_text("old")
    for write in (write_splats, write_dot_splat):
        with pytest.raises(DataError) as caught:
            write(tmp_path / "file" / "s.ply", random_splats(2, 0))
        four_parts(caught.value)
    assert (tmp_path / "file").read_text() == "old"


def test_dot_splat_by_hand(tmp_path):
    turn = math.sqrt(0.5)
    splats = Splats(
        means=torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]),
        quats=torch.tensor([[1.0, 0, 0, 0], [2 * turn, 0, -2 * turn, 0], [0, 0, 0, -3.0]]),
        scales=torch.tensor([[0.1, 0.1, 0.1], [1, 2, 3], [1, 2, 3]]),
        opacities=torch.tensor([1.0, 0.5, 0.25]),
        sh=torch.tensor([[[0.0, 0, 0]], [[2, -2, 0]], [[1, 0.5, 0]]]),
    )
    write_dot_splat(tmp_path / "s.splat", splats)
    data = (tmp_path / "s.splat").read_bytes()
    assert len(data) == 3 * 32
    rows = [data[i : i + 32] for i in (0, 32, 64)]
    # Large and opaque first: splat 1, then 2, then the small one.
    positions = [np.frombuffer(row[:12], "<f4").tolist() for row in rows]
    assert positions == [[4, 5, 6], [7, 8, 9], [1, 2, 3]]
    assert np.frombuffer(rows[0][12:24], "<f4").tolist() == [1, 2, 3]
    assert list(rows[0][24:28]) == [255, 0, 128, 128]
    assert list(rows[1][24:28]) == [199, 163, 128, 64]
    assert list(rows[2][24:28]) == [128, 128, 128, 255]
    assert list(rows[0][28:]) == [219, 128, 37, 128]
    assert list(rows[1][28:]) == [128, 128, 128, 0]
    assert list(rows[2][28:]) == [255, 128, 128, 128]


@settings(deadline=None, max_examples=15)
@given(count=st.integers(0, 30), seed=st.integers(0, 100))
def test_dot_splat_keeps_every_splat_within_its_8_bits(tmp_path_factory, count, seed):
    path = tmp_path_factory.mktemp("dot") / "s.splat"
    splats = random_splats(count, 2, seed)
    write_dot_splat(path, splats)
    rows = np.frombuffer(path.read_bytes(), "<f4").reshape(-1, 8)
    assert len(rows) == count
    order = [int(np.argmin(np.abs(splats.means.numpy() - row[:3]).sum(1))) for row in rows]
    assert sorted(order) == list(range(count))
    quats = np.frombuffer(path.read_bytes(), "u1").reshape(-1, 32)[:, 28:].astype(float) / 128 - 1
    unit = torch.nn.functional.normalize(splats.quats, dim=1).numpy()[order]
    assert np.abs(quats - unit).max(initial=0) <= 1 / 128
    weight = (splats.scales.log().sum(1) + splats.opacities.log()).numpy()[order]
    assert (np.diff(weight) <= 1e-4).all()
