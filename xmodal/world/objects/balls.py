"""Balls: the pattern is computed for each direction of the globe."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from xmodal.world import textures as tx
from xmodal.world.meshes import Reals, sphere
from xmodal.world.models import Ball, ObjectModel, Part

# A ball is never more than a few hundred pixels wide.
_HEIGHT, _WIDTH = 256, 512


def soccer_ball(variant: int = 0) -> ObjectModel:
    """Truncated icosahedron: each texel belongs to the nearest of 12 pentagons and 20 hexagons."""
    corners = _icosahedron()
    centres = np.array(
        [
            np.sum(corner, axis=0)
            for corner in combinations(corners, 3)
            if min(a @ b for a, b in combinations(corner, 2)) > 0.4
        ]
    )
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    way = tx.globe(height=_HEIGHT, width=_WIDTH)
    # In-radii of the truncated icosahedron with edge 1, to its pentagons and to its hexagons.
    pentagon, hexagon = way @ corners.T / 2.3274, way @ centres.T / 2.2673
    dark = pentagon.max(-1) > hexagon.max(-1)
    best = np.partition(np.concatenate([pentagon, hexagon], -1), -2)
    seam = best[..., -1] - best[..., -2] < 0.0045
    patch = [(25, 25, 28), (30, 40, 120), (150, 25, 30)][variant % 3]
    colour = np.where(dark[..., None], np.array(patch, float), np.array([240.0, 240.0, 238.0]))
    colour[seam] = 75
    colour += 3 * tx.noise(seed=11, height=_HEIGHT, width=_WIDTH)[..., None]
    return _ball("soccer ball", 0.077, colour, mass_kg=0.15)


def basketball(variant: int = 0) -> ObjectModel:
    """Orange, with two great circles and two curved seams."""
    way = tx.globe(height=_HEIGHT, width=_WIDTH)
    x, y, z = way[..., 0], way[..., 1], way[..., 2]
    seam = (abs(x) < 0.022) | (abs(z) < 0.022) | (abs(y**2 - 0.55 * x**2 - 0.28) < 0.027)
    leather = [(212, 104, 40), (178, 82, 36), (226, 122, 52)][variant % 3]
    colour = (
        tx.tinted(leather, tx.noise(seed=12, height=_HEIGHT, width=_WIDTH), 5.0)
        + 6 * tx.speckle(seed=13, height=_HEIGHT, width=_WIDTH)[..., None]
    )
    colour[seam] = (28, 22, 20)
    return _ball("basketball", 0.095, colour, mass_kg=0.25)


def tennis_ball(variant: int = 0) -> ObjectModel:
    """Felt, with the closed seam curve that winds around the globe once."""
    t = np.linspace(0, 2 * np.pi, 1500)
    seam = np.stack(
        [
            3 * np.cos(t) + np.cos(3 * t),
            3 * np.sin(t) - np.sin(3 * t),
            2 * np.sqrt(3) * np.sin(2 * t),
        ],
        1,
    )
    seam /= np.linalg.norm(seam, axis=1, keepdims=True)
    way = tx.globe(height=_HEIGHT, width=_WIDTH)
    distance = KDTree(seam).query(way.reshape(-1, 3))[0].reshape(way.shape[:2])
    felt = [(200, 226, 54), (214, 230, 70), (188, 214, 48)][variant % 3]
    fuzz = tx.speckle(seed=14, height=_HEIGHT, width=_WIDTH)[..., None]
    colour = (
        tx.tinted(felt, tx.noise((8, 32, 128), seed=15, height=_HEIGHT, width=_WIDTH), 8.0)
        + 12 * fuzz
    )
    colour = np.where(
        (distance < 0.055)[..., None], np.array([238.0, 238.0, 228.0]) + 4 * fuzz, colour
    )
    return _ball("tennis ball", 0.035, colour, mass_kg=0.058, shine=0.0)


def golf_ball(variant: int = 0) -> ObjectModel:
    """White, with 336 dimples in the displacement of the surface."""
    count = 336
    k = np.arange(count) + 0.5
    polar, around = np.arccos(1 - 2 * k / count), np.pi * (1 + 5**0.5) * k
    dimples = KDTree(
        np.stack([np.cos(around) * np.sin(polar), np.sin(around) * np.sin(polar), np.cos(polar)], 1)
    )

    def dent(way: Reals) -> Reals:
        near = dimples.query(way.reshape(-1, 3))[0].reshape(way.shape[:2]) / 0.088
        return -0.03 * np.clip(1 - near**2, 0, 1)

    paint = [(246, 246, 244), (250, 226, 90), (246, 170, 60)][variant % 3]
    mesh = sphere(0.03, rows=110, columns=220, displace=dent)
    return ObjectModel(
        name="golf ball",
        parts=(Part(mesh=mesh, texture=tx.plain(paint), shine=0.3),),
        solids=(Ball(radius_m=0.03),),
        mass_kg=0.046,
        rolls=True,
    )


def _ball(
    name: str, radius_m: float, colour: Float[Reals, "H W 3"], *, mass_kg: float, shine: float = 0.2
) -> ObjectModel:
    part = Part(mesh=sphere(radius_m), texture=tx.finish(colour), shine=shine)
    solids = (Ball(radius_m=radius_m),)
    return ObjectModel(name=name, parts=(part,), solids=solids, mass_kg=mass_kg, rolls=True)


def _icosahedron() -> Float[Reals, "12 3"]:
    golden = (1 + 5**0.5) / 2
    base = np.array([(0, a, b * golden) for a, b in product((-1, 1), repeat=2)])
    corners = np.concatenate([np.roll(base, shift, axis=1) for shift in range(3)])
    return corners / np.linalg.norm(corners, axis=1, keepdims=True)
