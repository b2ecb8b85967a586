"""The op `splats`: what all views show of each splat, in closed form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from xmodal.edges.lift.held_out import check_hold_out, left_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from xmodal.values import FeatureMap, Gaussians, Masks, Views


@dataclass(frozen=True, kw_only=True)
class LiftSplats:
    """Give every splat the features that a teacher saw where the splat is drawn.

    The share of a splat in a pixel is its weight there: alpha times the light that still passes.
    Nothing is trained. Teacher maps stay as they are, patches or masks.

    Attributes:
        how: `mean`: the mean of all rows by those shares. `robust`: a second pass in which views
            that disagree with it weigh less. `solve`: the rows that, rendered, come closest to what
            the teacher saw in all views (least squares).
        ridge: Of the solve, how much the mean counts beside the views, in pixels that a splat
            covers alone.
        max_side_px: Longest side of the drawings, pixels. Teacher maps are coarse: more pixels than
            a few for each patch only cost time.
        max_iterations: Of the solve.
        half_px: Pixels of the drawing that a splat must fill in a view for it to count half as much
            as one where it fills many; views near and far then speak alike. Every pixel counts if
            null, as published, so the nearest views have the say.
        hold_out: Leave every so-manyth view (by name) out of the lift, to test with; none if null.

    Source:
        Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, SIGGRAPH 2023,
        for the weights; Joseph et al., Gradient-Weighted Feature Back-Projection, 2024, for the
        mean.
    """

    op: Literal["splats"] = "splats"
    how: Literal["mean", "robust", "solve"] = "mean"
    ridge: float | None = None
    max_side_px: int = 240
    max_iterations: int | None = None
    half_px: float | None = None
    hold_out: int | None = None

    def __post_init__(self) -> None:
        if self.max_side_px < 1:
            raise ValueError(f"max_side_px must be 1 or more, not {self.max_side_px}")
        for name in ("ridge", "max_iterations"):
            value = getattr(self, name)
            if value is not None and self.how != "solve":
                raise ValueError(f"{name} has no effect with how: {self.how}; leave it out")
        if self.ridge is not None and not 0 <= self.ridge < float("inf"):
            raise ValueError(f"ridge must be 0 or more, not {self.ridge}")
        if self.max_iterations is not None and self.max_iterations < 1:
            raise ValueError(f"max_iterations must be 1 or more, not {self.max_iterations}")
        if self.half_px is not None and self.how == "solve":
            raise ValueError("half_px has no effect with how: solve; leave it out")
        if self.half_px is not None and not 0 <= self.half_px < float("inf"):
            raise ValueError(f"half_px must be 0 or more, not {self.half_px}")
        check_hold_out(self.hold_out)

    def __call__(
        self,
        maps: Views[FeatureMap] | Views[Masks],
        splats: Gaussians,
        *,
        out: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Gaussians:
        """The splats with features.

        Args:
            maps: Teacher output of every frame; taken one at a time.
            splats: The splats of one scene.
            out: Where the rows go, such as a tensor over a file; fresh memory when left out.
            progress: Called with views done and views in all.

        Raises:
            DataError: If no frames are left, the splats are of several scenes, or a feature is not
                finite.
        """
        from lifting.gaussians.closed_form import Tikhonov, lift_splats
        from xmodal.edges.lift.splat_views import SplatViews
        from xmodal.errors import DataError
        from xmodal.splats.values import as_splats

        given = as_splats(splats, "lift to splats")
        shown = left_in(maps, self.hold_out)
        views = SplatViews(given, shown, self.max_side_px, report=progress)
        solve = Tikhonov()
        if self.ridge is not None:
            solve = replace(solve, ridge=self.ridge)
        if self.max_iterations is not None:
            solve = replace(solve, max_iterations=self.max_iterations)
        try:
            lifted = lift_splats(
                views,
                len(given),
                how=self.how,
                solve=solve if self.how == "solve" else None,
                half_px=self.half_px,
                out=out,
            )
        except ValueError as error:
            raise DataError(
                "lift to splats",
                wanted="finite features of one width",
                got=str(error),
                fix="check the frame that the message names",
            ) from error
        return replace(
            splats,
            rows=lifted.rows,
            valid=lifted.valid,
            weight=lifted.weight,
            num_views=lifted.num_views,
            disagreement=lifted.disagreement,
        )
