"""What an object is: textured parts that are seen, and convex solids that collide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

from xmodal.world.meshes import Mesh, Number, Reals, Triple, Vector
from xmodal.world.textures import Bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A textured surface.

    Attributes:
        mesh: Its shape.
        texture: Its colour.
        shine: How much of a highlight it shows, in [0, 1].
        glow: Light it gives off by itself, as a share of its colour.
    """

    mesh: Mesh
    texture: UInt8[Bytes, "H W 3"]
    shine: float = 0.25
    glow: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Ball:
    """A solid sphere."""

    radius_m: float
    centre: Triple = (0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Capsule:
    """A solid rod with round ends, from `start` to `end`."""

    start: Triple
    end: Triple
    radius_m: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Hull:
    """The convex hull of some points."""

    xyz: Float[Reals, "P 3"]


Solid: TypeAlias = Ball | Capsule | Hull


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectModel:
    """One object in its own frame (z up, metres).

    Attributes:
        name: The word for it, as a person would type it.
        parts: What the cameras see.
        solids: What collides. Several, so that the hole of a bagel and the handle of a mug stay
            open: one hull would close them.
        mass_kg: Mass, spread over the solids by volume.
        rolls: Whether it could roll off the table, and needs rolling friction.
    """

    name: str
    parts: tuple[Part, ...]
    solids: tuple[Solid, ...]
    mass_kg: Number
    rolls: bool = False

    def xyz(self) -> Float[Reals, "V 3"]:
        """All vertices of all parts."""
        return np.concatenate([part.mesh.xyz for part in self.parts])

    def scaled(self, factor: float) -> ObjectModel:
        """Scale size by `factor` and mass by its cube."""
        return ObjectModel(
            name=self.name,
            parts=tuple(replace(part, mesh=part.mesh.scaled(factor)) for part in self.parts),
            solids=tuple(_scaled(solid, factor) for solid in self.solids),
            mass_kg=self.mass_kg * factor**3,
            rolls=self.rolls,
        )


def chain(path: Float[Reals, "P 3"], radius_m: Number | Float[Reals, " P"]) -> tuple[Capsule, ...]:
    """Capsules along a path, for handles and bananas."""
    radii = np.broadcast_to(np.asarray(radius_m, float), (len(path),))
    return tuple(
        Capsule(start=_triple(a), end=_triple(b), radius_m=float((r + s) / 2))
        for a, b, r, s in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True)
    )


def ring_of_hulls(outline: Sequence[tuple[Number, Number]], *, count: int = 12) -> tuple[Hull, ...]:
    """Cut a hollow body of revolution into convex sectors.

    Args:
        outline: (radius, height) corners of a convex cross-section of the wall.
        count: Number of sectors.
    """
    cross: Reals = np.asarray(outline, float)
    hulls: list[Hull] = []
    for k in range(count):
        ends = np.array([k, k + 1]) * 2 * np.pi / count
        spoke = np.stack([np.cos(ends), np.sin(ends)], 1)
        xy = cross[:, None, :1] * spoke[None]
        z = np.repeat(cross[:, None, 1:], 2, axis=1)
        hulls.append(Hull(xyz=np.concatenate([xy, z], -1).reshape(-1, 3)))
    return tuple(hulls)


def turned_hull(outline: Float[Reals, "P 2"] | Sequence[Vector], *, sides: int = 20) -> Hull:
    """Hull of a profile of (radius, height) turned around the z axis."""
    profile: Reals = np.asarray(outline, float)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    xy = profile[:, None, :1] * np.stack([np.cos(angle), np.sin(angle)], 1)[None]
    z = np.repeat(profile[:, None, 1:], sides, axis=1)
    return Hull(xyz=np.concatenate([xy, z], -1).reshape(-1, 3))


def _scaled(solid: Solid, factor: float) -> Solid:
    match solid:
        case Ball():
            return Ball(
                radius_m=solid.radius_m * factor, centre=_triple(np.array(solid.centre) * factor)
            )
        case Capsule():
            return Capsule(
                start=_triple(np.array(solid.start) * factor),
                end=_triple(np.array(solid.end) * factor),
                radius_m=solid.radius_m * factor,
            )
        case Hull():
            return Hull(xyz=solid.xyz * factor)


def _triple(vector: Reals) -> Triple:
    return float(vector[0]), float(vector[1]), float(vector[2])
