"""A network that learns from two variations of each recording, without labels or other streams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional

from xmodal.edges.distill.info_nce import InfoNce
from xmodal.edges.distill.queue_similarity import QueueSimilarity
from xmodal.edges.distill.routed import Routed
from xmodal.edges.encode.imu_tcn import ImuTcn
from xmodal.edges.encode.skeleton_net import SkeletonNetOp
from xmodal.recordings.recording import gather
from xmodal.train.data import Distill
from xmodal.train.loop import Average, Stage, TrainOptions, fit
from xmodal.train.recorded import ClipLearner, Recorded
from xmodal.values import Embedding, Skeleton

BODY = SkeletonNetOp(size="micro", window_s=1.2, dropout=0.0, jitter=0.05)
MOTION = ImuTcn(size="micro", window_s=0.8, dropout=0.0)
OPTIONS = TrainOptions(steps=40, batch=18, lr=3e-3, warmup_steps=2, log_every=1)


def bodies(num: int) -> Skeleton:
    """Bodies that each sway in a way of their own."""
    generator = torch.Generator().manual_seed(0)
    rest = torch.rand(20, 3, generator=generator) * 2 - 1
    frames = torch.arange(40) / 30
    sway = 0.6 * torch.randn(num, 1, 20, 3, generator=generator)
    pace = 3 + 12 * torch.rand(num, 1, 1, 1, generator=generator)
    joints = rest + sway * torch.sin(pace * frames[:, None, None])
    return Skeleton(
        joints_m=joints.flatten(0, 1),
        time_s=frames.repeat(num),
        offsets=torch.arange(num + 1) * len(frames),
    )


@pytest.fixture(scope="module")
def recorded(synthetic: ModuleType) -> Recorded:
    """Bodies and motions, and nothing that was made from labels."""
    whole = synthetic.recordings(groups=3, each=2, kinds=("imu",))
    unknown = torch.full((len(whole),), -1)
    return Recorded(
        names=whole.names,
        clips={
            "pose": BODY.describe(bodies(len(whole))),
            "motion": MOTION.describe(gather(whole, "imu")),
        },
        stored={},
        classes=unknown,
        groups=torch.zeros_like(unknown),
    )


def learner(op: Any, source: str) -> ClipLearner:
    torch.manual_seed(0)
    return ClipLearner(op, op.build(channels=16), (source,))


def margin(net: Any, recorded: Recorded) -> float:
    """How much more two variations of a window are alike than windows of two recordings."""
    clips = recorded.clips["pose"]
    generator = torch.Generator().manual_seed(101)
    with torch.no_grad():
        first, second = (
            functional.normalize(net(BODY.vary(clips.inputs, generator)), dim=1) for _ in range(2)
        )
    cosines = first @ second.T
    of = torch.arange(len(clips)).repeat_interleave(clips.offsets.diff())
    return float(cosines.diag().mean() - cosines[of[:, None] != of].mean())


def test_two_variations_agree_and_recordings_stay_apart(recorded: Recorded, tmp_path: Path) -> None:
    pose = learner(BODY, "skeleton")
    alone = replace(recorded, clips={"pose": recorded.clips["pose"]})
    before = margin(pose.net.eval(), alone)
    edge = Distill(InfoNce(temperature=0.1), "slow", "pose")
    done = fit(
        {"pose": pose},
        [edge],
        alone,
        averages={"slow": Average(student="pose", decay=0.9, view="same")},
        options=OPTIONS,
        out=tmp_path,
    )
    after = margin(pose.net, alone)
    assert after > before + 0.1, (before, after)
    first, last = (sum(r["loss"] for r in part) for part in (done.history[:5], done.history[-5:]))
    assert last < 0.8 * first


def test_motion_learns_what_the_body_found_in_a_stage_before(
    recorded: Recorded, tmp_path: Path
) -> None:
    op = QueueSimilarity(queue_size=32)
    state = op.build(channels=16, teacher_channels=16)
    edges = [
        Distill(InfoNce(temperature=0.1), "slow", "pose"),
        Distill(op, "pose", "motion", state),
    ]
    stages = (
        Stage(name="bodies", steps=10, train=("pose",), edges=("slow -> pose",)),
        Stage(name="motions", steps=25, train=("motion",), edges=("pose -> motion",)),
    )
    done = fit(
        {"pose": learner(BODY, "skeleton"), "motion": learner(MOTION, "imu")},
        edges,
        recorded,
        averages={"slow": Average(student="pose", decay=0.9, view="same")},
        options=replace(OPTIONS, stages=stages),
        out=tmp_path,
    )
    assert int(state.state.count) == 25 * 18
    later = [r["loss"] for r in done.history if r["stage"] == "motions"]
    assert sum(later[-5:]) < sum(later[:5])


def test_a_router_among_a_stored_teacher_and_a_student(recorded: Recorded, tmp_path: Path) -> None:
    num = len(recorded.names)
    told = torch.randn(num, 6, generator=torch.Generator().manual_seed(1))
    valid = torch.arange(num) % 3 > 0
    stored = Embedding(rows=told, valid=valid, weight=valid.float(), offsets=torch.arange(num + 1))
    op = Routed(top=1, drop=0.2)
    net = op.build(channels=16, source_channels=(16, 6))
    edge: Any = Distill(op, "pose", "motion", net, others=("heard",))
    done = fit(
        {"pose": learner(BODY, "skeleton"), "motion": learner(MOTION, "imu")},
        [edge, Distill(InfoNce(), "slow", "pose")],
        replace(recorded, stored={"heard": stored}),
        averages={"slow": Average(student="pose", decay=0.9, view="same")},
        options=replace(OPTIONS, steps=8),
        out=tmp_path,
    )
    assert done.history[-1]["losses"].keys() == {"pose, heard -> motion", "slow -> pose"}
    assert all(parameter.grad is not None for parameter in net.router.parameters())
