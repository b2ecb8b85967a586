"""Losses that are not finite (fault matrix row 40): stopped or skipped, dumped, replayed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xmodal.errors import CheckpointError, DataError, UsageError
from xmodal.train.checkpoint import checkpoints
from xmodal.train.loop import Augment, Distill, Stage, TrainOptions, replay

VARIED = Augment(rotate_rad=3.0, elastic_m=0.05, input_jitter=0.1)


class Memory(nn.Module):
    """Remembers the mean teacher row, and poisons a chosen call."""

    def __init__(self, channels: int, poisoned: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.poisoned = poisoned


@dataclass(frozen=True)
class Poisoned:
    """A loss that is not finite at the steps that its memory names."""

    weight: float = 1.0

    def __call__(self, teacher: Any, student: Any, *, net: Any = None) -> Tensor:
        net.calls.add_(1)
        bad = float("nan") if int(net.calls) in net.poisoned else 1.0
        net.mean.lerp_(teacher.rows.mean(dim=0) * bad, 0.1)
        return (net.linear(student.rows) - net.mean).square().mean() * bad


def options(toy: ModuleType, **change: Any) -> TrainOptions:
    return replace(toy.OPTIONS, augment=VARIED, checkpoint_every=1, **change)


def run(toy: ModuleType, out: Path, poisoned: tuple[int, ...], **rest: Any) -> Any:
    torch.manual_seed(5)
    edge = Distill(Poisoned(), "lifted", "student", Memory(toy.CHANNELS, poisoned))
    made, history = toy.train(out, toy.student(space="raw"), edges=[edge], **rest)
    return made, edge, history


def again(toy: ModuleType, file: Path, poisoned: tuple[int, ...], **change: Any) -> Any:
    edge = Distill(Poisoned(), "lifted", "student", Memory(toy.CHANNELS, poisoned))
    given = {"options": options(toy), "scenes": [toy.room()], **change}
    students = {"student": toy.student(space="raw")}
    return replay(file, students, [edge], given["scenes"], given["options"])


def test_nan_in_a_teacher_row_stops_and_is_replayed_bit_for_bit(
    toy: ModuleType, tmp_path: Path
) -> None:
    scene = toy.room()
    rows = scene["lifted"].rows.clone()
    bad = scene["lifted"].valid.nonzero()[:3, 0]
    rows[bad, 2] = float("nan")
    scene["lifted"] = replace(scene["lifted"], rows=rows)
    with pytest.raises(DataError, match=r"not finite: lifted row \d+") as caught:
        toy.train(tmp_path, scenes=[scene], options=options(toy))
    assert "--replay" in caught.value.fix
    (file,) = tmp_path.glob("failed-step-*.json")
    seen = replay(file, {"student": toy.student()}, [toy.KL], [scene], options(toy))
    assert seen.same
    assert math.isnan(seen.loss)
    assert math.isnan(seen.parts["lifted -> student"])
    assert "lifted row" in seen.got
    assert seen.step == int(file.stem[-8:])


def test_a_gradient_that_overflows_is_replayed_with_its_finite_loss(
    toy: ModuleType, tmp_path: Path
) -> None:
    @dataclass(frozen=True)
    class Steep:
        weight: float = 1.0

        def __call__(self, teacher: Any, student: Any, *, net: Any = None) -> Tensor:
            return (student.rows - student.rows.detach() + 1e-30).sqrt().sum() * 1e30

    edge = Distill(Steep(), "lifted", "student")
    with pytest.raises(DataError, match="gradient norm"):
        toy.train(tmp_path, edges=[edge], options=options(toy, accumulate=2))
    (file,) = tmp_path.glob("failed-step-*.json")
    settings = options(toy, accumulate=2)
    seen = replay(file, {"student": toy.student()}, [edge], [toy.room()], settings)
    record = json.loads(file.read_text())
    assert seen.same
    assert (str(seen.loss), str(seen.grad_norm)) == (record["loss"], record["grad_norm"])
    assert math.isfinite(seen.loss)
    assert not math.isfinite(seen.grad_norm)


def test_a_skipped_step_changes_nothing_but_the_count(toy: ModuleType, tmp_path: Path) -> None:
    settings = options(toy, on_non_finite="skip")
    _, edge, history = run(toy, tmp_path, (3,), options=settings)
    before, after = (
        {k: v for k, v in load(path).items() if not k.startswith(("rng/",))}
        for path in checkpoints(tmp_path / "checkpoints")[1:3]
    )
    assert toy.same(before, after)
    assert history[2]["skipped"] is True
    assert history[2]["loss"] is None
    # The third call was undone, so the fourth is the third that counts, poisoned once more, ...
    assert [record.get("skipped", False) for record in history] == [False, False, *[True] * 4]
    assert torch.isfinite(edge.net.mean).all()
    assert toy.newest(tmp_path).meta["counts"]["skips"] == 4
    log = (tmp_path / "log.jsonl").read_text()
    assert log.count('"event": "skipped"') == 4


def load(path: Path) -> dict[str, Tensor]:
    from xmodal.train.checkpoint import load_checkpoint

    return load_checkpoint(path).tensors


def test_too_many_skips_stop_the_run(toy: ModuleType, tmp_path: Path) -> None:
    settings = options(toy, on_non_finite="skip", max_skips=2)
    with pytest.raises(DataError, match="step 5"):
        run(toy, tmp_path, (3,), options=settings)


def test_skips_before_a_stop_count_after_it(toy: ModuleType, tmp_path: Path) -> None:
    settings = options(toy, on_non_finite="skip", max_skips=2)
    with pytest.raises(toy.StopHereError):
        run(toy, tmp_path, (3,), options=settings, progress=toy.stop_at(4))
    with pytest.raises(DataError, match="step 5"):
        run(toy, tmp_path, (3,), options=settings, resume=True)


def test_a_skip_in_the_second_piece_leaves_no_gradient(toy: ModuleType, tmp_path: Path) -> None:
    settings = options(toy, on_non_finite="skip", accumulate=2, stages=(Stage(name="a", steps=2),))
    made, _, history = run(toy, tmp_path, (4,), options=settings)
    assert [record.get("skipped", False) for record in history] == [False, True]
    first, second = (load(p) for p in checkpoints(tmp_path / "checkpoints"))
    assert toy.same(*({k: v for k, v in t.items() if "rng" not in k} for t in (first, second)))
    assert all(parameter.grad is None for parameter in made.net.parameters())


def test_a_poisoned_loss_is_replayed_from_what_it_remembered(
    toy: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="all teacher rows are finite"):
        run(toy, tmp_path, (4,), options=options(toy))
    (file,) = tmp_path.glob("failed-step-*.json")
    assert again(toy, file, (4,)).same
    healed = again(toy, file, ())
    assert not healed.same
    assert math.isfinite(healed.loss)


@pytest.fixture
def failed(toy: ModuleType, tmp_path: Path) -> Path:
    with pytest.raises(DataError):
        run(toy, tmp_path, (2,), options=options(toy))
    return tmp_path / "failed-step-00000002.json"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"state": "x"}', '{"loss": 1}', "\x80"])
def test_a_file_that_is_no_record_is_refused(toy: ModuleType, failed: Path, text: str) -> None:
    failed.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="failed-step-N"):
        again(toy, failed, (2,))


@pytest.mark.parametrize("state", ["../elsewhere", "/etc", "..", ""])
def test_a_record_that_points_elsewhere_is_refused(
    toy: ModuleType, failed: Path, state: str
) -> None:
    record = json.loads(failed.read_text())
    failed.write_text(json.dumps({**record, "state": state}))
    with pytest.raises(DataError, match="outside its folder"):
        again(toy, failed, (2,))


def test_a_missing_file_is_named(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        again(toy, tmp_path / "nowhere.json", ())


def test_damaged_weights_of_a_failed_step_are_refused(toy: ModuleType, failed: Path) -> None:
    file = failed.with_suffix("") / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError):
        again(toy, failed, (2,))


def test_a_step_of_another_run_is_not_replayed(toy: ModuleType, failed: Path) -> None:
    with pytest.raises(UsageError, match="crop_points"):
        again(toy, failed, (2,), options=options(toy, crop_points=99))
    with pytest.raises(UsageError, match="points"):
        again(toy, failed, (2,), scenes=[toy.room(300)])
