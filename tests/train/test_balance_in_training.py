"""Weights between losses during training: they move, are remembered, and are said in the log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from xmodal.edges.distill.mse import Mse
from xmodal.train.balance import BalanceMode
from xmodal.train.loop import Distill, Stage


def edges(toy: ModuleType) -> list[Distill]:
    """Two losses of which the second has a gradient some thousand times as large."""
    return [toy.COSINE, Distill(Mse(weight=1000.0), "loud", "student")]


def scene(toy: ModuleType) -> dict[str, Any]:
    room = toy.room()
    return {**room, "loud": replace(room["lifted"], rows=room["lifted"].rows * 10)}


MODES = {"grad_norm": "norms", "uncertainty": "log_variance", "harmonise": None, "ogm": "now"}


@pytest.mark.parametrize("mode", MODES)
def test_balancing_resumes_in_the_same_bits(
    toy: ModuleType, tmp_path: Path, mode: BalanceMode
) -> None:
    options = replace(toy.OPTIONS, balance=mode, checkpoint_every=1)
    rest: dict[str, Any] = {"options": options, "edges": edges(toy), "scenes": [scene(toy)]}
    _, history = toy.train(tmp_path / "whole", toy.student(space="raw"), **rest)
    with pytest.raises(toy.StopHereError):
        toy.train(tmp_path / "part", toy.student(space="raw"), progress=toy.stop_at(3), **rest)
    _, tail = toy.train(tmp_path / "part", toy.student(space="raw"), resume=True, **rest)
    assert toy.losses(tail) == toy.losses(history[3:])
    whole, part = toy.newest(tmp_path / "whole").tensors, toy.newest(tmp_path / "part").tensors
    assert toy.same(whole, part)
    if MODES[mode] is not None:
        assert whole[f"balance/{MODES[mode]}"].abs().min() > 0
    assert history[0]["factors"].keys() == history[0]["losses"].keys()


def test_gradient_norms_keep_the_loud_loss_down(toy: ModuleType, tmp_path: Path) -> None:
    options = replace(toy.OPTIONS, balance="grad_norm", steps=3)
    _, history = toy.train(
        tmp_path,
        toy.student(space="raw"),
        options=options,
        edges=edges(toy),
        scenes=[scene(toy)],
    )
    factors = history[-1]["factors"]
    assert factors["loud -> student"] < 1000 * factors["lifted -> student"]


def test_a_loss_of_another_stage_moves_no_weight(toy: ModuleType, tmp_path: Path) -> None:
    stages = (Stage(name="one", steps=3, edges=("lifted -> student",)),)
    options = replace(toy.OPTIONS, balance="grad_norm", stages=stages)
    toy.train(
        tmp_path,
        toy.student(space="raw"),
        options=options,
        edges=edges(toy),
        scenes=[scene(toy)],
    )
    seen = toy.newest(tmp_path).tensors["balance/seen"]
    assert seen.tolist() == [True, False]


def test_a_balance_that_there_is_not_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="balance"):
        replace(toy.OPTIONS, balance="loudest")


def test_one_loss_is_in_harmony_with_itself(toy: ModuleType, tmp_path: Path) -> None:
    runs: list[Any] = []
    for mode in ("none", "harmonise", "ogm"):
        options = replace(toy.OPTIONS, balance=mode, steps=3)
        _, history = toy.train(tmp_path / mode, toy.student(), options=options)
        runs.append(toy.losses(history))
    assert runs[0] == runs[1] == runs[2]


def test_harmony_changes_what_two_losses_do(toy: ModuleType, tmp_path: Path) -> None:
    room = scene(toy)
    room["loud"] = replace(room["loud"], rows=-room["loud"].rows)  # the opposite is asked for
    found: list[Any] = []
    for mode in ("none", "harmonise"):
        options = replace(toy.OPTIONS, balance=mode, steps=3)
        _, history = toy.train(
            tmp_path / mode,
            toy.student(space="raw"),
            options=options,
            edges=[toy.COSINE, Distill(Mse(), "loud", "student")],
            scenes=[room],
        )
        found.append(toy.losses(history))
    assert found[0][0][:2] == found[1][0][:2]  # the same loss, another gradient
    assert found[0] != found[1]
