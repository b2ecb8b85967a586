"""The lift operator of each view, one view in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lifting.operator import LiftOperator
from lifting.quality import QualityWeights
from lifting.views import (
    LiftView,
    PointLift,
    ViewGeometry,
    see,
    visible_operator,
    with_occlusion,
)
from lifting.visibility import DepthNoise, VisiblePoints, splat_radius
from xmodal.edges.lift.lazy_views import lazy_views
from xmodal.errors import DataError
from xmodal.values import Depth, FeatureMap, Masks, Points, Views


class ViewLift(NamedTuple):
    """What one view gives to a cloud.

    Attributes:
        view: The view with its features.
        seen: The points that it sees.
        taps: Seen points x the view's rows. A row sums to 1, or to 0 where no mask covers it.
    """

    view: LiftView
    seen: VisiblePoints
    taps: LiftOperator


def membership_lift(margin_m: float) -> PointLift:
    """Options by which a point belongs to what covers it, however far or slanted it is seen."""
    return PointLift(
        noise=DepthNoise(margin_m=margin_m),
        quality=QualityWeights(distance_m=None, grazing_power=None, border=None),
    )


def one_scene(cloud: Points, where: str) -> None:
    """Refuse a batch of clouds.

    Raises:
        DataError: If the cloud holds several scenes.
    """
    if cloud.offsets.numel() != 2:
        raise DataError(
            where,
            wanted="the cloud of one scene, which all frames look at",
            got=f"{cloud.offsets.numel() - 1} clouds",
            fix="lift each scene by itself",
        )


def view_lifts(
    maps: Views[FeatureMap] | Views[Masks],
    depth: Views[Depth] | None,
    cloud: Points,
    options: PointLift,
) -> Iterator[ViewLift]:
    """The lift of each view, made when it is asked for.

    Raises:
        DataError: If frames and depth do not match.
        ValueError: If a coordinate is not finite.
    """
    # Room for a single view: each is read once, in order.
    views = lazy_views(maps, depth, budget_bytes=0)
    drawer = Occlusion(cloud, options)
    for index in range(len(views)):
        view = views[index]
        seen = drawer.see(view.geometry)
        yield ViewLift(
            view, seen, visible_operator(view, seen, cloud.xyz, cloud.normals, drawer.options)
        )


class Occlusion:
    """Which points of a cloud a view sees, also without a depth map."""

    def __init__(self, cloud: Points, options: PointLift) -> None:
        self.options = options
        self._cloud = cloud
        self._radius_m: float | None = None

    def see(self, geometry: ViewGeometry) -> VisiblePoints:
        """Points seen by one view; without depth the points hide each other."""
        xyz = self._cloud.xyz
        if geometry.depth_m is None and self._radius_m is None and len(xyz):
            self._radius_m = splat_radius(xyz)
        drawn = with_occlusion(geometry, xyz, self.options, radius_m=self._radius_m)
        return see(drawn, xyz, self.options)
