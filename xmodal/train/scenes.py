"""Training over scenes: crops of clouds, students of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detectors.memory_attention import MemoryAttention
from xmodal.errors import UsageError
from xmodal.train.averages import MovingAverages
from xmodal.train.data import Batch, Distill, Student, TrainScene, bad_rows
from xmodal.train.field_start import start_fields
from xmodal.train.forward import Forward
from xmodal.train.options import Average, TrainOptions
from xmodal.train.phases import Phase
from xmodal.train.sampling import Sampler
from xmodal.train.task import Memory, Place

# Values of one scene by node: points, sets of points, splats, pictures.
Scene = Mapping[str, Any]
# Enough to tell a thousand directions apart.
_START_ROWS = 4096


class SceneTask:
    """Crops of scenes, of which students of points learn.

    Raises:
        UsageError: If there is no scene.
        DataError: If a scene lacks a node or rows.
    """

    unused = ("batch", "balance_recordings", "drop_teachers")

    def __init__(
        self,
        scenes: Sequence[Scene],
        students: Mapping[str, Student],
        losses: Sequence[Distill],
        averages: Mapping[str, Average],
        copies: MovingAverages,
        options: TrainOptions,
    ) -> None:
        self.students, self.losses, self.averages = students, losses, averages
        self.options = options
        if not scenes:
            raise UsageError(
                "training", wanted="at least one scene", got="0 scenes", fix="name some under data"
            )
        if options.balance == "agm":
            raise UsageError(
                "training",
                wanted="a balance for scenes; `agm` is for fusions of streams of recordings",
                got="balance: agm",
                fix="write balance: grad_norm, uncertainty, harmonise or ogm",
            )
        self.forward = Forward(students, losses, averages, copies, options)
        self.scenes = [
            TrainScene(i, nodes, students, losses, averages) for i, nodes in enumerate(scenes)
        ]
        self.sampler: Sampler | None = None

    @property
    def identity(self) -> Mapping[str, Any]:
        """How many points each node of each scene has."""
        return {"points": [{n: _size(v) for n, v in s.nodes.items()} for s in self.scenes]}

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Nothing is remembered."""
        return {}

    @property
    def memory(self) -> Memory:
        """Crops take memory."""
        what = f"crops of {self.options.crop_points} points"
        return Memory(what, "crop_points or loss_rows")

    def start(self, rng: np.random.Generator) -> None:
        """Set last layers from samples of rows, where teacher and student share their columns."""
        num = -(-_START_ROWS // len(self.scenes))
        for name, student in self.students.items():
            if student.warm:
                continue
            for teacher in (e.teacher for e in self.losses if e.student == name and e.net is None):
                if teacher in self.averages:
                    continue
                rows = torch.cat([s.sample_rows(teacher, num, rng) for s in self.scenes])
                if rows.shape[1] == student.net.out_channels:
                    student.net.start_from(rows)
                break
        for edge in self.losses:
            memory: MemoryAttention | None = getattr(edge.net, "memory", None)
            if memory is None or edge.teacher in self.averages or self.students[edge.student].warm:
                continue
            rows = [s.sample_rows(edge.teacher, num, rng) for s in self.scenes]
            memory.start_from(torch.cat(rows))
        start_fields(self.students, self.losses, self.averages, self.scenes[0], _START_ROWS, rng)

    def enter(self, phase: Phase) -> list[dict[str, Any]]:
        """Draw for the students and edges of a stage; says which scenes show nothing of them."""
        edges = [self.losses[i] for i in phase.edges]
        active = {n: s for n, s in self.students.items() if n in {e.student for e in edges}}
        wide = {
            e.student
            for e in edges
            if e.teacher in self.averages and self.averages[e.teacher].view == "global"
        }
        self.sampler = Sampler(self.scenes, active, edges, wide, self.options)
        unseen = self.sampler.unseen
        return [{"event": "unseen_scenes", "scenes": unseen}] if unseen else []

    def draw(self, rng: np.random.Generator, *, halve: bool) -> Batch:
        """Pieces of one scene."""
        assert self.sampler is not None, "a stage has begun"
        return self.sampler.draw(rng, halve=halve)

    def losses_of(
        self, drawn: Batch, phase: Phase, rng: np.random.Generator
    ) -> tuple[dict[int, Tensor], list[Tensor]]:
        """The loss of each edge, and the rows that students gave."""
        parts, given = self.forward.losses_of(drawn, phase.edges, phase.trained_students, rng)
        return parts, [points.rows for points in given.values() if points.rows is not None]

    def count(self, drawn: Batch) -> int:
        """Points of all pieces."""
        return sum(len(piece.rows) for piece in drawn.pieces.values())

    def place(self, drawn: Batch) -> Place:
        """The scene and the rows that were compared."""
        nodes, pieces = drawn.scene.nodes, drawn.pieces
        bad = [
            f"{edge.teacher} row {row}"
            for edge in self.losses
            if edge.student in pieces and edge.teacher in nodes
            for row in bad_rows(nodes[edge.teacher], pieces[edge.student].compared)
        ]
        rows = {name: piece.compared.tolist() for name, piece in pieces.items()}
        index = drawn.scene.index
        return Place(f"scene {index}", {"scene": index, "rows": rows}, bad)


def _size(value: Any) -> int:
    """Points of a cloud, splats, or rows of what has neither."""
    named = (getattr(value, name, None) for name in ("xyz", "means", "rows"))
    return len(next(part for part in named if part is not None))
