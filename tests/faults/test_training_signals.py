"""A terminated training process (fault matrix row 42): a checkpoint, then exit code 143."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from xmodal.errors import UsageError
from xmodal.train.checkpoint import checkpoints


def steps_done(out: Path) -> int:
    log = out / "log.jsonl"
    return log.read_text().count('"event": "step"') if log.exists() else 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_terminated_process_saves_and_says_so(
    nursery: Any, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    child = nursery.start("long", tmp_path)
    while steps_done(tmp_path) < 2:
        time.sleep(0.01)
    os.kill(child, number)
    assert nursery.wait(child) == code
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "stopped"
    (saved,) = checkpoints(tmp_path / "checkpoints")
    assert saved.name == f"step-{last['step']:08d}"
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_an_error_in_a_scene_names_the_scene(toy: ModuleType, tmp_path: Path) -> None:
    scenes = [toy.room(), {**toy.room(300, seed=1), "lifted": toy.room()["lifted"]}]
    with pytest.raises(Exception, match="scene 1") as caught:
        toy.train(tmp_path, scenes=scenes)
    assert getattr(caught.value, "exit_code", None) == 3


def test_a_terminated_run_is_not_started_anew_by_accident(toy: ModuleType, tmp_path: Path) -> None:
    act = toy.stop_at(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit, match="143"):
        toy.train(tmp_path, progress=act)
    with pytest.raises(UsageError, match="--resume"):
        toy.train(tmp_path)
