"""Scenes that are incomplete or contradict themselves: each is one error, with all its faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xmodal.datasets import open_scene
from xmodal.errors import DataError


def settings(root: Path, text: str) -> None:
    (root / "scene.json").write_text(text)


def boxes(root: Path, value: object) -> None:
    (root / "localisation.json").write_text(json.dumps({"frames": value}))


def rotate(root: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = root / "color" / "000001.png"
    Image.open(path).save(path, exif=exif)


def resize(root: Path) -> None:
    path = root / "color" / "000001.png"
    Image.open(path).resize((32, 24)).save(path)


def label_size(root: Path) -> None:
    (root / "label").mkdir()
    Image.new("L", (10, 10)).save(root / "label" / "000000.png")


def lost(root: Path) -> None:
    for path in (root / "pose").iterdir():
        path.write_text("\n".join(["-inf -inf -inf -inf"] * 4))


def two_clouds(root: Path) -> None:
    for name in ("a", "b"):
        (root / f"{name}_vh_clean_2.ply").write_text("ply\n")


# What is done to a good scene, and a word the message must hold.
FAULTS = {
    "no folder": (shutil.rmtree, "no such folder"),
    "empty folder": (lambda r: [shutil.rmtree(r), r.mkdir()], "an empty folder"),
    "other folder": (lambda r: (r / "color").rename(r / "pictures"), "7-Scenes"),
    "sens file": (
        lambda r: [shutil.rmtree(r / "color"), (r / "scene.sens").touch()],
        "a whole .sens header",
    ),
    "no pictures": (lambda r: [p.unlink() for p in (r / "color").iterdir()], "no frame"),
    "no poses": (lambda r: shutil.rmtree(r / "pose"), "none for 5 frames"),
    "a pose missing": (lambda r: (r / "pose/000001.txt").unlink(), "000001"),
    "a depth missing": (lambda r: (r / "depth/000001.png").unlink(), "4 depth"),
    "depth empty": (lambda r: [p.unlink() for p in (r / "depth").iterdir()], "0 depth"),
    "a picture too many": (
        lambda r: shutil.copy(r / "color/000001.png", r / "color/extra.png"),
        "extra",
    ),
    "a name twice": (
        lambda r: Image.open(r / "color/000001.png").save(r / "color/000001.jpg"),
        "one file per frame name",
    ),
    "all poses lost": (lost, "every pose infinite or NaN"),
    "another size": (resize, "64 x 48 pixels like the other frames"),
    "EXIF 90 degrees": (lambda r: rotate(r, 6), "EXIF orientation 6"),
    "EXIF upside down": (lambda r: rotate(r, 3), "EXIF orientation 3"),
    "a damaged picture": (lambda r: (r / "color/000003.png").write_bytes(b"x"), "color/000003.png"),
    "two clouds": (two_clouds, "at most one cloud"),
    "settings no json": (lambda r: settings(r, "{depth_scale: 1000}"), "JSON"),
    "settings a list": (lambda r: settings(r, "[]"), "a JSON object"),
    "settings nested": (lambda r: settings(r, "[" * 100_000), "scene.json"),
    "settings misspelt": (lambda r: settings(r, '{"depthscale": 1000}'), "`depth_scale`"),
    "settings twice": (lambda r: settings(r, '{"up": "z", "up": "y"}'), "twice"),
    "scale zero": (lambda r: settings(r, '{"depth_scale": 0}'), "depth_scale"),
    "scale nan": (lambda r: settings(r, '{"depth_scale": NaN}'), "depth_scale"),
    "scale a word": (lambda r: settings(r, '{"depth_scale": "mm"}'), "depth_scale"),
    "encoding unknown": (lambda r: settings(r, '{"depth_encoding": "float"}'), "rotated3"),
    "up unknown": (lambda r: settings(r, '{"up": "sky"}'), "an axis is one of"),
    "up zero": (lambda r: settings(r, '{"up": [0, 0, 0]}'), "cannot be zero"),
    "align scaled": (
        lambda r: settings(r, json.dumps({"axis_align": (2 * np.eye(4)).tolist()})),
        "not a rigid transform",
    ),
    "align 3x3": (
        lambda r: settings(r, json.dumps({"axis_align": np.eye(3).tolist()})),
        "4x4",
    ),
    "boxes missing": (lambda r: settings(r, '{"boxes": "none.json"}'), "none.json"),
    "boxes outside": (lambda r: boxes(r, {"000000": {"mug": [[0, 0, 900, 10]]}}), "64 x 48"),
    "boxes reversed": (lambda r: boxes(r, {"000000": {"mug": [[9, 9, 1, 1]]}}), "x0 < x1"),
    "boxes of three": (lambda r: boxes(r, {"000000": {"mug": [[1, 2, 3]]}}), "x0, y0, x1, y1"),
    "boxes of words": (lambda r: boxes(r, {"000000": {"mug": "here"}}), "x0, y0, x1, y1"),
    "boxes of no frame": (lambda r: boxes(r, {"17": {"mug": [[1, 2, 3, 4]]}}), "17"),
    "boxes no mapping": (lambda r: boxes(r, [1]), "a mapping from frame names"),
    "label map size": (label_size, "10 x 10"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_scene_is_one_clear_error(scene_folder, four_parts, name):
    damage, word = FAULTS[name]
    damage(scene_folder)
    with pytest.raises(DataError) as caught:
        open_scene(scene_folder)
    four_parts(caught.value)
    assert word in str(caught.value)
    assert str(scene_folder) in str(caught.value)


def test_all_faults_come_at_once(scene_folder, four_parts):
    (scene_folder / "depth" / "000000.png").unlink()
    (scene_folder / "pose" / "000001.txt").unlink()
    np.savetxt(scene_folder / "pose" / "000002.txt", 2 * np.eye(4))
    rotate(scene_folder, 6)
    resize_path = scene_folder / "color" / "000004.png"
    Image.open(resize_path).resize((32, 24)).save(resize_path)
    with pytest.raises(DataError) as caught:
        open_scene(scene_folder)
    four_parts(caught.value)
    for word in ("000000", "000001", "pose/000002.txt", "32 x 24", "4 faults"):
        assert word in caught.value.got


def test_many_faults_fit_a_screen(scene_folder):
    for index in range(100):
        (scene_folder / "pose" / f"bad{index}.txt").write_text("x")
        (scene_folder / "depth" / f"bad{index}.png").write_text("x")
        (scene_folder / "color" / f"bad{index}.png").write_text("x")
    with pytest.raises(DataError) as caught:
        open_scene(scene_folder)
    assert "and 88 more" in caught.value.got
    assert str(caught.value).count("\n") < 25


LABELS = {
    "wrong number": (np.zeros(3, "i4"), '["a"]', "50 labels"),
    "two axes": (np.zeros((50, 1), "i4"), '["a"]', "one integer per point"),
    "fractions": (np.full(50, 0.5), '["a"]', "whole numbers"),
    "nan": (np.full(50, np.nan), '["a"]', "whole numbers"),
    "words": (np.full(50, "a"), '["a"]', "one integer per point"),
    "no name": (np.full(50, 7, "i4"), '["a"]', "the id 7"),
    "classes a number": (np.zeros(50, "i4"), "7", "a list of names"),
    "classes of words": (np.zeros(50, "i4"), '{"a": "b"}', "a list of names"),
    "classes of numbers": (np.zeros(50, "i4"), "[1]", "a list of names"),
    "classes huge": (np.zeros(50, "i4"), '{"99999999": "a"}', "a list of names"),
    "classes missing": (np.zeros(50, "i4"), None, "classes.json"),
    "object array": (np.array([None] * 50, dtype=object), '["a"]', "labels.npy"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_do_not_fit_are_refused(scene_folder, four_parts, name):
    ids, classes, word = LABELS[name]
    header = "ply\nformat ascii 1.0\nelement vertex 50\n"
    header += "".join(f"property float {c}\n" for c in "xyz") + "end_header\n"
    (scene_folder / "points.ply").write_text(header + "2 0 1\n" * 50)
    np.save(scene_folder / "labels.npy", ids, allow_pickle=True)
    if classes is not None:
        (scene_folder / "classes.json").write_text(classes)
    with pytest.raises(DataError) as caught:
        open_scene(scene_folder).labels()
    four_parts(caught.value)
    assert word in str(caught.value)


def test_a_labels_header_that_lies_is_refused(scene_folder, four_parts):
    (scene_folder / "points.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
        "property float z\nend_header\n2 0 1\n"
    )
    np.save(scene_folder / "labels.npy", np.zeros(50, "i4"))
    data = (scene_folder / "labels.npy").read_bytes()
    lie = data.replace(b"(50,)", b"(99999999999,)").replace(b" " * 9 + b"\n", b"\n")
    (scene_folder / "labels.npy").write_bytes(lie)
    with pytest.raises(DataError, match=r"labels\.npy") as caught:
        open_scene(scene_folder).labels()
    four_parts(caught.value)


def test_labels_without_points_are_refused(scene_folder, four_parts):
    np.save(scene_folder / "labels.npy", np.zeros(3, "i4"))
    with pytest.raises(DataError, match="the points that these labels belong to") as caught:
        open_scene(scene_folder).labels()
    four_parts(caught.value)


TRAJECTORIES = {
    "few poses": ("traj.txt", lambda lines: lines[:-1], "5 poses, one per frame"),
    "short line": ("traj.txt", lambda lines: [*lines[:-1], "1 2 3"], "16 columns"),
    "words": ("traj.txt", lambda lines: [*lines[:-1], "a " * 16], "numbers"),
    "scaled": ("traj.txt", lambda lines: [*lines[:-1], "2 " * 16], "traj.txt:5"),
}


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_a_broken_replica_trajectory_is_refused(scene_folder, room, four_parts, name):
    file, change, word = TRAJECTORIES[name]
    (scene_folder / "results").mkdir()
    for view in room.views:
        for folder, prefix in (("color", "frame"), ("depth", "depth")):
            source = scene_folder / folder / f"{view.name}.png"
            source.rename(scene_folder / "results" / f"{prefix}{view.name}.png")
    (scene_folder / "color").rmdir()
    lines = [" ".join(map(str, view.T_world_cam.reshape(-1))) for view in room.views]
    (scene_folder / file).write_text("\n".join(change(lines)))
    with pytest.raises(DataError) as caught:
        open_scene(scene_folder)
    four_parts(caught.value)
    assert word in str(caught.value)
