"""Checkpoints of every released schema (fault matrix row 37): their weights load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch

from xmodal.edges.encode.point_mlp import PointMlp
from xmodal.errors import CheckpointError, UsageError
from xmodal.train.checkpoint import SCHEMA, load_checkpoint
from xmodal.train.loop import Student, TrainOptions, fit_student, predict

# Written by the first release, after two of four steps on the toy room.
RELEASED = {1: Path(__file__).parent / "checkpoint_schema_1"}
OP = PointMlp(width=8, depth=1, inputs=("rgb", "normals", "height"))
THEN = TrainOptions(
    steps=4, crop_points=150, crops=2, loss_rows=60, warmup_steps=2, checkpoint_every=2
)


def student() -> Student:
    return Student(OP, OP.build(channels=6, space="simplex"))


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    shutil.copytree(RELEASED[1], tmp_path / "checkpoints/step-00000002")
    return tmp_path


def test_there_is_a_fixture_of_every_schema_but_the_newest() -> None:
    assert sorted(RELEASED) == list(range(1, SCHEMA))


def test_schema_1_gives_the_rows_that_it_gave_then(toy: ModuleType) -> None:
    made = student()
    fit_student(made.net, load_checkpoint(RELEASED[1]), "student")
    rows = predict(OP, made.net, toy.room()["cloud"]).rows
    then = [0.65645814, 0.00372049, 0.02160017, 0.09129421, 0.04144872, 0.1854782]
    torch.testing.assert_close(rows[0], torch.tensor(then), rtol=1e-5, atol=1e-6)


def test_a_run_of_schema_1_does_not_go_on_as_if_nothing_had_changed(
    toy: ModuleType, old_run: Path
) -> None:
    with pytest.raises(UsageError, match="schema 1") as caught:
        toy.train(old_run, student(), options=THEN, resume=True)
    assert caught.value.exit_code == 2
    assert load_checkpoint(old_run / "checkpoints/step-00000002").schema == 1


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, 99])
def test_a_schema_that_there_never_was_is_refused(old_run: Path, schema: int) -> None:
    path = old_run / "checkpoints/step-00000002"
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "schema": schema}))
    with pytest.raises(CheckpointError, match=f"schema {schema}"):
        load_checkpoint(path)


def test_a_changed_checkpoint_of_schema_1_is_refused(old_run: Path) -> None:
    file = old_run / "checkpoints/step-00000002/tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="changed bytes"):
        load_checkpoint(file.parent)
