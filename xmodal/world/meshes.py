"""Triangle meshes made by formula: surfaces of revolution, tubes, displaced spheres, boxes.

Everything is metres, z up, and triangles wind so that normals point out of the material. A closed
surface therefore has a positive signed volume, which the tests use to catch a flipped one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

Reals: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
# The run-time checker takes no whole number for a float, and literal shapes are full of zeros.
Number: TypeAlias = float | int
Vector: TypeAlias = Sequence[Number]
Triple: TypeAlias = tuple[Number, Number, Number]

# Vertices closer than this (in metres) are one corner when normals are averaged: the seam of a
# lathe repeats its first column for the texture, and its pole is a whole row of equal vertices.
_WELD_M = 1e-6
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """Vertices, triangles, texture coordinates and shading normals.

    Attributes:
        xyz: Vertex positions, metres.
        faces: Vertex indices, counter-clockwise seen from outside.
        uv: Texture coordinates; (0, 0) is the lower left corner of the texture image.
        normals: Unit vertex normals used for shading and for sampled points.
    """

    xyz: Float[Reals, "V 3"]
    faces: Int[Ints, "F 3"]
    uv: Float[Reals, "V 2"]
    normals: Float[Reals, "V 3"]

    def moved(
        self, *, rotation: Float[Reals, "3 3"] | None = None, offset: Vector = (0, 0, 0)
    ) -> Mesh:
        """Rotate, then translate."""
        turn = np.eye(3) if rotation is None else rotation
        return replace(
            self, xyz=self.xyz @ turn.T + np.asarray(offset, float), normals=self.normals @ turn.T
        )

    def scaled(self, factor: float) -> Mesh:
        """Scale about the origin; texture coordinates stay."""
        return replace(self, xyz=self.xyz * factor)


def make_mesh(
    xyz: Float[Reals, "V 3"],
    faces: Int[Ints, "F 3"],
    uv: Float[Reals, "V 2"],
    *,
    flat: bool = False,
) -> Mesh:
    """Build a mesh with its normals.

    Args:
        xyz: Vertex positions.
        faces: Triangles.
        uv: Texture coordinates.
        flat: Give every triangle its own corners and normal (edges stay sharp) in place of
            averaging the normals of the triangles that meet at a vertex.

    Returns:
        The mesh; triangles without area (at poles) are dropped.
    """
    corners = xyz[faces]
    area_normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    keep = np.linalg.norm(area_normal, axis=1) > _TINY
    faces, area_normal = faces[keep], area_normal[keep]
    if flat:
        normals = np.repeat(_unit(area_normal), 3, axis=0)
        index = faces.ravel()
        return Mesh(
            xyz=xyz[index], faces=np.arange(len(index)).reshape(-1, 3), uv=uv[index],
            normals=normals,
        )  # fmt: skip
    _, weld = np.unique(np.round(xyz / _WELD_M).astype(np.int64), axis=0, return_inverse=True)
    weld = weld.reshape(-1)
    total = np.zeros((int(weld.max()) + 1, 3))
    for corner in range(3):
        np.add.at(total, weld[faces[:, corner]], area_normal)
    return Mesh(xyz=xyz, faces=faces, uv=uv, normals=_unit(total)[weld])


def surface(grid_xyz: Float[Reals, "H W 3"], *, flip: bool = False, flat: bool = False) -> Mesh:
    """Triangulate a grid of points; the texture covers it once (u along W, v along H)."""
    rows, columns = grid_xyz.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b = index[:-1, :-1].ravel(), index[:-1, 1:].ravel()
    c, d = index[1:, :-1].ravel(), index[1:, 1:].ravel()
    faces = np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])
    v, u = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    uv = np.stack([u.ravel(), v.ravel()], 1)
    return make_mesh(grid_xyz.reshape(-1, 3), faces[:, ::-1] if flip else faces, uv, flat=flat)


def spline(points: Sequence[Vector], num: int) -> Float[Reals, "num D"]:
    """Resample a polyline evenly and round its corners; the end points stay where they are."""
    knots = np.asarray(points, float)
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))]
    at = np.linspace(0, length[-1], num)
    curve = np.stack([np.interp(at, length, column) for column in knots.T], 1)
    for _ in range(2):  # two passes of a 5-tap box: close to a quadratic spline
        padded = np.pad(curve, ((2, 2), (0, 0)), mode="edge")
        smooth = np.mean([padded[shift : shift + num] for shift in range(5)], axis=0)
        smooth[0], smooth[-1] = curve[0], curve[-1]
        curve = smooth
    return curve


def lathe(
    profile: Float[Reals, "P 2"] | Sequence[Vector],
    *,
    sides: int = 64,
    ripple: Callable[[Reals, Reals], Reals] | None = None,
    flat: bool = False,
) -> Mesh:
    """Turn a profile of (radius, height) around the z axis.

    Args:
        profile: Runs so that the material lies on the axis side going up: bottom to top outside.
        sides: Number of segments around.
        ripple: Factor on the radius, given angle (radians) and height (metres).
        flat: Keep the edges sharp.
    """
    outline: Reals = np.asarray(profile, float)
    angle = np.linspace(0, 2 * np.pi, sides + 1)[None, :]
    height = np.repeat(outline[:, 1:], sides + 1, axis=1)
    radius = np.repeat(outline[:, :1], sides + 1, axis=1)
    if ripple is not None:
        radius = radius * ripple(angle, height)
    grid = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], -1)
    return surface(grid, flat=flat)


def tube(
    path: Float[Reals, "P 3"],
    radius: Number | Float[Reals, " P"],
    *,
    sides: int = 20,
    section: Callable[[Reals], Reals] | None = None,
) -> Mesh:
    """Sweep a round section along a path in a plane that contains no run along the y axis.

    Args:
        path: Centre line.
        radius: One radius, or one for each point of the path.
        sides: Number of segments around.
        section: Factor on the radius by angle, for ridged sections.
    """
    along = _unit(np.gradient(path, axis=0))
    side = _unit(np.cross(along, [0.0, 1.0, 0.0]))
    up = np.cross(side, along)
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    shape = np.ones_like(angle) if section is None else section(angle)
    reach = np.broadcast_to(np.asarray(radius, float), (len(path),))[:, None, None]
    ring = np.cos(angle)[:, None] * up[:, None] + np.sin(angle)[:, None] * side[:, None]
    return surface(path[:, None] + reach * shape[:, None] * ring)


def sphere(
    radius_m: float,
    *,
    rows: int = 48,
    columns: int = 96,
    displace: Callable[[Reals], Reals] | None = None,
) -> Mesh:
    """Make a globe whose texture is an equirectangular map.

    Args:
        radius_m: Radius.
        rows: Parallels.
        columns: Meridians.
        displace: Relative change of the radius, given unit directions [..., 3].
    """
    out = directions(
        np.linspace(-np.pi / 2, np.pi / 2, rows), np.linspace(0, 2 * np.pi, columns + 1)
    )
    out[:, -1] = out[:, 0]
    scale = np.ones(out.shape[:2]) if displace is None else 1 + displace(out)
    return surface(radius_m * scale[..., None] * out)


def directions(
    latitude: Float[Reals, " H"], longitude: Float[Reals, " W"]
) -> Float[Reals, "H W 3"]:
    """Unit vectors of a grid of latitudes and longitudes, radians."""
    out = np.empty((len(latitude), len(longitude), 3))
    out[..., 0] = np.outer(np.cos(latitude), np.cos(longitude))
    out[..., 1] = np.outer(np.cos(latitude), np.sin(longitude))
    out[..., 2] = np.sin(latitude)[:, None]
    return out


def torus(radius_m: float, tube_m: float, *, squash: float = 1.0) -> Mesh:
    """Make a ring lying flat; `squash` scales its height."""
    around: Reals = np.linspace(0, 2 * np.pi, 97)[None, :]
    across: Reals = np.linspace(0, 2 * np.pi, 41)[:, None]
    reach = radius_m + tube_m * np.cos(across)
    height = np.repeat(squash * tube_m * np.sin(across), 97, axis=1)
    return surface(np.stack([reach * np.cos(around), reach * np.sin(around), height], -1))


def panel(
    corner: Vector,
    along: Vector,
    across: Vector,
    *,
    step_m: float,
    tile_m: float = 1.0,
) -> Mesh:
    """Tile a rectangle; its normal is `along` x `across`.

    Args:
        corner: One corner.
        along: Edge vector from the corner.
        across: The other edge vector.
        step_m: Largest side of a triangle pair. The renderer lights vertices, so a big face needs
            many of them for light to fall off across it.
        tile_m: Size of one repeat of the texture.
    """
    start, u, v = (np.asarray(part, float) for part in (corner, along, across))
    size_u, size_v = float(np.linalg.norm(u)), float(np.linalg.norm(v))
    s = np.linspace(0, 1, max(2, round(size_u / step_m) + 1))
    t = np.linspace(0, 1, max(2, round(size_v / step_m) + 1))
    mesh = surface(start + t[:, None, None] * v + s[None, :, None] * u)
    return replace(mesh, uv=mesh.uv * np.array([size_u, size_v]) / tile_m)


def box(
    size: Vector,
    *,
    centre: Vector = (0, 0, 0),
    step_m: float = 1.0,
    tile_m: float = 1.0,
) -> Mesh:
    """Make a closed box of panels, with sharp edges."""
    half = np.asarray(size, float) / 2
    x, y, z = np.eye(3)
    faces: list[Mesh] = []
    # Textures stand upright on the sides: v runs along z.
    for normal, right, up in ((x, y, z), (y, -x, z), (z, x, y)):
        for sign in (1.0, -1.0):
            corner = np.asarray(centre, float) + half * (sign * (normal - right) - up)
            edges = (2 * half * sign * right).tolist(), (2 * half * up).tolist()
            faces.append(panel(corner.tolist(), *edges, step_m=step_m, tile_m=tile_m))
    return join(faces)


def join(meshes: Sequence[Mesh]) -> Mesh:
    """Put meshes side by side into one; shared vertices are not merged."""
    starts = np.cumsum([0, *(len(mesh.xyz) for mesh in meshes[:-1])])
    return Mesh(
        xyz=np.concatenate([mesh.xyz for mesh in meshes]),
        faces=np.concatenate([mesh.faces + s for mesh, s in zip(meshes, starts, strict=True)]),
        uv=np.concatenate([mesh.uv for mesh in meshes]),
        normals=np.concatenate([mesh.normals for mesh in meshes]),
    )


def two_sided(mesh: Mesh) -> Mesh:
    """Add the back of a sheet (a leaf, a lamp shade), seen from the other side."""
    back = replace(mesh, faces=mesh.faces[:, ::-1], normals=-mesh.normals)
    return join([mesh, back])


def signed_volume(mesh: Mesh) -> float:
    """Volume enclosed by a closed mesh, cubic metres; negative when it is inside out."""
    a, b, c = (mesh.xyz[mesh.faces[:, corner]] for corner in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def rotation_about(axis: str, angle_rad: float) -> Float[Reals, "3 3"]:
    """Rotation matrix about the `x`, `y` or `z` axis, right-handed."""
    first = {"x": 1, "y": 2, "z": 0}[axis]
    second = (first + 1) % 3
    turn = np.eye(3)
    turn[first, first] = turn[second, second] = np.cos(angle_rad)
    turn[second, first], turn[first, second] = np.sin(angle_rad), -np.sin(angle_rad)
    return turn


def _unit(vectors: Reals) -> Reals:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _TINY)
