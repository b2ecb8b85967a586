"""Fruit and bread."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from xmodal.world import textures as tx
from xmodal.world.meshes import (
    Mesh,
    Reals,
    join,
    lathe,
    rotation_about,
    sphere,
    spline,
    surface,
    torus,
    tube,
    two_sided,
)
from xmodal.world.models import Ball, Capsule, Hull, ObjectModel, Part, chain, turned_hull


def granny_smith(variant: int = 0) -> ObjectModel:
    """A green apple with five faint lobes and a stem."""
    outline = spline(
        [
            (0.0001, -0.026), (0.008, -0.029), (0.016, -0.030), (0.028, -0.02), (0.038, 0),
            (0.041, 0.015), (0.038, 0.03), (0.028, 0.040), (0.016, 0.041), (0.007, 0.036),
            (0.0001, 0.027),
        ],
        80,
    )  # fmt: skip
    skin = [(146, 194, 56), (160, 200, 66), (128, 184, 50)][variant % 3]
    colour = tx.tinted(skin, tx.noise(seed=21), (9, 6, 5))
    colour[np.random.default_rng(22).random(colour.shape[:2]) > 0.996] = (204, 222, 154)
    stem_path = spline([(0, 0, 0.025), (0.001, 0, 0.04), (0.006, 0, 0.055)], 12)
    stem = tube(stem_path, np.linspace(0.0015, 0.0022, 12), sides=10)
    apple = lathe(outline, sides=80, ripple=lambda angle, height: 1 + 0.02 * np.cos(5 * angle))
    return ObjectModel(
        name="granny smith",
        parts=(
            Part(mesh=apple, texture=tx.finish(colour), shine=0.35),
            Part(mesh=stem, texture=tx.plain((88, 62, 36))),
        ),
        solids=(turned_hull(outline[::7]),),
        mass_kg=0.17,
        rolls=True,
    )


def orange(variant: int = 0) -> ObjectModel:
    """A dimpled, slightly flat globe with a green navel."""
    way = tx.globe()
    skin = [(246, 142, 24), (250, 154, 36), (236, 128, 20)][variant % 3]
    colour = (
        tx.tinted(skin, tx.noise((4, 8, 16), seed=23), 4.0)
        + 5 * tx.noise((128,), seed=24)[..., None]
    )
    colour[way[..., 2] > 0.985] = (92, 112, 42)

    def dent(direction: Reals) -> Reals:
        x, y, z = direction[..., 0], direction[..., 1], direction[..., 2]
        pores = np.sin(70 * x) * np.sin(70 * y + 1.3) * np.sin(70 * z + 0.7)
        return -0.02 * z**6 + 0.004 * pores

    mesh = sphere(0.04, rows=110, columns=220, displace=dent)
    return ObjectModel(
        name="orange",
        parts=(Part(mesh=mesh, texture=tx.finish(colour), shine=0.3),),
        solids=(Ball(radius_m=0.04),),
        mass_kg=0.16,
        rolls=True,
    )


def lemon(variant: int = 0) -> ObjectModel:
    """A spindle with a nipple at each end, lying on its side."""
    outline = spline(
        [
            (0.0001, -0.048), (0.006, -0.046), (0.009, -0.042), (0.02, -0.033), (0.029, -0.015),
            (0.031, 0), (0.029, 0.015), (0.02, 0.032), (0.010, 0.040), (0.007, 0.046),
            (0.0001, 0.048),
        ],
        80,
    )  # fmt: skip
    skin = [(247, 216, 44), (250, 224, 70), (240, 206, 36)][variant % 3]
    colour = tx.tinted(skin, tx.noise(seed=25), 8.0) + 6 * tx.noise((96,), seed=26)[..., None]
    lie = rotation_about("y", np.pi / 2)
    return ObjectModel(
        name="lemon",
        parts=(Part(mesh=lathe(outline, sides=80).moved(rotation=lie), texture=tx.finish(colour)),),
        solids=(Hull(xyz=turned_hull(outline[::7]).xyz @ lie.T),),
        mass_kg=0.12,
        rolls=True,
    )


def banana(variant: int = 0) -> ObjectModel:
    """Three bananas side by side: tubes along an arc, thin and dark at both ends."""
    offsets = [(0.0, 0.0, 0.0), (0.0, -0.033, 0.002), (0.0, 0.033, 0.004)]
    parts: list[Part] = []
    solids: list[Capsule] = []
    for index, (offset, yaw) in enumerate(zip(offsets, (0.0, 0.10, -0.10), strict=True)):
        mesh, path, radius = _one_banana(yaw, offset)
        parts.append(Part(mesh=mesh, texture=_banana_skin(30 + index, variant)))
        solids += chain(path[5::10], radius[5::10])
    return ObjectModel(name="banana", parts=tuple(parts), solids=tuple(solids), mass_kg=0.36)


def _one_banana(
    yaw: float, offset: tuple[float, float, float]
) -> tuple[Mesh, Float[Reals, "P 3"], Float[Reals, " P"]]:
    bend = np.linspace(-1.05, 1.0, 70)
    path = 0.11 * np.stack([np.sin(bend), 0 * bend, 1 - np.cos(bend)], 1)
    s = np.linspace(0, 1, 70)
    radius = 0.0185 * np.sin(np.pi * np.clip(s * 0.93 + 0.05, 0, 1)) ** 0.42
    radius[s < 0.04] = 0.006
    stem = s > 0.9
    radius[stem] = np.interp(s[stem], [0.9, 0.94, 1], [0.0125, 0.0062, 0.0058])
    ridged = tube(path, radius, sides=30, section=lambda angle: 1 + 0.05 * np.cos(5 * angle))
    # Tip the arc nearly flat, then fan the three bananas out.
    turn = rotation_about("z", yaw) @ rotation_about("x", np.arccos(0.35))
    shift = np.asarray(offset) + turn @ np.array([0, 0, 0.02])
    return ridged.moved(rotation=turn, offset=shift.tolist()), path @ turn.T + shift, radius


def _banana_skin(seed: int, variant: int) -> tx.Bytes:
    v = tx.rise()[..., None]
    ripe = [(253, 220, 66), (250, 226, 92), (236, 210, 70)][variant % 3]
    colour = tx.tinted(ripe, tx.noise(seed=seed), 6.0)
    for mask, strength, shade in (
        (np.clip((v - 0.84) / 0.12, 0, 1), 0.35, (144, 164, 54)),
        (np.clip((v - 0.95) / 0.03, 0, 1), 1.0, (74, 58, 28)),
        (np.clip((0.035 - v) / 0.02, 0, 1), 1.0, (64, 48, 28)),
    ):
        colour = colour + strength * mask * (np.array(shade, float) - colour)
    colour[tx.noise((64, 128), seed=seed + 5) > 2.6] = (124, 84, 34)
    return tx.finish(colour)


def pineapple(variant: int = 0) -> ObjectModel:
    """A barrel of diamond-shaped eyes under a crown of leaves."""
    outline = spline(
        [
            (0.0001, 0), (0.034, 0.0), (0.048, 0.03), (0.056, 0.07), (0.055, 0.11),
            (0.042, 0.14), (0.012, 0.15), (0.0001, 0.15),
        ],
        160,
    )  # fmt: skip
    u, v = np.meshgrid(np.linspace(0, 1, tx.WIDTH), np.linspace(1, 0, tx.HEIGHT))
    first, second = (u * 10 + v * 7) % 1, (u * 10 - v * 7) % 1
    edge = np.minimum(np.minimum(first, 1 - first), np.minimum(second, 1 - second))
    centre = np.hypot(first - 0.5, second - 0.5)
    flesh = [(206, 146, 50), (190, 150, 60), (214, 138, 44)][variant % 3]
    colour = tx.tinted(flesh, tx.noise(seed=41), 9.0)
    colour *= 1 - 0.6 * np.clip(1 - edge / 0.12, 0, 1)[..., None]
    colour[centre < 0.12] = (98, 64, 32)
    colour[(centre >= 0.12) & (centre < 0.2)] = (228, 180, 84)

    def eyes(angle: Reals, height: Reals) -> Reals:
        s = height / 0.158
        a, b = (angle / (2 * np.pi) * 10 + s * 7) % 1, (angle / (2 * np.pi) * 10 - s * 7) % 1
        return 1 + 0.09 * (1 - 2 * np.hypot(a - 0.5, b - 0.5))

    fade = np.repeat(np.linspace(1, 0, 64)[:, None, None], 8, axis=1)
    leaves = tx.finish(np.array([66.0, 118.0, 54.0]) * (0.6 + 0.6 * fade))
    # A flat base as wide as a cut pineapple's, or it falls over.
    barrel = [(0.034, 0), (0.049, 0.03), (0.058, 0.07), (0.057, 0.11), (0.043, 0.14)]
    crown = turned_hull([(0.012, 0.145), (0.06, 0.19), (0.02, 0.265)], sides=12)
    return ObjectModel(
        name="pineapple",
        parts=(
            Part(mesh=lathe(outline, sides=160, ripple=eyes), texture=tx.finish(colour)),
            Part(mesh=_crown(), texture=leaves, shine=0.1),
        ),
        solids=(turned_hull(barrel), crown),
        mass_kg=0.9,
    )


def _crown() -> Mesh:
    leaves: list[Mesh] = []
    for k in range(34):
        outer = k / 34
        angle, lean, length = 2.4 * k, 0.15 + 0.75 * outer, 0.13 - 0.06 * outer
        s = np.linspace(0, 1, 14)
        reach = 1.1 * s * length * np.sin(lean) + 0.012 * outer
        spine = np.stack(
            [
                reach * np.cos(angle),
                reach * np.sin(angle),
                0.143 + length * s * np.cos(lean * (1 + 0.5 * s)),
            ],
            1,
        )
        width = (0.012 * (1 - s**1.5) + 0.0004)[:, None]
        side = np.array([-np.sin(angle), np.cos(angle), 0])
        fold = -0.001 * np.array([np.cos(angle), np.sin(angle), 0])
        blade = np.stack([spine - width * side, spine + fold, spine + width * side], 1)
        leaves.append(two_sided(surface(blade)))
    return join(leaves)


def bagel(variant: int = 0) -> ObjectModel:
    """A ring of bread with sesame on top; its hole stays open for a finger."""
    crust = [(196, 124, 58), (182, 108, 48), (210, 146, 80)][variant % 3]
    colour = tx.tinted(crust, tx.noise(seed=43), (14, 12, 8))
    v = tx.rise()
    colour[np.cos(2 * np.pi * (v - 0.25)) < -0.1] += (30, 35, 30)
    image, draw = tx.picture(colour)
    random = np.random.default_rng(44)
    for _ in range(500):
        # v = 0.25 is the top of the ring, seeds scatter around it.
        x, y = random.random() * tx.WIDTH, tx.HEIGHT * (1 - random.normal(0.25, 0.09))
        angle = random.random() * np.pi
        draw.line(
            [x, y, x + 9 * np.cos(angle), y + 9 * np.sin(angle)], fill=(245, 228, 180), width=5
        )
    around = np.linspace(0, 2 * np.pi, 15)
    ring = 0.034 * np.stack([np.cos(around), np.sin(around), 0 * around], 1)
    return ObjectModel(
        name="bagel",
        parts=(Part(mesh=torus(0.034, 0.021, squash=0.85), texture=np.asarray(image)),),
        solids=chain(ring, 0.0185),
        mass_kg=0.1,
    )
