"""Points on the true surfaces, with exact labels: what a perfect scanner would have seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from scipy.spatial import KDTree

from xmodal.world.meshes import Mesh, Reals
from xmodal.world.models import Part
from xmodal.world.textures import Bytes
from xmodal.world.view import View

Wide = NDArray[np.int64]

# Depth of a pixel centre and depth of a point in that pixel differ by rounding to millimetres plus
# what the surface falls away within the pixel; beyond this the point is hidden.
_DEPTH_SLACK_M = 0.003
_STEEPEST = 6.0  # tangent of the grazing angle beyond which a surface counts as seen edge-on


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfacePoints:
    """Points sampled on surfaces.

    Attributes:
        xyz: World frame, metres.
        normals: Unit, out of the material.
        rgb: Mean colour over the views that see the point.
        owner: Index into the scene's room and objects.
    """

    xyz: Float[Reals, "N 3"]
    normals: Float[Reals, "N 3"]
    rgb: UInt8[Bytes, "N 3"]
    owner: Int[Wide, " N"]


def sample_parts(
    parts: Sequence[Part], *, spacing_m: float, random: np.random.Generator
) -> tuple[Float[Reals, "N 3"], Float[Reals, "N 3"]]:
    """Scatter points and normals over surfaces so that none is closer than `spacing_m` to another.

    Args:
        parts: Surfaces in one frame.
        spacing_m: Least distance between points; the mean one is about a fifth larger.
        random: Source of chance.

    Returns:
        Positions and normals, in the frame of the parts.
    """
    pieces = [_scatter(part.mesh, spacing_m, random) for part in parts]
    xyz = np.concatenate([piece[0] for piece in pieces])
    normals = np.concatenate([piece[1] for piece in pieces])
    keep = thin(xyz, spacing_m, random)
    return xyz[keep], normals[keep]


def thin(
    xyz: Float[Reals, "N 3"], spacing_m: float, random: np.random.Generator
) -> Bool[NDArray[np.bool_], " N"]:
    """Choose a subset with no two points closer than `spacing_m` and no room for another.

    Every point draws a rank; a point that has the lowest rank among its undecided neighbours stays
    and its neighbours go, until all are decided (Luby's maximal independent set).
    """
    rank = random.permutation(len(xyz))
    pairs = KDTree(xyz).query_pairs(spacing_m, output_type="ndarray").astype(np.int64)
    first, second = np.concatenate([pairs, pairs[:, ::-1]]).T
    kept, open_ = np.zeros(len(xyz), bool), np.ones(len(xyz), bool)
    while open_.any():
        best = np.full(len(xyz), len(xyz))
        np.minimum.at(best, first, rank[second])
        chosen = open_ & (rank < best)
        kept |= chosen
        open_ &= ~chosen
        open_[second[chosen[first]]] = False
        live = open_[first] & open_[second]
        first, second = first[live], second[live]
    return kept


def seen_points(
    xyz: Float[Reals, "N 3"],
    normals: Float[Reals, "N 3"],
    owner: Int[Wide, " N"],
    views: Sequence[View],
    K: Float[Reals, "3 3"],
) -> SurfacePoints:
    """Keep the points that at least one view sees, and colour them by those views."""
    total, count = np.zeros((len(xyz), 3)), np.zeros(len(xyz))
    for view in views:
        index, row, column = _visible(xyz, normals, owner, view, K)
        total[index] += view.rgb[row, column]
        count[index] += 1
    seen = count > 0
    rgb = np.round(total[seen] / count[seen, None]).astype(np.uint8)
    return SurfacePoints(xyz=xyz[seen], normals=normals[seen], rgb=rgb, owner=owner[seen])


def _scatter(
    mesh: Mesh, spacing_m: float, random: np.random.Generator
) -> tuple[Float[Reals, "N 3"], Float[Reals, "N 3"]]:
    """Independent points, uniform over the area, dense enough to be thinned to `spacing_m`."""
    corners = mesh.xyz[mesh.faces]
    area = 0.5 * np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    num = int(np.ceil(4 * area.sum() / spacing_m**2))
    face = random.choice(len(area), size=num, p=area / area.sum())
    share = random.random((num, 2))
    share[share.sum(1) > 1] = 1 - share[share.sum(1) > 1]
    weight = np.concatenate([1 - share.sum(1, keepdims=True), share], 1)[..., None]
    normals = (mesh.normals[mesh.faces][face] * weight).sum(1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return (corners[face] * weight).sum(1), normals


def _visible(
    xyz: Float[Reals, "N 3"],
    normals: Float[Reals, "N 3"],
    owner: Int[Wide, " N"],
    view: View,
    K: Float[Reals, "3 3"],
) -> tuple[Int[Wide, " S"], Int[Wide, " S"], Int[Wide, " S"]]:
    """Indices of the points that a view sees, and their pixels (row, column)."""
    rotation, centre = view.T_world_cam[:3, :3], view.T_world_cam[:3, 3]
    local = (xyz - centre) @ rotation
    cosine = -np.einsum("ij,ij->i", normals, xyz - centre) / np.linalg.norm(xyz - centre, axis=1)
    front = np.flatnonzero((local[:, 2] > 0.05) & (cosine > 0))
    z = local[front, 2]
    uv = local[front, :2] / z[:, None] * [K[0, 0], K[1, 1]] + K[:2, 2]
    column, row = np.floor(uv).astype(np.int64).T
    height, width = view.depth_m.shape
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index, row, column, z = front[inside], row[inside], column[inside], z[inside]
    tangent = np.sqrt(1 / np.maximum(cosine[index], 1e-6) ** 2 - 1)
    slack = _DEPTH_SLACK_M + z / K[0, 0] * np.minimum(tangent, _STEEPEST)
    same = (np.abs(view.depth_m[row, column] - z) < slack) & (
        view.owner[row, column] == owner[index]
    )
    return index[same], row[same], column[same]
