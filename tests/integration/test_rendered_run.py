"""A generated world learnt through renderings: trained, gone on with, measured, asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lifting.gaussians.fit import evaluate_views
from xmodal.atomic import sha256_file
from xmodal.cli import app
from xmodal.edges.lift.fit_splats import photo_of
from xmodal.errors import DataError, UsageError
from xmodal.runs.evaluate import EvalRequest, eval_run
from xmodal.runs.export import export_ply
from xmodal.runs.frozen import silent
from xmodal.runs.opened import open_run
from xmodal.runs.prompts import Prompt, QueryOutputs
from xmodal.runs.query import query_run
from xmodal.runs.train import TrainRequest, apply_run, train_run
from xmodal.splats.files import read_splats
from xmodal.store import Run
from xmodal.world import WorldOptions, make_world

pytestmark = pytest.mark.usefixtures("packaged_weights")

DRAWN = """
name: drawn
graph:
  name: drawn
  nodes:
    cameras: {kind: image}
    depth:   {kind: depth}
    cloud:   {kind: points}
    maps:    {kind: feature_map, channels: 384}
    lifted:  {kind: points, channels: 384, on: cloud}
    frames:  {kind: frames, channels: 384}
    drawn:   {kind: gaussians, channels: 384, on: cloud}
  encode:
    cameras -> maps: {op: imagenet_dense, image_size: 160}
    cloud -> drawn:  {op: gaussian_head, voxel_m: 0.05, inputs: [rgb, normals, height]}
  lift:
    maps, depth, cloud -> lifted: {op: points}
    cameras, depth, maps -> frames: {op: frames, max_side_px: 32, hold_out: 3}
  distill:
    frames -> drawn: {op: render}
data: {scene: SCENE}
optimiser: {steps: STEPS, lr: 4e-3, crops: 1, crop_points: 9999, log_every: 1}
"""
FIELD = (
    DRAWN.replace("    frames:  {", "    splats:  {kind: gaussians}\n    frames:  {")
    .replace("drawn:   {kind: gaussians, channels: 384, on: cloud}",
             "drawn:   {kind: gaussians, channels: 384, on: splats}")
    .replace("lifted:  {kind: points, channels: 384, on: cloud}",
             "lifted:  {kind: gaussians, channels: 384, on: splats}")
    .replace("maps, depth, cloud -> lifted: {op: points}",
             "cameras, cloud -> splats: {op: fit_splats, steps: 0, strategy: none, opacity: 0.9}\n"
             "    maps, splats -> lifted: {op: splats, max_side_px: 32}")
    .replace("cloud -> drawn:  {op: gaussian_head, voxel_m: 0.05, inputs: [rgb, normals, height]}",
             "splats -> drawn: {op: splat_scene}")
    .replace("{op: render}", "{op: render, self_teach: 0.2}")
    .replace("lr: 4e-3", "lr: 2e-2")
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "room"
    objects = ("soccer ball", "coffee mug")
    make_world(
        folder, WorldOptions(seed=3, objects=objects, num_views=5, hw=(96, 128), spacing_m=0.03)
    )
    return folder


def runfile(folder: Path, text: str, world: Path, steps: int) -> Path:
    file = folder / "run.yaml"
    file.write_text(text.replace("SCENE", str(world)).replace("STEPS", str(steps)))
    return file


@pytest.fixture(scope="module")
def head(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("head")
    file = runfile(folder, DRAWN, world, 4)
    return train_run(TrainRequest(runfile=file, out=folder / "run"), silent).run


@pytest.fixture(scope="module")
def field(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("field")
    file = runfile(folder, FIELD, world, 40)
    return train_run(TrainRequest(runfile=file, out=folder / "run"), silent).run


def test_new_views_look_better_than_the_start(field: Run, tmp_path: Path) -> None:
    told = eval_run(EvalRequest(run=field.path, out=tmp_path, task="views"))
    assert "room, drawn" in told
    assert "held out,2" in (tmp_path / "views.csv").read_text()
    opened = open_run(field.path)
    learnt, start = opened.drawn("drawn"), opened.splats
    assert learnt is not None
    assert start is not None
    # Of five views by name every third is held out, from the first on.
    photos = [photo_of(opened.scene.images[index], None, 32) for index in (0, 3)]
    before, after = (
        sum(score.psnr_db for score in evaluate_views(splats, photos)) / len(photos)
        for splats in (start, learnt)
    )
    assert after > before + 0.5


def test_features_of_new_views_are_measured(field: Run, tmp_path: Path) -> None:
    told = eval_run(EvalRequest(run=field.path, out=tmp_path, task="features"))
    assert "drawn" in told
    assert "held out" in told


@pytest.mark.parametrize("made", ["head", "field"])
def test_shaped_splats_are_kept_and_asked(
    made: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Run = request.getfixturevalue(made)
    assert len(read_splats(run.drawn("drawn"))) == run.info("drawn").num_points
    assert open_run(run.path).shaped() == ["drawn"]
    assert "splats/drawn.ply" in run.manifest()["files"]
    assert not run.verify()
    png = tmp_path / "q.png"
    told = query_run(run.path, Prompt(text="a soccer ball"), "drawn", QueryOutputs(png=png))
    assert "soccer ball" in told
    assert png.stat().st_size > 1000
    assert "splats" in export_ply(run.path, tmp_path / "drawn.ply", "drawn")
    moved = (
        read_splats(tmp_path / "drawn.ply").means - read_splats(run.drawn("drawn")).means
    ).abs()
    assert float(moved.max()) < 1e-6


def test_a_run_that_goes_on_ends_in_the_same_bits(head: Run, world: Path, tmp_path: Path) -> None:
    first = runfile(tmp_path, DRAWN, world, 4)
    out = tmp_path / "run"
    train_run(TrainRequest(runfile=first, out=out, store=head.path), silent)
    again = Run(out)
    assert sha256_file(again.drawn("drawn")) == sha256_file(head.drawn("drawn"))
    kept = "features/frames/rows.npy"
    assert (out / kept).samefile(head.path / kept)


def test_frames_are_no_source(head: Run) -> None:
    with pytest.raises(UsageError, match=r"this run has: lifted, drawn"):
        open_run(head.path).pick("frames")


def test_new_points_become_splats(head: Run, world: Path, tmp_path: Path) -> None:
    cloud = head.points
    told = apply_run(
        head.path, cloud, tmp_path / "out", voxel_m=0.03, overwrite=False, report=silent
    )
    assert "points described" in told
    made = Run(tmp_path / "out")
    assert len(read_splats(made.drawn("drawn"))) == head.info("drawn").num_points


def test_a_learnt_scene_knows_no_other(field: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="drawn was trained on"):
        apply_run(field.path, field.points, tmp_path, voxel_m=0.02, overwrite=False, report=silent)


def test_several_scenes_have_no_one_scene(world: Path, tmp_path: Path) -> None:
    file = runfile(tmp_path, FIELD, world, 4)
    file.write_text(file.read_text().replace(f"scene: {world}", f"scene: ['{world}']"))
    with pytest.raises(DataError, match="the splats of one scene"):
        train_run(TrainRequest(runfile=file, out=tmp_path / "run"), silent)


def test_the_command_line_knows_shaped_splats(field: Run, tmp_path: Path) -> None:
    run = str(field.path)
    for arguments in (["check", str(field.runfile)],
                      ["eval", run, "--task", "views", "--out", str(tmp_path)],
                      ["query", run, "a soccer ball", "--source", "drawn"]):  # fmt: skip
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
