"""Running out of memory (fault matrix row 41): half a piece twice, once; else a clear stop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xmodal.errors import BackendError
from xmodal.train.checkpoint import checkpoints
from xmodal.train.loop import Distill, TrainOptions


class Count(nn.Module):
    """Counts calls in a buffer, so that a call that failed must be undone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))


@dataclass(frozen=True)
class Greedy:
    """Has memory for a limited number of rows only."""

    most: int
    weight: float = 1.0

    def __call__(self, teacher: Any, student: Any, *, net: Any = None) -> Tensor:
        net.calls.add_(1)
        torch.rand(3)
        if len(student.rows) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 TiB")
        return (student.rows * net.scale - teacher.rows).square().mean()


def run(toy: ModuleType, out: Path, most: int, **rest: Any) -> Any:
    edge = Distill(Greedy(most), "lifted", "student", Count())
    options: TrainOptions = rest.pop("options", replace(toy.OPTIONS, checkpoint_every=1))
    made, history = toy.train(out, toy.student(), edges=[edge], options=options, **rest)
    return made, edge, history


def test_pieces_are_halved_once_and_doubled_in_number(toy: ModuleType, tmp_path: Path) -> None:
    _, edge, history = run(toy, tmp_path, most=30)
    assert len(history) == 6
    assert int(edge.net.calls) == 12  # two pieces in each step; the failed call is not remembered
    assert toy.newest(tmp_path).meta["counts"]["halved"] is True
    log = (tmp_path / "log.jsonl").read_text()
    assert log.count("out_of_memory") == 1


@pytest.mark.parametrize("crops", [1, 2])
def test_halved_pieces_have_half_the_points(toy: ModuleType, tmp_path: Path, crops: int) -> None:
    seen: list[int] = []
    made = toy.student()
    encode = made.net.encode

    def watched(xyz: Tensor, offsets: Tensor, inputs: Tensor) -> Any:
        seen.append(len(xyz))
        return encode(xyz, offsets, inputs)

    made.net.encode = watched
    edge = Distill(Greedy(30), "lifted", "student", Count())
    toy.train(tmp_path, made, edges=[edge], options=replace(toy.OPTIONS, crops=crops, steps=2))
    assert seen == [150, 75, 75, 75, 75]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_halved_run_resumes_in_the_same_bits(toy: ModuleType, tmp_path: Path, k: int) -> None:
    whole, _, history = run(toy, tmp_path / "whole", most=30)
    with pytest.raises(toy.StopHereError):
        run(toy, tmp_path / "part", most=30, progress=toy.stop_at(k))
    # Memory is plentiful now; pieces stay halved all the same.
    rest, _, tail = run(toy, tmp_path / "part", most=30, resume=True)
    assert toy.same(toy.state(rest), toy.state(whole))
    assert toy.losses(tail) == toy.losses(history[k:])


def test_too_little_memory_for_half_a_piece_stops_with_nothing_changed(
    toy: ModuleType, tmp_path: Path
) -> None:
    made = toy.student()
    edge = Distill(Greedy(29), "lifted", "student", Count())
    with pytest.raises(BackendError, match="lower crop_points") as caught:
        toy.train(tmp_path, made, edges=[edge])
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    fresh = toy.student()
    fresh.net.start_from(torch.cat([toy.room()["lifted"].rows]))
    body = {name for name in toy.state(made) if not name.startswith("output")}
    assert all(torch.equal(toy.state(made)[n], toy.state(fresh)[n]) for n in body)
    assert int(edge.net.calls) == 0
    assert all(parameter.grad is None for parameter in made.net.parameters())
    assert checkpoints(tmp_path / "checkpoints") == []


def test_another_error_is_not_taken_for_memory(toy: ModuleType, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Broken:
        weight: float = 1.0

        def __call__(self, teacher: Any, student: Any, *, net: Any = None) -> Tensor:
            raise RuntimeError("sizes of tensors must match")

    with pytest.raises(RuntimeError, match="must match"):
        toy.train(tmp_path, edges=[Distill(Broken(), "lifted", "student")])


@pytest.mark.parametrize(("most", "code"), [(30, 0), (0, 5)])
def test_a_real_limit_on_memory(nursery: Any, tmp_path: Path, most: int, code: int) -> None:
    """The allocator itself refuses, in a process that may not grow by more than 512 MB."""
    assert nursery.wait(nursery.start("starve", tmp_path, most)) == code
    assert '"out_of_memory"' in (tmp_path / "log.jsonl").read_text()
