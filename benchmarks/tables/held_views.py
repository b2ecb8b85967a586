"""Features drawn into views that were never lifted, beside what the teacher says there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lifting.cameras import Camera, pixel_centres, pixel_rays, project, unproject
from lifting.views import ViewGeometry, taps_at
from lifting.visibility import DepthNoise, visible_points
from xmodal.datasets import Scene
from xmodal.edges.lift.held_out import left_out
from xmodal.edges.lift.lazy_views import lift_view
from xmodal.errors import DataError
from xmodal.runs.evaluate.features import JudgedPatches, drawn_view, judged_patches, patch_scores
from xmodal.runs.opened import OpenedRun
from xmodal.store import Features
from xmodal.teachers.cache import CachedViews
from xmodal.values import Depth, FeatureMap

CONSTANT = "constant: the teacher's mean"
NEAREST = "nearest lifted view: as it is"
WARPED = "nearest lifted view: warped by depth"
BASELINES = (CONSTANT, NEAREST, WARPED)
# Error of the poses of both views, metres.
_MARGIN_M = 0.05
# Longest side of drawings: that of the lifts.
_SIDE_PX = 240


def judge(opened: OpenedRun, stores: Mapping[str, Features], every: int) -> dict[str, Any]:
    """Mean cosine over the patches of each held-out view, of stores and of what takes no lift.

    Args:
        opened: A run over splats with its pictures.
        stores: Rows of its splats, by name.
        every: Every so-manyth view was left out.

    Raises:
        DataError: If stores are of other splats.
    """
    assert opened.splats is not None, "a run over splats"
    num = len(opened.splats)
    if wrong := [name for name, store in stores.items() if store.info.num_points != num]:
        raise DataError(
            f"features {', '.join(wrong)}",
            wanted=f"rows of {num} splats",
            got=", ".join(str(stores[name].info.num_points) for name in wrong),
            fix="remove the folder splat_fields under the work folder, and its jobs",
        )
    scene: Scene = opened.scene
    tested = left_out(scene.images.names, every)
    lifted = sorted(set(range(len(scene.images))) - set(tested))
    said: Any = CachedViews(scene.images, opened.teacher, opened.cache)
    constant = torch.stack([said[index].rows.float().mean(0) for index in lifted]).mean(0)
    found: dict[str, list[float]] = {name: [] for name in (*BASELINES, *stores)}
    for index in tested:
        here = said[index]
        patches = judged_patches(drawn_view(opened.splats, here, _SIDE_PX), stores)
        other = lifted[nearest(here.camera, [scene.images.cameras[i] for i in lifted])]
        near, depths = said[other], (scene.depth(index), scene.depth(other))
        rows = {
            CONSTANT: constant.expand(len(here.rows), -1),
            NEAREST: near.rows.float(),
            WARPED: warped(here, near, depths, constant),
        }
        for name, given in rows.items():
            found[name].append(cosine(patches, given))
        for name, score in patch_scores(patches, stores).items():
            found[name].append(score.cosine)
    return {
        "cosines": found,
        "lifted": len(lifted),
        "held_out": len(tested),
        "splats": num,
    }


def cosine(patches: JudgedPatches, rows: Float[Tensor, "P C"]) -> float:
    """Mean cosine of rows of all patches of a view to the teacher's, over those that are judged."""
    given = rows[patches.sets.kept]
    each = torch.cosine_similarity(patches.target, given, dim=1)
    return float(each[patches.judged].mean())


def nearest(camera: Camera, others: Sequence[Camera]) -> int:
    """Which of other views is nearest: metres between centres plus radians between directions."""
    apart: list[float] = []
    for other in others:
        metres = float((camera.centre - other.centre).norm())
        turn = camera.T_world_cam[:3, :3].T @ other.T_world_cam[:3, :3]
        apart.append(metres + float(((turn.trace() - 1) / 2).clamp(-1, 1).arccos()))
    return min(range(len(apart)), key=apart.__getitem__)


def warped(
    here: FeatureMap,
    near: FeatureMap,
    depths: tuple[Depth | None, Depth | None],
    constant: Float[Tensor, " C"],
) -> Float[Tensor, "P C"]:
    """What another view's map says of the places that the middles of a view's patches show.

    Args:
        here: Whose patches; its rows are not read.
        near: The other view.
        depths: Depth of both.
        constant: For patches without depth, or of which the other view does not see the middle.
    """
    rows = constant.repeat(len(here.rows), 1)
    depth, hidden_by = depths
    if depth is None or hidden_by is None:
        return rows
    scale = torch.tensor([here.camera.hw[1] / here.grid_hw[1], here.camera.hw[0] / here.grid_hw[0]])
    uv = pixel_centres(here.grid_hw) * scale
    rays, valid = pixel_rays(uv, here.camera)
    place = project(here.camera.centre + rays, depth.camera)
    patch = (valid & place.in_image).nonzero().squeeze(1)
    column, row = place.uv[patch].long().unbind(1)
    reading = depth.depth_m[row, column]
    patch, reading = patch[reading > 0], reading[reading > 0]
    seen = visible_points(
        unproject(uv[patch], reading, here.camera),
        near.camera,
        depth_m=hidden_by.depth_m,
        depth_camera=hidden_by.camera,
        noise=DepthNoise(margin_m=_MARGIN_M),
    )
    view = lift_view(near, ViewGeometry(camera=near.camera))
    rows[patch[seen.index]] = taps_at(view, seen.uv).apply(view.rows.float())
    return rows
