"""Rooms of S3DIS: points, classes and things from text files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xmodal.datasets import convert_room, open_scene
from xmodal.datasets.s3dis import S3DIS
from xmodal.errors import DataError

THINGS = {"ceiling_1": 40, "chair_1": 12, "chair_2": 7, "chair_10": 5, "stairs_1": 3}
CHAIR, CLUTTER = S3DIS.index("chair"), S3DIS.index("clutter")


@pytest.fixture
def room_folder(tmp_path):
    root = tmp_path / "Area_5" / "office_1"
    (root / "Annotations").mkdir(parents=True)
    rng = np.random.default_rng(0)
    everything = []
    for name, count in THINGS.items():
        rows = np.c_[rng.uniform(-3, 3, (count, 3)).round(3), rng.integers(0, 256, (count, 3))]
        np.savetxt(root / "Annotations" / f"{name}.txt", rows, fmt="%g")
        everything.append(rows)
    np.savetxt(root / "office_1.txt", np.concatenate(everything)[::-1], fmt="%g")
    (root / "Annotations" / ".DS_Store").write_text("x")
    return root


def annotation(root, name="chair_1"):
    return root / "Annotations" / f"{name}.txt"


def test_a_room_has_points_classes_and_things(room_folder):
    scene = open_scene(room_folder, need=["points"])
    assert scene.report.layout == "S3DIS"
    assert len(scene.images) == 0
    cloud, labels = scene.cloud(), scene.labels()
    assert cloud.xyz.shape == (67, 3)
    assert cloud.rgb.min() >= 0
    assert cloud.rgb.max() <= 1
    first = np.loadtxt(annotation(room_folder, "ceiling_1"))
    np.testing.assert_allclose(cloud.xyz[:40], first[:, :3], rtol=1e-6)
    np.testing.assert_allclose(cloud.rgb[:40], first[:, 3:] / 255, rtol=1e-6)
    assert labels.classes == S3DIS
    assert labels.ids.tolist() == [0] * 40 + [CHAIR] * 24 + [CLUTTER] * 3
    # In natural order: chair_2 before chair_10.
    counts = torch.bincount(scene.instances()).tolist()
    assert counts == [40, 12, 7, 5, 3]


def test_a_room_without_annotations_has_points_alone(room_folder):
    for path in (room_folder / "Annotations").iterdir():
        path.unlink()
    scene = open_scene(room_folder, need=["points"])
    assert len(scene.cloud().xyz) == 67
    assert scene.labels() is None
    assert scene.instances() is None


def test_the_fingerprint_covers_the_annotations(room_folder):
    before = open_scene(room_folder, need=["points"]).fingerprint
    path = annotation(room_folder)
    path.write_text(path.read_text().replace(path.read_text().split()[0], "0.123", 1))
    assert open_scene(room_folder, need=["points"]).fingerprint != before


def test_a_converted_room_is_the_same_scene(room_folder, tmp_path):
    folder = convert_room(room_folder, tmp_path / "out")
    assert folder.name == "Area_5_office_1"
    ours, theirs = (open_scene(p, need=["points"]) for p in (folder, room_folder))
    torch.testing.assert_close(ours.cloud().xyz, theirs.cloud().xyz)
    torch.testing.assert_close(ours.cloud().rgb, theirs.cloud().rgb, atol=1 / 500, rtol=0)
    assert ours.labels().classes == S3DIS
    assert torch.equal(ours.labels().ids, theirs.labels().ids)
    assert torch.equal(ours.instances(), theirs.instances())


def test_label_sets_restrict_by_name(room_folder):
    labels = open_scene(room_folder, need=["points"], label_set="scannet20").labels()
    # Of ceiling, chair and clutter, ScanNet's 20 classes have chairs.
    assert labels.ids.tolist() == [-1] * 40 + [4] * 24 + [-1] * 3
    assert labels.classes[4] == "chair"


def test_points_that_are_not_finite_are_counted(room_folder):
    path = annotation(room_folder, "stairs_1")
    path.write_text("1 2 nan 1 2 3\n" + path.read_text())
    scene = open_scene(room_folder, need=["points"])
    assert len(scene.cloud().xyz) == len(scene.labels().ids) == len(scene.instances()) == 67
    assert scene.report.dropped_points == 1


def test_an_empty_annotation_does_no_harm(room_folder):
    annotation(room_folder, "chair_2").write_text("")
    assert len(open_scene(room_folder, need=["points"]).cloud().xyz) == 60


def test_a_cloud_with_labels_is_a_scene_of_points(room_folder, tmp_path):
    """Own points go before the room's text files."""
    folder = convert_room(room_folder, tmp_path / "out")
    (folder / "points.ply").rename(room_folder / "points.ply")
    (folder / "classes.json").rename(room_folder / "classes.json")
    scene = open_scene(room_folder, need=["points"])
    assert scene.report.layout == "cloud without pictures"
    assert len(scene.labels().ids) == 67


def lines(root, replace):
    path = annotation(root)
    rows = path.read_bytes().splitlines()
    rows[6] = replace(rows[6])
    path.write_bytes(b"\n".join(rows) + b"\n")


FAULTS = {
    "a control character": (lambda r: lines(r, lambda row: row[:-1] + b"\x107"), "chair_1.txt:7"),
    "a word": (lambda r: lines(r, lambda row: b"x " + row), "chair_1.txt:7"),
    "five columns": (lambda r: lines(r, lambda row: row.rpartition(b" ")[0]), "chair_1.txt:7"),
    "seven columns": (lambda r: lines(r, lambda row: row + b" 1"), "chair_1.txt:7"),
    "all of three": (lambda r: annotation(r).write_text("1 2 3\n" * 4), "3 columns"),
    "colours beyond": (lambda r: lines(r, lambda row: b"1 2 3 256 0 0"), "256 0 0 in row 7"),
    "colours negative": (lambda r: lines(r, lambda row: b"1 2 3 0 -1 0"), "0 -1 0 in row 7"),
    "binary": (lambda r: annotation(r).write_bytes(bytes(range(256))), "six numbers"),
    "no known class": (lambda r: annotation(r).rename(annotation(r, "unicorn_1")), "unicorn_1"),
    "no point": (
        lambda r: [p.write_text("") for p in (r / "Annotations").glob("*.txt")],
        "files without any",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_room_is_one_clear_error(room_folder, four_parts, name):
    damage, word = FAULTS[name]
    damage(room_folder)
    with pytest.raises(DataError) as caught:
        open_scene(room_folder, need=["points"]).cloud()
    four_parts(caught.value)
    assert word in str(caught.value)


def test_a_room_has_no_pictures(room_folder, four_parts):
    with pytest.raises(DataError, match="a cloud without pictures") as caught:
        open_scene(room_folder)
    four_parts(caught.value)


def test_converting_another_folder_is_refused(tmp_path, four_parts):
    with pytest.raises(DataError, match="Annotations") as caught:
        convert_room(tmp_path, tmp_path / "out")
    four_parts(caught.value)
    with pytest.raises(DataError, match="no such folder"):
        convert_room(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_label_set_without_a_common_class_is_refused(room_folder, tmp_path, four_parts):
    folder = convert_room(room_folder, tmp_path)
    (folder / "classes.json").write_text('["a","b","c","d","e","f","g","h","i","j","k","l","m"]')
    with pytest.raises(DataError, match="some of the classes of s3dis") as caught:
        open_scene(folder, need=["points"], label_set="s3dis").labels()
    four_parts(caught.value)
