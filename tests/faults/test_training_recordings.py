"""Runs over recordings that are stopped, fail, or are given what cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from xmodal.edges.distill.info_nce import InfoNce
from xmodal.edges.encode.imu_tcn import ImuTcn
from xmodal.errors import DataError, UsageError
from xmodal.recordings.recording import gather
from xmodal.train.data import Distill
from xmodal.train.loop import Average, TrainOptions, fit, replay
from xmodal.train.recorded import ClipLearner, Recorded
from xmodal.values import Embedding

OP = ImuTcn(size="micro", window_s=0.8)  # with dropout: its draws must be resumed too
OPTIONS = TrainOptions(steps=6, batch=6, warmup_steps=1, log_every=1, checkpoint_every=3)


@pytest.fixture(scope="module")
def recorded(synthetic: ModuleType) -> Recorded:
    whole = synthetic.recordings(groups=2, each=3, kinds=("imu",))
    teacher = torch.randn(18, 8, generator=torch.Generator().manual_seed(3))
    return Recorded(
        names=whole.names,
        clips={"motion": OP.describe(gather(whole, "imu"))},
        stored={"teacher": _rows(teacher)},
        classes=whole.labels.ids,
        groups=torch.zeros(18, dtype=torch.int64),
    )


def _rows(values: torch.Tensor) -> Embedding:
    return Embedding(
        rows=values,
        valid=torch.ones(len(values), dtype=torch.bool),
        weight=torch.ones(len(values)),
        offsets=torch.arange(len(values) + 1),
    )


def run(
    recorded: Recorded, out: Path, options: TrainOptions = OPTIONS, *, resume: bool = False
) -> ClipLearner:
    torch.manual_seed(5)
    learner = ClipLearner(OP, OP.build(channels=8), ("imu",))
    op = InfoNce(negatives="queue", queue_size=16)
    edges = [
        Distill(op, "teacher", "motion", op.build(channels=8, teacher_channels=8)),
        Distill(InfoNce(), "slow", "motion"),
    ]
    averages = {"slow": Average(student="motion", view="same")}
    fit({"motion": learner}, edges, recorded, options, out, averages=averages, resume=resume)
    return learner


def test_a_resumed_run_has_the_same_bits(recorded: Recorded, tmp_path: Path) -> None:
    whole = run(recorded, tmp_path / "whole")
    run(recorded, tmp_path / "parts", replace(OPTIONS, on_save_error="stop"))
    for path in (tmp_path / "parts" / "checkpoints").glob("*00000006*"):
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink()
        path.rmdir()
    again = run(recorded, tmp_path / "parts", resume=True)
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[name]), name


def test_another_batch_is_another_run(recorded: Recorded, tmp_path: Path) -> None:
    run(recorded, tmp_path)
    with pytest.raises(UsageError, match=r"options\.batch: 6 then, 7 now"):
        run(recorded, tmp_path, replace(OPTIONS, batch=7), resume=True)


def test_other_recordings_are_another_run(recorded: Recorded, tmp_path: Path) -> None:
    run(recorded, tmp_path)
    with pytest.raises(UsageError, match="recordings"):
        run(recorded.take(range(12)), tmp_path, resume=True)


def failing(recorded: Recorded, place: int) -> Recorded:
    stored = recorded.stored["teacher"]
    bad = stored.rows.clone()
    bad[place] = float("nan")
    return replace(recorded, stored={"teacher": replace(stored, rows=bad)})


def edge() -> Distill:
    return Distill(InfoNce(), "teacher", "motion")


def test_rows_that_are_not_finite_are_named_and_replayed(
    recorded: Recorded, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    given, options = failing(recorded, 4), replace(OPTIONS, batch=18)
    learner = ClipLearner(OP, OP.build(channels=8), ("imu",), warm=True)
    with pytest.raises(DataError, match=f"teacher of {recorded.names[4]}"):
        fit({"motion": learner}, [edge()], given, options, tmp_path)
    file = tmp_path / "failed-step-00000001.json"
    record = json.loads(file.read_text())
    assert sorted(record["recordings"]) == sorted(recorded.names)
    fresh = ClipLearner(OP, OP.build(channels=8), ("imu",), warm=True)
    found = replay(file, {"motion": fresh}, [edge()], given, options)
    assert found.same
    assert found.scene is None
    assert found.where.startswith("recordings ")


def test_a_bad_step_can_be_skipped(recorded: Recorded, tmp_path: Path) -> None:
    options = replace(OPTIONS, on_non_finite="skip", batch=2, steps=12)
    learner = ClipLearner(OP, OP.build(channels=8), ("imu",), warm=True)
    done = fit({"motion": learner}, [edge()], failing(recorded, 4), options, tmp_path)
    skipped = [r for r in done.history if r.get("skipped")]
    assert 0 < len(skipped) < 12
    assert all(torch.isfinite(p).all() for p in learner.net.parameters())
