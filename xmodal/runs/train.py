"""`xmodal train` and `xmodal apply`: distill lifted features into students of points."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from xmodal.atomic import write_text
from xmodal.config.run_parts import Split
from xmodal.config.runfile import RunFile, load_run
from xmodal.datasets import open_scene
from xmodal.errors import UsageError
from xmodal.ply import read_points, write_points
from xmodal.runs.frozen import Reporter, silent
from xmodal.runs.lift import LiftRequest, lift_spec
from xmodal.runs.log import RunLog, peak_memory_mb
from xmodal.runs.recorded.material import is_recorded
from xmodal.runs.scenes import scene_runs
from xmodal.runs.stored import stored_points
from xmodal.runs.students import (
    Learners,
    build_learners,
    load_learners,
    refuse_bound,
    seen_cloud,
    start_from,
    write_answers,
)
from xmodal.store import FeatureInfo, Run, create_run, fingerprint_of
from xmodal.train.checkpoint import checkpoints
from xmodal.train.crops import Augment
from xmodal.train.data import Node
from xmodal.train.loop import Replay, TrainResult, fit, replay
from xmodal.train.options import Stage, TrainOptions
from xmodal.values import Points


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """How to train; the fields are the options of the command line.

    `again` drops earlier checkpoints of the same run instead of refusing to train over them;
    `store` is another run whose features are taken over where they are the same; `start` one whose
    networks are the first weights of those with the same name.
    """

    runfile: Path
    out: Path
    overrides: tuple[str, ...] = ()
    resume: bool = False
    disk_budget: str = "4GB"
    cache: Path | None = None
    overwrite: bool = False
    again: bool = False
    store: Path | None = None
    start: Path | None = None


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
        close = f", mean cosine to the teacher's features {self.cosine:.3f}"
        return "\n".join(
            [
                f"  trained {self.steps} steps, loss {self.first_loss:.4f} -> "
                f"{self.last_loss:.4f}{'' if np.isnan(self.cosine) else close}",
                f"  {self.seconds:.0f} s, peak memory {peak_memory_mb():.0f} MB -> {self.run.path}",
            ]
        )


def train_run(request: TrainRequest, report: Reporter) -> TrainSummary:
    """Distill into the students of a run file and store what they say of the run's points.

    With `--out` at the lifted RUN its features are used; otherwise the scenes are lifted first
    (from the teacher's cache where it can be) into the new RUN. Over several scenes those of the
    splits `val` and `test` only get the students' answers, and the others only teach.

    Raises:
        UsageError: If the run was trained already, without `--resume` or `--overwrite`.
    """
    spec = load_run(request.runfile, request.overrides)
    if spec.data.has_recordings:
        return _train_recordings(spec, request, report)
    run = _lifted_run(spec, request, report)
    log = RunLog(run.path / "log.jsonl")
    if request.again or request.overwrite:
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    learners = build_learners(spec, run)
    if request.start is not None:
        learners = start_from(learners, request.start)
    teaching = scenes_of(run, spec, "train")
    with report("train") as progress:
        result = fit(
            learners.students,
            learners.losses,
            [scene_nodes(scene, spec, learners) for scene in teaching],
            train_options(spec),
            run.path,
            averages=learners.averages,
            resume=request.resume,
            progress=progress,
        )
    write_text(run.runfile, spec.to_yaml())
    write_text(run.path / "graph.yaml", spec.graph.to_yaml())
    asked = [*scenes_of(run, spec, "val"), *scenes_of(run, spec, "test")] or teaching
    cosine = _store_answers(asked, teaching, spec, load_learners(run, spec), report)
    run.finish(
        train_seconds=round(log.elapsed_s, 1),
        train_peak_mb=round(peak_memory_mb()),
        train_steps=result.steps,
        started_from=str(request.start) if request.start else None,
        # None: sets of points alone taught the student, so no row of a teacher is beside its own.
        student_cosine=None if np.isnan(cosine) else round(cosine, 4),
    )
    return _summary(run, result, log.elapsed_s, cosine)


def _summary(run: Run, result: TrainResult, seconds: float, cosine: float) -> TrainSummary:
    losses = [float(r["loss"]) for r in result.history if r.get("loss") is not None]
    return TrainSummary(
        run=run,
        steps=result.steps,
        seconds=seconds,
        first_loss=losses[0] if losses else float("nan"),
        last_loss=losses[-1] if losses else float("nan"),
        cosine=cosine,
    )


def _train_recordings(spec: RunFile, request: TrainRequest, report: Reporter) -> TrainSummary:
    from xmodal.runs.recorded.train import train_recordings

    done = train_recordings(spec, request, train_options(spec), report)
    return _summary(done.ready.run, done.result, done.seconds, done.cosine)


def replay_run(request: TrainRequest, file: Path) -> str:
    """Compute a failed step of a run once more; what it gave, in words.

    Raises:
        DataError: If the file is no record of a failed step of this run.
    """
    run = Run(request.out)
    spec = load_run(request.runfile, request.overrides)
    if spec.data.has_recordings:
        from xmodal.runs.recorded.train import replay_recordings

        again = replay_recordings(spec, request, file, train_options(spec), silent)
        return _told(again, again.where)
    learners = build_learners(spec, run)
    found = replay(
        file,
        learners.students,
        learners.losses,
        [scene_nodes(scene, spec, learners) for scene in scenes_of(run, spec, "train")],
        train_options(spec),
        averages=learners.averages,
    )
    assert found.scene is not None, "a run over scenes"
    return _told(found, f"scene {scenes_of(run, spec, 'train')[found.scene].path.name}")


def _told(found: Replay, where: str) -> str:
    lines = [
        f"  step {found.step}, {where}: loss {found.loss}, gradient norm {found.grad_norm}",
        *(f"    {edge}: {loss}" for edge, loss in found.parts.items()),
        f"  {'the same bits as then' if found.same else 'NOT the same as then'}; {found.got}",
    ]
    return "\n".join(lines)


def scenes_of(run: Run, spec: RunFile, split: Split) -> list[Run]:
    """The runs of the scenes of one split; a run of one scene trains on it."""
    runs = scene_runs(run)
    if not spec.data.is_many:
        return runs if split == "train" else []
    return [scene for scene in runs if spec.splits.of(scene.path.name) == split]


def scene_nodes(run: Run, spec: RunFile, learners: Learners) -> dict[str, Node]:
    """A scene's points or splats and its teachers' rows, by node; rows stay in their files.

    Raises:
        DataError: If a teacher was not lifted for this scene.
    """
    cloud = read_points(run.points).points
    nodes: dict[str, Node] = {
        student.cloud: seen_cloud(run, student, cloud) for student in learners.students.values()
    }
    for edge in learners.losses:
        if edge.teacher in nodes or edge.teacher in learners.averages:
            continue
        kind = spec.graph.nodes[edge.teacher].kind
        if kind == "point_sets":
            nodes[edge.teacher] = run.sets(edge.teacher)
        elif kind == "frames":
            nodes[edge.teacher] = run.frames(edge.teacher)
        else:
            nodes[edge.teacher] = stored_points(run.features(edge.teacher), cloud)
    return nodes


def _store_answers(
    asked: Sequence[Run],
    teaching: Sequence[Run],
    spec: RunFile,
    learners: Learners,
    report: Reporter,
) -> float:
    """Store what the networks say of scenes; the mean cosine to the rows of their teachers."""
    infos = _infos(teaching[0])
    found: list[float] = []
    with report("students") as progress:
        for index, scene in enumerate(asked):
            cloud = read_points(scene.points).points
            cosines = write_answers(scene, spec, learners, cloud, infos)
            found.extend(list(cosines.values())[:1])
            if len(asked) > 1 or scene.path.parent.name == "scenes":
                scene.finish(student_cosine={name: round(c, 4) for name, c in cosines.items()})
            progress(index + 1, len(asked))
    return float(np.mean(found)) if found else float("nan")


def _infos(run: Run) -> dict[str, FeatureInfo]:
    """What a scene's run says of each node that it keeps."""
    return {name: run.info(name) for name in run.sources()}


def apply_run(
    path: Path, source: Path, out: Path, *, voxel_m: float, overwrite: bool, report: Reporter
) -> str:
    """Run a trained student on new points and store what it says, ready for queries."""
    run = Run(path)
    if is_recorded(run):
        from xmodal.runs.recorded.apply import apply_recordings

        return apply_recordings(path, source, out, overwrite=overwrite, report=report)
    manifest = run.manifest()
    spec = load_run(run.runfile)
    refuse_bound(spec, str(source))
    learners = load_learners(run, spec)
    with report("fuse points") as progress:
        cloud = _new_points(source, voxel_m, progress)
    fingerprint = fingerprint_of(run=manifest["fingerprint"], source=str(source.resolve()))
    made = create_run(out, fingerprint, overwrite=overwrite)
    if source.is_dir():
        spec = replace(spec, data=replace(spec.data, scene=str(source.resolve()), max_frames=None))
    write_text(made.runfile, spec.to_yaml())
    write_text(made.path / "graph.yaml", spec.graph.to_yaml())
    write_points(made.points, cloud)
    infos = {
        name: replace(info, fingerprint=fingerprint)
        for name, info in _infos(scene_runs(run)[0]).items()
    }
    write_answers(made, spec, learners, cloud, infos)
    made.finish(fingerprint=fingerprint, student_of=str(path.resolve()), points=str(source))
    return f"  {len(cloud.xyz)} points described by the student of {path} -> {out}"


def train_options(spec: RunFile) -> TrainOptions:
    """The loop's options from a run file."""
    given = {f.name: getattr(spec.optimiser, f.name) for f in fields(spec.optimiser)}
    given["augment"] = Augment(**asdict(spec.optimiser.augment))
    given["warmup_steps"] = min(spec.optimiser.warmup_steps, spec.steps)
    stages = tuple(Stage(**asdict(stage)) for stage in spec.stages)
    return TrainOptions(**given, stages=stages, seed=spec.seed)


def _lifted_run(spec: RunFile, request: TrainRequest, report: Reporter) -> Run:
    """The run with all that is needed for training, lifted now or before."""
    run = Run(request.out)
    trained = bool(checkpoints(run.checkpoints))
    if trained and not (request.resume or request.overwrite or request.again):
        raise UsageError(
            str(run.checkpoints),
            wanted="a run that was not trained yet, --resume, or --overwrite",
            got="checkpoints of an earlier training",
            fix="add --resume to go on, or --overwrite to train anew",
        )
    lift = LiftRequest(
        source=request.runfile,
        out=request.out,
        disk_budget=request.disk_budget,
        cache=request.cache,
        overwrite=request.overwrite,
        store=request.store,
    )
    return lift_spec(spec, lift, report).run


def _new_points(source: Path, voxel_m: float, progress: Any) -> Points:
    if source.suffix.lower() == ".ply":
        return read_points(source).points
    return open_scene(source, voxel_m=voxel_m, need=["points"]).cloud(progress)
