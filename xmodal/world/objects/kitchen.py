"""Vessels: hollow ones collide as sectors of their wall, so that they can be reached into."""

from __future__ import annotations

import numpy as np

from xmodal.world import textures as tx
from xmodal.world.meshes import lathe, spline, tube
from xmodal.world.models import ObjectModel, Part, chain, ring_of_hulls, turned_hull

_PORCELAIN = (242.0, 242.0, 240.0)
_BLUE = (46.0, 78.0, 164.0)


def coffee_mug(variant: int = 0) -> ObjectModel:
    """A white mug with a coloured band, coffee in it and an open handle."""
    wall = spline(
        [
            (0.0001, 0.004), (0.032, 0.004), (0.040, 0.008), (0.043, 0.02), (0.044, 0.06),
            (0.044, 0.095), (0.0425, 0.0965), (0.041, 0.095), (0.0405, 0.02), (0.037, 0.010),
            (0.0001, 0.009),
        ],
        120,
    )  # fmt: skip
    grip = spline(
        [
            (0.041, 0, 0.08), (0.058, 0, 0.083), (0.071, 0, 0.07), (0.072, 0, 0.045),
            (0.061, 0, 0.03), (0.041, 0, 0.024),
        ],
        50,
    )  # fmt: skip
    white = (240, 238, 232)
    paint = [(58, 106, 178), (190, 48, 46), (52, 128, 92)][variant % 3]
    v = tx.rise()
    glaze = np.tile(np.array(white, float), (*v.shape, 1))
    glaze[(v > 0.24) & (v < 0.34)] = paint
    coffee = lathe([(0.0405, 0.088), (0.0001, 0.088)], sides=48)
    model = ObjectModel(
        name="coffee mug",
        parts=(
            Part(mesh=lathe(wall, sides=72), texture=tx.finish(glaze), shine=0.4),
            Part(mesh=tube(grip, 0.006, sides=16), texture=tx.plain(white), shine=0.4),
            Part(mesh=coffee, texture=tx.plain((62, 36, 20)), shine=0.4),
        ),
        solids=(
            *ring_of_hulls([(0.037, 0.004), (0.044, 0.02), (0.044, 0.096), (0.040, 0.096)]),
            turned_hull([(0.039, 0.004), (0.041, 0.012)]),
            *chain(grip[::7], 0.006),
        ),
        mass_kg=0.3,
    )
    return model.scaled(1.1)


def teapot(variant: int = 0) -> ObjectModel:
    """A round white pot with a blue pattern, a lid, a spout and an open handle."""
    body = spline(
        [
            (0.0001, 0.0), (0.045, 0), (0.06, 0.012), (0.075, 0.04), (0.075, 0.06), (0.06, 0.09),
            (0.04, 0.1), (0.036, 0.1), (0.0001, 0.1),
        ],
        120,
    )  # fmt: skip
    lid = spline(
        [
            (0.042, 0.1), (0.04, 0.106), (0.02, 0.115), (0.008, 0.118), (0.006, 0.122),
            (0.012, 0.128), (0.011, 0.136), (0.0001, 0.139),
        ],
        60,
    )  # fmt: skip
    spout = spline(
        [
            (0.06, 0, 0.035), (0.095, 0, 0.045), (0.11, 0, 0.075), (0.125, 0, 0.105),
            (0.135, 0, 0.11),
        ],
        40,
    )  # fmt: skip
    grip = spline(
        [
            (-0.06, 0, 0.09), (-0.09, 0, 0.1), (-0.115, 0, 0.085), (-0.115, 0, 0.055),
            (-0.095, 0, 0.035), (-0.068, 0, 0.03),
        ],
        50,
    )  # fmt: skip
    bore = np.linspace(0.02, 0.008, 40)
    ink = [_BLUE, (150.0, 50.0, 60.0), (60.0, 120.0, 80.0)][variant % 3]
    v = tx.rise()
    glaze = np.tile(np.array(_PORCELAIN), (*v.shape, 1))
    glaze[(tx.noise((16, 32), seed=51) > 0.9) & (v > 0.35) & (v < 0.75)] = ink
    glaze[((v > 0.32) & (v < 0.335)) | ((v > 0.77) & (v < 0.785))] = ink
    white = tx.plain(_PORCELAIN)
    parts = (
        Part(mesh=lathe(body, sides=96), texture=tx.finish(glaze), shine=0.5),
        Part(mesh=lathe(lid, sides=72), texture=white, shine=0.5),
        Part(mesh=tube(spout, bore, sides=20), texture=white, shine=0.5),
        Part(mesh=tube(grip, 0.007, sides=16), texture=white, shine=0.5),
    )
    solids = (
        turned_hull(body[::8]), turned_hull(lid[::6]), *chain(spout[::8], bore[::8]),
        *chain(grip[::7], 0.007),
    )  # fmt: skip
    model = ObjectModel(name="teapot", parts=parts, solids=solids, mass_kg=1.0)
    return model.scaled(0.85)


def wine_bottle(variant: int = 0) -> ObjectModel:
    """Dark green glass, a paper label and a red capsule."""
    wall = spline(
        [
            (0.0001, 0.0), (0.034, 0), (0.0375, 0.006), (0.0375, 0.16), (0.037, 0.19),
            (0.03, 0.215), (0.017, 0.235), (0.014, 0.25), (0.0135, 0.29), (0.0155, 0.291),
            (0.0155, 0.3), (0.0135, 0.302), (0.0001, 0.302),
        ],
        200,
    )  # fmt: skip
    glass = [(24, 42, 24), (52, 34, 18), (20, 30, 40)][variant % 3]
    foil = [(118, 16, 28), (30, 30, 34), (160, 130, 50)][variant % 3]
    width, height = tx.WIDTH, tx.HEIGHT
    image, draw = tx.picture(np.tile(np.array(glass, float), (height, width, 1)))
    draw.rectangle([60, height * 0.52, width - 330, height * 0.80], fill=(240, 232, 208))
    draw.rectangle([0, 0, width, int(height * 0.20)], fill=foil)
    draw.text((200, height * 0.56), "CHATEAU", fill=(92, 20, 26), font=tx.font(60))
    draw.text((230, height * 0.70), "Bordeaux 2019", fill=(60, 50, 40), font=tx.font(40))
    return ObjectModel(
        name="wine bottle",
        parts=(Part(mesh=lathe(wall), texture=np.asarray(image), shine=0.5),),
        solids=(
            turned_hull(
                [(0.034, 0), (0.0375, 0.006), (0.0375, 0.17), (0.03, 0.215), (0.017, 0.235)]
            ),
            turned_hull([(0.017, 0.235), (0.0155, 0.302)], sides=12),
        ),
        mass_kg=1.2,
    )  # fmt: skip


def bucket(variant: int = 0) -> ObjectModel:
    """An open pail with its handle up."""
    wall = [
        (0.0001, 0.003), (0.06, 0.003), (0.085, 0.16), (0.09, 0.162), (0.09, 0.168),
        (0.083, 0.166), (0.058, 0.006), (0.0001, 0.006),
    ]  # fmt: skip
    a = np.linspace(0, np.pi, 40)
    grip = np.stack([0.088 * np.cos(a), -0.03 * np.sin(a), 0.16 + 0.085 * np.sin(a)], 1)
    paint = [(200, 34, 38), (44, 92, 190), (238, 190, 46)][variant % 3]
    model = ObjectModel(
        name="bucket",
        parts=(
            Part(mesh=lathe(spline(wall, 140)), texture=tx.plain(paint), shine=0.3),
            Part(mesh=tube(grip, 0.003, sides=10), texture=tx.plain((160, 160, 165)), shine=0.5),
        ),
        solids=(
            *ring_of_hulls([(0.057, 0.003), (0.061, 0.003), (0.09, 0.166), (0.082, 0.166)]),
            turned_hull([(0.06, 0.003), (0.061, 0.008)]),
            *chain(grip[::3], 0.003),
        ),
        mass_kg=0.4,
    )
    return model.scaled(0.8)


def vase(variant: int = 0) -> ObjectModel:
    """White porcelain with blue clouds, a narrow neck and a flared lip."""
    wall = spline(
        [
            (0.0001, 0), (0.035, 0), (0.04, 0.01), (0.065, 0.07), (0.068, 0.1), (0.05, 0.15),
            (0.025, 0.18), (0.024, 0.2), (0.038, 0.22), (0.036, 0.221), (0.022, 0.2),
            (0.022, 0.18), (0.0001, 0.17),
        ],
        150,
    )  # fmt: skip
    ink = [_BLUE, (176.0, 60.0, 50.0), (40.0, 110.0, 100.0)][variant % 3]
    v = tx.rise()
    glaze = np.tile(np.array(_PORCELAIN), (*v.shape, 1))
    glaze[(tx.noise((16, 32), seed=52) > 0.7) & (v > 0.2) & (v < 0.8)] = ink
    belly = [(0.035, 0), (0.04, 0.01), (0.065, 0.07), (0.068, 0.1), (0.05, 0.15), (0.025, 0.18)]
    return ObjectModel(
        name="vase",
        parts=(Part(mesh=lathe(wall, sides=80), texture=tx.finish(glaze), shine=0.5),),
        solids=(
            turned_hull(belly),
            turned_hull([(0.025, 0.18), (0.024, 0.2)], sides=12),
            *ring_of_hulls([(0.022, 0.2), (0.024, 0.2), (0.038, 0.221), (0.036, 0.221)], count=10),
        ),
        mass_kg=0.8,
    )
