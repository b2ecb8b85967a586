"""Where objects start: drawn by a seed, not overlapping, dropped from just above the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from xmodal.errors import UsageError
from xmodal.world.meshes import Reals
from xmodal.world.models import ObjectModel
from xmodal.world.objects import make_object
from xmodal.world.room import TABLE_SIZE_M, TABLE_TOP_M

# Dropped from 5 mm: enough never to start inside the table, too little to bounce.
_DROP_M = 0.005
_EDGE_M = 0.05
# Objects keep this far apart; halved when a draw finds no room, down to touching distance.
_GAPS_M = (0.05, 0.025, 0.01)
_TRIES = 150
_DRAWS = 15


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """An object and the pose it is dropped from.

    Attributes:
        model: The object at its final scale.
        xyz: Position of its origin, world frame, metres.
        yaw_rad: Turn about the world's z axis.
        scale: Factor on the object's usual size.
        variant: Which paint it wears.
    """

    model: ObjectModel
    xyz: tuple[float, float, float]
    yaw_rad: float
    scale: float
    variant: int


def place_objects(
    names: Sequence[str], *, seed: int, scale_jitter: float, repaint: bool
) -> tuple[Placed, ...]:
    """Scatter objects over the table.

    Args:
        names: What to place; a name may come twice.
        seed: Seed of positions, turns, scales and paints.
        scale_jitter: Scales are drawn from [1 - jitter, 1 + jitter].
        repaint: Draw the paint of each object; otherwise all wear their first.

    Returns:
        One placed object for each name, in order.

    Raises:
        UsageError: If they do not fit.
    """
    random = np.random.default_rng((seed, 2))
    scales = 1 + scale_jitter * random.uniform(-1, 1, len(names))
    variants = random.integers(0, 3, len(names)) * int(repaint)
    models = [
        make_object(name, int(variant)).scaled(float(scale))
        for name, variant, scale in zip(names, variants, scales, strict=True)
    ]
    spots = _scatter([_footprint(model) for model in models], random)
    return tuple(
        Placed(
            model=model,
            xyz=(x, y, TABLE_TOP_M + _DROP_M - float(model.xyz()[:, 2].min())),
            yaw_rad=yaw,
            scale=float(scale),
            variant=int(variant),
        )
        for model, (x, y, yaw), scale, variant in zip(models, spots, scales, variants, strict=True)
    )


def _footprint(model: ObjectModel) -> Float[Reals, "2 2"]:
    """Lowest and highest x, y of an object in its own frame."""
    xy = model.xyz()[:, :2]
    return np.stack([xy.min(0), xy.max(0)])


def _scatter(
    footprints: list[Float[Reals, "2 2"]], random: np.random.Generator
) -> list[tuple[float, float, float]]:
    """Draw (x, y, yaw) for each footprint, the largest first."""
    order = np.argsort([-float(np.prod(high - low)) for low, high in footprints], kind="stable")
    area = sum(float(np.prod(high - low)) for low, high in footprints)
    fits = area < float(np.prod(TABLE_SIZE_M))
    for gap_m in _GAPS_M if fits else ():
        for _ in range(_DRAWS):
            spots = _draw(footprints, order.tolist(), gap_m, random)
            if spots is not None:
                return spots
    raise UsageError(
        "objects of the world",
        wanted=f"objects that fit a table of {TABLE_SIZE_M[0]} x {TABLE_SIZE_M[1]} m",
        got=f"{len(footprints)} objects that do not",
        fix="ask for fewer or smaller objects",
    )


def _draw(
    footprints: list[Float[Reals, "2 2"]],
    order: list[int],
    gap_m: float,
    random: np.random.Generator,
) -> list[tuple[float, float, float]] | None:
    taken: list[Float[Reals, "4 2"]] = []
    spots: dict[int, tuple[float, float, float]] = {}
    reach = np.array(TABLE_SIZE_M) / 2 - _EDGE_M
    for index in order:
        low, high = footprints[index][0] - gap_m / 2, footprints[index][1] + gap_m / 2
        outline = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
        for _ in range(_TRIES):
            x, y = random.uniform(-reach, reach)
            yaw = float(random.uniform(-np.pi, np.pi))
            cos, sin = np.cos(yaw), np.sin(yaw)
            turn = np.array([[cos, sin], [-sin, cos]])
            corners: Reals = np.matmul(outline, turn) + np.array([x, y])
            inside = bool((np.abs(corners) <= reach + gap_m / 2).all())
            if inside and not any(_overlap(corners, other) for other in taken):
                taken.append(corners)
                spots[index] = (float(x), float(y), yaw)
                break
        else:
            return None
    return [spots[index] for index in range(len(footprints))]


def _overlap(first: Float[Reals, "4 2"], second: Float[Reals, "4 2"]) -> bool:
    """Whether two rectangles meet, by the separating axis theorem."""
    for rectangle in (first, second):
        for edge in (rectangle[1] - rectangle[0], rectangle[2] - rectangle[1]):
            a, b = first @ edge, second @ edge
            if a.max() < b.min() or b.max() < a.min():
                return False
    return True
