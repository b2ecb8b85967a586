"""`eval` on small rooms whose label maps are the teacher: protocols, scenes, unseen data."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import Room
from xmodal.config.runfile import load_run
from xmodal.errors import DataError, UsageError
from xmodal.ply import write_points
from xmodal.runs.evaluate import EvalRequest, eval_run
from xmodal.runs.frozen import silent
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.runs.train import TrainRequest, train_run
from xmodal.store import Run
from xmodal.values import Points

CLASSES = ["floor", "wall", "poster", "door", "cabinet"]
OBJECTS = {"door", "poster", "cabinet"}
COLOURS = np.array([[60, 60, 60], [220, 220, 210], [200, 40, 40], [40, 90, 200], [30, 160, 60]])


def classify(xyz: np.ndarray, shift_m: float) -> np.ndarray:
    """A poster over a cabinet on the wall ahead, a door to the left."""
    x, y, z = np.moveaxis(xyz, -1, 0)
    ids = np.where(z < 0.02, 0, 1)
    ids[(x > 1.98) & (z > 1.1) & (y < 0.8 + shift_m)] = 2
    ids[(y > 1.98) & (z < 1.6) & (x > shift_m)] = 3
    ids[(x > 1.98) & (z < 0.9) & (y < 1.2 + shift_m)] = 4
    return ids


def write_room(root: Path, shift_m: float = 0.0, *, others: bool = False) -> Path:
    """A labelled room: points of every second pixel, label maps, names."""
    from PIL import Image

    room = Room(num_views=5, hw=(48, 64))
    if others:  # fewer views, from places of other names
        room.views = [replace(view, name=f"{i:06d}") for i, view in enumerate(room.views[1:])]
    tint = round(100 * shift_m)
    for view in room.views:
        ids = classify(room.cast(view.T_world_cam, room.K, room.hw)[1], shift_m)
        view.rgb = (COLOURS[ids] + [0, tint, 0]).clip(0, 255).astype(np.uint8)
    room.write(root)
    (root / "label").mkdir()
    clouds = []
    for view in room.views:
        _, xyz = room.cast(view.T_world_cam, room.K, room.hw)
        ids = classify(xyz, shift_m)
        Image.fromarray((ids + 1).astype(np.uint8)).save(root / "label" / f"{view.name}.png")
        clouds.append(xyz[::2, ::2].reshape(-1, 3))
    xyz = np.concatenate(clouds)
    points = Points(
        xyz=torch.from_numpy(xyz).float(),
        offsets=torch.tensor([0, len(xyz)]),
        rgb=torch.from_numpy(COLOURS[classify(xyz, shift_m)]).float() / 255,
    )
    write_points(root / "points.ply", points)
    np.save(root / "labels.npy", classify(xyz, shift_m).astype(np.int32))
    (root / "classes.json").write_text(json.dumps(CLASSES))
    names = {str(i + 1): name for i, name in enumerate(CLASSES)}
    (root / "scene.json").write_text(json.dumps({"label_ids": names}))
    (root / "label" / "classes.json").write_text(json.dumps(["unlabelled", *CLASSES]))
    return root


def lift(scene: Path, out: Path) -> Path:
    teacher = f"precomputed:{scene / 'label'}"
    lift_run(
        LiftRequest(source=scene, out=out, teacher=teacher, cache=out.parent / "cache"), silent
    )
    return out


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labelled rooms in one folder."""
    folder = tmp_path_factory.mktemp("rooms")
    for name, shift_m in (("room-a", 0.0), ("room-b", 0.3), ("room-c", -0.3)):
        write_room(folder / name, shift_m)
    return folder


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the first room with a student that has hardly learned."""
    out = lift(scenes / "room-a", tmp_path_factory.mktemp("runs") / "trained")
    overrides = ("optimiser.steps=3", "optimiser.crop_points=800", "optimiser.loss_rows=200")
    request = TrainRequest(runfile=out / "run.yaml", out=out, overrides=overrides, again=True)
    train_run(request, silent)
    return out


@pytest.fixture(scope="module")
def many(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over the three rooms, of which the last is held out."""
    out = tmp_path_factory.mktemp("runs") / "many"
    for scene in sorted(scenes.iterdir()):
        lift(scene, out / "scenes" / scene.name)
    spec = load_run(out / "scenes" / "room-a" / "run.yaml")
    folders = tuple(str(path) for path in sorted(scenes.iterdir()))
    spec = replace(
        spec,
        data=replace(spec.data, scene=folders),
        splits=replace(spec.splits, test=("room-c",)),
    )
    (out / "run.yaml").write_text(spec.to_yaml())
    Run(out).finish(fingerprint="many")
    return out


def table(file: Path) -> dict[str, dict[str, str]]:
    """Rows of a csv file by their first cell."""
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    return {next(iter(row.values())): row for row in rows}


def evaluate(run: Path, out: Path, **options: object) -> str:
    return eval_run(EvalRequest(run=run, out=out, **options))  # type: ignore[arg-type]


# ---- one scene ---------------------------------------------------------------------------------


def test_every_arm_and_measure_is_in_the_table(trained: Path, tmp_path: Path) -> None:
    text = evaluate(trained, tmp_path, task="segmentation")
    rows = table(tmp_path / "metrics.csv")
    assert list(rows["mean IoU"]) == ["object", "single view", "lifted", "student", "ensemble"]
    assert set(list(rows)[:3]) == OBJECTS
    # the teacher is right by construction, up to pixels on borders
    assert float(rows["mean IoU"]["lifted"]) > 0.85
    assert float(rows["mean IoU"]["single view"]) > 0.85
    assert float(rows["overall accuracy"]["lifted"]) > 0.9
    assert float(rows["mean AP"]["lifted"]) > 0.85
    assert rows["mean AP"]["single view"] == "-"
    assert 0 <= float(rows["calibration error"]["student"]) <= 1
    assert "intervals over objects" in text
    assert (tmp_path / "metrics.png").stat().st_size > 5000
    assert {"lifted - single view", "student - lifted"} <= table(
        tmp_path / "differences.csv"
    ).keys()


def test_a_class_that_is_never_found_is_named_loudly(trained: Path, tmp_path: Path) -> None:
    truth = np.load(Run(trained).manifest()["scene"] + "/labels.npy")
    np.save(tmp_path / "l.npy", np.where(truth == CLASSES.index("cabinet"), 1, truth))
    text = evaluate(trained, tmp_path, labels=tmp_path / "l.npy")
    assert "ALARM 3d given: zero IoU for 1 of 3 classes: cabinet" in text
    assert table(tmp_path / "metrics.csv")["objects with zero IoU"]["given"] == "1"


def test_both_protocols_stand_side_by_side(trained: Path, tmp_path: Path) -> None:
    text = evaluate(trained, tmp_path, task="segmentation", protocol="both")
    rows = table(tmp_path / "protocols.csv")
    for arm in ("single view", "lifted"):
        assert float(rows[arm]["3d mean IoU"]) > 0.85
        assert float(rows[arm]["2d mean IoU"]) > 0.85
    assert "5 labelled frames, 0 without a label map" in text
    assert (tmp_path / "metrics_2d.png").is_file()
    assert not (tmp_path / "scenes.csv").exists()


def test_frames_without_a_label_map_are_skipped_and_said(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(scenes / "room-a", copy)
    (copy / "label" / "000003.png").unlink()
    text = evaluate(trained, tmp_path / "out", data=copy, protocol="2d")
    assert "4 labelled frames, 1 without a label map" in text
    assert not (tmp_path / "out" / "metrics.csv").exists()


def test_base_and_novel_classes(trained: Path, tmp_path: Path) -> None:
    evaluate(trained, tmp_path, task="segmentation", base=("door", "cabinet"))
    rows = table(tmp_path / "metrics.csv")
    base, novel, both = (
        float(rows[f"{name} IoU"]["lifted"]) for name in ("base", "novel", "harmonic")
    )
    assert novel == float(rows["poster"]["lifted"])
    assert both == pytest.approx(2 * base * novel / (base + novel), abs=1e-5)


def test_names_choose_the_classes(trained: Path, tmp_path: Path) -> None:
    evaluate(trained, tmp_path, task="segmentation", names=("wall", "door"))
    assert list(table(tmp_path / "metrics.csv"))[:2] == ["wall", "door"]


def test_retrieval_finds_what_the_teacher_knows(trained: Path, tmp_path: Path) -> None:
    evaluate(trained, tmp_path, task="retrieval")
    with (tmp_path / "retrieval.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["arm"] == "lifted"]
    assert [row["direction"] for row in rows] == ["text -> object", "object -> text"]
    assert all(float(row["R@1"]) == 1 for row in rows)


def test_clusters_of_exact_features_are_the_classes(trained: Path, tmp_path: Path) -> None:
    evaluate(trained, tmp_path, task="clusters")
    rows = table(tmp_path / "clusters.csv")
    assert set(CLASSES[1:]) <= rows.keys()
    assert float(rows["mean IoU"]["lifted"]) > 0.5


# ---- several scenes ----------------------------------------------------------------------------


def test_a_run_over_scenes_is_judged_on_those_held_out(many: Path, tmp_path: Path) -> None:
    evaluate(many, tmp_path, task="segmentation")
    held = (tmp_path / "metrics.csv").read_text()
    evaluate(many, tmp_path / "test", task="segmentation", split="test")
    assert (tmp_path / "test" / "metrics.csv").read_text() == held
    text = evaluate(many, tmp_path / "train", task="segmentation", split="train")
    assert "2 scenes: room-a, room-b" in text


def test_intervals_are_over_scenes(many: Path, tmp_path: Path) -> None:
    text = evaluate(many, tmp_path, task="segmentation", split="all", protocol="both")
    assert "intervals over 3 scenes" in text
    rows = table(tmp_path / "metrics.csv")
    low, mean, high = (float(rows[name]["lifted"]) for name in ("95 % from", "mean IoU", "95 % to"))
    within = [float(row["lifted"]) for row in table(tmp_path / "scenes.csv").values()]
    assert min(within) - 0.02 <= low <= mean <= high <= max(within) + 0.02
    assert len(within) == 3
    assert (tmp_path / "scenes_2d.csv").is_file()


def test_retrieval_over_scenes_asks_for_scenes(many: Path, tmp_path: Path) -> None:
    evaluate(many, tmp_path, task="retrieval", split="all")
    with (tmp_path / "retrieval.csv").open() as lines:
        rows = {row["direction"]: row for row in csv.DictReader(lines)}
    assert rows["text -> object"]["among"] == "9"
    # every room has every class, so no scene can be told by what it holds
    assert rows["text -> scene"]["queries"] == "0"
    assert rows["text -> scene"]["R@1"] == "-"


def test_clusters_are_shared_by_scenes(many: Path, tmp_path: Path) -> None:
    evaluate(many, tmp_path, task="clusters", split="all", names=("poster", "wall", "door"))
    assert list(table(tmp_path / "clusters.csv"))[:3] == ["poster", "wall", "door"]


# ---- unseen scenes -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A room seen from other places, with frames named like those of the run."""
    return write_room(tmp_path_factory.mktemp("unseen") / "room-x", 0.2, others=True)


def test_an_unseen_scene_is_lifted_and_shown_to_the_student(
    trained: Path, unseen: Path, tmp_path: Path
) -> None:
    evaluate(trained, tmp_path, data=unseen, protocol="both")
    rows = table(tmp_path / "metrics.csv")
    assert list(rows["mean IoU"])[1:] == ["single view", "lifted", "student", "ensemble"]
    # the new scene's own label maps were lifted, not those of the run's scene
    assert float(rows["mean IoU"]["lifted"]) > 0.85
    made = Run(tmp_path / "eval" / "room-x")
    assert made.verify() == []
    before = (made.path / "features" / "student" / "store.json").stat().st_mtime_ns
    evaluate(trained, tmp_path, data=unseen)
    assert (made.path / "features" / "student" / "store.json").stat().st_mtime_ns == before


def test_files_of_another_scenes_frames_are_never_lifted(
    trained: Path, unseen: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "bare"
    shutil.copytree(unseen, copy)
    shutil.rmtree(copy / "label")
    evaluate(trained, tmp_path, data=copy)
    assert list(table(tmp_path / "metrics.csv")["mean IoU"])[1:] == ["student"]


def test_a_labelled_cloud_without_pictures_is_shown_to_the_student(
    trained: Path, unseen: Path, tmp_path: Path
) -> None:
    cloud = tmp_path / "cloud"
    cloud.mkdir()
    for name in ("points.ply", "labels.npy", "classes.json"):
        shutil.copy(unseen / name, cloud / name)
    evaluate(trained, tmp_path, data=cloud)
    assert list(table(tmp_path / "metrics.csv")["mean IoU"])[1:] == ["student"]


def test_a_folder_of_scenes_gives_intervals_over_scenes(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    text = evaluate(trained, tmp_path, data=scenes)
    assert "3 scenes: room-a, room-b, room-c" in text
    # the run's own scene was not lifted again
    assert sorted(p.name for p in (tmp_path / "eval").iterdir()) == ["room-b", "room-c"]


def test_the_same_pictures_in_another_folder_keep_the_runs_features(
    trained: Path, scenes: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "relabelled"
    shutil.copytree(scenes / "room-a", copy)
    xyz_labels = np.load(copy / "labels.npy")
    np.save(copy / "labels.npy", np.where(xyz_labels == 4, 1, xyz_labels))
    evaluate(trained, tmp_path, data=copy)
    assert not (tmp_path / "eval").exists()
    assert "cabinet" not in table(tmp_path / "metrics.csv")


def test_an_unseen_cloud_needs_a_student(many: Path, unseen: Path, tmp_path: Path) -> None:
    cloud = tmp_path / "cloud"
    cloud.mkdir()
    for name in ("points.ply", "labels.npy", "classes.json"):
        shutil.copy(unseen / name, cloud / name)
    with pytest.raises(UsageError, match="trained student"):
        evaluate(many, tmp_path, data=cloud)


def test_data_without_labels_says_so(trained: Path, unseen: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(unseen, copy)
    (copy / "labels.npy").unlink()
    with pytest.raises(DataError, match=r"labels\.npy"):
        evaluate(trained, tmp_path, data=copy)


def test_a_split_without_scenes_is_refused(many: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--split val"):
        evaluate(many, tmp_path, split="val")
    with pytest.raises(UsageError, match="--split test"):
        evaluate(trained, tmp_path, split="test")
