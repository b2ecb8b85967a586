from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement

from xmodal.ply import read_points, write_points
from xmodal.values import Points

NUM = 40


def table(**columns):
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=NUM).astype("f4") for name in "xyz"} | columns
    rows = np.empty(NUM, dtype=[(n, np.asarray(c).dtype) for n, c in columns.items()])
    for name, column in columns.items():
        rows[name] = column
    return rows


def faces(polygons):
    rows = np.empty(len(polygons), dtype=[("vertex_indices", object)])
    for index, polygon in enumerate(polygons):
        rows["vertex_indices"][index] = np.array(polygon, "i4")
    return PlyElement.describe(rows, "face")


def save(path, rows, *others, text=False, byte_order="<"):
    elements = [PlyElement.describe(rows, "vertex"), *others]
    PlyData(elements, text=text, byte_order="=" if text else byte_order).write(str(path))
    return path


@pytest.mark.parametrize("crlf", [False, True])
@pytest.mark.parametrize(
    "style", [{"text": True}, {"byte_order": "<"}, {"byte_order": ">"}], ids=str
)
@pytest.mark.parametrize("polygons", [None, [(0, 1, 2)] * 3, [(0, 1, 2), (0, 1, 2, 3)]], ids=str)
def test_all_encodings_read_equal(tmp_path, style, polygons, crlf):
    rows = table(red=np.arange(NUM, dtype="u1"), green=np.zeros(NUM, "u1"), blue=np.ones(NUM, "u1"))
    others = [] if polygons is None else [faces(polygons)]
    path = save(tmp_path / "c.ply", rows, *others, **style)
    if crlf:
        head, body = path.read_bytes().split(b"end_header\n", 1)
        path.write_bytes(head.replace(b"\n", b"\r\n") + b"end_header\r\n" + body)
    cloud = read_points(path)
    for column, name in enumerate("xyz"):
        np.testing.assert_allclose(cloud.points.xyz[:, column].numpy(), rows[name], rtol=1e-6)
    np.testing.assert_allclose(cloud.points.rgb[:, 0].numpy(), np.arange(NUM) / 255, rtol=1e-6)
    assert cloud.points.offsets.tolist() == [0, NUM]
    assert cloud.num_dropped == 0


def test_bad_vertices_are_dropped_and_counted(tmp_path):
    rows = table(red=np.zeros(NUM, "f4"), green=np.zeros(NUM, "f4"), blue=np.zeros(NUM, "f4"))
    rows["x"][3], rows["y"][5], rows["z"][7], rows["red"][9] = np.nan, np.inf, -np.inf, np.nan
    cloud = read_points(save(tmp_path / "c.ply", rows))
    assert cloud.num_dropped == 4
    assert torch.nonzero(~cloud.kept).squeeze(1).tolist() == [3, 5, 7, 9]
    assert cloud.points.xyz.isfinite().all()
    np.testing.assert_array_equal(
        cloud.points.xyz[:, 0].numpy(), np.delete(rows["x"], [3, 5, 7, 9])
    )


def test_a_double_beyond_float32_is_bad(tmp_path):
    rows = table(x=np.full(NUM, 1e300))
    assert read_points(save(tmp_path / "c.ply", rows)).num_dropped == NUM


@pytest.mark.parametrize(
    ("values", "kind", "wanted"),
    [([0, 255], "u1", 1.0), ([0, 65535], "u2", 1.0), ([0, 1], "f4", 1.0), ([0, 255], "f4", 1.0)],
)
def test_colours_become_unit_range(tmp_path, values, kind, wanted):
    column = np.resize(np.array(values, kind), NUM)
    rows = table(diffuse_red=column, diffuse_green=column, diffuse_blue=column)
    rgb = read_points(save(tmp_path / "c.ply", rows)).points.rgb
    assert rgb.min() == 0
    assert rgb.max() == wanted


def test_normals_are_unit_or_zero(tmp_path):
    n = np.full(NUM, 2.0, "f4")
    rows = table(nx=n, ny=n * 0, nz=n * 0)
    rows["nx"][1], rows["nx"][2] = 0, np.nan
    normals = read_points(save(tmp_path / "c.ply", rows)).points.normals
    assert normals[[0, 3]].tolist() == [[1, 0, 0]] * 2
    assert normals[[1, 2]].tolist() == [[0, 0, 0]] * 2


def test_plain_points_have_no_colour_or_normal(tmp_path):
    points = read_points(save(tmp_path / "c.ply", table())).points
    assert points.rgb is None
    assert points.normals is None


def test_an_empty_cloud_is_empty(tmp_path):
    assert read_points(save(tmp_path / "c.ply", table()[:0])).points.xyz.shape == (0, 3)


def points(num, rgb=True, normals=True):
    generator = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(num, 3, generator=generator), dim=1)
    return Points(
        xyz=torch.randn(num, 3, generator=generator),
        offsets=torch.tensor([0, num]),
        rgb=torch.randint(0, 256, (num, 3), generator=generator) / 255 if rgb else None,
        normals=unit if normals else None,
    )


@settings(deadline=None, max_examples=20)
@given(num=st.integers(0, 30), rgb=st.booleans(), normals=st.booleans())
def test_writing_and_reading_is_the_identity(tmp_path_factory, num, rgb, normals):
    path = tmp_path_factory.mktemp("ply") / "p.ply"
    written = points(num, rgb, normals)
    scalars = {
        "score": torch.arange(num) / 7,
        "label": torch.arange(num),
        "seen": torch.ones(num) > 0,
    }
    write_points(path, written, scalars=scalars)
    cloud = read_points(path)
    torch.testing.assert_close(cloud.points.xyz, written.xyz, rtol=0, atol=0)
    for name in ("rgb", "normals"):
        before, after = getattr(written, name), getattr(cloud.points, name)
        assert (before is None) == (after is None)
        if before is not None:
            torch.testing.assert_close(after, before)
    assert cloud.scalars["label"].tolist() == list(range(num))
    assert cloud.scalars["seen"].tolist() == [1] * num
    np.testing.assert_allclose(cloud.scalars["score"], np.arange(num) / 7, rtol=1e-6)


@pytest.mark.parametrize("scalars", [{"x": torch.zeros(3)}, {"score": torch.zeros(4)}], ids=str)
def test_scalars_must_fit(tmp_path, scalars):
    with pytest.raises(ValueError, match="scalar"):
        write_points(tmp_path / "p.ply", points(3), scalars=scalars)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "p.ply"
    write_points(path, points(3))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="scalar"):
        write_points(path, points(4), scalars={"score": torch.zeros(3)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.ply"]
