"""Stopped and resumed training (fault matrix rows 38 and 39): the same bits, or an error."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xmodal.errors import CheckpointError, UsageError
from xmodal.train.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from xmodal.train.loop import Augment, Average, Distill, Stage, TrainOptions

VARIED = Augment(
    rotate_rad=3.0,
    flip=0.5,
    scale=0.1,
    jitter_m=0.01,
    elastic_m=0.05,
    input_jitter=0.1,
    drop_colour=0.3,
)
STAGES = (
    Stage(name="start", steps=3, edges=("lifted -> student",)),
    Stage(name="all", steps=4, lr=5e-3),
    Stage(name="head", steps=2, train=("sets -> student",), edges=("sets -> student",)),
)
AVERAGES = {"slow": Average(student="student", decay=0.9)}


class Queue(nn.Module):
    """A projection that remembers the last rows that it gave."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.register_buffer("queue", torch.zeros(8, channels))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, rows: Tensor) -> Tensor:
        rows = self.linear(rows)
        self.queue.copy_(torch.cat([rows.detach(), self.queue])[:8])
        self.count.add_(1)
        return rows


@dataclass(frozen=True)
class Remembering:
    """Pulls the student to its teacher's mean and to what it gave before."""

    weight: float = 0.5

    def __call__(self, teacher: Any, student: Any, *, net: nn.Module | None = None) -> Tensor:
        rows = net(student.rows)
        target = teacher.rows.mean(dim=0) + 0.1 * net.queue.mean(dim=0)
        return (rows - target).square().mean()


def options(toy: ModuleType, **change: Any) -> TrainOptions:
    settings = {
        "stages": STAGES,
        "accumulate": 2,
        "ema_decay": 0.95,
        "augment": VARIED,
        "checkpoint_every": 1,
        "loss_rows": 40,
        **change,
    }
    return replace(toy.OPTIONS, **settings)


def run(toy: ModuleType, out: Path, *, net: Any = None, **rest: Any) -> tuple[dict[str, Any], Any]:
    """A run with everything that has a state; its weights and history."""
    torch.manual_seed(5)
    edges = [
        toy.COSINE,
        Distill(Remembering(), "sets", "student", net or Queue(toy.CHANNELS)),
        Distill(toy.COSINE.op, "slow", "student"),
    ]
    scenes = [{**room, "sets": toy.quarters(room)} for room in (toy.room(), toy.room(300, seed=1))]
    rest = {"options": options(toy), "averages": AVERAGES, **rest}
    made, history = toy.train(out, toy.student(space="raw"), scenes=scenes, edges=edges, **rest)
    return {**toy.state(made), **{f"queue.{k}": v for k, v in toy.state(edges[1]).items()}}, history


@pytest.fixture(scope="module")
def whole(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    out = tmp_path_factory.mktemp("whole")
    return out, *run(toy, out)


@pytest.mark.parametrize("k", range(1, 10))
def test_resuming_after_any_step_gives_the_same_bits(
    toy: ModuleType, tmp_path: Path, whole: tuple[Path, Any, Any], k: int
) -> None:
    """Weights, optimiser, both averages, generators, and what losses remember, in every stage."""
    other, weights, history = whole
    with pytest.raises(toy.StopHereError):
        run(toy, tmp_path, progress=toy.stop_at(k))
    rest, tail = run(toy, tmp_path, resume=True)
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


class Dying(Queue):
    """Fails in the middle of a step."""

    calls = 0

    def forward(self, rows: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 4:
            raise KeyboardInterrupt
        return super().forward(rows)


def test_a_death_between_the_pieces_of_a_step_loses_that_step_only(
    toy: ModuleType, tmp_path: Path, whole: tuple[Path, Any, Any]
) -> None:
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        run(toy, tmp_path, net=Dying(toy.CHANNELS))
    assert checkpoints(tmp_path / "checkpoints")[-1].name == "step-00000004"
    assert toy.same(run(toy, tmp_path, resume=True)[0], whole[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_runs_killed_at_random_times_end_in_the_same_bits(
    toy: ModuleType, tmp_path: Path, whole: tuple[Path, Any, Any]
) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        child = os.fork()
        if child == 0:
            try:
                run(toy, tmp_path, resume=True)
            finally:
                os._exit(0)  # without running the tests' own teardown
        time.sleep(0.1 + 0.3 * float(torch.rand(1, generator=generator)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert toy.same(run(toy, tmp_path, resume=True)[0], whole[1])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"accumulate": 1}, "options.accumulate: 2 then, 1 now"),
        ({"crop_points": 100}, "options.crop_points"),
        ({"loss_rows": 41}, "options.loss_rows"),
        ({"stages": STAGES[:2]}, "options.stages"),
        ({"ema_decay": None}, "options.ema_decay: 0.95 then, None now"),
        ({"augment": replace(VARIED, flip=0.4)}, "options.augment.flip: 0.5 then, 0.4 now"),
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
        run(toy, tmp_path, progress=toy.stop_at(1))
    with pytest.raises(UsageError, match=named):
        run(toy, tmp_path, options=options(toy, **change), resume=True)


def test_a_changed_average_is_refused_and_named(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(toy.StopHereError):
        run(toy, tmp_path, progress=toy.stop_at(1))
    with pytest.raises(UsageError, match=r"averages\.slow"):
        other = {"slow": Average(student="student", decay=0.8)}
        run(toy, tmp_path, averages=other, resume=True)


def test_settings_that_change_no_weight_may_change(
    toy: ModuleType, tmp_path: Path, whole: tuple[Path, Any, Any]
) -> None:
    with pytest.raises(toy.StopHereError):
        run(toy, tmp_path, progress=toy.stop_at(4))
    free = {"on_non_finite": "skip", "checkpoint_every": 5, "log_every": 2, "keep_checkpoints": 1}
    assert toy.same(run(toy, tmp_path, options=options(toy, **free), resume=True)[0], whole[1])


@pytest.mark.parametrize("lost", ["ema/student/", "average/slow/", "sets->student:1/queue"])
def test_a_checkpoint_without_a_part_of_the_state_is_refused(
    toy: ModuleType, tmp_path: Path, lost: str
) -> None:
    with pytest.raises(toy.StopHereError):
        run(toy, tmp_path, progress=toy.stop_at(5))
    whole = toy.newest(tmp_path)
    kept = {name: value for name, value in whole.tensors.items() if not name.startswith(lost)}
    save_checkpoint(whole.path, kept, whole.meta)
    with pytest.raises(CheckpointError, match=lost):
        run(toy, tmp_path, resume=True)


def test_a_checkpoint_without_a_moment_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(toy.StopHereError):
        run(toy, tmp_path, progress=toy.stop_at(2))
    whole = toy.newest(tmp_path)
    name = "optimiser/student/output.weight/exp_avg"
    kept = {key: value for key, value in whole.tensors.items() if key != name}
    save_checkpoint(whole.path, kept, whole.meta)
    with pytest.raises(CheckpointError, match=name):
        run(toy, tmp_path, resume=True)
