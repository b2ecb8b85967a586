"""Students of recordings: built from a run's graph, read from its checkpoints, at work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from detectors.clip_student import ClipStudent, TrunkAlone
from detectors.spaces import to_space
from xmodal.config.runfile import RunFile, load_run
from xmodal.edges.distill.head import Head
from xmodal.edges.distill.pruned import PrunedHead
from xmodal.edges.encode.clip_student import rows_of_clips
from xmodal.errors import CheckpointError, DataError
from xmodal.graph.parts import projects
from xmodal.recordings.inputs import Clips
from xmodal.runs.students import averages_of, copy_weights
from xmodal.store import FeatureInfo, Run
from xmodal.train.averages import fit_student
from xmodal.train.checkpoint import checkpoints, fit_state, load_checkpoint
from xmodal.train.data import Distill
from xmodal.train.options import Average
from xmodal.train.recorded import ClipLearner
from xmodal.values import Embedding, Grids

Rows = Embedding | Grids
TRUNK = "trunk"
"""`STUDENT.trunk` is what a student has before its head."""


@dataclass(frozen=True)
class ClipLearners:
    """Networks of a run over recordings.

    Attributes:
        students: By node, each after those that it sees.
        losses: Distillation edges, with their learned parts.
        averages: Nodes whose rows a moving average of a student gives.
    """

    students: dict[str, ClipLearner]
    losses: list[Distill]
    averages: dict[str, Average]


def build_clip_learners(spec: RunFile) -> ClipLearners:
    """New networks with the random weights of the run's seed.

    Raises:
        DataError: If the graph has no student.
    """
    torch.manual_seed(spec.seed)
    nets: Mapping[str, Any] = spec.graph.build_nets()
    edges = spec.graph.students()
    if not edges:
        raise DataError(
            f"graph {spec.graph.name}",
            wanted="a student, such as `imu -> motion: {op: imu_tcn}`",
            got="none",
            fix="add one under encode, and a distill edge that teaches it",
        )
    students = {
        name: ClipLearner(edge.op, nets[name], edge.sources) for name, edge in edges.items()
    }
    losses = [
        Distill(_op(edge.op), edge.sources[0], edge.target, nets.get(edge.key), edge.sources[1:])
        for edge in spec.graph.losses()
    ]
    return ClipLearners(students, losses, averages_of(spec))


def _op(op: Any) -> Any:
    return op


def load_clip_learners(run: Run, spec: RunFile) -> ClipLearners:
    """The networks with the weights of the newest checkpoint; the averaged ones where kept.

    Raises:
        CheckpointError: If there is none, or it does not fit.
    """
    found = checkpoints(run.checkpoints)
    if not found:
        raise CheckpointError(
            str(run.checkpoints),
            wanted="a checkpoint of the students",
            got="none",
            fix=f"xmodal train {run.runfile} --out {run.path}",
        )
    learners = build_clip_learners(spec)
    checkpoint = load_checkpoint(found[-1])
    for name, student in learners.students.items():
        fit_student(student.net, checkpoint, name)
        student.net.eval()
    for index, edge in enumerate(learners.losses):
        if edge.net is not None:
            fit_state(edge.net, checkpoint, f"{edge.teacher}->{edge.student}:{index}")
            edge.net.eval()
    return learners


def start_clips_from(learners: ClipLearners, path: Path) -> ClipLearners:
    """Give new networks the weights of those with the same names in another run.

    Args:
        learners: Networks of the new run.
        path: The other run.

    Returns:
        The networks, with students that got weights marked as such.

    Raises:
        CheckpointError: If the other run has no checkpoint, or its networks have other shapes.
        DataError: If it has none of the students.
    """
    other = load_clip_learners(Run(path), load_run(Run(path).runfile))
    found = [name for name in learners.students if name in other.students]
    if not found:
        raise DataError(
            str(path),
            wanted=f"a run with one of the students {', '.join(learners.students)}",
            got=f"students {', '.join(other.students)}",
            fix="give the student the same name in both graphs",
        )
    for name in found:
        copy_weights(name, learners.students[name].net, other.students[name].net, path)
    heads = {edge.key: edge.net for edge in other.losses if edge.net is not None}
    for edge in learners.losses:
        if edge.net is not None and edge.key in heads:
            copy_weights(edge.key, edge.net, heads[edge.key], path)
    students = {
        name: replace(student, warm=name in found) for name, student in learners.students.items()
    }
    return replace(learners, students=students)


@torch.no_grad()
def student_rows(
    learners: ClipLearners, clips: Mapping[str, Clips], stored: Mapping[str, Rows]
) -> dict[str, Rows]:
    """What every student says of every recording, as the mean over its windows.

    What it has before its head is there as `STUDENT.trunk`: contrast spends the head on what it
    contrasts.

    Args:
        learners: Trained networks, in evaluation mode.
        clips: Windows, by student that looks at a stream.
        stored: Frozen nodes, for students that see those.

    Source:
        Chen et al., A Simple Framework for Contrastive Learning (SimCLR), ICML 2020, section 4.2.
    """
    made: dict[str, Rows] = {}
    heads = {f"{edge.student}.{edge.teacher}" for edge in learners.losses}
    for name, student in learners.students.items():
        if name in clips:
            given = rows_of_clips(student.net, clips[name])
        else:
            known = {**stored, **made}
            if not all(source in known for source in student.sources):
                continue  # what it sees is not there
            given = student.op(student.net, *(known[source] for source in student.sources))
        made[name] = _kept(given)
        before = f"{name}.{TRUNK}"
        if name in clips and isinstance(student.net, ClipStudent) and before not in heads:
            made[before] = _kept(rows_of_clips(TrunkAlone(student.net), clips[name]))
    return made


def _kept(rows: Rows) -> Rows:
    return replace(
        rows,
        rows=rows.rows.cpu().float(),
        valid=rows.valid.cpu(),
        weight=rows.weight.cpu(),
        offsets=rows.offsets.cpu(),
    )


@dataclass(frozen=True)
class Answered:
    """What a network says: under which name it is kept, and what its rows are like.

    Attributes:
        name: A student, `STUDENT.TEACHER` of a head, or `STUDENT.trunk`.
        like: The teacher whose rows they are like; None where they are the student's own.
        value: The rows.
    """

    name: str
    like: str | None
    value: Rows


def answered(spec: RunFile, learners: ClipLearners, made: Mapping[str, Rows]) -> Iterator[Answered]:
    """Rows of every student and of every head."""
    for name in made:
        edges = [e for e in spec.graph.losses() if e.target == name and not projects(e.op)]
        direct = [s for e in edges for s in e.sources if _same_width(spec, s, name)]
        yield Answered(name, direct[0] if direct else None, made[name])
        for edge, loss in zip(spec.graph.losses(), learners.losses, strict=True):
            if edge.target != name or not projects(edge.op) or loss.net is None:
                continue
            pruned = isinstance(loss.net, PrunedHead)
            if getattr(edge.op, "project", "none") == "none" and not pruned:
                continue  # what the loss keeps is no way to its teacher's space
            space = spec.graph.space(loss.teacher) or "raw"
            head: Any = loss.net.in_teacher_space if isinstance(loss.net, Head) else loss.net
            with torch.no_grad():
                rows = to_space(head(made[name].rows), space)
            yield Answered(f"{name}.{loss.teacher}", loss.teacher, replace(made[name], rows=rows))


def _same_width(spec: RunFile, teacher: str, student: str) -> bool:
    return spec.graph.nodes[teacher].channels == spec.graph.nodes[student].channels


def answer_info(
    spec: RunFile,
    learners: ClipLearners,
    answer: Answered,
    infos: Mapping[str, FeatureInfo],
    fingerprint: str,
) -> FeatureInfo:
    """What a store says of a student's rows: like its teacher's where those are known."""
    like = infos.get(answer.like or "")
    own, _, part = answer.name.partition(".")
    space: str = learners.students[own].net.space
    if part:
        space = (spec.graph.space(answer.like) if answer.like else None) or "raw"
    if like is not None:
        return replace(like, fingerprint=fingerprint)
    return FeatureInfo(
        teacher=own,
        space=space,
        channels=answer.value.rows.shape[1],
        num_points=0,
        num_valid=0,
        fingerprint=fingerprint,
        cosine_error=0.0,
    )
