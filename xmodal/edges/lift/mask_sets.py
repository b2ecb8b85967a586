"""The op `mask_sets`: what each 2D mask covers in 3D, as sets of points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.lift.settings import check_margin
from xmodal.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from lifting.operator import LiftOperator
    from lifting.views import LiftView
    from xmodal.values import Depth, Masks, Points, PointSets, Views


@dataclass(frozen=True, kw_only=True)
class MaskSets:
    """Make every mask of every view a set of the points that are seen in it.

    Membership is the transpose of the view's lift: where masks overlap, a point belongs to each by
    its share. The row of a set is the teacher's row of the mask. Two views of one thing stay two
    sets, so views may disagree.

    Attributes:
        margin_m: How far a point may lie from a depth reading beside the sensor's noise, metres.
        least_weight: Share of a point that a mask must have for the point to belong to it.
        min_points: Masks that cover fewer points are left out.
        half_points: Number of points at which a set counts half as much as a very large one; 0
            lets all sets count by their mask's weight alone.
    """

    op: Literal["mask_sets"] = "mask_sets"
    margin_m: float = 0.03
    least_weight: float = 0.1
    min_points: int = 20
    half_points: float = 50.0

    def __post_init__(self) -> None:
        check_margin(self.margin_m, self.min_points)
        if not 0 <= self.least_weight <= 1:
            raise ValueError(f"least_weight must lie in [0, 1], not {self.least_weight}")
        if not 0 <= self.half_points < float("inf"):
            raise ValueError(f"half_points must be 0 or more, not {self.half_points}")

    def __call__(self, maps: Views[Masks], depth: Views[Depth] | None, cloud: Points) -> PointSets:
        """Sets of points of the cloud, one for each mask that covers enough of them.

        Args:
            maps: Masks of every frame; taken one at a time.
            depth: Depth of the same frames, or None: then the points hide each other.
            cloud: The points of one scene.

        Raises:
            DataError: If frames and depth do not match, the cloud holds several scenes, or the
                masks of two frames differ in width.
        """
        import torch

        from lifting.point_sets import saturating, sets_of_view, stack_rows
        from xmodal.edges.lift.view_lifts import membership_lift, one_scene, view_lifts
        from xmodal.values import PointSets

        one_scene(cloud, "lift masks to sets of points")
        members: list[LiftOperator] = []
        rows: list[Tensor] = []
        weight: list[Tensor] = []
        for view, seen, taps in view_lifts(maps, depth, cloud, membership_lift(self.margin_m)):
            sets, kept = sets_of_view(
                taps,
                seen.index,
                len(cloud.xyz),
                least_weight=self.least_weight,
                min_points=self.min_points,
            )
            if rows and view.rows.shape[1] != rows[0].shape[1]:
                raise _unlike(view, rows[0].shape[1])
            own = torch.ones(len(view.rows)) if view.row_weight is None else view.row_weight
            members.append(sets)
            rows.append(view.rows[kept])
            weight.append(own[kept] * saturating(sets.crow.diff(), self.half_points))
        found = torch.cat(rows)
        return PointSets(
            rows=found,
            valid=torch.ones(len(found), dtype=torch.bool),
            weight=torch.cat(weight),
            membership=stack_rows(members, num_sources=len(cloud.xyz)),
        )


def _unlike(view: LiftView, width: int) -> DataError:
    return DataError(
        f"frame {view.name}",
        wanted=f"masks with {width} channels, as the frames before have",
        got=f"{view.rows.shape[1]} channels",
        fix="compute all frames with the same teacher",
    )
