"""A run's students: built from its graph, read from its checkpoints, used on points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from detectors.spaces import to_space
from detectors.splat_student import SplatStudent
from xmodal.config.runfile import RunFile, load_run
from xmodal.edges.distill.head import Head
from xmodal.errors import CheckpointError, DataError, UsageError
from xmodal.graph.parts import projects
from xmodal.runs.frozen import feature_arrays
from xmodal.runs.scenes import home_of
from xmodal.splats.files import read_splats, write_splats
from xmodal.splats.values import as_gaussians
from xmodal.store import FeatureInfo, Features, Run
from xmodal.train.averages import fit_student
from xmodal.train.checkpoint import checkpoints, fit_state, load_checkpoint
from xmodal.train.data import Distill, Student
from xmodal.train.drawn import predict_splats
from xmodal.train.inference import predict
from xmodal.train.options import Average
from xmodal.values import Gaussians, Points

if TYPE_CHECKING:
    from torch import nn

    from xmodal.graph import Edge

# Points that a head sees at once: 1000 columns of them are 260 MB.
_HEAD_ROWS = 65536


@dataclass(frozen=True)
class Learners:
    """Networks of a run's graph, as training and inference take them.

    Attributes:
        students: By node.
        losses: Distillation edges, with their learned parts.
        averages: Nodes whose rows a moving average of a student gives.
    """

    students: dict[str, Student]
    losses: list[Distill]
    averages: dict[str, Average]


def build_learners(spec: RunFile, run: Run | None = None) -> Learners:
    """New networks with the random weights of the run's seed.

    Args:
        spec: The run file.
        run: The run, lifted; students whose weights belong to its points or splats need it.

    Raises:
        DataError: If the graph has no student.
    """
    torch.manual_seed(spec.seed)
    nets = spec.graph.build_nets(None if run is None else _num_rows(run, spec))
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
        loss: Any = edge.op
        losses.append(Distill(loss, edge.sources[0], edge.target, nets.get(edge.key)))
    return Learners(students, losses, averages_of(spec))


def _num_rows(run: Run, spec: RunFile) -> int | None:
    """Points or splats of a run of one scene, as soon as something was lifted to them."""
    if spec.data.is_many:
        return None
    infos = [run.info(name) for name in run.sources()]
    return next((info.num_points for info in infos if info.kind == "points"), None)


def averages_of(spec: RunFile) -> dict[str, Average]:
    """Nodes of the op `ema`."""
    found: dict[str, Average] = {}
    for edge in spec.graph.order():
        if edge.op.op == "ema":
            op: Any = edge.op
            found[edge.target] = Average(student=edge.sources[0], decay=op.decay, view=op.view)
    return found


def load_learners(run: Run, spec: RunFile) -> Learners:
    """The networks with the weights of the newest checkpoint; the averaged ones where kept.

    Args:
        run: The run that was trained, or the run of one of its scenes.
        spec: Its run file.

    Raises:
        CheckpointError: If there is none, or it does not fit.
    """
    home = home_of(run)
    found = checkpoints(home.checkpoints)
    if not found:
        raise CheckpointError(
            str(home.checkpoints),
            wanted="a checkpoint of the student",
            got="none",
            fix=f"xmodal train {home.runfile} --out {home.path}",
        )
    learners = build_learners(spec, run)
    checkpoint = load_checkpoint(found[-1])
    for name, student in learners.students.items():
        fit_student(student.net, checkpoint, name)
    for index, edge in enumerate(learners.losses):
        if edge.net is not None:
            fit_state(edge.net, checkpoint, f"{edge.teacher}->{edge.student}:{index}")
    return learners


def seen_cloud(run: Run, student: Student, cloud: Points) -> Points | Gaussians:
    """What a student sees of a run's scene: its points, or all numbers of its splats.

    Args:
        run: Run of the scene.
        student: The student.
        cloud: The run's points.

    Raises:
        DataError: If the student sees splats, and the run has none.
    """
    if not getattr(student.op, "sees_splats", False):
        return cloud
    return as_gaussians(read_splats(run.gaussians))


def refuse_bound(spec: RunFile, where: str) -> None:
    """Refuse to show another scene to students whose weights belong to that of their training.

    Args:
        spec: The run file.
        where: The other scene.

    Raises:
        UsageError: If the run has such a student.
    """
    bound = [n for n, e in spec.graph.students().items() if getattr(e.op, "one_scene", False)]
    if bound:
        raise UsageError(
            where,
            wanted=f"the scene that {', '.join(bound)} was trained on: each row belongs to a splat",
            got="another scene",
            fix="lift and train this scene by itself",
        )


def start_from(learners: Learners, path: Path) -> Learners:
    """Give new networks the weights of those with the same names in another run.

    Heads whose arrow the other run has too get its weights; other heads stay new. So a teacher is
    added to a student, or taken away, without training the rest again.

    Args:
        learners: Networks of the new run.
        path: The other run.

    Returns:
        The networks, with students that got weights marked as such.

    Raises:
        CheckpointError: If the other run has no checkpoint, or its networks have other shapes.
        DataError: If it has none of the students.
    """
    spec = load_run(Run(path).runfile)
    other = load_learners(Run(path), spec)
    found = [name for name in learners.students if name in other.students]
    if not found:
        raise DataError(
            f"{path}",
            wanted=f"a run with one of the students {', '.join(learners.students)}",
            got=f"students {', '.join(other.students)}",
            fix="give the student the same name in both graphs",
        )
    heads = {edge.key: edge.net for edge in other.losses if edge.net is not None}
    pairs = [(name, learners.students[name].net, other.students[name].net) for name in found]
    pairs += [
        (edge.key, edge.net, heads[edge.key])
        for edge in learners.losses
        if edge.net is not None and edge.key in heads
    ]
    for name, mine, theirs in pairs:
        copy_weights(name, mine, theirs, path)
    students = {
        name: replace(student, warm=name in found) for name, student in learners.students.items()
    }
    return replace(learners, students=students)


def copy_weights(name: str, mine: nn.Module, theirs: nn.Module, path: Path) -> None:
    """Give one module the weights of another one.

    Args:
        name: Of the module, for the message.
        mine: Gets them.
        theirs: Has them.
        path: Of the run that it is from, for the message.

    Raises:
        CheckpointError: If their shapes differ.
    """
    wanted, given = (
        {key: tuple(value.shape) for key, value in net.state_dict().items()}
        for net in (mine, theirs)
    )
    if wanted != given:
        differ = sorted(k for k in wanted.keys() | given.keys() if wanted.get(k) != given.get(k))
        raise CheckpointError(
            f"{path}, `{name}`: tensor {differ[0]}",
            wanted=f"shape {wanted.get(differ[0], 'none')}",
            got=f"shape {given.get(differ[0], 'none')}",
            fix="start from a run with the same network, inputs and widths",
        )
    mine.load_state_dict(theirs.state_dict())


@dataclass(frozen=True)
class Answer:
    """What a network says of a cloud: under which name it is kept, and which node it is like."""

    name: str
    like: str
    points: Points


def answers(run: Run, spec: RunFile, learners: Learners, cloud: Points) -> Iterator[Answer]:
    """Rows of every student and of every head, one after another.

    A student that a teacher meets without a projection speaks that teacher's language and is kept
    under its own name. Every projection to a teacher of points is a head, kept as `STUDENT.TEACHER`
    with rows like the teacher's.
    """
    for name, student in learners.students.items():
        own = predict(student.op, student.net, seen_cloud(run, student, cloud))
        edges = [edge for edge in spec.graph.losses() if edge.target == name]
        direct = [edge for edge in edges if not projects(edge.op)]
        if direct:
            yield Answer(name, _first_of_points(spec, direct), own)
        for edge, loss in zip(spec.graph.losses(), learners.losses, strict=True):
            if edge.target == name and projects(edge.op) and loss.net is not None:
                yield Answer(f"{name}.{loss.teacher}", loss.teacher, _headed(spec, loss, own))


def _first_of_points(spec: RunFile, edges: list[Edge]) -> str:
    """The teacher that a student's rows are like: one of points where there is one."""
    teachers = [edge.sources[0] for edge in edges]
    averages = averages_of(spec)
    teachers = [name for name in teachers if name not in averages] or teachers
    kinds = {name: spec.graph.nodes[name].kind for name in teachers}
    return next((name for name in teachers if kinds[name] == "points"), teachers[0])


@torch.no_grad()
def _headed(spec: RunFile, loss: Distill, own: Points) -> Points:
    """A student's rows through one of its heads, in the teacher's space."""
    assert own.rows is not None  # predict gives rows
    assert loss.net is not None  # asked for heads only
    space = spec.graph.space(loss.teacher) or "raw"
    head = loss.net.in_teacher_space if isinstance(loss.net, Head) else loss.net
    parts = [to_space(head(part), space) for part in own.rows.split(_HEAD_ROWS)]
    return replace(own, rows=torch.cat(parts))


def write_answers(
    run: Run, spec: RunFile, learners: Learners, cloud: Points, infos: Mapping[str, FeatureInfo]
) -> dict[str, float]:
    """Keep what the networks say of a scene; mean cosine to the teacher's rows of each.

    Splats that a student shapes are kept beside its rows.

    Args:
        run: Run of the scene.
        spec: Run file of the training.
        learners: Trained networks.
        cloud: The run's points.
        infos: What is known of the teachers' rows, by node.
    """
    cosines: dict[str, float] = {}
    for name, student in learners.students.items():
        if isinstance(student.net, SplatStudent):
            shaped = predict_splats(student.op, student.net, seen_cloud(run, student, cloud))
            run.drawn(name).parent.mkdir(parents=True, exist_ok=True)
            write_splats(run.drawn(name), shaped)
    for answer in answers(run, spec, learners, cloud):
        info = replace(
            infos[answer.like],
            kind="points",
            num_points=len(cloud.xyz),
            num_valid=len(cloud.xyz),
        )
        # Sets of points have no row for each point to compare with.
        alike = spec.graph.nodes[answer.like].kind == "points" and run.has(answer.like)
        given = run.features(answer.like) if alike else None
        points = answer.points
        if given is not None and len(given.valid) == len(cloud.xyz):
            points = replace(
                points,
                weight=torch.from_numpy(np.array(given.weight)),
                num_views=torch.from_numpy(np.array(given.num_views)).long(),
                valid=None,
            )
        arrays = feature_arrays(points)
        run.write_features(answer.name, info, codec=spec.store.codec, **arrays)
        if given is not None and len(given.valid) == len(cloud.xyz):
            cosines[answer.name] = mean_cosine(given, run.features(answer.name))
    return cosines


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
