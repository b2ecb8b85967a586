"""Small scenes, students and runs for tests of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lifting.operator import LiftOperator
from xmodal.edges.distill.cosine import Cosine
from xmodal.edges.distill.kl import Kl
from xmodal.edges.encode.point_mlp import PointMlp
from xmodal.edges.encode.sparse_unet import SparseUnet
from xmodal.train.checkpoint import checkpoints, load_checkpoint
from xmodal.train.loop import Augment, Average, Distill, Stage, Student, TrainOptions, fit
from xmodal.values import Points, PointSets

CHANNELS = 6
LOCAL = ("rgb", "normals", "height")
UNET = SparseUnet(voxel_m=0.1, inputs=LOCAL)
MLP = PointMlp(width=16, depth=1, inputs=LOCAL)
KL = Distill(Kl(), "lifted", "student")
COSINE = Distill(Cosine(allow_simplex=True), "lifted", "student")
OPTIONS = TrainOptions(
    steps=6,
    crop_points=150,
    crops=2,
    loss_rows=60,
    warmup_steps=2,
    log_every=1,
    checkpoint_every=100,
    keep_checkpoints=9,
)


def room(num: int = 400, seed: int = 0) -> dict[str, Any]:
    """A bumpy coloured floor, and teacher rows that follow its colour; one in ten unobserved."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.rand(num, 3, generator=generator) * torch.tensor([2.0, 2.0, 0.1])
    rgb = torch.rand(num, 3, generator=generator)
    cloud = Points(
        xyz=xyz,
        offsets=torch.tensor([0, num]),
        rgb=rgb,
        normals=torch.tensor([[0.0, 0.0, 1.0]]).repeat(num, 1),
    )
    rows = (rgb @ torch.randn(3, CHANNELS, generator=generator) * 3).softmax(dim=1)
    lifted = replace(
        cloud,
        rows=rows,
        valid=torch.rand(num, generator=generator) > 0.1,
        weight=torch.rand(num, generator=generator) * 5 + 0.1,
    )
    return {"cloud": cloud, "lifted": lifted}


def quarters(scene: Mapping[str, Any]) -> PointSets:
    """Four sets, one per quarter of the floor, with the mean row of their points."""
    lifted: Points = scene["lifted"]
    which = (lifted.xyz[:, 0] > 1).long() * 2 + (lifted.xyz[:, 1] > 1).long()
    points = torch.arange(len(which))
    shape = (4, len(which))
    membership = LiftOperator.from_coo(which, points, torch.ones(len(which)), shape=shape)
    return PointSets(
        rows=membership.mean().apply(lifted.rows),
        valid=torch.ones(4, dtype=torch.bool),
        weight=torch.ones(4),
        membership=membership,
    )


def student(op: Any = MLP, space: Any = "simplex", cloud: str = "cloud") -> Student:
    torch.manual_seed(3)
    return Student(op, op.build(channels=CHANNELS, space=space), cloud)


def train(
    out: Path,
    made: Student | None = None,
    *,
    options: TrainOptions = OPTIONS,
    scenes: list[dict[str, Any]] | None = None,
    edges: list[Distill] | None = None,
    **rest: Any,
) -> tuple[Student, list[dict[str, Any]]]:
    made = made or student()
    result = fit({"student": made}, edges or [KL], scenes or [room()], options, out, **rest)
    return made, result.history


def state(made: Any) -> dict[str, Tensor]:
    """A copy of the weights of a student or a module."""
    module = made.net if isinstance(made, (Student, Distill)) else made
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def newest(out: Path) -> Any:
    return load_checkpoint(checkpoints(out / "checkpoints")[-1])


def losses(history: list[dict[str, Any]]) -> list[tuple[int, Any, Any]]:
    """What of a log does not depend on the clock."""
    return [(r["step"], r["loss"], r.get("grad_norm")) for r in history]


class StopHereError(Exception):
    """Ends a run from its progress callback, as a crash would."""


def stop_at(step: int, act: Callable[[], None] | None = None) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == step:
            if act is None:
                raise StopHereError
            act()

    return progress


# ---- a run with everything that has a state ------------------------------------------------------

VARIED = Augment(
    rotate_rad=3.0,
    flip=0.5,
    scale=0.1,
    jitter_m=0.01,
    elastic_m=0.05,
    input_jitter=0.1,
    drop_colour=0.3,
)
STAGES = (
    Stage(name="start", steps=3, edges=("lifted -> student",)),
    Stage(name="all", steps=4, lr=5e-3),
    Stage(name="head", steps=2, train=("sets -> student",), edges=("sets -> student",)),
)
AVERAGES = {"slow": Average(student="student", decay=0.9)}


class Queue(nn.Module):
    """A projection that remembers the last rows that it gave."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.register_buffer("queue", torch.zeros(8, channels))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, rows: Tensor) -> Tensor:
        rows = self.linear(rows)
        self.queue.copy_(torch.cat([rows.detach(), self.queue])[:8])
        self.count.add_(1)
        return rows


@dataclass(frozen=True)
class Remembering:
    """Pulls the student to its teacher's mean and to what it gave before."""

    weight: float = 0.5

    def __call__(self, teacher: Any, student: Any, *, net: nn.Module | None = None) -> Tensor:
        rows = net(student.rows)
        target = teacher.rows.mean(dim=0) + 0.1 * net.queue.mean(dim=0)
        return (rows - target).square().mean()


def full_options(**change: Any) -> TrainOptions:
    settings = {
        "stages": STAGES,
        "accumulate": 2,
        "ema_decay": 0.95,
        "augment": VARIED,
        "checkpoint_every": 1,
        "loss_rows": 40,
        **change,
    }
    return replace(OPTIONS, **settings)


def full_run(out: Path, *, net: Any = None, **rest: Any) -> tuple[dict[str, Any], Any]:
    """A run with everything that has a state; its weights and history."""
    torch.manual_seed(5)
    edges = [
        COSINE,
        Distill(Remembering(), "sets", "student", net or Queue(CHANNELS)),
        Distill(COSINE.op, "slow", "student"),
    ]
    scenes = [{**scene, "sets": quarters(scene)} for scene in (room(), room(300, seed=1))]
    rest = {"options": full_options(), "averages": AVERAGES, **rest}
    made, history = train(out, student(space="raw"), scenes=scenes, edges=edges, **rest)
    return {**state(made), **{f"queue.{k}": v for k, v in state(edges[1]).items()}}, history
