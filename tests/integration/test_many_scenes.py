"""A run over several small worlds: lifted, trained on some, asked and measured on others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from xmodal.errors import CheckpointError, ConfigError, DataError
from xmodal.runs.frozen import silent
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.runs.opened import open_run
from xmodal.runs.scenes import home_of, scene_runs
from xmodal.runs.train import TrainRequest, train_run
from xmodal.store import Run
from xmodal.world import WorldOptions, make_world

pytestmark = pytest.mark.usefixtures("packaged_weights")

OBJECTS = ("soccer ball", "coffee mug", "banana")
GRAPH = """
  name: two_heads
  nodes:
    cameras: {kind: image}
    depth:   {kind: depth}
    cloud:   {kind: points}
    labels:  {kind: labels}
    maps:    {kind: feature_map, channels: 384}
    lifted:  {kind: points, channels: 384, on: cloud}
    truth:   {kind: points, channels: 4, on: cloud}
    student: {kind: points, channels: 384, on: cloud}
    slow:    {kind: points, channels: 384, on: cloud}
  encode:
    cameras -> maps:  {op: imagenet_dense, image_size: 160}
    cloud -> student: {op: sparse_unet, voxel_m: 0.04, inputs: [rgb, normals, height]}
    student -> slow:  {op: ema, decay: 0.9}
  lift:
    maps, depth, cloud -> lifted: {op: points}
    labels, cloud -> truth: {op: one_hot, names: [soccer ball, coffee mug, banana], other: true}
  distill:
    lifted -> student: {op: cosine}
    slow -> student:   {op: mse, weight: 0.1}
    truth -> student:  {op: kl, project: linear}
"""


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    for seed, name in enumerate(("train-0", "train-1", "test-0")):
        options = WorldOptions(
            seed=seed, objects=OBJECTS, num_views=3, hw=(96, 128), spacing_m=0.02
        )
        make_world(folder / name, options)
    return folder


@pytest.fixture(scope="module")
def runfile(worlds: Path) -> Path:
    file = worlds / "run.yaml"
    file.write_text(
        f"name: many\ngraph:{GRAPH}data: {{scene: '{worlds}/t*-?'}}\nsplits: {{test: ['test-*']}}\n"
        "optimiser: {crop_points: 2000, loss_rows: 500, crops: 2}\n"
        "stages:\n- {name: both, steps: 3}\n"
        "- {name: probe, steps: 2, train: [truth -> student], edges: [truth -> student]}\n"
    )
    return file


@pytest.fixture(scope="module")
def trained(runfile: Path) -> Run:
    out = runfile.parent / "run"
    cache = runfile.parent / "cache"
    summary = train_run(TrainRequest(runfile=runfile, out=out, cache=cache), silent)
    assert summary.steps == 5
    assert np.isfinite(summary.cosine)
    return Run(out)


def test_every_scene_gets_a_run_of_its_own(trained: Run) -> None:
    scenes = scene_runs(trained)
    assert [scene.path.name for scene in scenes] == ["test-0", "train-0", "train-1"]
    for scene in scenes:
        assert scene.verify() == []
        assert scene.info("truth").classes == (*OBJECTS, "other")
        assert home_of(scene).path.resolve() == trained.path.resolve()
        assert not open_run(scene.path).spec.data.is_many
    assert trained.verify() == []


def test_only_held_back_scenes_are_answered(trained: Run) -> None:
    by_name = {scene.path.name: scene for scene in scene_runs(trained)}
    assert not by_name["train-0"].has("student")
    head = by_name["test-0"].features("student.truth")
    assert head.info.classes == (*OBJECTS, "other")
    assert head.info.space == "simplex"
    assert np.allclose(head.take(np.arange(len(head.valid))).sum(1), 1, atol=1e-2)
    assert by_name["test-0"].info("student").channels == 384


def test_each_source_is_asked_in_its_own_language(trained: Run) -> None:
    opened = open_run(trained.path / "scenes" / "test-0")
    for source in ("lifted", "student"):
        scores = opened.relevancy(source, ["banana", "soccer ball"])
        assert scores.shape == (len(opened.xyz), 2)
    assert opened.teacher_of("student") is opened.teacher_of("lifted")


def test_a_store_is_taken_over_without_lifting_again(trained: Run, runfile: Path) -> None:
    other = runfile.parent / "other.yaml"
    other.write_text(runfile.read_text().replace("name: many", "name: other"))
    out = runfile.parent / "other"
    lift_run(LiftRequest(source=other, out=out, store=trained.path, cache=out / "none"), silent)
    for scene in scene_runs(Run(out)):
        twin = trained.path / "scenes" / scene.path.name / "features" / "lifted" / "store.json"
        assert (scene.path / "features" / "lifted" / "store.json").samefile(twin)
        assert scene.verify() == []
    assert not (out / "none").exists()


def test_a_node_made_otherwise_is_lifted_again(trained: Run, runfile: Path) -> None:
    changed = runfile.parent / "changed.yaml"
    text = runfile.read_text().replace("{op: points}", "{op: points, smooth_m: 0.03}")
    changed.write_text(text)
    out = runfile.parent / "changed"
    cache = runfile.parent / "cache"
    lift_run(LiftRequest(source=changed, out=out, store=trained.path, cache=cache), silent)
    for scene in scene_runs(Run(out)):
        twin = trained.path / "scenes" / scene.path.name / "features"
        ours = scene.path / "features"
        assert not (ours / "lifted" / "store.json").samefile(twin / "lifted" / "store.json")
        assert (ours / "truth" / "store.json").samefile(twin / "truth" / "store.json")


def test_a_pattern_without_scenes_is_an_error(runfile: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(runfile.read_text().replace("/t*-?", "/none-*"))
    with pytest.raises(DataError, match="none that matches"):
        lift_run(LiftRequest(source=file, out=tmp_path / "out"), silent)
    assert not (tmp_path / "out").exists()


def test_a_split_that_no_scene_is_in_is_refused(runfile: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(runfile.read_text().replace("test-*", "tset-*"))
    with pytest.raises(ConfigError, match="tset"):
        lift_run(LiftRequest(source=file, out=tmp_path / "out"), silent)


def test_a_teacher_is_added_without_lifting_or_learning_the_rest_again(
    trained: Run, runfile: Path
) -> None:
    more = runfile.parent / "more.yaml"
    text = runfile.read_text()
    text = text.replace(
        "    maps, depth, cloud -> lifted: {op: points}\n",
        "    maps, depth, cloud -> lifted: {op: points}\n"
        "    maps, depth, cloud -> second: {op: points, smooth_m: 0.05}\n",
    )
    text = text.replace(
        "    truth:   {kind: points, channels: 4, on: cloud}\n",
        "    truth:   {kind: points, channels: 4, on: cloud}\n"
        "    second:  {kind: points, channels: 384, on: cloud}\n",
    )
    text = text.replace(
        "    slow -> student:   {op: mse, weight: 0.1}\n",
        "    slow -> student:   {op: mse, weight: 0.1}\n"
        "    second -> student: {op: cosine, project: mlp}\n",
    )
    stages = text.index("stages:")
    head = "{name: head, steps: 2, train: [second -> student], edges: [second -> student]}"
    more.write_text(f"{text[:stages]}stages:\n- {head}\n")
    out = runfile.parent / "more"
    cache = runfile.parent / "cache"
    request = TrainRequest(
        runfile=more, out=out, cache=cache, store=trained.path, start=trained.path
    )
    train_run(request, silent)
    before = trained.path / "scenes" / "test-0"
    after = Run(out / "scenes" / "test-0")
    twin = before / "features" / "lifted" / "store.json"
    assert (after.path / "features" / "lifted" / "store.json").samefile(twin)
    assert set(after.sources()) >= {"student", "student.truth", "student.second"}
    index = np.arange(len(after.features("student").valid))
    for name in ("student", "student.truth"):  # frozen in the only stage
        old, new = (run.features(name).take(index) for run in (Run(before), after))
        assert np.array_equal(old, new)


def test_a_student_of_another_width_is_no_start(
    trained: Run, runfile: Path, tmp_path: Path
) -> None:
    other = tmp_path / "run.yaml"
    other.write_text(runfile.read_text().replace("[rgb, normals, height]", "[rgb]"))
    request = TrainRequest(
        runfile=other, out=tmp_path / "out", store=trained.path, start=trained.path
    )
    with pytest.raises(CheckpointError, match="same network"):
        train_run(request, silent)


def test_training_reads_rows_of_another_codec(runfile: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(runfile.read_text() + "store: {codec: int8}\n")
    cache = runfile.parent / "cache"
    summary = train_run(TrainRequest(runfile=file, out=tmp_path / "out", cache=cache), silent)
    assert np.isfinite(summary.last_loss)
    for scene in scene_runs(Run(tmp_path / "out")):
        assert scene.info("lifted").codec == "int8"
        assert 0 < scene.info("lifted").cosine_error < 0.01


def test_a_lift_that_was_killed_between_scenes_goes_on(trained: Run, runfile: Path) -> None:
    out = runfile.parent / "killed"
    shutil.copytree(trained.path, out)
    (out / "manifest.json").unlink()
    shutil.rmtree(out / "scenes" / "train-1")
    kept = (out / "scenes" / "train-0" / "features" / "lifted" / "rows.npy").stat().st_mtime_ns
    cache = runfile.parent / "cache"
    lift_run(LiftRequest(source=runfile, out=out, cache=cache), silent)
    names = [scene.path.name for scene in scene_runs(Run(out))]
    assert names == ["test-0", "train-0", "train-1"]
    again = (out / "scenes" / "train-0" / "features" / "lifted" / "rows.npy").stat().st_mtime_ns
    assert again == kept
