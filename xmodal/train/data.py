"""What a training step works on: students, their teachers' rows, and pieces of scenes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from detectors.point_student import PointStudent
from lifting.operator import LiftOperator
from lifting.points import voxelize
from xmodal.errors import DataError
from xmodal.train.inference import StudentOp, inputs_of, observed, places_of
from xmodal.train.options import Average
from xmodal.train.sets import counting_sets, in_some_set
from xmodal.train.views import Shown, shown_points
from xmodal.values import Frames, Gaussians, Points, PointSets

Node = Points | PointSets | Frames | Gaussians
"""What a scene has at a node of the graph: a student's points or splats, or a teacher."""

# Cells of a scene are counted at the scale of furniture's parts, whatever its cloud's spacing.
_EXTENT_VOXEL_M = 0.05


@runtime_checkable
class DistillOp(Protocol):
    """A loss between a student's points and a teacher's rows, and its factor in the sum."""

    @property
    def weight(self) -> float:
        """Factor in the sum of all losses."""
        ...

    def __call__(
        self,
        teacher: Points | PointSets | Frames,
        student: Points | Gaussians,
        *,
        net: nn.Module | None = None,
    ) -> Float[Tensor, ""]:
        """The loss."""
        ...


@dataclass(frozen=True, eq=False)
class Student:
    """A network in training.

    Attributes:
        op: Its op, which describes points.
        net: Its module.
        cloud: The node whose points it sees.
        warm: Whether its weights mean something already; otherwise its last layer is set from its
            teacher's rows before the first step.
    """

    op: StudentOp
    net: PointStudent
    cloud: str = "cloud"
    warm: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        """The one node that it sees."""
        return (self.cloud,)


@dataclass(frozen=True, eq=False)
class Distill:
    """A distillation edge: node names of teacher and student, and the projection if it has one.

    `others` are further teachers, of an edge that chooses among several.
    """

    op: DistillOp
    teacher: str
    student: str
    net: nn.Module | None = None
    others: tuple[str, ...] = ()

    @property
    def teachers(self) -> tuple[str, ...]:
        """All teachers, in the order of the edge."""
        return (self.teacher, *self.others)

    @property
    def key(self) -> str:
        """The edge as the graph writes it, `teacher -> student`."""
        return f"{', '.join(self.teachers)} -> {self.student}"


class TrainScene:
    """Points of one scene, checked, with what students are told about them.

    Attributes:
        nodes: Points or splats of each cloud and teacher, and teachers' sets of points and frames.
        inputs: Per student, the inputs of every point.
        of_point: Per teacher of sets, the sets of each point.
        in_view: Per frames and student, the points that each view shows, the nearest first.

    Raises:
        DataError: If a node is missing, or a teacher has no row for some point.
    """

    def __init__(
        self,
        index: int,
        nodes: Mapping[str, Node],
        students: Mapping[str, Student],
        losses: Sequence[Distill],
        averages: Mapping[str, Average],
    ) -> None:
        self.index, self.nodes = index, nodes
        stored = [edge for edge in losses if edge.teacher not in averages]
        needed = {s.cloud for s in students.values()} | {edge.teacher for edge in stored}
        if missing := sorted(needed - nodes.keys()):
            raise _unfit(index, f"the nodes {sorted(needed)}", f"no {missing}")
        self._clouds = {name: self._points(s.cloud) for name, s in students.items()}
        self.in_view = {
            (edge.teacher, edge.student): shown_points(teacher, self._clouds[edge.student].xyz)
            for edge in stored
            if isinstance(teacher := nodes[edge.teacher], Frames)
        }
        self._seen: dict[tuple[str, str], Tensor] = {
            (edge.teacher, edge.student): self._observed(edge) for edge in stored
        }
        self.of_point: dict[str, LiftOperator] = {
            edge.teacher: teacher.membership.transpose()
            for edge in stored
            if isinstance(teacher := nodes[edge.teacher], PointSets)
        }
        self.inputs = {name: inputs_of(s.op, self._given(s.cloud)) for name, s in students.items()}

    def cloud(self, student: str) -> Points:
        """The points that a student sees."""
        return self._clouds[student]

    def seen(self, student: str, edges: Iterable[Distill]) -> Bool[Tensor, " N"]:
        """Points of a student's cloud that a stored teacher of one of the edges says something of.

        Where all its teachers are moving averages, which speak of every point, these are all.
        """
        known = [self._seen.get((e.teacher, student)) for e in edges if e.student == student]
        stored = [seen for seen in known if seen is not None]
        if not stored:
            return torch.ones(len(self._clouds[student].xyz), dtype=torch.bool)
        return torch.stack(stored).any(dim=0)

    @cached_property
    def num_voxels(self) -> int:
        """Occupied cells of the first student's cloud: how much there is to see in this scene."""
        cloud = next(iter(self._clouds.values()))
        return voxelize(cloud.xyz, _EXTENT_VOXEL_M, cloud.offsets).num_voxels

    def sample_rows(self, teacher: str, num: int, rng: np.random.Generator) -> Float[Tensor, "R C"]:
        """Up to `num` of the rows that a teacher observed, in float32."""
        value = self.nodes[teacher]
        if isinstance(value, (PointSets, Frames)):
            seen = counting_sets(value)
        else:
            seen = observed(places_of(value))
        chosen = np.sort(rng.permutation(seen.nonzero().squeeze(1).numpy())[:num])
        assert value.rows is not None, "checked when the scene was made"
        return value.rows[torch.from_numpy(chosen)].to(torch.float32)

    def _points(self, name: str) -> Points:
        return places_of(self._given(name))

    def _given(self, name: str) -> Points | Gaussians:
        value = self.nodes[name]
        if isinstance(value, (PointSets, Frames)):
            got = "sets of points" if isinstance(value, PointSets) else "frames"
            raise _unfit(self.index, f"points at {name}", got)
        return value

    def _observed(self, edge: Distill) -> Tensor:
        teacher, num = self.nodes[edge.teacher], len(self._clouds[edge.student].xyz)
        if isinstance(teacher, PointSets):
            if teacher.membership.num_sources != num:
                got = f"sets of a cloud of {teacher.membership.num_sources}"
                raise _unfit(self.index, f"sets {edge.teacher} of {num} points", got)
            return in_some_set(teacher)
        if isinstance(teacher, Frames):
            seen = torch.zeros(num, dtype=torch.bool)
            for rows in self.in_view[edge.teacher, edge.student]:
                seen[rows] = True
            return seen
        if teacher.rows is None or len(teacher.rows) != num:
            got = "no rows" if teacher.rows is None else f"{len(teacher.rows)} rows"
            raise _unfit(self.index, f"a row of {edge.teacher} for {num} points", got)
        return observed(places_of(teacher))


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of the cloud that a student sees, crop after crop, and which of those are compared."""

    rows: Int[Tensor, " K"]
    offsets: Int[Tensor, " B1"]
    chosen: Int[Tensor, " S"]

    @property
    def compared(self) -> Int[Tensor, " S"]:
        """Rows of the cloud that are compared."""
        return self.rows[self.chosen]


@dataclass(frozen=True, eq=False)
class Batch:
    """A scene and, per student, the piece of it that a step looks at.

    `wide` holds, for students whose moving average sees more, its piece: the same compared rows
    among more points. `sets` holds, where not all are compared, the chosen sets of each teacher;
    `views` the views that are rendered, by frames and student.
    """

    scene: TrainScene
    pieces: dict[str, Piece]
    wide: dict[str, Piece]
    sets: dict[str, Int[Tensor, " K"]] = field(default_factory=dict[str, Tensor])
    views: dict[tuple[str, str], tuple[Shown, ...]] = field(
        default_factory=dict[tuple[str, str], tuple[Shown, ...]]
    )


def as_points(xyz: Float[Tensor, "M 3"], **fields: Tensor | None) -> Points:
    """Points of one sample."""
    return Points(xyz=xyz, offsets=torch.tensor([0, len(xyz)]), **fields)


def take_rows(points: Points, rows: Int[Tensor, " S"], device: str) -> Points:
    """Some points of a teacher with all that it says of them, rows in float32.

    Rows are read by index from wherever they lie: memory, a mapped file, or a store that decodes
    what is asked for.
    """
    taken = {
        name: None if value is None else value[rows].to(device)
        for name, value in (
            ("valid", points.valid),
            ("weight", points.weight),
            ("num_views", points.num_views),
            ("disagreement", points.disagreement),
            ("segments", points.segments),
        )
    }
    features = None if points.rows is None else points.rows[rows].to(device, torch.float32)
    return as_points(points.xyz[rows].to(device), rows=features, **taken)


def bad_rows(value: Node, rows: Int[Tensor, " S"]) -> list[int]:
    """Rows of a teacher that hold NaN or infinity: among `rows` for points, all for others."""
    if isinstance(value, (PointSets, Frames)):
        return (~torch.isfinite(value.rows).all(dim=1)).nonzero().squeeze(1).tolist()
    if value.rows is None:
        return []
    return rows[~torch.isfinite(value.rows[rows]).all(dim=1)].tolist()


def _unfit(index: int, wanted: str, got: str) -> DataError:
    fix = "lift the scene with the graph that is trained"
    return DataError(f"scene {index}", wanted=wanted, got=got, fix=fix)
