"""One student: trained on the training scenes, judged on the others; a job like any other."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.tables.jobs import Job, peak_mb
from benchmarks.tables.scenes import (
    DENSE_SHARED,
    LIFTS,
    LabelledScene,
    names_of,
    scene_names,
    split_of,
)
from benchmarks.tables.scoring import Asker, chosen, classes
from lifting.superpoints import superpoints
from xmodal.atomic import atomic_path
from xmodal.edges import op_class
from xmodal.edges.distill.head import Head
from xmodal.evaluate import OTHER, confusion
from xmodal.train.loop import Distill, Student, TrainOptions, fit, predict
from xmodal.values import Points

COLOUR = ("rgb", "normals", "height")
SHAPE = ("normals", "height")
COSINE: Mapping[str, Any] = {"op": "cosine"}
LABELS: Mapping[str, Any] = {"op": "kl"}
_WORLD_LABELS = names_of("test")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A student and how it learns; the defaults were chosen on the dev scenes.

    mIoU there, by steps and learning rate: 500 steps 0.354 (0.01), 0.419 (0.004), 0.442 (0.002);
    1000 steps 0.692 (0.01), 0.696 (0.004); 1000 steps of half the points 0.373 (0.006).

    Attributes:
        target: Learn the `lifted` rows, or the `truth`: one-hot rows of the labels.
        lift: Which lifted rows.
        inputs: What each point brings.
        losses: The distillation ops and their settings; judged by the first one's projection.
        balance: How several losses are weighed, as in `TrainOptions`.
        segments: Give points their super-points, for losses that pool rows.
        scenes: Training scenes, the first so many.
        share: Share of the points of each that has a label (`truth` only).
        start: Cached name of a student to start from, without its last layer.
        trained: All weights, or the last layer alone (a linear probe).
        judged: Splits that it is judged on.
        steps: Updates; `crop_points`, `crops`, `loss_rows`, `lr`, `seed` as in `TrainOptions`.
        voxel_m: Side of a voxel of the network, metres.
    """

    target: Literal["lifted", "truth"] = "lifted"
    lift: str = DENSE_SHARED.name
    inputs: tuple[str, ...] = COLOUR
    losses: tuple[Mapping[str, Any], ...] = (COSINE,)
    balance: Literal["none", "grad_norm", "uncertainty"] = "none"
    segments: bool = False
    scenes: int = 40
    share: float = 1.0
    start: str | None = None
    trained: Literal["all", "last"] = "all"
    judged: tuple[str, ...] = ("test", "novel")
    steps: int = 1000
    crop_points: int = 12288
    crops: int = 3
    loss_rows: int = 4096
    lr: float = 4e-3
    voxel_m: float = 0.02
    seed: int = 0

    def job(self, name: str) -> Job:
        """This student as a job."""
        return Job(name, train_and_judge, asdict(self))

    def key(self) -> str:
        """Name of the weights in the work folder."""
        return key_of(asdict(self))


def key_of(settings: Mapping[str, Any]) -> str:
    """A short name of settings."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:16]


def train_and_judge(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: train one student and judge it; settings are the fields of `Arm`."""
    arm = Arm(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
    student = _student(work, arm)
    edges = _edges(arm)
    options = TrainOptions(
        steps=arm.steps, crop_points=arm.crop_points, crops=arm.crops, loss_rows=arm.loss_rows,
        balance=arm.balance,
        lr=arm.lr, seed=arm.seed, checkpoint_every=100, keep_checkpoints=1,
    )  # fmt: skip
    out = work / "students" / arm.key()
    scenes = training_scenes(work, arm)
    began, cpu = time.monotonic(), time.process_time()
    fit({"student": student}, edges, scenes, options, out, resume="auto")
    used = {
        "train_seconds": round(time.monotonic() - began, 1),
        "cpu_seconds_a_step": round((time.process_time() - cpu) / arm.steps, 4),
        "train_peak_mb": peak_mb(),
        "points": sum(len(scene["cloud"].xyz) for scene in scenes),
    }
    del scenes
    shutil.rmtree(out, ignore_errors=True)
    with atomic_path(weights_path(work, arm.key())) as temporary:
        save_file({k: v.contiguous() for k, v in student.net.state_dict().items()}, temporary)
    return used | judge(work, arm, student, edges[0])


def weights_path(work: Path, key: str) -> Path:
    """Where the weights of a trained student are kept."""
    (work / "students").mkdir(parents=True, exist_ok=True)
    return work / "students" / f"{key}.safetensors"


def training_scenes(work: Path, arm: Arm) -> list[dict[str, Points]]:
    """Cloud and target of each training scene."""
    scenes: list[dict[str, Points]] = []
    for name in scene_names("train")[: arm.scenes]:
        scene = LabelledScene(work, name)
        if arm.target == "truth":
            target = scene.truth(_WORLD_LABELS, arm.share, arm.seed)
        else:
            target = scene.lifted(LIFTS[arm.lift])
        if arm.segments:
            segments = superpoints(scene.cloud.xyz, scene.cloud.normals, scene.cloud.rgb)
            target = replace(target, segments=segments)
        scenes.append({"cloud": scene.cloud, arm.target: target})
    return scenes


def _student(work: Path, arm: Arm) -> Student:
    torch.manual_seed(arm.seed)
    op: Any = op_class("encode", "sparse_unet")(voxel_m=arm.voxel_m, inputs=arm.inputs, up="z")
    if arm.target == "truth":
        net: Any = op.build(channels=len(_WORLD_LABELS) + 1, space="simplex")
    else:
        lift = LIFTS[arm.lift]
        net = op.build(channels=lift.channels, space=lift.space)
    if arm.start is not None:
        _take_over(net, load_file(weights_path(work, arm.start)))
    if arm.trained == "last":
        for parameter in net.parameters():
            parameter.requires_grad_(False)
        for parameter in net.last.parameters():
            parameter.requires_grad_(True)
    return Student(op, net)


def _take_over(net: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Start from other weights; the last layer, which speaks another language, stays new."""
    last = {id(p) for p in net.last.parameters()}
    own = {name for name, p in net.named_parameters() if id(p) in last}
    kept = {name: value for name, value in weights.items() if name not in own}
    left, unknown = net.load_state_dict(kept, strict=False)
    assert set(left) == own, "a start of another network"
    assert not unknown, "a start of another network"


def _edges(arm: Arm) -> list[Distill]:
    channels = len(_WORLD_LABELS) + 1 if arm.target == "truth" else LIFTS[arm.lift].channels
    edges: list[Distill] = []
    for loss in arm.losses:
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in loss.items() if k != "op"}
        op: Any = op_class("distill", loss["op"])(**settings)
        edges.append(Distill(op, arm.target, "student", build_net(op, channels)))
    return edges


def build_net(op: Any, channels: int) -> nn.Module | None:
    """The module of a loss that has one."""
    build = getattr(op, "build", None)
    return None if build is None else build(channels=channels, teacher_channels=channels)


# ---- judging -----------------------------------------------------------------------------------


def judge(work: Path, arm: Arm, student: Student, edge: Distill) -> dict[str, Any]:
    """Confusion matrices of the student and of its ensembles with lifted rows, scene by scene."""
    tables: dict[str, dict[str, Any]] = {"student": {}}
    cosines: dict[str, float] = {}
    asker = None if arm.target == "truth" else Asker(LIFTS[arm.lift].teacher)
    began = time.monotonic()
    for name in scene_names(*arm.judged):
        scene, names = LabelledScene(work, name), names_of(split_of(name))
        ids = scene.ids(names)
        rows = predict(student.op, student.net, scene.cloud).rows
        assert rows is not None
        if asker is None:
            tables["student"][name] = _labels(rows, names, ids)
            continue
        rows = projected(rows, edge)
        scores = asker.scores(rows, names)
        found = {"student": classes(scores, len(names))}
        alike = [n for n in ("dense_plain", "dense_shared") if _same_space(n, arm.lift)]
        for lift in alike:
            lifted = scene.lifted(LIFTS[lift])
            assert lifted.rows is not None
            assert lifted.valid is not None
            valid = lifted.valid.numpy()
            both = chosen(asker.scores(lifted.rows, names), scores, valid)
            found[f"ensemble_{lift}"] = classes(both, len(names))
            if lift == arm.lift:
                seen = lifted.valid
                cosine = torch.cosine_similarity(lifted.rows[seen].float(), rows[seen], dim=1)
                cosines[name] = round(float(cosine.mean()), 5)
        for source, ours in found.items():
            table = confusion(ours, ids, len(names)).tolist()
            tables.setdefault(source, {})[name] = table
    return {**tables, "cosine": cosines, "judge_seconds": round(time.monotonic() - began, 1)}


def _same_space(first: str, second: str) -> bool:
    return LIFTS[first].space == LIFTS[second].space


def projected(rows: torch.Tensor, edge: Distill) -> torch.Tensor:
    """Rows in the teacher's space, for losses that bring a projection."""
    if not isinstance(edge.net, Head):
        return rows
    with torch.no_grad():
        return torch.cat([edge.net.in_teacher_space(part) for part in rows.split(8192)])


def _labels(rows: torch.Tensor, names: Sequence[str], ids: np.ndarray[Any, Any]) -> Any:
    """Matrix of a student whose columns are the labels of the training scenes and "other"."""
    best = rows.argmax(dim=1).numpy()
    given = [*(_WORLD_LABELS.index(n) if n in _WORLD_LABELS else -1 for n in names)]
    table = np.full(len(_WORLD_LABELS) + 1, OTHER, dtype=np.int64)
    for index, column in enumerate(given):
        if column >= 0:
            table[column] = index
    return confusion(table[best], ids, len(names)).tolist()
