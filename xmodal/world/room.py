"""The room around the table: floor, walls and table, in one of several finishes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmodal.world import textures as tx
from xmodal.world.meshes import box, join, panel
from xmodal.world.models import Part

# The table top is at a usual height; it is what every layout and camera path refers to.
TABLE_TOP_M = 0.74
TABLE_SIZE_M = (1.2, 0.85)
TABLE_THICKNESS_M = 0.04
ROOM_HALF_M = 2.5
ROOM_HEIGHT_M = 3.0
_LEG_M = 0.06

ROOM_CLASSES = ("floor", "wall", "table")


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """A part of the room and the class of its points."""

    class_name: str
    part: Part


def make_room(seed: int) -> tuple[Surface, ...]:
    """Build floor, four walls and a table; finishes are drawn by `seed`, 0 being the plain set.

    The room stands in the world frame: z up, origin on the floor under the middle of the table.
    """
    pick = np.random.default_rng((seed, 1))
    floor, wall, top = (int(pick.integers(4)) for _ in range(3)) if seed else (0, 0, 0)
    surfaces = [
        Surface(class_name="floor", part=_floor(floor, seed)),
        *(Surface(class_name="wall", part=part) for part in _walls(wall, seed)),
        Surface(class_name="table", part=_table(top, seed)),
    ]
    return tuple(surfaces)


def _floor(kind: int, seed: int) -> Part:
    side = 2 * ROOM_HALF_M
    texture, tile_m = (
        (tx.wood(seed=seed + 2, colour=(146, 100, 62)), 1.0),
        (tx.tiles(seed=seed + 2), 0.8),
        (tx.carpet(seed=seed + 2), 1.2),
        (tx.wood(seed=seed + 2, colour=(178, 146, 110), planks=7), 1.0),
    )[kind]
    mesh = panel(
        (-ROOM_HALF_M, -ROOM_HALF_M, 0), (side, 0, 0), (0, side, 0), step_m=0.25, tile_m=tile_m
    )
    return Part(mesh=mesh, texture=texture, shine=0.1)


def _walls(kind: int, seed: int) -> list[Part]:
    texture = (
        tx.plaster(seed=seed + 3, colour=(222, 217, 206), stripes=8),
        tx.plaster(seed=seed + 3, colour=(196, 208, 214)),
        tx.plaster(seed=seed + 3, colour=(226, 214, 188)),
        tx.plaster(seed=seed + 3, colour=(204, 214, 198), stripes=4),
    )[kind]
    skirting = tx.plain((236, 234, 228))
    reach, height = ROOM_HALF_M, ROOM_HEIGHT_M
    parts: list[Part] = []
    for k in range(4):
        across = np.array([np.cos(k * np.pi / 2), np.sin(k * np.pi / 2), 0.0]).round()
        along = np.array([-across[1], across[0], 0.0])
        # Seen from inside: along x up points at the middle of the room when `along` runs
        # clockwise.
        corner = reach * across + reach * along
        wall = panel(corner.tolist(), (-2 * reach * along).tolist(), (0, 0, height), step_m=0.25)
        board = panel(
            (corner - 0.012 * across).tolist(), (-2 * reach * along).tolist(), (0, 0, 0.09),
            step_m=0.25,
        )  # fmt: skip
        parts += [
            Part(mesh=wall, texture=texture, shine=0.0),
            Part(mesh=board, texture=skirting),
        ]
    return parts


def _table(kind: int, seed: int) -> Part:
    texture = (
        tx.wood(seed=seed + 1, colour=(202, 166, 122), planks=9),
        tx.wood(seed=seed + 1, colour=(128, 84, 54), planks=7),
        tx.plaster(seed=seed + 1, colour=(232, 232, 228)),
        tx.wood(seed=seed + 1, colour=(222, 194, 152), planks=12),
    )[kind]
    length, width = TABLE_SIZE_M
    middle = TABLE_TOP_M - TABLE_THICKNESS_M / 2
    top = box((length, width, TABLE_THICKNESS_M), centre=(0, 0, middle), step_m=0.06, tile_m=length)
    below = TABLE_TOP_M - TABLE_THICKNESS_M
    x, y = length / 2 - 0.05, width / 2 - 0.05
    legs = [
        box((_LEG_M, _LEG_M, below), centre=(sx * x, sy * y, below / 2), step_m=0.1, tile_m=0.72)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    return Part(mesh=join([top, *legs]), texture=texture, shine=0.15)
