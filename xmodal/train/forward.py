"""What a step computes: rows of students and slow teachers on a batch, and the losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detectors.point_student import Encoded, PointStudent
from detectors.splat_student import SplatStudent
from xmodal.errors import BackendError, UsageError
from xmodal.point_inputs import input_columns
from xmodal.train.averages import MovingAverages
from xmodal.train.data import Batch, Distill, Piece, Student, TrainScene, as_points, take_rows
from xmodal.train.drawn import as_drawn
from xmodal.train.inference import places_of
from xmodal.train.options import Average, TrainOptions
from xmodal.train.sets import choose_sets, take_sets
from xmodal.train.views import take_views
from xmodal.values import Frames, Gaussians, Points, PointSets


class Forward:
    """Runs students and slow teachers on batches.

    Raises:
        UsageError: If the augmentation makes a student's inputs untrue, or has no effect.
        BackendError: If the device cannot do the precision that is asked for.
    """

    def __init__(
        self,
        students: Mapping[str, Student],
        losses: Sequence[Distill],
        averages: Mapping[str, Average],
        copies: MovingAverages,
        options: TrainOptions,
    ) -> None:
        self.students, self.losses, self.options = students, losses, options
        self.averages, self.copies = averages, copies
        self.columns = _columns(students, options)
        _refuse_moved(students, options)
        self.bf16 = uses_bf16(options)

    def losses_of(
        self,
        batch: Batch,
        edges: Iterable[int],
        trained: frozenset[str],
        rng: np.random.Generator,
    ) -> tuple[dict[int, Tensor], dict[str, Points | Gaussians]]:
        """Run each student on its piece and compare it with each of its teachers.

        Args:
            batch: What to look at.
            edges: Indices of the edges that count.
            trained: Students that need a gradient.
            rng: Where augmentation comes from.

        Returns:
            The loss of each edge without its weight, and what each student gave.
        """
        given = {
            name: self._student(name, batch.scene, piece, name in trained, rng)
            for name, piece in batch.pieces.items()
        }
        slow: dict[tuple[str, str], Points] = {}
        parts: dict[int, Tensor] = {}
        for index in edges:
            edge = self.losses[index]
            pair = (edge.teacher, edge.student)
            if edge.teacher in self.averages:
                if pair not in slow:
                    slow[pair] = self._slow(edge, batch, rng)
                teacher: Points | PointSets | Frames = slow[pair]
            else:
                teacher = self._stored(edge, batch)
            rows = given[edge.student].rows
            assert rows is not None, "students always give rows"
            if isinstance(teacher, PointSets) and len(teacher.rows) == 0:
                parts[index] = rows.sum() * 0.0  # no set is left in this crop
                continue
            parts[index] = edge.op(teacher, given[edge.student], **_projection(edge))
        return parts, given

    def _stored(self, edge: Distill, batch: Batch) -> Points | PointSets | Frames:
        value = batch.scene.nodes[edge.teacher]
        if isinstance(value, Frames):
            views = batch.views[edge.teacher, edge.student]
            return take_views(value, views, self.options.device)
        rows, options = batch.pieces[edge.student].compared, self.options
        if isinstance(value, PointSets):
            of_point = batch.scene.of_point[edge.teacher]
            if (chosen := batch.sets.get(edge.teacher)) is not None:
                value = choose_sets(value, chosen)
                of_point = value.membership.transpose()
            few = options.min_set_points
            return take_sets(value, of_point, rows, options.device, min_points=few)
        return take_rows(places_of(value), rows, options.device)

    def _student(
        self,
        name: str,
        scene: TrainScene,
        piece: Piece,
        trained: bool,
        rng: np.random.Generator,
    ) -> Points | Gaussians:
        cloud, device, net = scene.cloud(name), self.options.device, self.students[name].net
        with torch.set_grad_enabled(trained):
            xyz, encoded, rows = self._run(net, name, scene, piece, rng)
        segments = None if cloud.segments is None else cloud.segments[piece.compared].to(device)
        masked = None if encoded.masked is None else encoded.masked[piece.chosen.to(device)]
        if isinstance(net, SplatStudent):
            # Where the points are in the world, not where augmentation put them.
            places = cloud.xyz[piece.compared].to(device)
            with torch.set_grad_enabled(trained):
                shapes = net.shapes(encoded, places, piece.chosen.to(device))
            return replace(as_drawn(shapes, rows), segments=segments, masked=masked)
        return as_points(xyz[piece.chosen].to(device), rows=rows, segments=segments, masked=masked)

    @torch.no_grad()
    def _slow(self, edge: Distill, batch: Batch, rng: np.random.Generator) -> Points:
        average, scene = self.averages[edge.teacher], batch.scene
        seen = batch.wide if average.view == "global" else batch.pieces
        piece, vary = seen[edge.student], None if average.view == "global" else rng
        net = self.copies.teacher(edge.teacher)
        _, _, rows = self._run(net, average.student, scene, piece, vary)
        xyz = scene.cloud(average.student).xyz[piece.compared].to(rows.device)
        valid = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        return as_points(xyz, rows=rows, valid=valid, weight=torch.ones_like(rows[:, 0]))

    def _run(
        self,
        net: PointStudent,
        name: str,
        scene: TrainScene,
        piece: Piece,
        rng: np.random.Generator | None,
    ) -> tuple[Tensor, Encoded, Tensor]:
        """Positions as the network saw them, what it made of them, and the compared rows."""
        device = self.options.device
        xyz, inputs = scene.cloud(name).xyz[piece.rows], scene.inputs[name][piece.rows]
        if rng is not None:
            xyz, inputs = self._vary(xyz, inputs, piece, self.columns[name], rng)
        with self._precision():
            encoded = net.encode(xyz.to(device), piece.offsets, inputs.to(device))
            rows = net.decode(encoded, piece.chosen.to(device))
        return xyz, encoded, rows.float()

    def _vary(
        self,
        xyz: Tensor,
        inputs: Tensor,
        piece: Piece,
        columns: Mapping[str, slice],
        rng: np.random.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Each crop in its own variation."""
        sizes = piece.offsets.diff().tolist()
        augment = self.options.augment
        places = [augment.positions(part, rng) for part in xyz.split(sizes)]
        told = [augment.inputs(part, rng, columns) for part in inputs.split(sizes)]
        return torch.cat(places), torch.cat(told)

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.bf16:
            return nullcontext()
        return torch.autocast(torch.device(self.options.device).type, torch.bfloat16)


def _projection(edge: Distill) -> dict[str, nn.Module]:
    """The `net` of an edge as an argument, for edges that have one."""
    return {} if edge.net is None else {"net": edge.net}


def _columns(
    students: Mapping[str, Student], options: TrainOptions
) -> dict[str, Mapping[str, slice]]:
    """Which columns of each student's inputs are what, for students whose op says so."""
    augment = options.augment
    columns: dict[str, Mapping[str, slice]] = {}
    for name, student in students.items():
        inputs: Any = getattr(student.op, "inputs", ())
        columns[name] = {str(key): part for key, part in input_columns(inputs).items()}
        try:
            augment.check_inputs(inputs, str(getattr(student.op, "up", augment.up)))
        except ValueError as error:
            raise UsageError(
                f"augmentation of {name}",
                wanted="changes that leave what a point is told true",
                got=str(error),
                fix="switch it off, or leave that input out",
            ) from error
    for setting, key in (("drop_colour", "rgb"), ("drop_normals", "normals")):
        if getattr(augment, setting) > 0 and not any(key in known for known in columns.values()):
            raise UsageError(
                f"augmentation {setting}",
                wanted=f"a student with {key} among its inputs",
                got=f"inputs {sorted({key for known in columns.values() for key in known})}",
                fix=f"set {setting} to 0, or add {key} to the inputs",
            )
    return columns


def _refuse_moved(students: Mapping[str, Student], options: TrainOptions) -> None:
    """Refuse augmentation that a splat shaped in a moved crop would have to be moved back from."""
    drawing = sorted(n for n, student in students.items() if isinstance(student.net, SplatStudent))
    augment = options.augment
    names = ("rotate_rad", "tilt_rad", "flip", "scale", "elastic_m", "input_jitter")
    moved = [name for name in names if getattr(augment, name) > 0]
    if drawing and moved:
        raise UsageError(
            f"augmentation of {drawing[0]}",
            wanted="pieces as they lie in the world, where cameras look at the splats made of them",
            got=f"{moved[0]}: {getattr(augment, moved[0])}",
            fix=f"leave {moved[0]} out; shift, jitter_m and drop_colour are fine",
        )


def uses_bf16(options: TrainOptions) -> bool:
    """Whether networks work in bfloat16.

    Raises:
        BackendError: If the device cannot.
    """
    if options.amp == "off":
        return False
    if torch.device(options.device).type != "cuda":
        return options.amp == "bf16"
    if options.amp == "bf16" and not torch.cuda.is_bf16_supported():
        raise BackendError(
            options.device,
            wanted="a device that computes in bfloat16",
            got=torch.cuda.get_device_name(options.device),
            fix="amp: off",
        )
    return torch.cuda.is_bf16_supported()
