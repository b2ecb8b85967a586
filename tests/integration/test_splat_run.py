"""A generated world as splats: lifted, taught, asked, exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from xmodal.atomic import sha256_file
from xmodal.cli import app
from xmodal.config.runfile import load_run
from xmodal.errors import DataError, UsageError
from xmodal.ply import read_points
from xmodal.runs.evaluate import EvalRequest, eval_run
from xmodal.runs.export import export_ply
from xmodal.runs.frozen import silent
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.runs.opened import open_run
from xmodal.runs.prompts import Prompt, QueryOutputs
from xmodal.runs.query import query_run
from xmodal.runs.train import TrainRequest, apply_run, train_run
from xmodal.splats.files import read_splats
from xmodal.store import Run
from xmodal.world import WorldOptions, make_world

pytestmark = pytest.mark.usefixtures("packaged_weights")

FIELD = """
name: field
graph:
  name: field
  nodes:
    cameras: {kind: image}
    cloud:   {kind: points}
    maps:    {kind: feature_map, channels: 384}
    splats:  {kind: gaussians}
    lifted:  {kind: gaussians, channels: 384, on: splats}
    seen:    {kind: point_sets, channels: 384, on: splats}
    field:   {kind: gaussians, channels: 16, on: splats}
  encode:
    cameras -> maps: {op: imagenet_dense, image_size: 160}
    splats -> field: {op: splat_field}
  lift:
    cameras, cloud -> splats: {op: fit_splats, steps: 0, strategy: none, opacity: 0.9}
    maps, splats -> lifted: {op: splats, max_side_px: 64}
    maps, splats -> seen: {op: splat_sets, max_side_px: 64}
  distill:
    seen -> field: {op: set_cosine, project: mlp, decode: sets}
data: {scene: SCENE}
optimiser: {steps: 30, crops: 1, crop_points: 100000, loss_rows: 100000, loss_sets: 64}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "room"
    objects = ("soccer ball", "coffee mug", "banana")
    make_world(
        folder, WorldOptions(seed=3, objects=objects, num_views=3, hw=(96, 128), spacing_m=0.02)
    )
    return folder


@pytest.fixture(scope="module")
def lifted(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "lifted"
    request = LiftRequest(source=world, out=out, teacher="imagenet_dense", to="gaussians")
    result = lift_run(request, silent)
    assert "splats" in result.summary()
    return result.run


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("field")
    runfile = folder / "field.yaml"
    runfile.write_text(FIELD.replace("SCENE", str(world)))
    return train_run(TrainRequest(runfile=runfile, out=folder / "run"), silent).run


def test_a_run_over_splats_keeps_them(lifted: Run) -> None:
    splats, cloud = read_splats(lifted.gaussians), read_points(lifted.points).points
    assert np.allclose(splats.means, cloud.xyz)
    assert lifted.info("lifted").num_points == len(splats)
    assert "gaussians.ply" in lifted.manifest()["files"]
    assert not lifted.verify()


def test_the_same_lift_is_not_done_twice(lifted: Run, world: Path) -> None:
    before = lifted.gaussians.stat().st_mtime_ns
    request = LiftRequest(source=world, out=lifted.path, teacher="imagenet_dense", to="gaussians")
    again = lift_run(request, silent)
    assert "nothing to do" in again.summary()
    assert lifted.gaussians.stat().st_mtime_ns == before


def test_a_run_over_splats_answers(lifted: Run, tmp_path: Path) -> None:
    png, scores = tmp_path / "q.png", tmp_path / "q.npy"
    told = query_run(
        lifted.path, Prompt(text="a soccer ball"), None, QueryOutputs(png=png, scores=scores)
    )
    assert "soccer ball" in told
    assert png.stat().st_size > 1000
    assert len(np.load(scores)) == lifted.info("lifted").num_points


@pytest.mark.parametrize("name", ["out.ply", "out.splat"])
def test_splats_are_exported_in_colours_of_their_features(
    lifted: Run, tmp_path: Path, name: str
) -> None:
    assert "splats" in export_ply(lifted.path, tmp_path / name, "lifted")
    if name.endswith(".ply"):
        assert len(read_splats(tmp_path / name)) == lifted.info("lifted").num_points
    else:
        assert (tmp_path / name).stat().st_size == 32 * lifted.info("lifted").num_points


def test_renderings_are_measured_against_the_photos(lifted: Run, tmp_path: Path) -> None:
    told = eval_run(EvalRequest(run=lifted.path, out=tmp_path, task="views"))
    assert "PSNR" in told
    shown = (tmp_path / "views_each.csv").read_text().splitlines()
    assert len(shown) == 4
    # Of flat splats on the surfaces, without any fit: far above a grey picture (about 12 dB).
    assert float(shown[1].split(",")[2]) > 15


def test_a_run_over_points_has_no_renderings(world: Path, tmp_path: Path) -> None:
    run = lift_run(
        LiftRequest(source=world, out=tmp_path / "points", teacher="imagenet_dense"), silent
    ).run
    with pytest.raises(DataError, match="a run over points"):
        eval_run(EvalRequest(run=run.path, out=tmp_path, task="views"))


def test_another_ending_is_refused(lifted: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.ply or \.splat"):
        export_ply(lifted.path, tmp_path / "out.obj", "lifted")


def test_a_field_is_taught_through_its_views(trained: Run) -> None:
    records = (trained.path / "log.jsonl").read_text().splitlines()
    losses = [line for line in records if '"event": "step"' in line]
    first, last = (
        float(line.split('"loss": ')[1].split(",")[0]) for line in (losses[0], losses[-1])
    )
    assert last < 0.7 * first
    opened = open_run(trained.path)
    assert "field.seen" in trained.sources()
    rows = opened.features("field.seen")
    assert rows.info.channels == 384


def test_a_head_is_asked_by_its_name(trained: Run, tmp_path: Path) -> None:
    png = tmp_path / "head.png"
    arguments = ["query", str(trained.path), "a soccer ball", "--source", "field.seen"]
    done = CliRunner().invoke(app, [*arguments, "--png", str(png)])
    assert done.exit_code == 0, done.output
    assert "field.seen" in done.output
    assert png.is_file()
    assert "splats" in export_ply(trained.path, tmp_path / "head.ply", "field.seen")


@pytest.mark.parametrize("source", ["seen", "nothing", "../lifted"])
def test_what_has_no_row_for_each_splat_is_no_source(
    trained: Run, tmp_path: Path, source: str
) -> None:
    with pytest.raises(UsageError, match=r"this run has: lifted, field\.seen"):
        export_ply(trained.path, tmp_path / "out.ply", source)


def test_a_field_knows_no_other_scene(trained: Run, world: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_world(
        other, WorldOptions(seed=4, objects=("banana",), num_views=3, hw=(96, 128), spacing_m=0.05)
    )
    with pytest.raises(UsageError, match="each row belongs to a splat"):
        apply_run(
            trained.path, other, tmp_path / "out", voxel_m=0.02, overwrite=False, report=silent
        )
    with pytest.raises(UsageError, match="each row belongs to a splat"):
        eval_run(EvalRequest(run=trained.path, data=other, out=tmp_path))
    # Its own scene is known by its frames, wherever it is named from.
    assert "IoU" in eval_run(EvalRequest(run=trained.path, data=world, out=tmp_path))


def test_rows_belong_to_their_splats_to_the_bit(lifted: Run, world: Path, tmp_path: Path) -> None:
    told = json.loads((lifted.path / "features" / "lifted" / "store.json").read_text())
    assert told["made_from"]["splats"] == sha256_file(lifted.gaussians)
    request = LiftRequest(source=world, out=tmp_path, teacher="imagenet_dense", to="gaussians")
    same = lift_run(replace(request, store=lifted.path), silent).run
    rows = "features/lifted/rows.npy"
    assert (same.path / rows).samefile(lifted.path / rows)


def test_a_field_of_several_scenes_is_refused(world: Path, tmp_path: Path) -> None:
    runfile = tmp_path / "many.yaml"
    runfile.write_text(FIELD.replace("scene: SCENE", f"scene: ['{world}']"))
    spec = load_run(runfile)
    assert spec.data.is_many
    with pytest.raises(DataError, match="the splats of one scene"):
        spec.graph.build_nets(None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"to": "voxels"}, "points, gaussians"),
        ({"splats": 10}, "whose splats are fitted"),
        ({"splats": 0, "to": "gaussians"}, "1 or more"),
        ({"steps": -1, "to": "gaussians"}, "0 or more"),
    ],
)
def test_options_of_a_fit_are_checked(
    world: Path, tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    request = LiftRequest(source=world, out=tmp_path / "run")
    with pytest.raises(UsageError, match=told):
        lift_run(replace(request, **changes), silent)  # pyright: ignore[reportArgumentType]
