"""One view as a lift operator: visibility x quality on the rows, taps on the columns.

`visible_operator` is the one definition of what a view contributes; every schedule uses it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, overload, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.cameras import Camera
from lifting.operator import LiftOperator
from lifting.quality import QualityWeights, view_quality
from lifting.sampling import SamplingMode, membership_taps, patch_taps
from lifting.visibility import (
    DepthNoise,
    VisiblePoints,
    ZBuffer,
    splat_radius,
    visible_points,
    zbuffer,
)


@dataclass(frozen=True, kw_only=True)
class PointLift:
    """How points read views.

    Attributes:
        noise: Depth sensor: how far a reading may lie from a point that it shows.
        quality: Which qualities of a view weigh.
        sampling: Between patches, or the patch a point falls in.
        zbuffer_fallback: Where a view has no depth map, let the points hide each other. Without
            it, every point in the image counts as seen.
        backend: Who multiplies; see `lifting.backends.resolve_backend`.
    """

    noise: DepthNoise = field(default_factory=DepthNoise)
    quality: QualityWeights = field(default_factory=QualityWeights)
    sampling: Literal["bilinear", "nearest"] = "bilinear"
    zbuffer_fallback: bool = True
    backend: str = "auto"


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewGeometry:
    """What decides whether a view sees a point; cheap beside the view's features.

    Attributes:
        camera: Camera of the image that the features cover.
        depth_m: z-depth, metres, 0 where there is no reading; None without a depth sensor.
        depth_camera: Camera of the depth map; None for `camera`, scaled to the map.
        noise: Tolerance of this depth map, in place of `PointLift.noise`.
        name: What messages call the view.
    """

    camera: Camera
    depth_m: Float[Tensor, "H W"] | None = None
    depth_camera: Camera | None = None
    noise: DepthNoise | None = None
    name: str = "view"


@dataclass(frozen=True, kw_only=True, eq=False)
class LiftView:
    """One view in memory: features on a patch grid, or one feature per mask.

    Attributes:
        camera: Camera of the image that the grid covers.
        rows: Features: of patches, row-major over `grid_hw`, or of masks.
        grid_hw: Patches down and across; with `membership`, its pixels down and across.
        membership: Pixels x masks. Where masks overlap, a pixel takes the mean of their rows.
        row_weight: Weight per row. A patch's scales what it contributes (0 drops it); a mask's
            sets its share where masks overlap.
        depth_m: z-depth, metres, 0 where there is no reading; None without a depth sensor.
        depth_camera: Camera of the depth map; None for `camera`, scaled to the map.
        name: What messages call the view.

    Raises:
        ValueError: If the parts do not fit together.
    """

    camera: Camera
    rows: Float[Tensor, "R C"]
    grid_hw: tuple[int, int]
    membership: LiftOperator | None = None
    row_weight: Float[Tensor, " R"] | None = None
    depth_m: Float[Tensor, "H W"] | None = None
    depth_camera: Camera | None = None
    name: str = "view"

    def __post_init__(self) -> None:
        cells, num_rows = self.grid_hw[0] * self.grid_hw[1], self.rows.shape[0]
        wanted = (cells, num_rows)
        if self.membership is None and num_rows != cells:
            raise ValueError(
                f"{self.name}: a grid of {self.grid_hw} patches needs {cells} rows, got {num_rows}"
            )
        if self.membership is not None and self.membership.shape != wanted:
            raise ValueError(
                f"{self.name}: membership must be {wanted} (pixels of {self.grid_hw} x rows), "
                f"got {self.membership.shape}"
            )
        weight = self.row_weight
        if weight is not None and not bool((weight.isfinite() & (weight >= 0)).all()):
            raise ValueError(f"{self.name}: row weights must be finite and zero or more")

    @property
    def geometry(self) -> ViewGeometry:
        """The part without features."""
        return ViewGeometry(
            camera=self.camera,
            depth_m=self.depth_m,
            depth_camera=self.depth_camera,
            name=self.name,
        )


class ViewPart(NamedTuple):
    """What one view gives to a set of targets.

    Attributes:
        name: What messages call the view.
        targets: The targets that it reaches.
        operator: One row for each of them, over the view's rows.
        rows: The view's features.
    """

    name: str
    targets: Int64[Tensor, " n"]
    operator: LiftOperator
    rows: Float[Tensor, "R C"]


@runtime_checkable
class ViewSet(Protocol):
    """Views that are made when they are asked for, usually from a cache on disk."""

    def __len__(self) -> int:
        """Number of views."""
        ...

    def __getitem__(self, index: int, /) -> LiftView:
        """One view with its features."""
        ...

    def geometry(self, index: int, /) -> ViewGeometry:
        """One view without its features: asked for once for each block of points."""
        ...


class ViewList(Sequence[LiftView]):
    """Views that are all in memory, as a `ViewSet`."""

    def __init__(self, views: Sequence[LiftView]) -> None:
        self._views = views

    def __len__(self) -> int:
        return len(self._views)

    @overload
    def __getitem__(self, index: int) -> LiftView: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[LiftView]: ...
    def __getitem__(self, index: int | slice) -> LiftView | Sequence[LiftView]:
        """One view, or several."""
        return self._views[index]

    def geometry(self, index: int, /) -> ViewGeometry:
        """One view without its features."""
        return self._views[index].geometry


class LruViews:
    """A `ViewSet` that keeps the views used last, within a budget of bytes.

    Args:
        load: Makes a view; called again when a view was dropped.
        geometry: Makes a view's geometry; kept under the same budget.
        num_views: Number of views.
        budget_bytes: How much to keep. One view is always kept, however large.
    """

    def __init__(
        self,
        load: Callable[[int], LiftView],
        geometry: Callable[[int], ViewGeometry],
        *,
        num_views: int,
        budget_bytes: int,
    ) -> None:
        self._load, self._geometry = load, geometry
        self._num_views, self._budget = num_views, budget_bytes
        self._kept: OrderedDict[tuple[str, int], LiftView | ViewGeometry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return self._num_views

    def __getitem__(self, index: int, /) -> LiftView:
        """One view with its features."""
        view = self._kept.get(("view", index))
        if not isinstance(view, LiftView):
            view = self._load(self._checked(index))
            self._keep(("view", index), view)
        self._kept.move_to_end(("view", index))
        return view

    def geometry(self, index: int, /) -> ViewGeometry:
        """One view without its features."""
        geometry = self._kept.get(("geometry", index))
        if not isinstance(geometry, ViewGeometry):
            geometry = self._geometry(self._checked(index))
            self._keep(("geometry", index), geometry)
        self._kept.move_to_end(("geometry", index))
        return geometry

    def _checked(self, index: int) -> int:
        if not 0 <= index < self._num_views:
            raise IndexError(f"there are {self._num_views} views, got index {index}")
        return index

    def _keep(self, key: tuple[str, int], value: LiftView | ViewGeometry) -> None:
        self._kept[key] = value
        self._bytes += _size(value)
        while self._bytes > self._budget and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= _size(dropped)


def as_view_set(views: ViewSet | Sequence[LiftView]) -> ViewSet:
    """Plain sequences of views as a `ViewSet`."""
    return ViewList(views) if isinstance(views, (list, tuple)) else views  # pyright: ignore[reportReturnType]  # any other sequence brings its own `geometry`


def with_occlusion(
    geometry: ViewGeometry, xyz: Float[Tensor, "N 3"], options: PointLift, *, radius_m: float | None
) -> ViewGeometry:
    """A view that lacks a depth map gets one drawn from the whole cloud, if options say so.

    Args:
        geometry: The view.
        xyz: All points that can hide one another, world frame, metres.
        options: Whether to draw at all.
        radius_m: Radius of a point's disc, metres; None for `splat_radius`.
    """
    if geometry.depth_m is not None or not options.zbuffer_fallback or not len(xyz):
        return geometry
    radius_m = radius_m if radius_m is not None else splat_radius(xyz)
    drawn: ZBuffer = zbuffer(xyz, geometry.camera, radius_m=radius_m)
    return ViewGeometry(
        camera=geometry.camera,
        depth_m=drawn.depth_m,
        depth_camera=drawn.camera,
        noise=drawn.noise,
        name=geometry.name,
    )


def see(geometry: ViewGeometry, xyz: Float[Tensor, "N 3"], options: PointLift) -> VisiblePoints:
    """The points that a view sees."""
    if geometry.depth_m is None:
        return visible_points(xyz, geometry.camera)
    return visible_points(
        xyz,
        geometry.camera,
        depth_m=geometry.depth_m,
        depth_camera=geometry.depth_camera,
        noise=geometry.noise or options.noise,
    )


def visible_operator(
    view: LiftView,
    seen: VisiblePoints,
    xyz: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"] | None,
    options: PointLift,
) -> LiftOperator:
    """What a view gives to the points that it sees: diag(quality) @ taps, one row per seen point.

    Args:
        view: The view.
        seen: The points that it sees, from `see`.
        xyz: All points, world frame, metres.
        normals: Their unit normals, world frame, or None.
        options: How points read views.

    Returns:
        Seen points x the view's rows; entries of weight zero are left out. With masks a row sums
        to the quality however many masks cover the pixel, and is empty where none does.
    """
    taps = taps_at(view, seen.uv, options.sampling)
    # Not xyz[index]: torch wakes all threads for that, however few the points.
    quality = view_quality(
        xyz.index_select(0, seen.index),
        None if normals is None else normals.index_select(0, seen.index),
        view.camera,
        uv=seen.uv,
        depth_m=seen.depth_m,
        options=options.quality,
    )
    return taps.scale_rows(quality).drop_zeros()


def taps_at(
    view: LiftView, uv: Float[Tensor, "N 2"], sampling: SamplingMode = "bilinear"
) -> LiftOperator:
    """Operator from a view's rows to pixels of its image, weighed by the view's `row_weight`.

    Args:
        view: The view.
        uv: Pixels of its image, x then y. Outside the image: no weight.
        sampling: Between patches, or the patch a pixel falls in.

    Returns:
        N pixels x the view's rows. With masks a row sums to 1 however many masks cover the pixel,
        and to 0 where none does.
    """
    image_hw, grid_hw = view.camera.hw, view.grid_hw
    if view.membership is None:
        taps = patch_taps(uv, image_hw=image_hw, grid_hw=grid_hw, mode=sampling)
    else:
        taps = membership_taps(uv, view.membership, image_hw=image_hw, grid_hw=grid_hw)
    if view.row_weight is not None:
        taps = taps.scale_columns(view.row_weight)
    return taps if view.membership is None else taps.mean()


def view_operator(
    view: LiftView,
    xyz: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"] | None = None,
    options: PointLift | None = None,
) -> LiftOperator:
    """The lift of one view: diag(visibility x quality) @ taps, all points x the view's rows.

    Args:
        view: The view. Without a depth map the points hide each other, see `PointLift`.
        xyz: World frame, metres.
        normals: Unit normals, world frame, for the grazing angle.
        options: How points read views.
    """
    options = options or PointLift()
    geometry = with_occlusion(view.geometry, xyz, options, radius_m=None)
    seen = see(geometry, xyz, options)
    return spread_rows(visible_operator(view, seen, xyz, normals, options), seen.index, len(xyz))


def spread_rows(
    operator: LiftOperator, index: Int64[Tensor, " n"], num_targets: int
) -> LiftOperator:
    """The operator with row k moved to row `index[k]` (ascending) of a taller one."""
    length = torch.zeros(num_targets + 1, dtype=torch.int64, device=index.device)
    length[index + 1] = operator.crow.diff()
    return LiftOperator(
        crow=length.cumsum(0),
        col=operator.col,
        weight=operator.weight,
        num_sources=operator.num_sources,
    )


def _size(value: LiftView | ViewGeometry) -> int:
    tensors: list[Tensor | None] = [value.depth_m]
    if isinstance(value, LiftView):
        tensors += [value.rows, value.row_weight]
        if value.membership is not None:
            tensors += [value.membership.crow, value.membership.col, value.membership.weight]
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)
