"""`xmodal train` and `xmodal apply`: distill lifted features, and use the student on new points."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xmodal.atomic import write_text
from xmodal.config.runfile import RunFile, load_run
from xmodal.datasets import open_scene
from xmodal.errors import CheckpointError, DataError, UsageError
from xmodal.ply import read_points, write_points
from xmodal.runs.lift import (
    LIFTED,
    LiftRequest,
    Reporter,
    feature_arrays,
    lift_fingerprint,
    lift_spec,
    load_teachers,
)
from xmodal.runs.log import RunLog, peak_memory_mb
from xmodal.runs.settings import open_run_scene
from xmodal.store import FeatureInfo, Features, Run, create_run, fingerprint_of
from xmodal.train.checkpoint import checkpoints, fit_state, load_checkpoint
from xmodal.train.crops import Augment
from xmodal.train.inference import predict
from xmodal.train.loop import Distill, Student, TrainOptions, fit
from xmodal.values import Points

if TYPE_CHECKING:
    from torch import nn

STUDENT = "student"


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """How to train; the fields are the options of the command line.

    `again` drops earlier checkpoints of the same run instead of refusing to train over them.
    """

    runfile: Path
    out: Path
    overrides: tuple[str, ...] = ()
    resume: bool = False
    disk_budget: str = "4GB"
    cache: Path | None = None
    overwrite: bool = False
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What training did, for the terminal."""

    run: Run
    steps: int
    seconds: float
    first_loss: float
    last_loss: float
    cosine: float

    def summary(self) -> str:
        """A few lines."""
        return "\n".join(
            [
                f"  trained {self.steps} steps, loss {self.first_loss:.4f} -> "
                f"{self.last_loss:.4f}, mean cosine to the lifted features {self.cosine:.3f}",
                f"  {self.seconds:.0f} s, peak memory {peak_memory_mb():.0f} MB -> {self.run.path}",
            ]
        )


def train_run(request: TrainRequest, report: Reporter) -> TrainSummary:
    """Distill into the students of a run file and store what they say of the run's points.

    With `--out` at the lifted RUN its features are used; otherwise the scene is lifted first (from
    the teacher's cache where it can be) into the new RUN.

    Raises:
        UsageError: If the run was trained already, without `--resume` or `--overwrite`.
    """
    spec = load_run(request.runfile, request.overrides)
    run = _lifted_run(spec, request, report)
    log = RunLog(run.path / "log.jsonl")
    if request.again or request.overwrite:
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    cloud = read_points(run.points).points
    lifted = stored_points(run.features(LIFTED), cloud)
    nets = _nets(spec)
    students, losses = _edges(spec, nets)
    scene = {**dict.fromkeys(_cloud_nodes(spec), cloud), LIFTED: lifted}
    with report("train") as progress:
        result = fit(
            students,
            losses,
            [scene],
            train_options(spec),
            run.path,
            resume=request.resume,
            progress=progress,
        )
    write_text(run.runfile, spec.to_yaml())
    write_text(run.path / "graph.yaml", spec.graph.to_yaml())
    cosine = 0.0
    for name, student in students.items():
        cosine = _store_student(run, spec, name, student, cloud, lifted)
    run.finish(
        train_seconds=round(log.elapsed_s, 1),
        train_peak_mb=round(peak_memory_mb()),
        train_steps=result.steps,
        student_cosine=round(cosine, 4),
    )
    records = [r for r in result.history if "loss" in r]
    return TrainSummary(
        run=run,
        steps=result.steps,
        seconds=log.elapsed_s,
        first_loss=float(records[0]["loss"]) if records else float("nan"),
        last_loss=float(records[-1]["loss"]) if records else float("nan"),
        cosine=cosine,
    )


def apply_run(
    path: Path, source: Path, out: Path, *, voxel_m: float, overwrite: bool, report: Reporter
) -> str:
    """Run a trained student on new points and store what it says, ready for queries."""
    run = Run(path)
    manifest = run.manifest()
    spec = load_run(run.runfile)
    net = load_student(run, spec)
    with report("fuse points") as progress:
        cloud = _new_points(source, voxel_m, progress)
    fingerprint = fingerprint_of(run=manifest["fingerprint"], source=str(source.resolve()))
    made = create_run(out, fingerprint, overwrite=overwrite)
    if source.is_dir():
        spec = replace(spec, data=replace(spec.data, scene=str(source.resolve()), max_frames=None))
    write_text(made.runfile, spec.to_yaml())
    write_text(made.path / "graph.yaml", spec.graph.to_yaml())
    write_points(made.points, cloud)
    op: Any = spec.graph.students()[STUDENT].op
    predicted = predict(op, net, cloud)  # pyright: ignore[reportArgumentType]
    info = replace(
        run.features(LIFTED).info,
        num_points=len(cloud.xyz),
        num_valid=len(cloud.xyz),
        fingerprint=fingerprint,
    )
    made.write_features(STUDENT, info, **feature_arrays(predicted))
    made.finish(fingerprint=fingerprint, student_of=str(path.resolve()), points=str(source))
    return f"  {len(cloud.xyz)} points described by the student of {path} -> {out}"


def stored_points(features: Features, cloud: Points) -> Points:
    """A cloud with stored rows; they stay in their file as float16 until they are read."""
    return replace(
        cloud,
        rows=torch.from_numpy(np.asarray(features.rows)),
        valid=torch.from_numpy(np.array(features.valid)),
        weight=torch.from_numpy(np.array(features.weight)),
        num_views=torch.from_numpy(np.array(features.num_views)).long(),
        disagreement=torch.from_numpy(np.array(features.disagreement)),
    )


def train_options(spec: RunFile) -> TrainOptions:
    """The loop's options from a run file."""
    o, a = spec.optimiser, spec.optimiser.augment
    return TrainOptions(
        steps=o.steps,
        crop_points=o.crop_points,
        crops=o.crops,
        loss_rows=o.loss_rows,
        lr=o.lr,
        warmup_steps=min(o.warmup_steps, o.steps),
        weight_decay=o.weight_decay,
        grad_clip=o.grad_clip,
        seed=spec.seed,
        augment=Augment(
            shift=a.shift,
            rotate_rad=a.rotate_rad,
            scale=a.scale,
            jitter_m=a.jitter_m,
            input_jitter=a.input_jitter,
            up=a.up,
        ),
        log_every=o.log_every,
        checkpoint_every=o.checkpoint_every,
        keep_checkpoints=o.keep_checkpoints,
        threads=o.threads,
    )


def load_student(run: Run, spec: RunFile) -> nn.Module:
    """The student's network with the weights of the newest checkpoint.

    Raises:
        CheckpointError: If there is none, or it does not fit.
    """
    found = checkpoints(run.checkpoints)
    if not found:
        raise CheckpointError(
            str(run.checkpoints),
            wanted="a checkpoint of the student",
            got="none",
            fix=f"xmodal train {run.runfile} --out {run.path}",
        )
    net = _nets(spec)[STUDENT]
    fit_state(net, load_checkpoint(found[-1]), STUDENT)
    return net


def _lifted_run(spec: RunFile, request: TrainRequest, report: Reporter) -> Run:
    scene = open_run_scene(spec)
    fingerprint = lift_fingerprint(spec.graph, scene, load_teachers(spec.graph))
    run = Run(request.out)
    if run.has(LIFTED) and run.manifest().get("fingerprint") == fingerprint:
        if checkpoints(run.checkpoints) and not (
            request.resume or request.overwrite or request.again
        ):
            raise UsageError(
                str(run.checkpoints),
                wanted="a run that was not trained yet, --resume, or --overwrite",
                got="checkpoints of an earlier training",
                fix="add --resume to go on, or --overwrite to train anew",
            )
        return run
    lift = LiftRequest(
        source=request.runfile,
        out=request.out,
        disk_budget=request.disk_budget,
        cache=request.cache,
        overwrite=request.overwrite,
    )
    return lift_spec(spec, scene, lift, report).run


def _nets(spec: RunFile) -> dict[str, nn.Module]:
    torch.manual_seed(spec.seed)
    return spec.graph.build_nets()


def _cloud_nodes(spec: RunFile) -> list[str]:
    return [edge.sources[0] for edge in spec.graph.students().values()]


def _edges(spec: RunFile, nets: dict[str, nn.Module]) -> tuple[dict[str, Student], list[Distill]]:
    edges = spec.graph.students()
    if not edges:
        raise DataError(
            f"graph {spec.graph.name}",
            wanted="a student, such as `cloud -> student: {op: sparse_unet}`",
            got="none",
            fix="add one under encode, and a distill edge that teaches it",
        )
    students: dict[str, Student] = {}
    for name, edge in edges.items():
        op: Any = edge.op
        net: Any = nets[name]
        students[name] = Student(op, net, edge.sources[0])
    losses: list[Distill] = []
    for edge in spec.graph.losses():
        op = edge.op
        losses.append(Distill(op, edge.sources[0], edge.target, nets.get(edge.key)))
    return students, losses


def _store_student(
    run: Run, spec: RunFile, name: str, student: Student, cloud: Points, lifted: Points
) -> float:
    """Store what a student says of every point; the mean cosine to the lifted rows."""
    predicted = predict(student.op, student.net, cloud)
    predicted = replace(predicted, weight=lifted.weight, num_views=lifted.num_views, valid=None)
    info: FeatureInfo = replace(
        run.features(LIFTED).info,
        num_valid=len(cloud.xyz),
        channels=spec.graph.nodes[name].channels or 0,
    )
    run.write_features(name, info, **feature_arrays(predicted))
    return mean_cosine(run.features(LIFTED), run.features(name))


def mean_cosine(first: Features, second: Features) -> float:
    """Mean cosine between two stores' rows over the points that both observed."""
    total, count = 0.0, 0
    for (part, a), (_, b) in zip(first.blocks(), second.blocks(), strict=True):
        both = np.asarray(first.valid[part]) & np.asarray(second.valid[part])
        norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        both &= norm > 0
        total += float(((a * b).sum(1)[both] / norm[both]).sum())
        count += int(both.sum())
    return total / max(count, 1)


def _new_points(source: Path, voxel_m: float, progress: Any) -> Points:
    if source.suffix.lower() == ".ply":
        return read_points(source).points
    return open_scene(source, voxel_m=voxel_m).cloud(progress)
