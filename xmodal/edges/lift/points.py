"""The op `points`: average what all views see into each point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from xmodal.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from lifting.moments import Lifted
    from lifting.views import LiftView, PointLift, ViewSet
    from xmodal.values import Depth, FeatureMap, Masks, Points, Views


@dataclass(frozen=True, kw_only=True)
class LiftPoints:
    """Average what all views see into each point of a cloud.

    A point takes from a view what the teacher found at its pixel: between patches, or the mean of
    the masks that cover it. A view counts if its depth map confirms the point; without depth the
    points hide each other.

    Attributes:
        schedule: `by_block` averages all views for a block of points after another; `by_view` adds
            one view at a time. Both give the same numbers.
        sampling: Read a patch grid between patches (`bilinear`) or by patch (`nearest`).
        distance_m: Distance at which a view counts half; null for no such weight.
        grazing_power: Power of the cosine between surface and line of sight; needs normals.
        border: Ramp at the image border, as a share of the shorter side; null for none.
        margin_m: How far a point may lie from a depth reading beside the sensor's noise: half a
            voxel and the error of the poses, metres.
        noise_sigmas: How many standard deviations of a structured-light sensor come on top.
        robust: Weigh down sources that disagree with the mean, in a second pass.
        shrink: Pull toward the scene's mean as if that many further views had seen it; 0 for none.
        smooth_m: Average with observed neighbours within this distance, metres; 0 for none.
        segment_share: Then move each point so far toward the mean of its super-point (a small patch
            of even colour and normals); 0 for none.
        complete_k: Fill unobserved points from so many observed neighbours; 0 for none.
        complete_m: Neighbours farther than this fill nothing, metres.
    """

    op: Literal["points"] = "points"
    schedule: Literal["by_block", "by_view"] = "by_block"
    sampling: Literal["bilinear", "nearest"] = "bilinear"
    distance_m: float | None = 2.0
    grazing_power: float | None = None
    border: float | None = 0.05
    margin_m: float = 0.03
    noise_sigmas: float = 3.0
    robust: bool = False
    shrink: float = 0.0
    smooth_m: float = 0.0
    segment_share: float = 0.0
    complete_k: int = 0
    complete_m: float = 0.1

    def __post_init__(self) -> None:
        for name in ("distance_m", "grazing_power", "border", "complete_m"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be above 0, not {value}")
        for name in ("margin_m", "noise_sigmas", "shrink", "smooth_m", "complete_k"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be 0 or more, not {value}")
        if self.border is not None and self.border > 0.5:
            raise ValueError(f"border must be at most 0.5 of the shorter side, not {self.border}")
        if not 0 <= self.segment_share <= 1:
            raise ValueError(f"segment_share must lie in [0, 1], not {self.segment_share}")
        if self.margin_m == 0 and self.noise_sigmas == 0:
            raise ValueError("margin_m and noise_sigmas are both 0: no depth would ever agree")
        if self.robust and self.schedule == "by_view":
            raise ValueError("robust needs two passes over the views: use schedule by_block")

    def __call__(
        self,
        maps: Views[FeatureMap] | Views[Masks],
        depth: Views[Depth] | None,
        cloud: Points,
        *,
        out: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Points:
        """The cloud with features.

        Args:
            maps: Teacher output of every frame; taken one at a time.
            depth: Depth of the same frames, or None.
            cloud: The points of one scene.
            out: Where the rows go, such as a tensor over a file; fresh memory when left out.
            progress: Called with points done and points in all.

        Raises:
            DataError: If frames and depth do not match, the cloud holds several scenes or lacks
                the normals that `grazing_power` needs, or a feature is not finite.
        """
        from lifting import steps
        from lifting.superpoints import superpoints
        from xmodal.edges.lift.lazy_views import lazy_views

        self._check(cloud)
        segments = cloud.segments
        try:
            lifted = self._lift(lazy_views(maps, depth), cloud, out, progress)
            if self.shrink > 0:
                lifted = steps.shrink(lifted, strength=self.shrink, in_place=True)
            if self.smooth_m > 0:
                steps.smooth(cloud.xyz, lifted.rows, lifted.valid, self.smooth_m, in_place=True)
            if self.segment_share > 0:
                segments = superpoints(cloud.xyz, cloud.normals, cloud.rgb)
                steps.share_segments(
                    lifted.rows, lifted.valid, segments, self.segment_share, in_place=True
                )
            if self.complete_k:
                lifted, _ = steps.complete(cloud.xyz, lifted, self.complete_k, self.complete_m)
        except ValueError as error:
            raise DataError(
                "lift to points",
                wanted="finite features and points that fit together",
                got=str(error),
                fix="check the frame or cloud that the message names",
            ) from error
        return replace(
            cloud,
            rows=lifted.rows,
            valid=lifted.valid,
            weight=lifted.weight,
            num_views=lifted.num_views,
            disagreement=lifted.disagreement,
            segments=segments,
        )

    def _check(self, cloud: Points) -> None:
        if cloud.offsets.numel() != 2:
            raise DataError(
                "lift to points",
                wanted="the cloud of one scene, which all frames look at",
                got=f"{cloud.offsets.numel() - 1} clouds",
                fix="lift each scene by itself",
            )
        if self.grazing_power is not None and cloud.normals is None:
            raise DataError(
                "lift to points",
                wanted=f"points with normals, for grazing_power: {self.grazing_power}",
                got="points without normals",
                fix="give points.ply normals (nx ny nz), or set grazing_power: null",
            )

    def _options(self) -> PointLift:
        from lifting.quality import QualityWeights
        from lifting.views import PointLift
        from lifting.visibility import DepthNoise

        return PointLift(
            noise=DepthNoise(num_sigma=self.noise_sigmas, margin_m=self.margin_m),
            quality=QualityWeights(
                distance_m=self.distance_m, grazing_power=self.grazing_power, border=self.border
            ),
            sampling=self.sampling,
        )

    def _lift(
        self,
        views: ViewSet,
        cloud: Points,
        out: Tensor | None,
        progress: Callable[[int, int], None] | None,
    ) -> Lifted:
        from lifting.robust import RobustLift
        from lifting.schedules import lift_by_block, lift_by_view

        options = self._options()
        if self.schedule == "by_block":
            return lift_by_block(
                views,
                cloud.xyz,
                normals=cloud.normals,
                options=options,
                out=out,
                robust=RobustLift() if self.robust else None,
                progress=progress,
            )

        def one_by_one() -> Iterator[LiftView]:
            for index in range(len(views)):
                yield views[index]
                if progress is not None:
                    progress(index + 1, len(views))

        lifted = lift_by_view(
            one_by_one(), cloud.xyz, normals=cloud.normals, options=options
        ).finish()
        if out is None:
            return lifted
        out.copy_(lifted.rows)
        return replace(lifted, rows=out)
