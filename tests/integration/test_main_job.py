"""The main job on a small generated world whose label maps serve as the teacher."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xmodal.errors import DataError, UsageError
from xmodal.ply import read_points
from xmodal.runs.evaluate import EvalRequest, eval_run
from xmodal.runs.export import export_ply
from xmodal.runs.lift import LiftRequest, lift_run, silent
from xmodal.runs.opened import open_run
from xmodal.runs.prompts import Prompt, QueryOutputs
from xmodal.runs.query import query_run
from xmodal.runs.train import TrainRequest, apply_run, train_run
from xmodal.store import Run

OBJECTS = ("soccer ball", "coffee mug", "banana")


def test_lift_leaves_a_whole_run(lifted_run: Path) -> None:
    run = Run(lifted_run)
    features = run.features("lifted")
    assert run.sources() == ["lifted"]
    assert run.verify() == []
    assert len(read_points(run.points).points.xyz) == len(features.rows)
    assert float(np.asarray(features.valid).mean()) > 0.9
    assert not list(lifted_run.rglob("*.tmp-*"))


def test_lifting_exact_labels_gives_back_the_labels(world: Path, lifted_run: Path) -> None:
    features = Run(lifted_run).features("lifted")
    truth = np.load(world / "labels.npy")
    predicted = np.asarray(features.rows, dtype=np.float32).argmax(1) - 1
    seen = np.asarray(features.valid) & (truth >= 0)
    assert (predicted[seen] == truth[seen]).mean() > 0.95


def test_lifting_again_changes_nothing(lifted_run: Path, world: Path, label_teacher: str) -> None:
    before = Run(lifted_run).manifest()["files"]
    request = LiftRequest(
        source=world, out=lifted_run, teacher=label_teacher, cache=lifted_run.parent / "cache"
    )
    assert "nothing to do" in lift_run(request, silent).summary()
    assert Run(lifted_run).manifest()["files"] == before


def test_another_lift_into_the_same_run_is_refused(
    lifted_run: Path, world: Path, label_teacher: str
) -> None:
    request = LiftRequest(
        source=world, out=lifted_run, teacher=label_teacher, max_frames=2,
        cache=lifted_run.parent / "cache",
    )  # fmt: skip
    with pytest.raises(UsageError, match="fingerprint"):
        lift_run(request, silent)
    assert Run(lifted_run).verify() == []


def test_a_folder_with_other_content_is_never_overwritten(
    world: Path, label_teacher: str, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    request = LiftRequest(source=world, out=tmp_path, teacher=label_teacher, overwrite=True)
    with pytest.raises(UsageError, match="other content"):
        lift_run(request, silent)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_query_finds_the_object_in_3d(lifted_run: Path, world: Path, tmp_path: Path) -> None:
    outputs = QueryOutputs(
        ply=tmp_path / "q.ply",
        png=tmp_path / "q.png",
        json=tmp_path / "q.json",
        scores=tmp_path / "s.npy",
    )
    text = query_run(lifted_run, Prompt(text="soccer ball"), None, outputs)
    assert "source: lifted" in text
    answer = json.loads((tmp_path / "q.json").read_text())
    poses = json.loads((world / "scene.json").read_text())["world"]["objects"]
    ball = next(entry for entry in poses if entry["name"] == "soccer ball")
    centre = np.array(answer["objects"][0]["centre_m"])
    assert np.linalg.norm(centre - np.array(ball["centre_m"])) < 0.08
    scores = np.load(tmp_path / "s.npy")
    assert scores.dtype == np.float32
    assert np.nanmin(scores) >= 0
    assert np.nanmax(scores) <= 1
    assert len(read_points(tmp_path / "q.ply").points.xyz) == len(scores)
    assert (tmp_path / "q.png").stat().st_size > 1000


def test_click_finds_what_was_clicked(lifted_run: Path, world: Path, tmp_path: Path) -> None:
    opened = open_run(lifted_run)
    image = opened.scene.images[0]
    label = opened.scene.label_maps[0] if opened.scene.label_maps else None
    assert label is not None
    names = json.loads((world / "classes.json").read_text())
    rows, cols = np.nonzero(np.asarray(label.ids) == names.index("banana") + 1)
    middle = len(rows) // 2
    prompt = Prompt(click=f"{image.name},{cols[middle] + 0.5},{rows[middle] + 0.5}")
    query_run(lifted_run, prompt, "lifted", QueryOutputs(scores=tmp_path / "s.npy"))
    truth = np.load(world / "labels.npy")
    best = np.nanargmax(np.load(tmp_path / "s.npy"))
    assert truth[best] == names.index("banana")


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        (Prompt(), "none of them"),
        (Prompt(text="mug", click="000000,1,1"), "text and click"),
        (Prompt(text="   "), "empty"),
        (Prompt(text="mug\x07"), "control"),
        (Prompt(text="m" * 5000), "5000 characters"),
        (Prompt(click="000000;1;1"), "FRAME,U,V"),
        (Prompt(click="nowhere,1,1"), "nowhere"),
        (Prompt(click="000000,9999,1"), "inside"),
        (Prompt(click="000000,1,1", negatives=("table",)), "negatives"),
    ],
)
def test_bad_prompts_are_usage_errors(lifted_run: Path, prompt: Prompt, part: str) -> None:
    if prompt.click and prompt.click.startswith("000000,"):
        name = open_run(lifted_run).scene.images[0].name
        prompt = replace(prompt, click=prompt.click.replace("000000", name))
    with pytest.raises(UsageError, match=part):
        query_run(lifted_run, prompt, None, QueryOutputs())


def test_student_is_asked_once_there_is_one(trained_run: Path) -> None:
    text = query_run(trained_run, Prompt(text="soccer ball"), None, QueryOutputs())
    assert "source: student" in text
    assert Run(trained_run).verify() == []


def test_training_lifts_on_the_fly_to_the_same_features(
    lifted_run: Path, trained_run: Path
) -> None:
    stored, made = (Run(p).features("lifted") for p in (lifted_run, trained_run))
    np.testing.assert_array_equal(stored.rows, made.rows)
    np.testing.assert_array_equal(stored.weight, made.weight)


def test_training_twice_needs_a_word(trained_run: Path, lifted_run: Path) -> None:
    request = TrainRequest(runfile=trained_run / "run.yaml", out=trained_run)
    with pytest.raises(UsageError, match="--resume"):
        train_run(request, silent)


def test_ensemble_lies_between_its_parts(trained_run: Path) -> None:
    opened = open_run(trained_run)
    first, second, both = (
        opened.relevancy(source, ["banana"])[:, 0] for source in ("lifted", "student", "ensemble")
    )
    seen = np.isfinite(first)
    low, high = np.minimum(first, second)[seen], np.maximum(first, second)[seen]
    assert ((both[seen] >= low - 1e-6) & (both[seen] <= high + 1e-6)).all()


def test_student_needs_only_points(trained_run: Path, world: Path, tmp_path: Path) -> None:
    text = apply_run(
        trained_run, world / "points.ply", tmp_path / "new", voxel_m=0.02, overwrite=False,
        report=silent,
    )  # fmt: skip
    assert "points" in text
    again = Run(tmp_path / "new").features("student")
    first = Run(trained_run).features("student")
    np.testing.assert_allclose(
        np.asarray(again.rows, np.float32), np.asarray(first.rows, np.float32), atol=2e-3
    )


def test_eval_writes_the_table(trained_run: Path, tmp_path: Path) -> None:
    text = eval_run(EvalRequest(run=trained_run, out=tmp_path, task="segmentation"))
    assert "mean IoU" in text
    head, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert head == "object,single view,lifted,student,ensemble"
    lifted = {row.split(",")[0]: float(row.split(",")[2]) for row in rows[:3]}
    assert min(lifted.values()) > 0.7, lifted


def test_eval_scores_another_systems_labels(trained_run: Path, world: Path, tmp_path: Path) -> None:
    truth = np.load(world / "labels.npy")
    names = json.loads((world / "classes.json").read_text())
    np.save(tmp_path / "l.npy", truth)
    request = EvalRequest(
        run=trained_run, out=tmp_path, task="segmentation", labels=tmp_path / "l.npy"
    )
    assert "1.000" in eval_run(request)
    order = [names.index(name) for name in OBJECTS]
    labels = np.full(len(truth), -1)
    for position, index in enumerate(order):
        labels[truth == index] = position
    np.save(tmp_path / "l.npy", labels)
    request = replace(request, names=OBJECTS)
    assert "1.000" in eval_run(request)
    np.save(tmp_path / "l.npy", labels[:-1])
    with pytest.raises(UsageError, match="row"):
        eval_run(request)


def test_eval_without_labels_says_so(trained_run: Path, tmp_path: Path) -> None:
    request = EvalRequest(run=trained_run, out=tmp_path, task="localisation")
    with pytest.raises(DataError, match="box"):
        eval_run(request)


def test_export_colours_by_features(trained_run: Path, tmp_path: Path) -> None:
    export_ply(trained_run, tmp_path / "f.ply", "student")
    cloud = read_points(tmp_path / "f.ply").points
    assert cloud.rgb is not None
    assert cloud.rgb.std(0).min() > 0.01
    with pytest.raises(UsageError, match="ending in"):
        export_ply(trained_run, tmp_path / "f.txt", "student")


@pytest.mark.parametrize("name", ["features/lifted/rows.npy", "points.ply", "run.yaml"])
def test_verify_finds_one_changed_byte(lifted_run: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(lifted_run, copy)
    file = copy / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert any(name in problem for problem in Run(copy).verify())


@pytest.mark.parametrize("name", ["rows", "valid", "num_views"])
def test_a_cut_store_is_an_error_not_zeros(lifted_run: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(lifted_run, copy)
    file = copy / "features" / "lifted" / f"{name}.npy"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=name):
        Run(copy).features("lifted")


def test_an_unfinished_run_is_refused(lifted_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(lifted_run, copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(DataError, match="manifest"):
        open_run(copy)


def test_a_lift_that_was_stopped_starts_again(
    lifted_run: Path, world: Path, label_teacher: str, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    shutil.copytree(lifted_run, out)
    (out / "manifest.json").unlink()
    shutil.rmtree(out / "features")
    request = LiftRequest(
        source=world, out=out, teacher=label_teacher, cache=lifted_run.parent / "cache"
    )
    lift_run(request, silent)
    assert Run(out).verify() == []
