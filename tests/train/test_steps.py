"""What a step adds up: accumulated pieces, bfloat16, masked students, settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from xmodal.train.loop import Distill, TrainOptions


def test_the_gradient_is_the_mean_over_pieces(toy: ModuleType, tmp_path: Path) -> None:
    """One place, all rows: every piece is the same, so that more of them change nothing."""
    settings = {"crops": 1, "crop_points": 400, "loss_rows": 400, "steps": 3}
    still = replace(toy.OPTIONS.augment, shift=False)
    runs = []
    for num in (1, 3):
        options = replace(toy.OPTIONS, accumulate=num, augment=still, **settings)
        made, history = toy.train(tmp_path / str(num), toy.student(), options=options)
        runs.append((made, history))
    for one, three in zip(runs[0][1], runs[1][1], strict=True):
        assert one["loss"] == pytest.approx(three["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(three["grad_norm"], rel=1e-4)


def test_each_piece_is_of_its_own_scene(toy: ModuleType, tmp_path: Path) -> None:
    from xmodal.train.trainer import Trainer

    scenes = [toy.room(), toy.room(300, seed=1)]
    options = replace(toy.OPTIONS, accumulate=8)
    trainer = Trainer({"student": toy.student()}, [toy.KL], scenes, {}, options, tmp_path)
    trainer.enter(0)
    found = trainer.gradients()
    assert {batch.scene.index for batch, _ in found.batches} == {0, 1}
    assert found.loss == pytest.approx(sum(loss for _, loss in found.batches) / 8)
    assert set(found.seconds) == {"draw", "forward", "backward"}


@pytest.mark.parametrize("op", ["MLP", "UNET"])
def test_bfloat16_learns_about_the_same(toy: ModuleType, tmp_path: Path, op: str) -> None:
    losses = []
    for amp in ("off", "bf16"):
        options = replace(toy.OPTIONS, amp=amp, steps=4)
        made, history = toy.train(tmp_path / amp, toy.student(getattr(toy, op)), options=options)
        losses.append([record["loss"] for record in history])
        assert all(p.dtype == torch.float32 for p in made.net.parameters())
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


def test_auto_leaves_the_cpu_alone(toy: ModuleType, tmp_path: Path) -> None:
    runs = [
        toy.train(tmp_path / amp, options=replace(toy.OPTIONS, amp=amp))[0]
        for amp in ("auto", "off")
    ]
    assert toy.same(toy.state(runs[0]), toy.state(runs[1]))


@dataclass(frozen=True)
class Masked:
    """Keeps which of the compared points were hidden."""

    seen: list[Any]
    weight: float = 1.0

    def __call__(self, teacher: Any, student: Any, *, net: Any = None) -> Tensor:
        self.seen.append(student.masked)
        return (teacher.rows - student.rows).square().mean()


def test_a_masked_student_says_what_it_did_not_see(toy: ModuleType, tmp_path: Path) -> None:
    op = replace(toy.UNET, mask_ratio=0.5, mask_cell_m=0.4)
    watch = Masked([])
    edge = Distill(watch, "lifted", "student")
    toy.train(tmp_path, toy.student(op), edges=[edge], options=replace(toy.OPTIONS, steps=2))
    assert all(len(masked) == 60 and masked.dtype == torch.bool for masked in watch.seen)
    assert 0 < int(watch.seen[0].sum()) < 60


def test_an_unmasked_student_says_nothing_of_masks(toy: ModuleType, tmp_path: Path) -> None:
    watch = Masked([])
    edge = Distill(watch, "lifted", "student")
    toy.train(tmp_path, edges=[edge], options=replace(toy.OPTIONS, steps=1))
    assert watch.seen == [None]


@pytest.mark.parametrize("name", ["amp", "schedule", "balance", "balance_scenes", "on_non_finite"])
def test_a_choice_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(Exception, match=name):
        TrainOptions(**{name: "perhaps"})


@pytest.mark.parametrize(
    "change", [{"accumulate": 0}, {"min_set_points": 0}, {"max_skips": -1}, {"warmup_steps": -1}]
)
def test_counts_that_cannot_be_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainOptions(**change)
