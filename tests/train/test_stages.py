"""Stages: what learns when, and names that have no effect are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from xmodal.edges.distill.mse import Mse
from xmodal.errors import UsageError
from xmodal.train.checkpoint import checkpoints, load_checkpoint
from xmodal.train.loop import Distill, Stage, Student, TrainOptions, fit

PROBE = Stage(name="probe", steps=3, train=("truth -> student",), edges=("truth -> student",))


def pieces(toy: ModuleType) -> tuple[Student, list[Distill], dict[str, Any]]:
    torch.manual_seed(1)
    head = nn.Linear(toy.CHANNELS, toy.CHANNELS)
    room = toy.room()
    few = torch.arange(400) < 8
    scene = {**room, "truth": replace(room["lifted"], valid=few)}
    return toy.student(space="raw"), [toy.COSINE, Distill(Mse(), "truth", "student", head)], scene


def test_a_linear_probe_trains_the_head_alone(toy: ModuleType, tmp_path: Path) -> None:
    made, edges, scene = pieces(toy)
    stages = (Stage(name="distil", steps=3, edges=("lifted -> student",)), PROBE)
    options = replace(toy.OPTIONS, stages=stages, checkpoint_every=3)
    head = toy.state(edges[1])
    _, history = toy.train(tmp_path, made, options=options, scenes=[scene], edges=edges)
    middle, end = (load_checkpoint(p).tensors for p in checkpoints(tmp_path / "checkpoints"))
    student = [name for name in middle if name.startswith("student/")]
    assert all(torch.equal(middle[name], end[name]) for name in student)
    assert torch.equal(middle["truth->student:1/weight"], head["weight"])
    assert not torch.equal(end["truth->student:1/weight"], head["weight"])
    assert not any(name.startswith("optimiser/student") for name in end)
    assert [record["stage"] for record in history] == ["distil"] * 3 + ["probe"] * 3
    assert all(parameter.requires_grad for parameter in made.net.parameters())


def test_only_points_that_count_in_a_stage_are_compared(toy: ModuleType, tmp_path: Path) -> None:
    """Eight labelled points among 400: without this, most steps would see one or none."""
    made, edges, scene = pieces(toy)
    seen: list[int] = []

    class Watching(nn.Linear):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            seen.append(len(rows))
            return super().forward(rows)

    op = edges[1].op
    edges[1] = Distill(op, "truth", "student", Watching(toy.CHANNELS, toy.CHANNELS))
    options = replace(toy.OPTIONS, stages=(PROBE,), crop_points=400, crops=1, loss_rows=400)
    toy.train(tmp_path, made, options=options, scenes=[scene], edges=edges)
    assert seen == [8, 8, 8]


def test_scenes_without_a_label_are_not_drawn_and_said(toy: ModuleType, tmp_path: Path) -> None:
    made, edges, scene = pieces(toy)
    other = toy.room(300, seed=1)
    other["truth"] = replace(other["lifted"], valid=torch.zeros(300, dtype=torch.bool))
    options = replace(toy.OPTIONS, stages=(PROBE,))
    toy.train(tmp_path, made, options=options, scenes=[other, scene], edges=edges)
    assert '"unseen_scenes", "step": 0, "scenes": [0]' in (tmp_path / "log.jsonl").read_text()


def test_each_stage_warms_up_and_falls(toy: ModuleType) -> None:
    stages = (Stage(name="a", steps=4), Stage(name="b", steps=4, lr=1.0))
    options = TrainOptions(stages=stages, lr=0.1, warmup_steps=2, schedule="linear")
    rates = [round(options.learning_rate(step), 6) for step in range(8)]
    assert rates == [0.05, 0.1, 0.1, 0.05, 0.5, 1.0, 1.0, 0.5]
    assert options.total_steps == 8
    assert [options.stage_at(step)[0] for step in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("schedule", "last"), [("constant", 0.1), ("linear", 0.1 / 4), ("cosine", 0.01464466)]
)
def test_schedules_by_hand(schedule: Any, last: float) -> None:
    options = TrainOptions(steps=4, lr=0.1, warmup_steps=0, schedule=schedule)
    assert options.learning_rate(0) == pytest.approx(0.1)
    assert options.learning_rate(3) == pytest.approx(last)


def test_an_inactive_student_is_not_run(toy: ModuleType, tmp_path: Path) -> None:
    class Never(nn.Module):
        def forward(self) -> None:
            raise AssertionError

    students = {"a": toy.student(), "b": toy.student()}
    students["b"].net.encode = Never()
    edges = [Distill(toy.KL.op, "lifted", name) for name in students]
    options = replace(toy.OPTIONS, stages=(Stage(name="a", steps=2, edges=("lifted -> a",)),))
    before = toy.state(students["b"])
    fit(students, edges, [toy.room()], options, tmp_path)
    after = toy.state(students["b"])
    body = [name for name in before if not name.startswith("output")]
    assert all(torch.equal(before[name], after[name]) for name in body)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage(name="s", steps=1, edges=("lifted -> nobody",)), "lifted -> nobody"),
        (Stage(name="s", steps=1, train=("nobody",)), "nobody"),
        (Stage(name="s", steps=1, train=("lifted -> student",)), "no edge of this stage trains"),
        (
            Stage(name="s", steps=1, train=("truth -> student",), edges=("lifted -> student",)),
            "no edge of this stage trains",
        ),
    ],
)
def test_names_without_effect_are_refused(
    toy: ModuleType, tmp_path: Path, stage: Stage, message: str
) -> None:
    made, edges, scene = pieces(toy)
    options = replace(toy.OPTIONS, stages=(stage,))
    with pytest.raises(UsageError, match=message):
        toy.train(tmp_path, made, options=options, scenes=[scene], edges=edges)


def test_nothing_to_learn_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    made = toy.student()
    made.net.requires_grad_(False)
    with pytest.raises(UsageError, match="no trainable weights"):
        toy.train(tmp_path, made)


@pytest.mark.parametrize("change", [{"steps": 0}, {"lr": 0.0}, {"lr": float("inf")}])
def test_stages_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="stage"):
        Stage(**{"name": "s", "steps": 1, **change})


def test_two_stages_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="names of their own"):
        TrainOptions(stages=(Stage(name="s", steps=1), Stage(name="s", steps=2)))


def test_a_student_named_like_a_part_of_checkpoints_is_refused(
    toy: ModuleType, tmp_path: Path
) -> None:
    edge = Distill(toy.KL.op, "lifted", "ema")
    with pytest.raises(UsageError, match="rename"):
        fit({"ema": toy.student()}, [edge], [toy.room()], toy.OPTIONS, tmp_path)


def two(toy: ModuleType) -> tuple[dict[str, Student], list[Distill]]:
    """Two students of one shape and their edges."""
    students = {"exo": toy.student(space="raw"), "ego": toy.student(space="raw")}
    with torch.no_grad():
        for parameter in students["ego"].net.parameters():
            parameter.add_(1.0)
    return students, [Distill(toy.COSINE.op, "lifted", name) for name in students]


HEIR = (
    Stage(name="exo", steps=2, train=("exo",), edges=("lifted -> exo",)),
    Stage(
        name="ego",
        steps=2,
        train=("ego",),
        edges=("lifted -> ego",),
        inherit={"ego": "exo"},
        lr=1e-9,
    ),
)


def test_an_heir_begins_with_the_weights_of_another(toy: ModuleType, tmp_path: Path) -> None:
    students, edges = two(toy)
    options = replace(toy.OPTIONS, stages=HEIR, checkpoint_every=2)
    fit(students, edges, [toy.room()], options, tmp_path)
    middle, end = (load_checkpoint(p).tensors for p in checkpoints(tmp_path / "checkpoints"))
    for name in (n for n in end if n.startswith("ego/")):
        teacher = end[name.replace("ego/", "exo/")]
        torch.testing.assert_close(end[name], teacher, atol=1e-6, rtol=0)
    assert not all(torch.equal(middle[n], end[n]) for n in middle if n.startswith("ego/"))


def test_who_goes_on_inherits_once(toy: ModuleType, tmp_path: Path) -> None:
    stages = (HEIR[0], replace(HEIR[1], lr=None))
    options = replace(toy.OPTIONS, stages=stages, checkpoint_every=1)
    students, edges = two(toy)
    whole = fit(students, edges, [toy.room()], options, tmp_path / "whole")
    for stop in (2, 3):
        students, edges = two(toy)
        with pytest.raises(toy.StopHereError):
            fit(
                students,
                edges,
                [toy.room()],
                options,
                tmp_path / f"{stop}",
                progress=toy.stop_at(stop),
            )
        students, edges = two(toy)
        tail = fit(students, edges, [toy.room()], options, tmp_path / f"{stop}", resume=True)
        assert toy.losses(tail.history) == toy.losses(whole.history[stop:])


@pytest.mark.parametrize(
    ("inherit", "message"),
    [
        ({"nobody": "exo"}, "nobody"),
        ({"ego": "nobody"}, "nobody"),
        ({"ego": "ego"}, "itself"),
        ({"ego": "wide"}, "shape"),
    ],
)
def test_nobody_to_inherit_from(
    toy: ModuleType, tmp_path: Path, inherit: dict[str, str], message: str
) -> None:
    students, edges = two(toy)
    students["wide"] = Student(toy.MLP, toy.MLP.build(channels=toy.CHANNELS + 1, space="raw"))
    edges.append(Distill(Mse(), "lifted", "wide"))
    stage = Stage(name="s", steps=1, edges=("lifted -> ego",), inherit=inherit)
    options = replace(toy.OPTIONS, stages=(stage,))
    with pytest.raises(UsageError, match=message):
        fit(students, edges, [toy.room()], options, tmp_path)
