"""Every named system as its graph file has it: lifted, trained for a few steps and written.

Only the 2D networks are replaced, by maps made from the labels of a small world; lifts, captions,
crops, students and losses are the real ones.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xmodal.config import configs_folder
from xmodal.config.reader import read_yaml, write_yaml
from xmodal.runs.lift import LiftRequest, lift_run, silent
from xmodal.runs.train import TrainRequest, train_run
from xmodal.splats.files import read_splats
from xmodal.store import Run
from xmodal.teachers.weights import EFFICIENTNET_LITE2, MINILM

TRAINED = (
    "openscene",
    "pointdc",
    "xmask3d",
    "pla",
    "act",
    "recon",
    "partdistill",
    "distillation_with_contrast",
)
# System over splats -> the sources that it is asked by.
FIELDS = {
    "feature_3dgs": ("field.seen",),
    "m3": ("field.seen",),
    "langsplat": ("small.parts", "middle.things", "large.groups"),
    "gaussiangrasper": ("field.pixels",),
}
# System that shapes splats itself -> the student.
DRAWN = {"gaussiancross": "drawn", "gp_nerf": "scene"}
# What the small world shows, as columns of an ImageNet classifier: unlabelled as a wall of glass.
IMAGENET = {"soccer ball": 805, "coffee mug": 504, "banana": 954, "table": 532, "floor": 539}

needs_weights = pytest.mark.skipif(
    not all(any(metadata.distributions(name=p.package)) for p in (MINILM, EFFICIENTNET_LITE2)),
    reason="packaged weights are not installed (constraints-weights.txt)",
)


@pytest.fixture(scope="module")
def maps(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of every frame in the widths of the real teachers."""
    root = tmp_path_factory.mktemp("maps")
    classes = ["unlabelled", *json.loads((world / "classes.json").read_text())]
    column = np.array([IMAGENET.get(name, 800 + i) for i, name in enumerate(classes)])
    directions = np.random.default_rng(0).standard_normal((len(classes), 384))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for folder in ("unit", "simplex", "masks1000", "masks256"):
        (root / folder).mkdir()
    for file in sorted((world / "label").glob("*.png")):
        label = np.array(Image.open(file))
        coarse = label[4::8, 4::8]
        rows = np.zeros((*coarse.shape, 1000), np.float32)
        np.put_along_axis(rows, column[coarse][..., None], 1.0, axis=2)
        np.save(root / "simplex" / f"{file.stem}.npy", rows)
        np.save(root / "unit" / f"{file.stem}.npy", directions[coarse].astype(np.float32))
        picture = column[label].astype(np.uint16)
        Image.fromarray(picture).save(root / "masks1000" / file.name)
        Image.fromarray(label.astype(np.uint16)).save(root / "masks256" / file.name)
    for width in (1000, 256):
        names = [f"class {index}" for index in range(width)]
        (root / f"masks{width}" / "classes.json").write_text(json.dumps(names))
    return root


def system(name: str, maps: Path, world: Path, folder: Path, **parts: Any) -> Path:
    """A run file of a system with label maps in place of its 2D networks."""
    graph: Any = read_yaml(configs_folder() / "graphs" / f"{name}.yaml").data
    for key, op in graph["encode"].items():
        source = {
            "imagenet_dense": op.get("space", "unit"),
            "dino": "unit",
            "embedded": "masks1000",
            "sam": "masks256",
        }.get(op["op"])
        if source is not None:
            space = "unit" if source == "unit" else "simplex"
            new = {"op": "precomputed", "folder": str(maps / source), "space": space}
            graph["encode"][key] = new
    run = {
        "name": name,
        "graph": graph,
        "data": {"scene": str(world), "voxel_m": 0.02},
        "optimiser": {"steps": 4, "crop_points": 2000, "crops": 2, "log_every": 1},
        **parts,
    }
    file = folder / f"{name}.yaml"
    file.write_text(write_yaml(run, block_levels=3))
    return file


@needs_weights
@pytest.mark.parametrize("name", TRAINED)
def test_a_system_trains(name: str, maps: Path, world: Path, tmp_path: Path) -> None:
    parts: dict[str, Any] = {}
    if name == "partdistill":
        run: Any = read_yaml(configs_folder() / "runs" / "partdistill.yaml").data
        parts["stages"] = [{**stage, "steps": 2} for stage in run["stages"]]
    file = system(name, maps, world, tmp_path, **parts)
    request = TrainRequest(runfile=file, out=tmp_path / "run", cache=tmp_path / "cache")
    summary = train_run(request, silent)
    assert summary.steps == 4
    assert np.isfinite(summary.last_loss)
    features = Run(tmp_path / "run").features("student")
    rows = np.asarray(features.rows[:100], dtype=np.float32)
    assert np.isfinite(rows).all()
    assert len(np.unique(rows.round(4), axis=0)) > 1


@needs_weights
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_splats_trains(name: str, maps: Path, world: Path, tmp_path: Path) -> None:
    whole = {"crops": 1, "crop_points": 1_000_000, "loss_rows": 1_000_000, "loss_sets": 64}
    whole["min_set_points"] = 1  # a pixel may show a single splat
    parts = {"optimiser": {"steps": 4, "log_every": 1, **whole}}
    file = system(name, maps, world, tmp_path, **parts)
    request = TrainRequest(runfile=file, out=tmp_path / "run", cache=tmp_path / "cache")
    assert np.isfinite(train_run(request, silent).last_loss)
    run = Run(tmp_path / "run")
    assert run.gaussians.is_file()
    assert {"lifted", *FIELDS[name]} <= set(run.sources())
    for source in FIELDS[name]:
        features = run.features(source)
        assert features.info.channels == run.info("lifted").channels
        assert np.isfinite(np.asarray(features.rows[:100], dtype=np.float32)).all()


@needs_weights
@pytest.mark.parametrize("name", DRAWN)
def test_splats_are_learnt_through_renderings(
    name: str, maps: Path, world: Path, tmp_path: Path
) -> None:
    parts = {"optimiser": {"steps": 4, "log_every": 1, "crop_points": 1_000_000}}
    file = system(name, maps, world, tmp_path, **parts)
    request = TrainRequest(runfile=file, out=tmp_path / "run", cache=tmp_path / "cache")
    assert np.isfinite(train_run(request, silent).last_loss)
    run, student = Run(tmp_path / "run"), DRAWN[name]
    assert run.info("frames").kind == "frames"
    assert len(read_splats(run.drawn(student))) == run.info(student).num_points
    assert np.isfinite(np.asarray(run.features(student).rows[:100], dtype=np.float32)).all()
    assert not run.verify()


@needs_weights
@pytest.mark.parametrize("name", ["backprojection", "even_views", "tikhonov"])
def test_splats_are_lifted_to_without_training(
    name: str, maps: Path, world: Path, tmp_path: Path
) -> None:
    file = system(name, maps, world, tmp_path)
    lift_run(LiftRequest(source=file, out=tmp_path / "run", cache=tmp_path / "cache"), silent)
    features = Run(tmp_path / "run").features("lifted")
    rows, valid = np.asarray(features.rows, dtype=np.float32), np.asarray(features.valid)
    assert valid.mean() > 0.5
    # Directions of classes: what is seen of one thing alone keeps the length of its direction.
    assert 0.9 < np.quantile(np.linalg.norm(rows[valid], axis=1), 0.9) < 1.1


@needs_weights
def test_openmask3d_lifts_without_training(maps: Path, world: Path, tmp_path: Path) -> None:
    file = system("openmask3d", maps, world, tmp_path)
    # One view and crop of each thing are enough here: the network takes most of the time.
    text = file.read_text().replace("model: imagenet", "views_per_segment: 1, scales: [1.0]")
    file.write_text(text)
    out = tmp_path / "run"
    lift_run(LiftRequest(source=file, out=out, cache=tmp_path / "cache"), silent)
    features = Run(out).features("lifted")
    assert features.info.channels == 1000
    rows, valid = np.asarray(features.rows), np.asarray(features.valid)
    assert valid.mean() > 0.5
    np.testing.assert_allclose(rows[valid].sum(axis=1), 1, atol=0.02)
    # A thing's points share one row, so there are as many different rows as things.
    assert 2 < len(np.unique(rows[valid].round(3), axis=0)) < 100
