"""Moving averages: as slow teachers, and as weights for inference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from xmodal.errors import UsageError
from xmodal.train.averages import MovingAverages, fit_student
from xmodal.train.loop import Augment, Average, Distill, fit


def test_an_average_by_hand(toy: ModuleType) -> None:
    made = toy.student()
    copies = MovingAverages({"student": made}, {}, 0.5)
    copies.start()
    name, parameter = next(iter(made.net.named_parameters()))
    first = parameter.detach().clone()
    with torch.no_grad():
        parameter.add_(1.0)
    copies.update(0)  # the decay of the first step is 1/10
    mine = dict(copies.modules["ema/student"].named_parameters())[name]
    torch.testing.assert_close(mine, first + 0.9)
    with torch.no_grad():
        parameter.add_(1.0)
    copies.update(100)  # 101/110 would be more than 0.5
    torch.testing.assert_close(mine, first + 0.5 * 0.9 + 0.5 * 2.0)
    assert not mine.requires_grad


def test_students_end_with_their_averaged_weights(toy: ModuleType, tmp_path: Path) -> None:
    options = replace(toy.OPTIONS, ema_decay=0.9)
    made, _ = toy.train(tmp_path, options=options)
    plain, _ = toy.train(tmp_path / "plain")
    checkpoint = toy.newest(tmp_path)
    assert toy.same(
        {k: v for k, v in checkpoint.tensors.items() if k.startswith("student/")},
        {f"student/{k}": v for k, v in toy.state(plain).items()},
    )
    assert not toy.same(toy.state(made), toy.state(plain))
    for path, wanted in ((tmp_path, made), (tmp_path / "plain", plain)):
        loaded = toy.student()
        fit_student(loaded.net, toy.newest(path), "student")
        assert toy.same(toy.state(loaded), toy.state(wanted))


@dataclass(frozen=True)
class Watch:
    """Keeps what it is given."""

    seen: list[Any]
    weight: float = 1.0

    def __call__(self, teacher: Any, student: Any, *, net: Any = None) -> Tensor:
        self.seen.append((teacher, student))
        return (teacher.rows - student.rows).square().mean()


@pytest.mark.parametrize("view", ["global", "same"])
def test_a_slow_teacher_speaks_of_the_same_points(
    toy: ModuleType, tmp_path: Path, view: Literal["global", "same"]
) -> None:
    """Without variation, and before the first update, its rows are the student's own."""
    watch = Watch([])
    edges = [toy.COSINE, Distill(watch, "slow", "student")]
    options = replace(toy.OPTIONS, steps=2, augment=Augment(shift=False))
    averages = {"slow": Average(student="student", view=view)}
    toy.train(tmp_path, toy.student(), options=options, edges=edges, averages=averages)
    (teacher, student), (later, _) = watch.seen
    torch.testing.assert_close(teacher.xyz, student.xyz)
    torch.testing.assert_close(teacher.rows, student.rows.detach())  # the MLP sees single points
    assert not teacher.rows.requires_grad
    assert student.rows.requires_grad
    assert teacher.valid.all()
    assert len(later.rows) == len(later.xyz)


def test_a_global_view_sees_twice_the_points_without_variation(
    toy: ModuleType, tmp_path: Path
) -> None:
    made = toy.student()
    seen: list[tuple[Tensor, bool]] = []
    encode = type(made.net).encode

    class Watched(type(made.net)):
        def encode(self, xyz: Tensor, offsets: Tensor, inputs: Tensor) -> Any:
            seen.append((xyz, torch.is_grad_enabled()))
            return encode(self, xyz, offsets, inputs)

    made.net.__class__ = Watched
    options = replace(toy.OPTIONS, steps=1, crops=1, augment=Augment(rotate_rad=3.0))
    averages = {"slow": Average(student="student")}
    edge = Distill(toy.COSINE.op, "slow", "student")
    toy.train(tmp_path, made, options=options, edges=[edge], averages=averages)
    (crop, own), (wide, slow) = seen
    assert (len(crop), len(wide)) == (150, 300)
    assert (own, slow) == (True, False)
    cloud = {tuple(row) for row in toy.room()["cloud"].xyz.tolist()}
    assert all(tuple(row) in cloud for row in wide.tolist())
    assert not any(tuple(row) in cloud for row in crop.tolist())


def test_a_slow_teacher_of_another_student(toy: ModuleType, tmp_path: Path) -> None:
    students = {"a": toy.student(), "b": toy.student()}
    edges = [
        Distill(toy.KL.op, "lifted", "a"),
        Distill(toy.KL.op, "slow_a", "b"),
    ]
    averages = {"slow_a": Average(student="a", decay=0.5)}
    result = fit(students, edges, [toy.room()], toy.OPTIONS, tmp_path, averages=averages)
    assert len(result.history) == 6


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_decays_that_are_none_are_refused(toy: ModuleType, decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        Average(student="student", decay=decay)
    with pytest.raises(ValueError, match="ema_decay"):
        replace(toy.OPTIONS, ema_decay=decay)


def test_an_average_of_nobody_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nobody"):
        toy.train(tmp_path, averages={"slow": Average(student="nobody")})


def test_an_average_on_other_points_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    students = {"a": toy.student(), "b": toy.student(cloud="sweep")}
    edges = [Distill(toy.KL.op, "lifted", "a"), Distill(toy.KL.op, "slow", "b")]
    with pytest.raises(UsageError, match="sweep"):
        fit(
            students,
            edges,
            [toy.room()],
            toy.OPTIONS,
            tmp_path,
            averages={"slow": Average(student="a")},
        )
