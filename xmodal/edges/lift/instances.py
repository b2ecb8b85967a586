"""The op `instances`: cut a cloud into things, without saying what they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from xmodal.edges.lift.settings import check_margin
from xmodal.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from xmodal.values import Depth, Masks, Points, Views


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Give every point the thing that it belongs to: 3D masks without classes.

    With masks, super-points that touch are joined where the masks of the views agree that they are
    one thing. Without, the large planes are taken away and what hangs together in the rest is a
    thing; each plane is one, too.

    Attributes:
        by: `masks`: needs masks of the views; `geometry`: needs points alone.
        threshold: Likeness, from 0 to 1, at which super-points are joined.
        gap_m: Points farther apart do not touch, metres.
        min_points: Smaller things are dropped.
        min_covered: Super-points of which no view's masks cover this share belong to nothing.
        margin_m: How far a point may lie from a depth reading beside the sensor's noise, metres.
        plane_share: With `geometry`, smaller planes, as a share of all points, stay in things.

    Source:
        Yin et al., SAI3D, CVPR 2024; Yang et al., SAM3D, 2023.
    """

    op: Literal["instances"] = "instances"
    by: Literal["masks", "geometry"] = "masks"
    threshold: float = 0.5
    gap_m: float = 0.05
    min_points: int = 30
    min_covered: float = 0.1
    margin_m: float = 0.03
    plane_share: float = 0.05

    gives_rows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_margin(self.margin_m, self.min_points)
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], not {self.threshold}")
        if not 0 <= self.min_covered <= 1:
            raise ValueError(f"min_covered must lie in [0, 1], not {self.min_covered}")
        if not 0 < self.plane_share <= 1:
            raise ValueError(f"plane_share must lie in (0, 1], not {self.plane_share}")
        if not 0 < self.gap_m < float("inf"):
            raise ValueError(f"gap_m must be above 0 metres, not {self.gap_m}")

    def __call__(
        self, maps: Views[Masks] | None, depth: Views[Depth] | None, cloud: Points
    ) -> Points:
        """The cloud with `segments`: a thing for each point, -1 for none, the largest first.

        Args:
            maps: Masks of every frame; taken one at a time. Not read with `by: geometry`.
            depth: Depth of the same frames, or None: then the points hide each other.
            cloud: The points of one scene. If they have `segments`, those are joined, else
                super-points are made.

        Raises:
            DataError: If there are no masks to go by, frames and depth do not match, or the cloud
                holds several scenes or a coordinate that is not finite.
        """
        from xmodal.edges.lift.view_lifts import one_scene

        one_scene(cloud, "lift to instances")
        try:
            if self.by == "geometry":
                segments = self._by_geometry(cloud)
            else:
                segments = self._by_masks(maps, depth, cloud)
        except ValueError as error:
            raise DataError(
                "lift to instances",
                wanted="a cloud of finite points",
                got=str(error),
                fix="drop such points before lifting",
            ) from error
        return replace(cloud, segments=segments)

    def _by_geometry(self, cloud: Points) -> Tensor:
        from lifting.planes import plane_free_segments

        return plane_free_segments(
            cloud.xyz,
            cloud.normals,
            plane_share=self.plane_share,
            gap_m=self.gap_m,
            min_points=self.min_points,
        )

    def _by_masks(
        self, maps: Views[Masks] | None, depth: Views[Depth] | None, cloud: Points
    ) -> Tensor:
        from lifting.instances import MaskAgreement, grow_regions, number_by_size, touching_segments
        from lifting.points import segment_operator
        from lifting.superpoints import superpoints
        from lifting.views import spread_rows
        from xmodal.edges.lift.view_lifts import membership_lift, view_lifts

        if maps is None:
            raise DataError(
                "lift to instances",
                wanted="masks of the views, for by: masks",
                got="no node of masks among the sources",
                fix="add the node that a mask teacher makes, or set by: geometry",
            )
        ids = cloud.segments
        if ids is None:
            ids = superpoints(cloud.xyz, cloud.normals, cloud.rgb)
        ids = ids.long()
        pairs = touching_segments(cloud.xyz, ids, gap_m=self.gap_m)
        agreement = MaskAgreement(segments=segment_operator(ids), pairs=pairs)
        for _, seen, taps in view_lifts(maps, depth, cloud, membership_lift(self.margin_m)):
            agreement.add(spread_rows(taps, seen.index, len(ids)), seen.index)
        region = grow_regions(
            pairs,
            agreement.likeness,
            agreement.evidence,
            num_segments=agreement.segments.num_targets,
            threshold=self.threshold,
        )
        region = region.where(agreement.covered >= self.min_covered, -1)
        label = ids.new_full(ids.shape, -1)
        label[ids >= 0] = region[ids[ids >= 0]]
        return number_by_size(label, min_points=self.min_points)
