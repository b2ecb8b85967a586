"""`lift`, `train` and `--replay` of runs over recordings."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from xmodal.atomic import write_text
from xmodal.config.run_parts import Data
from xmodal.config.runfile import RunFile
from xmodal.errors import DataError, UsageError
from xmodal.recordings.clocks import TABLE as CLOCKS
from xmodal.recordings.clocks import write_clocks
from xmodal.runs.frozen import Reporter, load_teachers, teacher_record
from xmodal.runs.log import RunLog, peak_memory_mb
from xmodal.runs.recorded.frozen import Prepared, kept_nodes, prepare
from xmodal.runs.recorded.learners import (
    answer_info,
    answered,
    build_clip_learners,
    load_clip_learners,
    start_clips_from,
    student_rows,
)
from xmodal.runs.recorded.material import Material, open_material, write_table
from xmodal.runs.scenes import adopt
from xmodal.store import FeatureInfo, Run, create_run, fingerprint_of
from xmodal.store.recordings import read_samples, write_samples
from xmodal.train.checkpoint import checkpoints
from xmodal.train.loop import Replay, TrainOptions, TrainResult, fit, replay
from xmodal.train.recorded import Recorded
from xmodal.values import Embedding, Grids

Rows = Embedding | Grids


@dataclass(frozen=True, eq=False)
class Ready:
    """A RUN folder over recordings whose frozen nodes are stored.

    Attributes:
        run: The folder.
        spec: Its run file.
        material: Its recordings.
        prepared: Rows and windows.
        seconds: Time that it took.
    """

    run: Run
    spec: RunFile
    material: Material
    prepared: Prepared
    seconds: float


def ready_run(spec: RunFile, request: Any, report: Reporter, *, clips: bool) -> Ready:
    """Open the recordings, compute the frozen nodes that are not stored yet, and store them.

    Args:
        spec: The run file.
        request: What of a lift or a training is needed: `out`, `overwrite`, `store`.
        report: Shows what is done.
        clips: Whether students' windows are wanted.
    """
    material, teachers = open_material(spec), load_teachers(spec.graph)
    parts = made_from(spec, material, teachers)
    fingerprint = fingerprint_of(**parts)
    run = create_run(request.out, fingerprint, overwrite=request.overwrite, made_from=parts)
    log = RunLog(run.path / "log.jsonl")
    write_text(run.runfile, spec.to_yaml())
    write_text(run.path / "graph.yaml", spec.graph.to_yaml())
    of_node = {n: made_from(spec, material, teachers, n) for n in kept_nodes(spec.graph)}
    prints = {name: fingerprint_of(**made) for name, made in of_node.items()}
    there = [name for name in of_node if adopt(request.store, run, name, prints[name])]
    prepared = prepare(
        spec.graph,
        material.recordings,
        teachers,
        report,
        given={name: read_samples(run, name) for name in there},
        labelled=material.places("train"),
        clips=clips,
    )
    write_table(run, material, prepared.durations_s)
    if clocks := dict.fromkeys(c for item in material.recordings.items for c in item.clocks):
        write_clocks(run.path / CLOCKS, list(clocks))
    for name in (name for name in of_node if name not in there):
        info = frozen_info(spec, material, name, teachers, prints[name])
        write_samples(
            run,
            name,
            replace(info, codec=spec.store.codec),
            prepared.rows[name],
            made_from=of_node[name],
        )
        # As the file has them, so that a run that goes on later works with the same numbers.
        prepared.rows[name] = read_samples(run, name)
    seconds = log.elapsed_s
    run.finish(
        fingerprint=fingerprint,
        made_from=parts,
        recordings=len(material.recordings),
        teachers={n: teacher_record(t) for n, t in teachers.items()},
        lift_seconds=round(seconds, 1),
        lift_peak_mb=round(peak_memory_mb()),
    )
    log.write("recordings", count=len(material.recordings), seconds=round(seconds, 1))
    return Ready(run, spec, material, prepared, seconds)


def made_from(
    spec: RunFile, material: Material, teachers: Mapping[str, Any], name: str | None = None
) -> dict[str, Any]:
    """What frozen rows depend on: recordings, the frozen graph, teachers, whose labels are seen.

    Args:
        spec: The run file.
        material: The recordings.
        teachers: Loaded teachers by node.
        name: What one node depends on; all of them if None.
    """
    graph = spec.graph
    above = set(graph.nodes) if name is None else graph.upstream(name)
    sees = any(node.kind == "labels" and n in above for n, node in graph.sensors().items())
    names = material.recordings.names
    train = fingerprint_of(train=[names[i] for i in material.places("train")])
    return {
        "graph": graph.frozen_part(name),
        "recordings": material.recordings.fingerprint,
        "teachers": {n: t.fingerprint for n, t in teachers.items() if n in above},
        "format": 1,
        **({"labels_of": train} if sees else {}),
        **_streams(spec, train),
    }


def _streams(spec: RunFile, train: str) -> dict[str, Any]:
    """How streams differ from their files."""
    data, default = spec.data, Data(scene="x")
    names = ("lacking", "noisy", "film_every_s", "max_side_px")
    found = {n: getattr(data, n) for n in names if getattr(data, n) != getattr(default, n)}
    if data.lacking or data.noisy:
        found |= {"of": train, "seed": spec.seed}
    return {"streams": found} if found else {}


def frozen_info(
    spec: RunFile, material: Material, name: str, teachers: Mapping[str, Any], fingerprint: str
) -> FeatureInfo:
    """What a store says of a frozen node; its sizes are set on writing."""
    graph = spec.graph
    above = [teacher for node, teacher in teachers.items() if node in graph.upstream(name)]
    maker = next(edge for edge in graph.order() if edge.target == name)
    classes: tuple[str, ...] = getattr(maker.op, "row_names", ())
    if maker.op.op == "one_hot" and not classes:
        classes = material.recordings.classes
    return FeatureInfo(
        teacher=above[0].name if above else maker.op.op,
        space=graph.space(name) or (above[0].space if above else "raw"),
        channels=graph.nodes[name].channels or 0,
        num_points=0,
        num_valid=0,
        fingerprint=fingerprint,
        cosine_error=0.0,
        licence=above[0].licence if above else "",
        classes=classes,
    )


def recorded_of(ready: Ready) -> Recorded:
    """The recordings to train on, as the loop takes them."""
    recordings, prepared = ready.material.recordings, ready.prepared
    number = {group: i for i, group in enumerate(dict.fromkeys(i.group for i in recordings.items))}
    whole = Recorded(
        names=recordings.names,
        clips=prepared.clips,
        stored=prepared.rows,
        classes=recordings.labels.ids,
        groups=torch.tensor([number[item.group] for item in recordings.items]),
    )
    return whole.take(ready.material.places("train"))


@dataclass(frozen=True, eq=False)
class Trained:
    """A run over recordings that was trained, and how that went."""

    ready: Ready
    result: TrainResult
    seconds: float
    cosine: float


def train_recordings(
    spec: RunFile, request: Any, options: TrainOptions, report: Reporter
) -> Trained:
    """Prepare the recordings of a run file, train its students, store what they say.

    Args:
        spec: The run file.
        request: A `TrainRequest`.
        options: How to train.
        report: Shows what is done.

    Raises:
        UsageError: If the run was trained already, without `--resume` or `--overwrite`.
    """
    run = Run(request.out)
    if checkpoints(run.checkpoints) and not (request.resume or request.overwrite or request.again):
        refuse_trained(run)
    ready = ready_run(spec, request, report, clips=True)
    log = RunLog(run.path / "log.jsonl")
    if request.again or request.overwrite:
        shutil.rmtree(run.checkpoints, ignore_errors=True)
    learners = build_clip_learners(spec)
    if request.start is not None:
        learners = start_clips_from(learners, request.start)
    with report("train") as progress:
        result = fit(
            learners.students,
            learners.losses,
            recorded_of(ready),
            options,
            run.path,
            averages=learners.averages,
            resume=request.resume,
            progress=progress,
        )
    cosine = store_answers(ready)
    run.finish(
        train_seconds=round(log.elapsed_s, 1),
        train_peak_mb=round(peak_memory_mb()),
        train_steps=result.steps,
        started_from=str(request.start) if request.start else None,
        student_cosine=None if np.isnan(cosine) else round(cosine, 4),
    )
    return Trained(ready, result, log.elapsed_s, cosine)


def replay_recordings(
    spec: RunFile, request: Any, file: Path, options: TrainOptions, report: Reporter
) -> Replay:
    """Compute a failed step of a run over recordings once more."""
    ready = ready_run(spec, request, report, clips=True)
    learners = build_clip_learners(spec)
    return replay(
        file,
        learners.students,
        learners.losses,
        recorded_of(ready),
        options,
        averages=learners.averages,
    )


def lift_recordings(spec: RunFile, request: Any, report: Reporter) -> tuple[Run, str, float, str]:
    """Compute and store the frozen nodes of a run over recordings.

    Returns:
        The run, its first node, the seconds that it took, and a few lines about it.

    Raises:
        DataError: If the graph has none.
    """
    nodes = kept_nodes(spec.graph)
    if not nodes:
        raise DataError(
            f"graph {spec.graph.name}",
            wanted="a frozen node of recordings, such as `mic -> heard: {op: yamnet}`",
            got="none",
            fix="add a teacher, or train the students right away with `xmodal train`",
        )
    ready = ready_run(spec, request, report, clips=False)
    lines: list[str] = []
    for name in nodes:
        info = ready.run.info(name)
        lines.append(
            f"  {name}: {info.channels} channels of {info.teacher} for {info.num_valid} of "
            f"{info.num_points} rows"
        )
    count = len(ready.material.recordings)
    lines.append(f"  {count} recordings, {ready.seconds:.0f} s -> {ready.run.path}")
    return ready.run, nodes[0], ready.seconds, "\n".join(lines)


def store_answers(ready: Ready) -> float:
    """Store what the trained networks say of all recordings.

    Returns:
        Mean cosine to the first teacher's rows over the recordings that were held out, or else of
        all; NaN where no teacher has rows as wide.
    """
    spec, run, prepared = ready.spec, ready.run, ready.prepared
    learners = load_clip_learners(run, spec)
    made = student_rows(learners, prepared.clips, prepared.rows)
    infos = {name: run.info(name) for name in kept_nodes(spec.graph)}
    print_of = fingerprint_of(run=run.manifest()["fingerprint"], spec=spec.to_yaml())
    places = ready.material.held_out or ready.material.places("train")
    found: list[float] = []
    for answer in answered(spec, learners, made):
        info = answer_info(spec, learners, answer, infos, print_of)
        info = replace(info, codec=spec.store.codec)
        write_samples(run, answer.name, info, answer.value)
        teacher = prepared.rows.get(answer.like or "")
        if teacher is not None and info.space != "simplex":
            found += _cosines(teacher, answer.value, places)
    return float(np.mean(found)) if found else float("nan")


def _cosines(teacher: Rows, student: Rows, places: list[int]) -> list[float]:
    if len(teacher.rows) != len(student.rows) or len(teacher.rows) != len(teacher.offsets) - 1:
        return []
    both = (teacher.valid & student.valid)[places]
    found = cosine_similarity(teacher.rows[places], student.rows[places], dim=1)
    return found[both].tolist()


def refuse_trained(run: Run) -> None:
    """Refuse to train over checkpoints.

    Raises:
        UsageError: Always.
    """
    raise UsageError(
        str(run.checkpoints),
        wanted="a run that was not trained yet, --resume, or --overwrite",
        got="checkpoints of an earlier training",
        fix="add --resume to go on, or --overwrite to train anew",
    )
