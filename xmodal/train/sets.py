"""Sets of points in a crop: what remains of each when only some points are there."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lifting.operator import LiftOperator
from xmodal.values import Frames, PointSets


def in_some_set(sets: PointSets) -> Bool[Tensor, " N"]:
    """Points that belong to a set that counts."""
    counts = counting_sets(sets)
    member = torch.zeros(sets.membership.num_sources, dtype=torch.bool)
    used = counts[sets.membership.row] & (sets.membership.weight > 0)
    member[sets.membership.col[used]] = True
    return member


def take_sets(
    sets: PointSets,
    of_point: LiftOperator,
    points: Int[Tensor, " S"],
    device: str,
    *,
    min_points: int,
) -> PointSets:
    """The sets as they are among some points.

    Args:
        sets: Sets of points of a cloud.
        of_point: Their membership the other way round, [points x sets]: `membership.transpose()`.
        points: Rows of the cloud; they become the columns. One may come twice.
        device: Where the result lies.
        min_points: Sets with fewer entries than this among the points are left out, as are those
            that are not valid or have no weight.

    Returns:
        Sets of which column s is `points[s]`, rows in float32; possibly none.
    """
    members = of_point.select_rows(points).transpose().drop_zeros()
    keep = ((members.crow.diff() >= min_points) & counting_sets(sets)).nonzero().squeeze(1)
    return PointSets(
        rows=sets.rows[keep].to(device, torch.float32),
        valid=sets.valid[keep].to(device),
        weight=sets.weight[keep].to(device),
        membership=members.select_rows(keep).to(device=device),
        groups=None if sets.groups is None else sets.groups[keep].to(device),
        views=None if sets.views is None else sets.views[keep].to(device),
    )


def choose_sets(sets: PointSets, chosen: Int[Tensor, " K"]) -> PointSets:
    """Some of the sets, over the same points.

    Args:
        sets: Sets of points of a cloud.
        chosen: Their numbers.
    """
    return PointSets(
        rows=sets.rows[chosen],
        valid=sets.valid[chosen],
        weight=sets.weight[chosen],
        membership=sets.membership.select_rows(chosen),
        groups=None if sets.groups is None else sets.groups[chosen],
        views=None if sets.views is None else sets.views[chosen],
    )


def draw_sets(sets: PointSets, most: int, rng: np.random.Generator) -> Int[Tensor, " K"]:
    """Some of the sets that count, by chance and in order.

    Sets that know their view come view by view, so that those that are contrasted come together;
    of the last view only some may come.

    Args:
        sets: Sets of points of a cloud.
        most: So many are drawn, or all that there are.
        rng: Where chance comes from.
    """
    mixed = rng.permutation(counting_sets(sets).nonzero().squeeze(1).numpy())
    if sets.views is not None and len(mixed) > most:
        view = sets.views.numpy()[mixed]
        place = rng.permutation(int(view.max()) + 1)
        mixed = mixed[np.argsort(place[view], kind="stable")]
    return torch.from_numpy(np.sort(mixed[:most]))


def counting_sets(sets: PointSets | Frames) -> Bool[Tensor, " M"]:
    """Sets, or rows of frames, that are valid and have weight."""
    return sets.valid & (sets.weight > 0)
