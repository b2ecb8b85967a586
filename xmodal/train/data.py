"""What a training step works on: students, their teachers' rows, and pieces of scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from detectors.point_student import PointStudent
from xmodal.errors import DataError
from xmodal.train.inference import StudentOp, observed
from xmodal.values import Points


@runtime_checkable
class DistillOp(Protocol):
    """A loss between rows on the same points, and its factor in the sum."""

    @property
    def weight(self) -> float:
        """Factor in the sum of all losses."""
        ...

    def __call__(
        self, teacher: Points, student: Points, *, net: nn.Module | None = None
    ) -> Float[Tensor, ""]:
        """The loss."""
        ...


@dataclass(frozen=True, eq=False)
class Student:
    """A network in training: its op, its module, and the node whose points it sees."""

    op: StudentOp
    net: PointStudent
    cloud: str = "cloud"


@dataclass(frozen=True, eq=False)
class Distill:
    """A distillation edge: node names of teacher and student, and the projection if it has one."""

    op: DistillOp
    teacher: str
    student: str
    net: nn.Module | None = None


class TrainScene:
    """Points of one scene, checked, with what students are told about them.

    Attributes:
        nodes: Points of each cloud and teacher.
        inputs: Per student, the inputs of every point.
        observed: Per student, the points that one of its teachers saw.
        centres: Places that a crop may be taken around.

    Raises:
        DataError: If a node is missing, a teacher has no row for some point, or saw none.
    """

    def __init__(
        self,
        index: int,
        nodes: Mapping[str, Points],
        students: Mapping[str, Student],
        losses: Sequence[Distill],
    ) -> None:
        self.index, self.nodes = index, nodes
        needed = [s.cloud for s in students.values()] + [edge.teacher for edge in losses]
        if missing := sorted(set(needed) - nodes.keys()):
            raise _unfit(index, f"the nodes {sorted(set(needed))}", f"no {missing}")
        self.observed: dict[str, Tensor] = {}
        for edge in losses:
            cloud, teacher = nodes[students[edge.student].cloud], nodes[edge.teacher]
            if teacher.rows is None or len(teacher.rows) != len(cloud.xyz):
                got = "no rows" if teacher.rows is None else f"{len(teacher.rows)} rows"
                raise _unfit(index, f"a row of {edge.teacher} for {len(cloud.xyz)} points", got)
            seen = observed(teacher)
            self.observed[edge.student] = self.observed.get(edge.student, seen) | seen
        first = next(iter(students))
        self.centres = nodes[students[first].cloud].xyz[self.observed[first]]
        if len(self.centres) == 0:
            raise _unfit(index, "at least one observed point", "none that a teacher saw")
        self.inputs = {name: s.op.describe(nodes[s.cloud]) for name, s in students.items()}

    def sample_rows(self, teacher: str, num: int, rng: np.random.Generator) -> Float[Tensor, "R C"]:
        """Up to `num` of the rows that a teacher observed, in float32."""
        points = self.nodes[teacher]
        seen = observed(points).nonzero().squeeze(1).numpy()
        chosen = torch.from_numpy(np.sort(rng.permutation(seen)[:num]))
        rows = take_rows(points, chosen, "cpu").rows
        assert rows is not None, "checked when the scene was made"
        return rows


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of the cloud that a student sees, crop after crop, and which of those are compared."""

    rows: Int[Tensor, " K"]
    offsets: Int[Tensor, " B1"]
    chosen: Int[Tensor, " S"]


@dataclass(frozen=True, eq=False)
class Batch:
    """A scene and, per student, the piece of it that a step looks at."""

    scene: TrainScene
    pieces: dict[str, Piece]


def as_points(xyz: Float[Tensor, "M 3"], **fields: Tensor | None) -> Points:
    """Points of one sample."""
    return Points(xyz=xyz, offsets=torch.tensor([0, len(xyz)]), **fields)


def take_rows(points: Points, rows: Int[Tensor, " S"], device: str) -> Points:
    """Some rows of a teacher, in float32, read from wherever they lie."""
    taken = {
        name: None if value is None else value[rows].to(device)
        for name, value in (("valid", points.valid), ("weight", points.weight))
    }
    features = None if points.rows is None else points.rows[rows].to(device, torch.float32)
    return as_points(points.xyz[rows].to(device), rows=features, **taken)


def bad_rows(points: Points, rows: list[int]) -> list[int]:
    """Rows among `rows` that hold NaN or infinity."""
    if points.rows is None:
        return []
    index = torch.tensor(rows, dtype=torch.long)
    return index[~torch.isfinite(points.rows[index]).all(dim=1)].tolist()


def _unfit(index: int, wanted: str, got: str) -> DataError:
    fix = "lift the scene with the graph that is trained"
    return DataError(f"scene {index}", wanted=wanted, got=got, fix=fix)
