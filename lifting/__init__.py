"""Lifting: from posed 2D observations to 3D representations. Tensors in, tensors out."""

from lifting.cameras import Camera
from lifting.moments import Lifted, Moments
from lifting.operator import LiftOperator
from lifting.robust import RobustLift
from lifting.schedules import add_view, lift_by_block, lift_by_view
from lifting.views import LiftView, LruViews, PointLift, ViewGeometry, ViewSet, view_operator

__all__ = [
    "Camera",
    "LiftOperator",
    "LiftView",
    "Lifted",
    "LruViews",
    "Moments",
    "PointLift",
    "RobustLift",
    "ViewGeometry",
    "ViewSet",
    "add_view",
    "lift_by_block",
    "lift_by_view",
    "view_operator",
]
