"""Stopped and resumed training (fault matrix rows 38 and 39): the same bits, or an error."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from xmodal.errors import CheckpointError, UsageError
from xmodal.train.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from xmodal.train.loop import Augment, Average


@pytest.fixture(scope="module")
def whole(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    out = tmp_path_factory.mktemp("whole")
    return out, *toy.full_run(out)


@pytest.mark.parametrize("k", range(1, 10))
def test_resuming_after_any_step_gives_the_same_bits(
    toy: ModuleType, tmp_path: Path, whole: tuple[Path, Any, Any], k: int
) -> None:
    """Weights, optimiser, both averages, generators, and what losses remember, in every stage."""
    other, weights, history = whole
    with pytest.raises(toy.StopHereError):
        toy.full_run(tmp_path, progress=toy.stop_at(k))
    rest, tail = toy.full_run(tmp_path, resume=True)
    assert toy.same(rest, weights)
    assert toy.losses(tail) == toy.losses(history[k:])
    mine, theirs = (toy.newest(out) for out in (tmp_path, other))
    assert toy.same(mine.tensors, theirs.tensors)
    for meta in (mine.meta, theirs.meta):
        meta["rng"].pop("python", None)  # the shape checker of tests draws from it
    assert mine.meta == theirs.meta


def test_what_there_is_to_remember_is_in_the_checkpoint(whole: tuple[Path, Any, Any]) -> None:
    names = load_checkpoint(checkpoints(whole[0] / "checkpoints")[-1]).tensors
    assert {"ema/student/output.weight", "average/slow/output.weight"} <= names.keys()
    assert {"sets->student:1/queue", "sets->student:1/count"} <= names.keys()
    assert names["sets->student:1/count"] == (4 + 2) * 2  # two pieces in each step


def test_a_death_between_the_pieces_of_a_step_loses_that_step_only(
    toy: ModuleType, tmp_path: Path, whole: tuple[Path, Any, Any]
) -> None:
    class Dying(toy.Queue):
        calls = 0

        def forward(self, rows: Tensor) -> Tensor:
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
            return super().forward(rows)

    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        toy.full_run(tmp_path, net=Dying(toy.CHANNELS))
    assert checkpoints(tmp_path / "checkpoints")[-1].name == "step-00000004"
    assert toy.same(toy.full_run(tmp_path, resume=True)[0], whole[1])


def test_runs_killed_at_random_times_end_in_the_same_bits(
    toy: ModuleType, nursery: Any, tmp_path: Path, whole: tuple[Path, Any, Any]
) -> None:
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "checkpoints"
    for _ in range(3):
        before = len(checkpoints(folder))
        child = nursery.start("resume", tmp_path)
        while len(checkpoints(folder)) == before < 9:
            time.sleep(0.002)
        time.sleep(0.05 * float(torch.rand(1, generator=generator)))
        os.kill(child, signal.SIGKILL)
        nursery.wait(child)
    assert 3 <= len(checkpoints(folder)) <= 9
    assert toy.same(toy.full_run(tmp_path, resume=True)[0], whole[1])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"accumulate": 1}, "options.accumulate: 2 then, 1 now"),
        ({"crop_points": 100}, "options.crop_points"),
        ({"loss_rows": 41}, "options.loss_rows"),
        ({"stages": ()}, "options.stages"),
        ({"ema_decay": None}, "options.ema_decay: 0.95 then, None now"),
        ({"augment": Augment(flip=0.4)}, "options.augment.flip: 0.5 then, 0.4 now"),
        ({"amp": "bf16"}, "options.amp"),
        ({"balance_scenes": "equal"}, "options.balance_scenes"),
        ({"schedule": "linear"}, "options.schedule"),
        ({"min_set_points": 4}, "options.min_set_points"),
    ],
)
def test_a_changed_setting_is_refused_and_named(
    toy: ModuleType, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(toy.StopHereError):
        toy.full_run(tmp_path, progress=toy.stop_at(1))
    with pytest.raises(UsageError, match=named):
        toy.full_run(tmp_path, options=toy.full_options(**change), resume=True)


def test_a_changed_average_is_refused_and_named(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(toy.StopHereError):
        toy.full_run(tmp_path, progress=toy.stop_at(1))
    with pytest.raises(UsageError, match=r"averages\.slow"):
        other = {"slow": Average(student="student", decay=0.8)}
        toy.full_run(tmp_path, averages=other, resume=True)


def test_settings_that_change_no_weight_may_change(
    toy: ModuleType, tmp_path: Path, whole: tuple[Path, Any, Any]
) -> None:
    with pytest.raises(toy.StopHereError):
        toy.full_run(tmp_path, progress=toy.stop_at(4))
    free = {"on_non_finite": "skip", "checkpoint_every": 5, "log_every": 2, "keep_checkpoints": 1}
    assert toy.same(
        toy.full_run(tmp_path, options=toy.full_options(**free), resume=True)[0], whole[1]
    )


@pytest.mark.parametrize("lost", ["ema/student/", "average/slow/", "sets->student:1/queue"])
def test_a_checkpoint_without_a_part_of_the_state_is_refused(
    toy: ModuleType, tmp_path: Path, lost: str
) -> None:
    with pytest.raises(toy.StopHereError):
        toy.full_run(tmp_path, progress=toy.stop_at(5))
    whole = toy.newest(tmp_path)
    kept = {name: value for name, value in whole.tensors.items() if not name.startswith(lost)}
    save_checkpoint(whole.path, kept, whole.meta)
    with pytest.raises(CheckpointError, match=lost):
        toy.full_run(tmp_path, resume=True)


def test_a_checkpoint_without_a_moment_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(toy.StopHereError):
        toy.full_run(tmp_path, progress=toy.stop_at(2))
    whole = toy.newest(tmp_path)
    name = "optimiser/student/output.weight/exp_avg"
    kept = {key: value for key, value in whole.tensors.items() if key != name}
    save_checkpoint(whole.path, kept, whole.meta)
    with pytest.raises(CheckpointError, match=name):
        toy.full_run(tmp_path, resume=True)
