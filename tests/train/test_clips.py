"""Training over recordings: what a step draws, who learns, and that every loss meets rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xmodal.edges.distill.cosine import Cosine
from xmodal.edges.distill.info_nce import InfoNce
from xmodal.edges.distill.kl import Kl
from xmodal.edges.distill.mse import Mse
from xmodal.edges.distill.relational import Relational
from xmodal.edges.distill.smooth_l1 import SmoothL1
from xmodal.edges.encode.fusion import FusionOp
from xmodal.edges.encode.imu_tcn import ImuTcn
from xmodal.errors import DataError, UsageError
from xmodal.recordings.inputs import Clips
from xmodal.recordings.recording import gather
from xmodal.train.clips import ClipTask
from xmodal.train.data import Distill
from xmodal.train.loop import Average, Stage, TrainOptions, fit
from xmodal.train.recorded import ClipLearner, Recorded
from xmodal.train.trainer import Trainer
from xmodal.values import Embedding

OP = ImuTcn(size="micro", window_s=0.8, dropout=0.0)
OPTIONS = TrainOptions(steps=6, batch=6, lr=1e-2, warmup_steps=1, log_every=1)


def rows(values: Tensor, valid: Tensor | None = None) -> Embedding:
    known = torch.ones(len(values), dtype=torch.bool) if valid is None else valid
    return Embedding(
        rows=values, valid=known, weight=known.float(), offsets=torch.arange(len(values) + 1)
    )


def learner(seed: int = 0, channels: int = 3, space: Any = "raw") -> ClipLearner:
    torch.manual_seed(seed)
    return ClipLearner(OP, OP.build(channels=channels, space=space), ("imu",))


@pytest.fixture(scope="module")
def recorded(synthetic: ModuleType) -> Recorded:
    whole = synthetic.recordings(groups=2, each=3, kinds=("imu",))
    ids = whole.labels.ids
    return Recorded(
        names=whole.names,
        clips={"motion": OP.describe(gather(whole, "imu"))},
        stored={"truth": rows(torch.eye(3)[ids])},
        classes=ids,
        groups=torch.tensor([int(item.group[1:]) for item in whole.items]),
    )


def trained(
    recorded: Recorded,
    edges: list[Distill],
    out: Path,
    options: TrainOptions = OPTIONS,
    **more: Any,
) -> tuple[dict[str, ClipLearner], list[float]]:
    students = {"motion": learner()} | more.pop("students", {})
    done = fit(students, edges, recorded, options, out, **more)
    return students, [r["loss"] for r in done.history]


def test_a_student_learns_classes(recorded: Recorded, tmp_path: Path) -> None:
    torch.manual_seed(0)
    students = {"motion": learner(space="simplex")}
    options = replace(OPTIONS, steps=60, batch=18)
    done = fit(students, [Distill(Kl(), "truth", "motion")], recorded, options, tmp_path)
    assert done.history[-1]["loss"] < 0.3 * done.history[0]["loss"]
    clips = recorded.clips["motion"]
    with torch.no_grad():
        answer = students["motion"].net(clips.inputs[clips.offsets[:-1]]).argmax(dim=1)
    assert float((answer == recorded.classes).float().mean()) > 0.9


@pytest.mark.parametrize(
    "op", [Cosine(), Mse(), InfoNce(), Relational(), SmoothL1(), InfoNce(negatives="queue")]
)
def test_losses_on_rows_work_on_recordings(recorded: Recorded, tmp_path: Path, op: Any) -> None:
    teacher = rows(torch.randn(18, 3, generator=torch.Generator().manual_seed(1)))
    given = replace(recorded, stored={"teacher": teacher})
    net = op.build(channels=3, teacher_channels=3)
    _, losses = trained(given, [Distill(op, "teacher", "motion", net)], tmp_path)
    assert all(np.isfinite(losses))
    assert losses[-1] != losses[0]


def test_recordings_without_windows_or_rows_are_not_drawn(
    recorded: Recorded, tmp_path: Path
) -> None:
    clips = recorded.clips["motion"]
    sizes = clips.sizes.clone()
    kept = torch.arange(len(clips.inputs)) >= int(sizes[:2].sum())
    sizes[:2] = 0
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    valid = torch.arange(18) != 17
    given = replace(
        recorded,
        clips={"motion": Clips(clips.inputs[kept], offsets)},
        stored={"truth": rows(recorded.stored["truth"].rows, valid)},
    )
    edge = Distill(Mse(), "truth", "motion")
    trainer = Trainer(
        {"motion": learner()}, [edge], given, {}, replace(OPTIONS, batch=64), tmp_path
    )
    trainer.enter(0)
    drawn = trainer.task.draw(np.random.default_rng(0), halve=False)
    assert sorted(drawn.places.tolist()) == list(range(2, 17))
    half = trainer.task.draw(np.random.default_rng(0), halve=True)
    assert len(half.places) == 15  # 32 are asked for, 15 are there


@pytest.mark.parametrize("mode", ["class", "group"])
def test_rare_recordings_are_seen_as_often(recorded: Recorded, tmp_path: Path, mode: Any) -> None:
    lonely = torch.zeros(18, dtype=torch.int64)
    lonely[5] = 1
    given = replace(recorded, classes=lonely, groups=lonely)
    options = replace(OPTIONS, batch=1, balance_recordings=mode)
    edge = Distill(Mse(), "truth", "motion")
    trainer = Trainer({"motion": learner()}, [edge], given, {}, options, tmp_path)
    trainer.enter(0)
    rng = np.random.default_rng(0)
    found = [int(trainer.task.draw(rng, halve=False).places[0]) == 5 for _ in range(400)]
    assert 0.4 < np.mean(found) < 0.6


def test_a_student_teaches_another_and_stays_as_it_was(recorded: Recorded, tmp_path: Path) -> None:
    clips = recorded.clips["motion"]
    given = replace(recorded, clips={"first": clips, "motion": clips})
    students = {"first": learner(1), "motion": learner(2)}
    edges = [Distill(Mse(), "truth", "first"), Distill(Mse(), "first", "motion")]
    stages = (
        Stage(name="teacher", steps=3, edges=("truth -> first",)),
        Stage(name="student", steps=30, edges=("first -> motion",), train=("motion",)),
    )
    before = [p.clone() for p in students["motion"].net.parameters()]
    trainer = Trainer(students, edges, given, {}, replace(OPTIONS, stages=stages), tmp_path)
    trainer.start_from_teachers()
    for step in range(3):
        trainer.step(step)
    assert all(
        torch.equal(a, b) for a, b in zip(before, students["motion"].net.parameters(), strict=True)
    )
    kept = {n: v.clone() for n, v in students["first"].net.state_dict().items()}
    losses = [trainer.step(step)["loss"] for step in range(3, 33)]
    assert all(torch.equal(v, kept[n]) for n, v in students["first"].net.state_dict().items())
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_a_fusion_learns_through_the_students_that_it_sees(
    recorded: Recorded, tmp_path: Path
) -> None:
    op = FusionOp(how="mean")
    fused = ClipLearner(op, op.build(channels=3, source_channels=(3, 3)), ("motion", "other"))
    given = replace(
        recorded,
        stored={**recorded.stored, "other": rows(torch.zeros(18, 3), torch.arange(18) > 9)},
    )
    students = {"motion": learner(), "both": fused}
    edge = Distill(Mse(), "truth", "both")
    before = [p.clone() for p in students["motion"].net.parameters()]
    fit(students, [edge], given, OPTIONS, tmp_path)
    moved = [
        not torch.equal(a, b)
        for a, b in zip(before, students["motion"].net.parameters(), strict=True)
    ]
    assert all(moved)


@pytest.mark.parametrize("view", ["global", "same"])
def test_slow_teachers_follow(recorded: Recorded, tmp_path: Path, view: Any) -> None:
    edges = [Distill(Mse(), "truth", "motion"), Distill(Mse(), "slow", "motion")]
    averages = {"slow": Average(student="motion", decay=0.5, view=view)}
    _, losses = trained(recorded, edges, tmp_path, averages=averages)
    assert all(np.isfinite(losses))


def test_several_teachers_come_to_one_loss(recorded: Recorded, tmp_path: Path) -> None:
    seen: list[int] = []

    class Both(nn.Module):
        weight = 1.0

        def __call__(self, first: Embedding, second: Embedding, student: Embedding) -> Tensor:
            seen.append(len(first.rows) + len(second.rows))
            return (student.rows - (first.rows + second.rows) / 2).square().mean()

    given = replace(recorded, stored={**recorded.stored, "more": rows(torch.ones(18, 3))})
    op: Any = Both()
    edge = Distill(op, "truth", "motion", None, ("more",))
    assert edge.key == "truth, more -> motion"
    trained(given, [edge], tmp_path)
    assert seen == [12] * 6


@pytest.mark.parametrize(
    ("stored", "match"),
    [
        ({}, "rows of truth"),
        ({"truth": rows(torch.ones(3, 3))}, "18 recordings in every node"),
        ({"truth": rows(torch.ones(18, 3), torch.zeros(18, dtype=torch.bool))}, "at least one"),
    ],
)
def test_what_is_missing_is_named(
    recorded: Recorded, tmp_path: Path, stored: dict[str, Embedding], match: str
) -> None:
    with pytest.raises(DataError, match=match):
        trained(replace(recorded, stored=stored), [Distill(Mse(), "truth", "motion")], tmp_path)


def test_students_that_nothing_teaches_are_refused(recorded: Recorded, tmp_path: Path) -> None:
    clips = recorded.clips["motion"]
    given = replace(recorded, clips={"idle": clips, "motion": clips})
    with pytest.raises(UsageError, match="edge for every student"):
        trained(given, [Distill(Mse(), "truth", "motion")], tmp_path, students={"idle": learner()})


def test_a_batch_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="batch must be at least 1"):
        TrainOptions(batch=0)


def test_options_of_scenes_do_not_belong_to_the_run(recorded: Recorded, tmp_path: Path) -> None:
    edge = [Distill(Mse(), "truth", "motion")]
    found = [
        Trainer({"motion": learner()}, edge, recorded, {}, options, tmp_path).state.identity
        for options in (OPTIONS, replace(OPTIONS, crops=9), replace(OPTIONS, batch=7))
    ]
    assert found[0] == found[1] != found[2]
    assert "batch" not in str(ClipTask.unused)
