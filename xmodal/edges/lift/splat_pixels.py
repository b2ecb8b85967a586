"""The op `splat_pixels`: some pixels of every mask as sets of the splats drawn in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.lift.held_out import check_hold_out, left_in
from xmodal.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from lifting.operator import LiftOperator
    from xmodal.values import Gaussians, Masks, PointSets, Views


@dataclass(frozen=True, kw_only=True)
class SplatPixels:
    """Draw some pixels of every mask of every view; each is a set of the splats drawn in it.

    The average of a student's rows over such a set is what a renderer shows at the pixel. Sets
    know which mask of which view they are of, for losses that compare pixels of masks
    (`mask_contrast`).

    Attributes:
        per_mask: Pixels of each mask, or all where it has fewer.
        max_side_px: Longest side of the drawings, pixels.
        level: Of masks that cover a pixel, take the `smallest`, the one in the `middle` or the
            `largest`; so a pixel is of one mask.
        least_alpha: Pixels of which less is covered by splats are not drawn; 1 is opaque.
        keep: Of each pixel, the largest shares that make up this part of it.
        seed: Which pixels.
        hold_out: Leave every so-manyth view (by name) out of the lift, to test with; none if null.
    """

    op: Literal["splat_pixels"] = "splat_pixels"
    per_mask: int = 8
    max_side_px: int = 240
    level: Literal["smallest", "middle", "largest"] = "smallest"
    least_alpha: float = 0.5
    keep: float = 0.98
    seed: int = 0
    hold_out: int | None = None

    def __post_init__(self) -> None:
        for name, number in (("per_mask", self.per_mask), ("max_side_px", self.max_side_px)):
            if number < 1:
                raise ValueError(f"{name} must be 1 or more, not {number}")
        if not 0 <= self.least_alpha <= 1:
            raise ValueError(f"least_alpha must lie in [0, 1], not {self.least_alpha}")
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be above 0 and at most 1, not {self.keep}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, not {self.seed}")
        check_hold_out(self.hold_out)

    def __call__(self, maps: Views[Masks], splats: Gaussians) -> PointSets:
        """Sets of splats; the row of a set is its mask's, its weight the share that is opaque.

        Args:
            maps: Masks of every frame; taken one at a time.
            splats: The splats of one scene.

        Raises:
            DataError: If no frames are left, the splats are of several scenes, or frames differ
                in width.
        """
        import torch

        from lifting.gaussians.sets import pixel_sets
        from lifting.gaussians.teacher_views import mask_level_taps
        from lifting.point_sets import stack_rows
        from xmodal.edges.lift.splat_views import SplatViews
        from xmodal.splats.values import as_splats
        from xmodal.values import PointSets

        given = as_splats(splats, "lift to pixels of splats")
        chance = torch.Generator().manual_seed(self.seed)
        members: list[LiftOperator] = []
        rows: list[Tensor] = []
        weight: list[Tensor] = []
        groups: list[Tensor] = []
        counts: list[int] = []
        masks = 0
        read = mask_level_taps(self.level)
        shown = left_in(maps, self.hold_out)
        for view in SplatViews(given, shown, self.max_side_px, read=read):
            if rows and view.rows.shape[1] != rows[0].shape[1]:
                raise DataError(
                    "lift to pixels of splats",
                    wanted=f"masks with {rows[0].shape[1]} channels, as in frames before",
                    got=f"{view.name}: {view.rows.shape[1]} channels",
                    fix="compute all frames with the same teacher",
                )
            sets = pixel_sets(
                view,
                per_row=self.per_mask,
                generator=chance,
                least_alpha=self.least_alpha,
                keep=self.keep,
            )
            members.append(sets.members)
            rows.append(view.rows[sets.rows])
            weight.append(sets.alpha)
            groups.append(masks + sets.rows)
            counts.append(len(sets.rows))
            masks += len(view.rows)
        found = torch.cat(rows)
        return PointSets(
            rows=found,
            valid=torch.ones(len(found), dtype=torch.bool),
            weight=torch.cat(weight),
            membership=stack_rows(members, num_sources=len(given)),
            groups=torch.cat(groups),
            views=torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)),
        )
