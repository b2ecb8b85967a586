"""A small real world and its label maps as a teacher: every stage for real, in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmodal.runs.lift import LiftRequest, lift_run, silent
from xmodal.runs.train import TrainRequest, train_run
from xmodal.world import WorldOptions, make_world

OBJECTS = ("soccer ball", "coffee mug", "banana")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "table"
    options = WorldOptions(seed=1, objects=OBJECTS, num_views=4, hw=(120, 160))
    return make_world(folder, options)


@pytest.fixture(scope="session")
def label_teacher(world: Path) -> str:
    """The label maps as a precomputed teacher: what a perfect 2D network would say."""
    import json

    classes = json.loads((world / "classes.json").read_text())
    # Label pictures count from 1; 0 is "unlabelled".
    names = ["unlabelled", *classes]
    (world / "label" / "classes.json").write_text(json.dumps(names))
    return f"precomputed:{world / 'label'}"


@pytest.fixture(scope="session")
def lifted_run(world: Path, label_teacher: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "lifted"
    request = LiftRequest(source=world, out=out, teacher=label_teacher, cache=out.parent / "cache")
    lift_run(request, silent)
    return out


@pytest.fixture(scope="session")
def trained_run(lifted_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "trained"
    request = TrainRequest(
        runfile=lifted_run / "run.yaml",
        out=out,
        overrides=("optimiser.steps=6", "optimiser.crop_points=3000"),
        cache=lifted_run.parent / "cache",
    )
    train_run(request, silent)
    return out
