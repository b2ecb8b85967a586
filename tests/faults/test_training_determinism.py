"""The same seed (fault matrix row 44): the same numbers, whatever the threads and the history.

Exceptions, by measurement: with `threads` other than 1, sums over many rows are split between
threads, and large networks may differ in the last bits; so may another machine or version of torch.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from xmodal.train.loop import TrainOptions


def test_the_same_seed_twice(toy: ModuleType, tmp_path: Path) -> None:
    first, one = toy.full_run(tmp_path / "a")
    torch.rand(3)
    random.random()
    np.random.default_rng().random()
    second, two = toy.full_run(tmp_path / "b")
    assert toy.same(first, second)
    assert toy.losses(one) == toy.losses(two)
    # Files of tensors, too: byte for byte.
    a, b = (
        (tmp_path / name / "checkpoints/step-00000009/tensors.safetensors").read_bytes()
        for name in "ab"
    )
    assert a == b


def test_the_default_is_one_thread_whatever_torch_uses(toy: ModuleType, tmp_path: Path) -> None:
    runs = []
    before = torch.get_num_threads()
    try:
        for num in (1, 2):
            torch.set_num_threads(num)
            made, history = toy.train(tmp_path / str(num), toy.student(toy.UNET))
            runs.append((toy.state(made), toy.losses(history)))
    finally:
        torch.set_num_threads(before)
    assert toy.same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


def test_two_threads_agree_with_one_up_to_rounding(toy: ModuleType, tmp_path: Path) -> None:
    histories = [
        toy.train(
            tmp_path / str(num),
            toy.student(toy.UNET),
            options=replace(toy.OPTIONS, threads=num, steps=3),
        )[1]
        for num in (1, 2)
    ]
    one, two = ([record["loss"] for record in history] for history in histories)
    assert one == pytest.approx(two, rel=1e-4)


def test_another_seed_gives_other_numbers(toy: ModuleType, tmp_path: Path) -> None:
    options: TrainOptions = toy.OPTIONS
    one, two = (
        toy.losses(toy.train(tmp_path / str(seed), options=replace(options, seed=seed))[1])
        for seed in (0, 1)
    )
    assert one != two
