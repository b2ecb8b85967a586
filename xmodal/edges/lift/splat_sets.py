"""The op `splat_sets`: every patch or mask of every view as the set of splats that it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.lift.held_out import check_hold_out, left_in
from xmodal.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from lifting.operator import LiftOperator
    from xmodal.values import FeatureMap, Gaussians, Masks, PointSets, Views


@dataclass(frozen=True, kw_only=True)
class SplatSets:
    """Make every patch (or mask) of every view a set of the splats that are drawn in it.

    A splat belongs to a set by the light that it sends into its pixels. The average of a student's
    rows over a set is then what a renderer shows there, so that a loss on sets (`set_cosine`, ..)
    is a loss through the renderer, with every splat drawn only once.

    Attributes:
        max_side_px: Longest side of the drawings, pixels.
        level: Of masks that cover a pixel, take the `smallest`, the one in the `middle`, the
            `largest`, or `all` by equal shares.
        least_alpha: Sets of which less is covered by splats are left out; 1 is opaque.
        keep: Of each set, the largest shares that make up this part of it; the rest, usually many
            splats far behind, is dropped.
        hold_out: Leave every so-manyth view (by name) out of the lift, to test with; none if null.
    """

    op: Literal["splat_sets"] = "splat_sets"
    max_side_px: int = 240
    level: Literal["all", "smallest", "middle", "largest"] = "all"
    least_alpha: float = 0.2
    keep: float = 0.98
    hold_out: int | None = None

    def __post_init__(self) -> None:
        if self.max_side_px < 1:
            raise ValueError(f"max_side_px must be 1 or more, not {self.max_side_px}")
        if not 0 <= self.least_alpha <= 1:
            raise ValueError(f"least_alpha must lie in [0, 1], not {self.least_alpha}")
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be above 0 and at most 1, not {self.keep}")
        check_hold_out(self.hold_out)

    def __call__(self, maps: Views[FeatureMap] | Views[Masks], splats: Gaussians) -> PointSets:
        """Sets of splats; the row of a set is the teacher's, its weight the share that is opaque.

        Args:
            maps: Teacher output of every frame; taken one at a time.
            splats: The splats of one scene.

        Raises:
            DataError: If no frames are left, the splats are of several scenes, frames differ in
                width, or `level` is set for a teacher without masks.
        """
        import torch

        from lifting.gaussians.sets import shown_sets
        from lifting.gaussians.teacher_views import mask_level_taps, view_taps
        from lifting.point_sets import stack_rows
        from xmodal.edges.lift.splat_views import SplatViews
        from xmodal.splats.values import as_splats
        from xmodal.values import PointSets

        given = as_splats(splats, "lift to sets of splats")
        shown = left_in(maps, self.hold_out)
        level = self.level
        read = view_taps if level == "all" else mask_level_taps(level)
        members: list[LiftOperator] = []
        rows: list[Tensor] = []
        weight: list[Tensor] = []
        try:
            for view in SplatViews(given, shown, self.max_side_px, read=read):
                sets = shown_sets(view, least_alpha=self.least_alpha, keep=self.keep)
                if rows and view.rows.shape[1] != rows[0].shape[1]:
                    width = rows[0].shape[1]
                    msg = f"{view.name}: {view.rows.shape[1]} channels, frames before have {width}"
                    raise ValueError(msg)
                members.append(sets.members)
                rows.append(view.rows[sets.kept])
                weight.append(sets.alpha)
        except ValueError as error:
            raise DataError(
                "lift to sets of splats",
                wanted="teacher output of one width, with masks where `level` is set",
                got=str(error),
                fix="compute all frames with the same teacher, or leave `level` out",
            ) from error
        found = torch.cat(rows)
        return PointSets(
            rows=found,
            valid=torch.ones(len(found), dtype=torch.bool),
            weight=torch.cat(weight),
            membership=stack_rows(members, num_sources=len(given)),
        )
