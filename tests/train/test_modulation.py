"""Streams of a fusion that keep pace: factors by hand, and gradients in a training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from xmodal.edges.distill.kl import Kl
from xmodal.edges.distill.mse import Mse
from xmodal.edges.encode.fusion import FusionOp
from xmodal.edges.encode.imu_tcn import ImuTcn
from xmodal.errors import UsageError
from xmodal.recordings.recording import gather
from xmodal.train.checkpoint import checkpoints, load_checkpoint
from xmodal.train.data import Distill
from xmodal.train.loop import TrainOptions, fit
from xmodal.train.modulation import AdaptiveModulation, modulated
from xmodal.train.recorded import ClipLearner, Recorded
from xmodal.values import Embedding

OPTIONS = TrainOptions(steps=4, batch=6, lr=1e-2, warmup_steps=1, log_every=1, balance="agm")


# Factors.


def test_factors_by_hand() -> None:
    pace = AdaptiveModulation(2)
    assert pace.factors([1.0, 2.0]) == [1.0, 1.0]  # what is, is all that is usual
    # losses of both so far: means 0.75 and 2, so that the first is usually 1.25 ahead, now 1.5
    first, second = pace.factors([0.5, 2.0])
    assert first == pytest.approx(math.exp(math.exp(1.25) - math.exp(1.5)))
    assert second == pytest.approx(math.exp(math.exp(-1.25) - math.exp(-1.5)))
    assert first < 1 < second


def test_of_three_each_is_compared_with_the_mean_of_the_others() -> None:
    pace = AdaptiveModulation(3, strength=0.5)
    pace.factors([2.0, 2.0, 2.0])
    found = pace.factors([1.0, 2.0, 3.0])  # means 1.5, 2, 2.5
    assert found[0] == pytest.approx(math.exp(0.5 * (math.exp(0.75) - math.exp(1.5))))
    assert found[1] == pytest.approx(1.0)
    assert found[2] == pytest.approx(math.exp(0.5 * (math.exp(-0.75) - math.exp(-1.5))))


def test_a_stream_that_always_knows_more_is_left_alone() -> None:
    pace = AdaptiveModulation(2)
    for _ in range(5):
        assert pace.factors([0.1, 3.0]) == [1.0, 1.0]


@pytest.mark.parametrize("lost", [0.0, math.nan, math.inf])
def test_a_stream_without_rows_moves_nothing(lost: float) -> None:
    pace = AdaptiveModulation(2)
    pace.factors([1.0, 1.0])
    assert pace.factors([2.0, lost]) == [1.0, 1.0]
    assert pace.steps.tolist() == [2.0, 1.0]
    assert pace.total.tolist() == [3.0, 1.0]


def test_factors_are_bounded_and_never_overflow() -> None:
    pace = AdaptiveModulation(2, strength=100.0)
    pace.factors([1.0, 10.0])
    behind, other = pace.factors([5.0, 1.0])
    assert behind == pytest.approx(10.0)
    assert 0.0 <= other < 1.0
    far = AdaptiveModulation(2)
    for _ in range(20):
        far.factors([1.0, 1.0])
    first, second = far.factors([1.0, 5000.0])  # a lead of exp(4999)
    assert first == 0.0
    assert second == pytest.approx(1.0)


@pytest.mark.parametrize(("num", "strength"), [(1, 1.0), (2, 0.0), (2, math.inf)])
def test_modulations_that_cannot_be(num: int, strength: float) -> None:
    with pytest.raises(ValueError, match="two streams"):
        AdaptiveModulation(num, strength)


def test_a_loss_for_each_stream() -> None:
    with pytest.raises(ValueError, match="2 streams, not 3"):
        AdaptiveModulation(2).factors([1.0, 1.0, 1.0])


def test_parts_keep_their_sum_and_gradients_are_multiplied() -> None:
    parts = [torch.tensor([[1.0, 2.0]], requires_grad=True), torch.ones(1, 2, requires_grad=True)]
    found = modulated(parts, [0.25, 3.0])
    torch.testing.assert_close(found, torch.tensor([[2.0, 3.0]]))
    found.sum().backward()
    assert parts[0].grad.tolist() == [[0.25, 0.25]]
    assert parts[1].grad.tolist() == [[3.0, 3.0]]


# In a training.


def learners(space: Any = "raw") -> tuple[dict[str, ClipLearner], list[Distill]]:
    """Two networks over the same readings, their fusion, and its head of classes."""
    torch.manual_seed(0)
    op = ImuTcn(size="micro", window_s=0.8, dropout=0.0)
    streams = {n: ClipLearner(op, op.build(channels=8), ("imu",)) for n in ("one", "two")}
    both = FusionOp(how="gated", drop=0.3)
    net = both.build(channels=8, source_channels=(8, 8), space=space)
    kl = Kl(project="linear")
    head = kl.build(channels=8, teacher_channels=3, space="raw")
    students = {**streams, "both": ClipLearner(both, net, ("one", "two"))}
    return students, [Distill(kl, "truth", "both", head)]


@pytest.fixture(scope="module")
def recorded(synthetic: ModuleType) -> Recorded:
    whole = synthetic.recordings(groups=2, each=3, kinds=("imu",))
    ids = whole.labels.ids
    clips = ImuTcn(size="micro", window_s=0.8).describe(gather(whole, "imu"))
    truth = Embedding(
        rows=torch.eye(3)[ids],
        valid=torch.ones(len(ids), dtype=torch.bool),
        weight=torch.ones(len(ids)),
        offsets=torch.arange(len(ids) + 1),
    )
    return Recorded(
        names=whole.names,
        clips={"one": clips, "two": clips},
        stored={"truth": truth},
        classes=ids,
        groups=torch.zeros_like(ids),
    )


def test_a_training_remembers_how_far_streams_are(recorded: Recorded, tmp_path: Path) -> None:
    students, edges = learners()
    done = fit(students, edges, recorded, OPTIONS, tmp_path)
    assert all(math.isfinite(r["loss"]) for r in done.history)
    kept = load_checkpoint(checkpoints(tmp_path / "checkpoints")[-1]).tensors
    assert kept["balance.both/steps"].tolist() == [4.0, 4.0]
    assert kept["balance.both/total"].min() > 0


def test_it_goes_on_in_the_same_bits(recorded: Recorded, tmp_path: Path) -> None:
    options = replace(OPTIONS, checkpoint_every=2)
    whole = fit(*learners(), recorded, options, tmp_path / "whole")
    students, edges = learners()

    def stop(done: int, total: int) -> None:
        if done == 2 < total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(students, edges, recorded, options, tmp_path / "part", progress=stop)
    tail = fit(*learners(), recorded, options, tmp_path / "part", resume=True)
    assert [r["loss"] for r in tail.history] == [r["loss"] for r in whole.history[2:]]
    ends = [load_checkpoint(p.checkpoint).tensors for p in (whole, tail)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_first_step_is_that_of_no_balance(recorded: Recorded, tmp_path: Path) -> None:
    found: list[list[Tensor]] = []
    for balance in ("agm", "none"):
        students, edges = learners()
        options = replace(OPTIONS, steps=1, balance=balance)
        fit(students, edges, recorded, options, tmp_path / balance)
        found.append([p.detach() for s in students.values() for p in s.net.parameters()])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-4, rtol=1e-3)


def test_without_a_fusion_that_learns_classes_it_is_refused(
    recorded: Recorded, tmp_path: Path
) -> None:
    students, edges = learners()
    plain = [Distill(Mse(project="linear"), "truth", "both", edges[0].net)]
    with pytest.raises(UsageError, match="balance: agm"):
        fit(students, plain, recorded, OPTIONS, tmp_path / "mse")
    del students["both"]
    alone = [Distill(edges[0].op, "truth", "one", edges[0].net)]
    with pytest.raises(UsageError, match="fusion"):
        fit({"one": students["one"]}, alone, recorded, OPTIONS, tmp_path / "one")


def test_scenes_have_no_streams(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="agm"):
        toy.train(tmp_path, toy.student(), options=replace(toy.OPTIONS, balance="agm"))
