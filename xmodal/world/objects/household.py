"""Things about the house: lamp, dumbbell, candle, keyboard."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from xmodal.world import textures as tx
from xmodal.world.meshes import Mesh, box, join, lathe, rotation_about, spline, tube, two_sided
from xmodal.world.models import Capsule, Hull, ObjectModel, Part, turned_hull


def table_lamp(variant: int = 0) -> ObjectModel:
    """A turned foot under a cloth shade."""
    foot = spline(
        [
            (0.0001, 0), (0.06, 0), (0.06, 0.01), (0.02, 0.02), (0.015, 0.04), (0.03, 0.07),
            (0.035, 0.1), (0.02, 0.14), (0.01, 0.16), (0.008, 0.2), (0.0001, 0.2),
        ],
        120,
    )  # fmt: skip
    paint = [(40, 96, 118), (120, 60, 40), (90, 90, 96)][variant % 3]
    cloth = [(250, 236, 204), (240, 226, 210), (236, 214, 170)][variant % 3]
    shade = two_sided(lathe(np.linspace((0.1, 0.17), (0.06, 0.3), 12)))
    top = lathe([(0.06, 0.285), (0.0001, 0.285)])
    model = ObjectModel(
        name="table lamp",
        parts=(
            Part(mesh=lathe(foot), texture=tx.plain(paint), shine=0.4),
            Part(mesh=shade, texture=tx.plain(cloth), shine=0.0, glow=0.2),
            Part(mesh=top, texture=tx.plain((226, 210, 176)), shine=0.0),
        ),
        solids=(
            turned_hull([(0.06, 0), (0.06, 0.01)]),
            turned_hull([(0.02, 0.02), (0.035, 0.09), (0.012, 0.16)], sides=12),
            Capsule(start=(0, 0, 0.02), end=(0, 0, 0.19), radius_m=0.01),
            turned_hull([(0.1, 0.17), (0.06, 0.3)]),
        ),
        mass_kg=0.9,
    )
    return model.scaled(0.9)


def dumbbell(variant: int = 0) -> ObjectModel:
    """Two hexagonal heads on a steel bar, lying on a flat side."""
    head = [
        (0.0001, 0.055), (0.014, 0.055), (0.036, 0.058), (0.042, 0.065), (0.042, 0.09),
        (0.04, 0.105), (0.03, 0.11), (0.0001, 0.11),
    ]  # fmt: skip
    other = [(r, -z) for r, z in reversed(head)]
    bar = spline(
        [(0.0001, -0.056), (0.0135, -0.055), (0.0145, 0), (0.0135, 0.055), (0.0001, 0.056)], 30
    )
    lie = rotation_about("y", np.pi / 2) @ rotation_about("z", np.pi / 6)
    heads = join([lathe(side, sides=6, flat=True) for side in (head, other)])
    paint = [(46, 46, 50), (150, 40, 90), (40, 80, 150)][variant % 3]
    solids = tuple(Hull(xyz=turned_hull(side[1:-1], sides=6).xyz @ lie.T) for side in (head, other))
    model = ObjectModel(
        name="dumbbell",
        parts=(
            Part(mesh=heads.moved(rotation=lie), texture=tx.plain(paint), shine=0.2),
            Part(
                mesh=lathe(bar, sides=32).moved(rotation=lie),
                texture=tx.plain((176, 176, 182)),
                shine=0.6,
            ),
        ),
        solids=(
            *solids,
            Capsule(start=(-0.055, 0.0, 0.0), end=(0.055, 0.0, 0.0), radius_m=0.0135),
        ),
        mass_kg=2.0,
    )
    return model.scaled(0.85)


def candle(variant: int = 0) -> ObjectModel:
    """A burning pillar candle."""
    wax = spline(
        [(0.0001, 0), (0.025, 0), (0.025, 0.1), (0.022, 0.102), (0.012, 0.097), (0.0001, 0.097)], 60
    )
    flame = spline(
        [(0.0001, 0.11), (0.004, 0.114), (0.005, 0.12), (0.003, 0.13), (0.0001, 0.14)], 30
    )
    wick = spline([(0, 0, 0.096), (0.001, 0, 0.108), (0.003, 0, 0.114)], 10)
    colour = [(240, 230, 206), (214, 150, 140), (190, 200, 170)][variant % 3]
    return ObjectModel(
        name="candle",
        parts=(
            Part(mesh=lathe(wax, sides=48), texture=tx.plain(colour)),
            Part(mesh=tube(wick, 0.001, sides=8), texture=tx.plain((30, 25, 20)), shine=0.0),
            Part(
                mesh=lathe(flame, sides=24), texture=tx.plain((255, 196, 70)), shine=0.0, glow=0.6
            ),
        ),
        solids=(turned_hull([(0.025, 0), (0.025, 0.1)]),),
        mass_kg=0.2,
    )


def keyboard(variant: int = 0) -> ObjectModel:
    """A flat case with five rows of keys and a space bar."""
    keys: list[Mesh] = []
    for row, count in enumerate((14, 14, 13, 12)):
        pitch = 0.4 / count
        keys += [
            _key(-0.2 + (k + 0.5) * pitch, 0.05 - row * 0.025, 0.86 * pitch) for k in range(count)
        ]
    keys += [_key(x, -0.05, 0.043) for x in (-0.175, -0.125, 0.125, 0.175)]
    keys.append(_key(0.0, -0.05, 0.19))
    case, cap = [((66, 66, 70), (228, 228, 225)), ((216, 216, 218), (250, 250, 250)),
                 ((30, 30, 32), (70, 70, 76))][variant % 3]  # fmt: skip
    model = ObjectModel(
        name="computer keyboard",
        parts=(
            Part(mesh=box((0.42, 0.14, 0.018), step_m=0.03), texture=tx.plain(case)),
            Part(mesh=join(keys), texture=tx.plain(cap)),
        ),
        solids=(Hull(xyz=box((0.42, 0.14, 0.026), centre=(0, 0, 0.004)).xyz),),
        mass_kg=0.7,
    )
    return model.scaled(0.8)


def _key(x: float, y: float, width: float) -> Mesh:
    """One key cap, narrower at the top."""
    key = box((width, 0.02, 0.01), centre=(x, y, 0.013))
    centre = np.array([x, y])
    upper = key.xyz[:, 2:] > 0.013
    tapered = np.where(upper, centre + 0.82 * (key.xyz[:, :2] - centre), key.xyz[:, :2])
    return replace(key, xyz=np.concatenate([tapered, key.xyz[:, 2:]], 1))
