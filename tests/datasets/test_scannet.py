"""A scan of ScanNet in full: mesh, things, super-points, categories, alignment, splits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from xmodal.datasets import open_scene, scannet_split
from xmodal.datasets.scannet_classes import SCANNET20, SCANNET20_IDS, SCANNET200, SCANNET200_IDS
from xmodal.errors import DataError

_SPEC = importlib.util.spec_from_file_location(
    "sens_writer", Path(__file__).with_name("test_sens.py")
)
assert _SPEC is not None
assert _SPEC.loader is not None
_WRITER = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_WRITER)

# Vertices in segments, segments in things; the last segment and vertex 11 are nobody's.
SEGMENTS = [700, 700, 3, 3, 3, 9, 9, 21, 21, 21, 40, 40]
THINGS = [
    ("wall", [700]),
    ("office chair", [3]),
    ("chair", [9]),
    ("rubber duck", [21]),
]
NYU = np.array([1, 1, 5, 5, 5, 5, 5, 40, 40, 40, 0, 0])
TABLE = """id\traw_category\tcategory\tcount\tnyu40id
1\twall\twall\t8277\t1
10\toffice chair\tchair\t595\t5
2\tchair\tchair\t4646\t5
1155\trubber duck\tduck\t1\t40
12\t"quoted\tthing\t1\t39
"""
TURN = [0.0, -1.0, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.1, 0.0, 0.0, 0.0, 1.0]


def mesh(path, xyz, labels=None):
    types = [(n, "f4") for n in "xyz"] + ([] if labels is None else [("label", "u2")])
    rows = np.empty(len(xyz), dtype=types)
    for column, name in enumerate("xyz"):
        rows[name] = xyz[:, column]
    if labels is not None:
        rows["label"] = labels
    PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(str(path))


@pytest.fixture
def scan(tmp_path, room):
    root = tmp_path / "scans" / "scene0000_00"
    _WRITER.write_sens(root / "scene0000_00.sens", room)
    xyz = np.random.default_rng(0).uniform([-1.9, -1.9, 0.1], [1.9, 1.9, 2.4], (12, 3))
    mesh(root / "scene0000_00_vh_clean_2.ply", xyz)
    mesh(root / "scene0000_00_vh_clean_2.labels.ply", xyz, NYU)
    (root / "scene0000_00_vh_clean_2.0.010000.segs.json").write_text(
        json.dumps({"sceneId": "scene0000_00", "segIndices": SEGMENTS})
    )
    groups = [{"objectId": i, "label": n, "segments": s} for i, (n, s) in enumerate(THINGS)]
    for ending in (".aggregation.json", "_vh_clean.aggregation.json"):
        content = {"segGroups": groups if ending[0] == "." else "of another mesh"}
        (root / f"scene0000_00{ending}").write_text(json.dumps(content))
    (tmp_path / "scannetv2-labels.combined.tsv").write_text(TABLE)
    return root


def test_label_sets_have_their_sizes():
    assert len(SCANNET20) == len(SCANNET20_IDS) == 20
    assert len(set(SCANNET200)) == len(set(SCANNET200_IDS)) == 200
    by_id = dict(zip(SCANNET200_IDS, SCANNET200, strict=True))
    assert [by_id[i] for i in (1, 2, 3, 10, 1191)] == [
        "wall", "chair", "floor", "office chair", "mattress",
    ]  # fmt: skip


def test_without_a_label_set_the_labels_are_those_of_the_file(scan):
    labels = open_scene(scan).labels()
    assert labels.classes[4] == "chair"
    assert labels.ids.tolist() == (NYU - 1).tolist()


def test_the_twenty_classes_of_the_benchmark(scan):
    labels = open_scene(scan, label_set="scannet20").labels()
    assert labels.classes == SCANNET20
    assert labels.ids.tolist() == [0, 0, 4, 4, 4, 4, 4, -1, -1, -1, -1, -1]


def test_the_twenty_classes_through_categories_are_the_same(scan):
    expected = open_scene(scan, label_set="scannet20").labels()
    (scan / "scene0000_00_vh_clean_2.labels.ply").unlink()
    assert torch.equal(open_scene(scan, label_set="scannet20").labels().ids, expected.ids)


def test_the_200_classes_tell_office_chairs_from_chairs(scan):
    labels = open_scene(scan, label_set="scannet200").labels()
    assert labels.classes == SCANNET200
    assert [labels.classes[i] for i in labels.ids[:7:2].tolist()] == [
        "wall", "office chair", "office chair", "chair",
    ]  # fmt: skip
    assert labels.ids[7:].tolist() == [-1] * 5


def test_scene_json_may_choose_the_label_set(scan):
    (scan / "scene.json").write_text('{"label_set": "scannet200"}')
    assert open_scene(scan).labels().classes == SCANNET200
    assert open_scene(scan, label_set="scannet20").labels().classes == SCANNET20


def test_things_and_super_points(scan):
    scene = open_scene(scan)
    assert scene.instances().tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, -1, -1]
    segments = scene.cloud().segments
    assert segments.tolist() == [4, 4, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3]


def test_vertices_that_are_not_finite_leave_everything_in_step(scan, room):
    path = scan / "scene0000_00_vh_clean_2.ply"
    xyz = open_scene(scan).cloud().xyz.numpy().copy()
    xyz[2] = np.nan
    mesh(path, xyz)
    scene = open_scene(scan, label_set="scannet200")
    assert len(scene.cloud().xyz) == 11
    assert scene.instances().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3, -1, -1]
    assert scene.cloud().segments.tolist() == [4, 4, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert len(scene.labels().ids) == 11


def test_points_of_one_s_own_go_without_the_mesh_s_segments(scan):
    (scan / "scene0000_00_vh_clean_2.ply").rename(scan / "points.ply")
    scene = open_scene(scan)
    assert scene.cloud().segments is None
    assert scene.instances() is None


def test_the_axis_alignment_turns_poses_and_points(scan):
    before = open_scene(scan)
    text = "appVersion = 1\naxisAlignment = " + " ".join(map(str, TURN)) + "\nroomType = Office\n"
    (scan / "scene0000_00.txt").write_text(text)
    scene = open_scene(scan)
    T = torch.tensor(TURN).view(4, 4)
    expected = before.cloud().xyz @ T[:3, :3].T + T[:3, 3]
    torch.testing.assert_close(scene.cloud().xyz, expected)
    pose = before.images.cameras[1].T_world_cam
    torch.testing.assert_close(scene.images.cameras[1].T_world_cam, T @ pose)
    assert scene.up.tolist() == [0, 0, 1]
    assert scene.fingerprint != before.fingerprint
    assert "axisAlignment" in scene.report.lines()[-1]
    (scan / "scene.json").write_text(json.dumps({"axis_align": np.eye(4).tolist()}))
    torch.testing.assert_close(open_scene(scan).cloud().xyz, before.cloud().xyz)


def test_an_info_file_without_alignment_changes_nothing(scan):
    before = open_scene(scan).fingerprint
    (scan / "scene0000_00.txt").write_text("appVersion = 1\n")
    scene = open_scene(scan)
    assert scene.fingerprint == before
    assert scene.up is None


def test_a_mesh_alone_is_a_scene_of_points(scan):
    (scan / "scene0000_00.sens").unlink()
    scene = open_scene(scan, need=["points"], label_set="scannet20")
    assert len(scene.images) == 0
    assert scene.depths is None
    assert len(scene.labels().ids) == len(scene.cloud().xyz) == 12
    with pytest.raises(IndexError):
        scene.images[0]


def test_official_splits(tmp_path, scan):
    (tmp_path / "scans_test" / "scene0707_00").mkdir(parents=True)
    (tmp_path / "scannetv2_val.txt").write_text("scene0000_00\n\n")
    (tmp_path / "scannetv2_test.txt").write_text("scene0707_00\n")
    assert scannet_split(tmp_path, "val") == (scan,)
    assert scannet_split(str(tmp_path), "test") == (tmp_path / "scans_test" / "scene0707_00",)


SPLITS = {
    "no list": (None, "no such file"),
    "empty list": ("\n", "an empty list"),
    "missing scan": ("scene0000_00\nscene0001_00\n", "1 missing: scene0001_00"),
    "a path": ("../scans/scene0000_00\n", "a path"),
    "binary": ("\udcff", "can't decode"),
}


@pytest.mark.parametrize("name", SPLITS)
def test_a_broken_split_is_one_clear_error(tmp_path, scan, four_parts, name):
    text, word = SPLITS[name]
    if text is not None:
        (tmp_path / "scannetv2_train.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as caught:
        scannet_split(tmp_path, "train")
    four_parts(caught.value)
    assert word in str(caught.value)


def rewrite(root, ending, **keys):
    path = next(root.glob(f"scene0000_00{ending}"))
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def table(root, text):
    (root.parents[1] / "scannetv2-labels.combined.tsv").write_text(text)


def info(root, text):
    (root / "scene0000_00.txt").write_text(f"axisAlignment = {text}\n")


SEGS, THING = "_vh_clean_2.0.010000.segs.json", ".aggregation.json"
FAULTS = {
    "segments missing": (lambda r: next(r.glob("*.segs.json")).unlink(), "*.segs.json"),
    "segments of another mesh": (lambda r: rewrite(r, SEGS, segIndices=[1, 2]), "12 segIndices"),
    "segments of words": (lambda r: rewrite(r, SEGS, segIndices=["a"] * 12), "whole numbers"),
    "segments negative": (lambda r: rewrite(r, SEGS, segIndices=[-1] * 12), "whole numbers"),
    "segments endless": (lambda r: rewrite(r, SEGS, segIndices=[2**40] * 12), "whole numbers"),
    "segments no object": (
        lambda r: (r / f"scene0000_00{SEGS}").write_text("[1]"),
        "a JSON object",
    ),
    "segments cut": (
        lambda r: (r / f"scene0000_00{SEGS}").write_text('{"segIndices": [1, 2'),
        "JSON",
    ),
    "things no list": (lambda r: rewrite(r, THING, segGroups={}), "segGroups"),
    "thing without name": (lambda r: rewrite(r, THING, segGroups=[{"segments": [3]}]), "label"),
    "thing of no segment": (
        lambda r: rewrite(r, THING, segGroups=[{"label": "chair", "segments": [4]}]),
        "4 in segGroups[0]",
    ),
    "thing of a far segment": (
        lambda r: rewrite(r, THING, segGroups=[{"label": "chair", "segments": [10**9]}]),
        "1000000000 in segGroups[0]",
    ),
    "category unknown": (
        lambda r: rewrite(r, THING, segGroups=[{"label": "unicorn", "segments": [3]}]),
        "none called unicorn",
    ),
    "table missing": (lambda r: r.parents[1].joinpath(
        "scannetv2-labels.combined.tsv").unlink(), "tsv"),
    "table without ids": (lambda r: table(r, "raw_category\nwall\n"), "raw_category and id"),
    "table of words": (lambda r: table(r, "id\traw_category\nx\twall\n"), "a whole number"),
    "table empty": (lambda r: table(r, ""), "no column"),
    "labels of another mesh": (
        lambda r: mesh(r / "scene0000_00_vh_clean_2.ply", np.full((3, 3), 0.5)),
        "segIndices",
    ),
    "alignment of words": (lambda r: info(r, "a b c"), "16 numbers"),
    "alignment of nine": (lambda r: info(r, "1 0 0 0 1 0 0 0 1"), "16 numbers"),
    "alignment scaled": (lambda r: info(r, "2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1"), "rigid"),
    "alignment infinite": (lambda r: info(r, " ".join(["inf"] * 16)), "finite axisAlignment"),
    "label set unknown": (
        lambda r: (r / "scene.json").write_text('{"label_set": "scannet2000"}'),
        "label_set",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_scan_is_one_clear_error(scan, four_parts, name):
    damage, word = FAULTS[name]
    damage(scan)
    with pytest.raises(DataError) as caught:
        open_scene(scan, label_set="scannet200").labels()
    four_parts(caught.value)
    assert word in str(caught.value)
