"""Fields of splats begin with the closed form, and their decoders with its principal directions."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from detectors.field_start import (
    can_start,
    needs_mean,
    open_rows,
    principal_directions,
    start_decoder,
)
from detectors.memory_attention import MemoryAttention
from detectors.spaces import Space
from detectors.splat_field import SplatField
from lifting.operator import LiftOperator
from xmodal.edges.distill.head import Head
from xmodal.train.data import Distill, Student, TrainScene
from xmodal.values import PointSets

# Sums of probabilities are 1 up to rounding of what was stored.
_SUM_ERROR = 1e-2


def start_fields(
    students: Mapping[str, Student],
    losses: Sequence[Distill],
    averages: Container[str],
    scene: TrainScene,
    num: int,
    rng: np.random.Generator,
) -> None:
    """Start every field that wants it from the sets of the first edge that can start it.

    Args:
        students: Networks; those that are no fields are left alone.
        losses: Edges; those whose decoder is set.
        averages: Teachers that are moving averages.
        scene: The scene, of which the fields are.
        num: Splats whose rows directions are taken from.
        rng: Where chance comes from.
    """
    for name, student in students.items():
        field = student.net
        if not isinstance(field, SplatField) or field.start != "lifted" or student.warm:
            continue
        for edge in (e for e in losses if e.student == name and e.teacher not in averages):
            sets = scene.nodes[edge.teacher]
            if isinstance(sets, PointSets) and _start(field, edge, sets, num, rng):
                break


def _start(
    field: SplatField,
    edge: Distill,
    sets: PointSets,
    num: int,
    rng: np.random.Generator,
) -> bool:
    """Start one field from one edge; False where the edge does not allow it."""
    head = edge.net if isinstance(edge.net, Head) else None
    kept = (sets.valid & (sets.weight > 0)).nonzero().squeeze(1)
    if not len(kept) or (head is None and edge.net is not None):
        return False
    members, rows = sets.membership.select_rows(kept), sets.rows[kept].float()
    if head is None or head.project is None:
        if rows.shape[1] != field.out_channels or field.space == "simplex":
            return False
        field.start_from_sets(rows, members)
        return True
    if not can_start(head.project) or head.log:
        return False
    sample = _lifted_sample(members, rows, num, rng)
    if isinstance(head.project, MemoryAttention):
        head.project.start_from(sample)
    space: Space = "simplex" if _probabilities(sample) else "raw"
    if head.standardise is not None:
        head.standardise.fit(rows)
        sample, rows, space = head.standardise(sample), head.standardise(rows), "raw"
    found = principal_directions(
        sample, field.out_channels, space, centred=needs_mean(head.project)
    )
    start_decoder(head.project, found)
    field.start_from_sets(found.coordinates(open_rows(rows, space)), members)
    return True


def _lifted_sample(
    members: LiftOperator, rows: Float[Tensor, "S C"], num: int, rng: np.random.Generator
) -> Float[Tensor, "R C"]:
    """Closed-form rows of some splats, drawn by how much of the views is theirs.

    These are what the field has to hold: rows of single patches have, beside, what differs from
    view to view, and directions would be spent on that.
    """
    of_splat = members.transpose()
    coverage = of_splat.row_sum().double().numpy()
    chosen = np.sort(rng.choice(len(coverage), num, p=coverage / coverage.sum()))
    return of_splat.select_rows(torch.from_numpy(chosen)).mean().apply(rows)


def _probabilities(rows: Float[Tensor, "R C"]) -> bool:
    return bool((rows >= 0).all()) and bool(((rows.sum(dim=1) - 1).abs() < _SUM_ERROR).all())
