"""Lifting: from posed 2D observations to 3D representations. Tensors in, tensors out.

`lifting.superpoints.superpoints` is not repeated here: a function must not hide its own module.
"""

from lifting.backends import BackendUnavailableError, resolve_backend
from lifting.cameras import (
    Camera,
    Projection,
    pixel_centres,
    pixel_rays,
    project,
    scale_camera,
    unproject,
    unproject_depth,
)
from lifting.completion import Completion, complete_knn
from lifting.moments import Lifted, Moments
from lifting.operator import LiftOperator
from lifting.points import Voxels, estimate_normals, segment_operator, voxelize
from lifting.quality import QualityWeights, view_quality
from lifting.robust import RobustLift
from lifting.sampling import membership_taps, patch_taps
from lifting.scatter import SegmentMax, scatter_mean, scatter_sum, segment_max
from lifting.schedules import add_view, lift_by_block, lift_by_view
from lifting.steps import complete, shrink, smooth, smoothing_operator
from lifting.views import LiftView, LruViews, PointLift, ViewGeometry, ViewSet, view_operator
from lifting.visibility import (
    DepthNoise,
    VisiblePoints,
    ZBuffer,
    depth_visibility,
    splat_radius,
    visible_points,
    zbuffer,
)

__all__ = [
    "BackendUnavailableError",
    "Camera",
    "Completion",
    "DepthNoise",
    "LiftOperator",
    "LiftView",
    "Lifted",
    "LruViews",
    "Moments",
    "PointLift",
    "Projection",
    "QualityWeights",
    "RobustLift",
    "SegmentMax",
    "ViewGeometry",
    "ViewSet",
    "VisiblePoints",
    "Voxels",
    "ZBuffer",
    "add_view",
    "complete",
    "complete_knn",
    "depth_visibility",
    "estimate_normals",
    "lift_by_block",
    "lift_by_view",
    "membership_taps",
    "patch_taps",
    "pixel_centres",
    "pixel_rays",
    "project",
    "resolve_backend",
    "scale_camera",
    "scatter_mean",
    "scatter_sum",
    "segment_max",
    "segment_operator",
    "shrink",
    "smooth",
    "smoothing_operator",
    "splat_radius",
    "unproject",
    "unproject_depth",
    "view_operator",
    "view_quality",
    "visible_points",
    "voxelize",
    "zbuffer",
]
