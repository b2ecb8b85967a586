"""Values of a graph as the views that `lifting` reads, one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifting.views import LiftView, LruViews, ViewGeometry
from xmodal.errors import DataError
from xmodal.values import Depth, FeatureMap, Masks, Views

if TYPE_CHECKING:
    from lifting.cameras import Camera

# Depth maps and teacher rows kept in memory between blocks of points: 400 frames of VGA depth.
_BUDGET_BYTES = 512 << 20
_COLOUR_ONLY = "a frame without depth"


def lift_view(features: FeatureMap | Masks, geometry: ViewGeometry) -> LiftView:
    """One view as `lifting` reads it.

    Args:
        features: What the teacher gives. Rows that it calls invalid weigh nothing.
        geometry: The view's depth, if it has any, and that frame's name.

    Raises:
        DataError: If features and depth belong to different frames, or the parts of the features
            do not fit together.
    """
    if geometry.depth_m is not None and geometry.name != features.name:
        raise DataError(
            f"frame {features.name}",
            wanted="depth of the same frame",
            got=f"depth of frame {geometry.name}",
            fix="give both sensors the same frames in the same order",
        )
    try:
        return LiftView(
            camera=features.camera,
            rows=features.rows,
            grid_hw=features.grid_hw,
            membership=features.membership if isinstance(features, Masks) else None,
            row_weight=features.weight * features.valid,
            depth_m=geometry.depth_m,
            depth_camera=geometry.depth_camera,
            name=features.name,
        )
    except ValueError as error:
        raise DataError(
            f"frame {features.name}",
            wanted="features of which rows, weights and grid fit together",
            got=str(error),
            fix="compute this frame again: clear it from the teacher cache",
        ) from error


def lazy_views(
    maps: Views[FeatureMap | Masks], depth: Views[Depth] | None, budget_bytes: int = _BUDGET_BYTES
) -> LruViews:
    """All views, made when they are asked for.

    Args:
        maps: What the teacher gives for each frame.
        depth: Depth of the same frames, or None.
        budget_bytes: How much depth and features to keep in memory.

    Raises:
        DataError: If there are no frames, or not one depth map per frame.
    """
    if not len(maps):
        raise DataError(
            "lift to points",
            wanted="at least one frame",
            got="no frames",
            fix="check the scene's folder, or raise --max-frames",
        )
    if depth is not None and len(depth) != len(maps):
        raise DataError(
            "lift to points",
            wanted=f"one depth map for each of {len(maps)} frames",
            got=f"{len(depth)} depth maps",
            fix="give both sensors the same frames, or leave depth away",
        )
    cameras: dict[int, Camera] = {}

    def load(index: int) -> LiftView:
        features = maps[index]
        cameras[index] = features.camera
        return lift_view(features, views.geometry(index))

    def geometry(index: int) -> ViewGeometry:
        # Cameras are a few numbers: remembered, so that features are read only where points are.
        if index not in cameras:
            cameras[index] = maps[index].camera
        reading = None if depth is None else depth[index]
        return ViewGeometry(
            camera=cameras[index],
            depth_m=None if reading is None else reading.depth_m,
            depth_camera=None if reading is None else reading.camera,
            name=_COLOUR_ONLY if reading is None else reading.name,
        )

    views = LruViews(load, geometry, num_views=len(maps), budget_bytes=budget_bytes)
    return views
