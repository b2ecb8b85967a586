"""Teachers that are hidden by chance: one stays, and the loss does not see the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from xmodal.config.runfile import load_run
from xmodal.edges.distill.mse import Mse
from xmodal.edges.encode.imu_tcn import ImuTcn
from xmodal.errors import ConfigError, UsageError
from xmodal.recordings.recording import gather
from xmodal.train.data import Distill
from xmodal.train.dropping import kept_teachers, shown_rows
from xmodal.train.loop import TrainOptions
from xmodal.train.recorded import ClipLearner, Recorded
from xmodal.train.trainer import Trainer
from xmodal.values import Embedding

RUNS = Path(__file__).resolve().parents[2] / "configs" / "runs"
OP = ImuTcn(size="micro", window_s=0.8, dropout=0.0)
OPTIONS = TrainOptions(steps=4, batch=18, lr=1e-2, warmup_steps=1, drop_teachers=0.5)


def rows(values: Tensor, valid: Tensor | None = None) -> Embedding:
    known = torch.ones(len(values), dtype=torch.bool) if valid is None else valid
    return Embedding(
        rows=values, valid=known, weight=known.float(), offsets=torch.arange(len(values) + 1)
    )


def learner() -> ClipLearner:
    torch.manual_seed(0)
    return ClipLearner(OP, OP.build(channels=3, space="raw"), ("imu",))


@pytest.fixture(scope="module")
def recorded(synthetic: ModuleType) -> Recorded:
    whole = synthetic.recordings(groups=2, each=3, kinds=("imu",))
    ids = whole.labels.ids
    return Recorded(
        names=whole.names,
        clips={"motion": OP.describe(gather(whole, "imu"))},
        stored={"truth": rows(torch.eye(3)[ids]), "other": rows(torch.eye(3)[ids].flip(1))},
        classes=ids,
        groups=torch.zeros(len(ids), dtype=torch.int64),
    )


EDGES = [Distill(Mse(), "truth", "motion"), Distill(Mse(), "other", "motion")]


def test_one_teacher_stays_and_each_is_hidden_as_often_as_said() -> None:
    there = torch.ones(3, 20000, dtype=torch.bool)
    kept = kept_teachers(there, 0.5, torch.Generator().manual_seed(0))
    assert bool(kept.any(dim=0).all())
    # Of three, all are hidden with 1/8: then one of them comes back.
    assert kept.float().mean(dim=1).numpy() == pytest.approx([0.5 + 1 / 24] * 3, abs=0.02)


def test_what_is_not_there_is_not_shown() -> None:
    there = torch.tensor([[True, False, False], [False, True, False]])
    kept = kept_teachers(there, 0.99, torch.Generator().manual_seed(0))
    assert kept.tolist() == there.tolist()


def test_hidden_rows_are_not_valid() -> None:
    value = replace(rows(torch.ones(5, 2)), offsets=torch.tensor([0, 2, 2, 5]))
    assert shown_rows(value, None) is value
    hidden = shown_rows(value, torch.tensor([False, True, True]))
    assert hidden.valid.tolist() == [False, False, True, True, True]


@dataclass(frozen=True, kw_only=True)
class Counting(Mse):
    """Notes which rows it is shown."""

    op: Literal["mse"] = "mse"

    def __call__(self, *values: Any, **rest: Any) -> Tensor:
        SEEN.append(values[0].valid)
        return super().__call__(*values, **rest)


SEEN: list[Tensor] = []


def test_a_step_hides_teachers_of_recordings(recorded: Recorded, tmp_path: Path) -> None:
    SEEN.clear()
    edges = [Distill(Counting(), e.teacher, e.student) for e in EDGES]
    trainer = Trainer({"motion": learner()}, edges, recorded, {}, OPTIONS, tmp_path)
    trainer.enter(0)
    drawn = trainer.task.draw(np.random.default_rng(0), halve=False)
    assert trainer.phase is not None
    for _ in range(2):
        trainer.task.losses_of(drawn, trainer.phase, np.random.default_rng(0))
    first, second, again, _ = SEEN
    assert bool((first | second).all())
    assert not bool((first & second).all())
    assert torch.equal(first, again)  # what is hidden belongs to the draw: a replay hides it too


def test_run_files_over_recordings_may_drop_teachers() -> None:
    share = ("optimiser.drop_teachers=0.3",)
    assert load_run(RUNS / "sound_yamnet.yaml", share).optimiser.drop_teachers == 0.3
    with pytest.raises(ConfigError, match="no effect on scenes"):
        load_run(RUNS / "kitchen.yaml", share)


def test_a_lone_teacher_cannot_be_dropped(recorded: Recorded, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one always stays"):
        Trainer({"motion": learner()}, EDGES[:1], recorded, {}, OPTIONS, tmp_path)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_shares_that_are_none_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="drop_teachers"):
        TrainOptions(drop_teachers=share)
