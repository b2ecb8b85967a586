"""The two schedules of a lift to points: view by view, and block by block.

Both sum the same operators (`views.visible_operator`) and agree up to rounding. `lift_by_view` is
for live sensors: each view is added and dropped, memory is targets x channels. `lift_by_block` is
for recorded scenes: a block of points takes all its views at once, memory is one block, and the
result goes to a buffer or a file of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.backends import resolve_backend
from lifting.moments import Lifted, Moments
from lifting.robust import RobustLift, reweight
from lifting.views import (
    LiftView,
    PointLift,
    ViewGeometry,
    ViewPart,
    ViewSet,
    as_view_set,
    see,
    visible_operator,
    with_occlusion,
)
from lifting.visibility import splat_radius

# Points whose views are looked up together. Large enough that calls per view cost nothing, small
# enough that a block's pairs stay under 1 MB a view.
_BLOCK_ROWS = 32768
# Without the compiled kernel a block also needs two sums of block x channels.
_BLOCK_ROWS_TORCH = 4096


def lift_by_view(
    views: Iterable[LiftView],
    xyz: Float[Tensor, "N 3"],
    *,
    normals: Float[Tensor, "N 3"] | None = None,
    options: PointLift | None = None,
) -> Moments:
    """Add up views one at a time; each is dropped before the next is asked for.

    Args:
        views: The views, in any order; the result does not depend on it beyond rounding.
        xyz: World frame, metres.
        normals: Unit normals, world frame, for the grazing angle.
        options: How points read views.

    Returns:
        The moments over all points; `finish` them for the averages.

    Raises:
        ValueError: If there is no view, widths differ, or a feature that is used is not finite.
    """
    options = options or PointLift()
    moments: Moments | None = None
    radius_m: float | None = None
    for view in views:
        if moments is None:
            moments = Moments.zeros(
                len(xyz), view.rows.shape[1], dtype=_sum_dtype(view.rows), device=xyz.device
            )
        if view.depth_m is None and options.zbuffer_fallback and radius_m is None and len(xyz):
            radius_m = splat_radius(xyz)
        geometry = with_occlusion(view.geometry, xyz, options, radius_m=radius_m)
        add_view(moments, view, xyz, normals=normals, options=options, geometry=geometry)
    if moments is None:
        raise ValueError("lift_by_view needs at least one view, got none")
    return moments


def add_view(
    moments: Moments,
    view: LiftView,
    xyz: Float[Tensor, "N 3"],
    *,
    normals: Float[Tensor, "N 3"] | None = None,
    options: PointLift | None = None,
    geometry: ViewGeometry | None = None,
) -> None:
    """Add one view to moments in place: the step of a live sensor.

    Args:
        moments: Changed: gains the view's sums.
        view: The view.
        xyz: World frame, metres.
        normals: Unit normals, world frame, for the grazing angle.
        options: How points read views.
        geometry: The view's depth, if it is not the view's own.

    Raises:
        ValueError: If the width differs or a feature that is used is not finite.
    """
    options = options or PointLift()
    _check_width(view, moments.sum.shape[1])
    seen = see(geometry or view.geometry, xyz, options)
    operator = visible_operator(view, seen, xyz, normals, options)
    _add(moments, ViewPart(view.name, seen.index, operator, view.rows), options.backend)


def lift_by_block(
    views: ViewSet | Sequence[LiftView],
    xyz: Float[Tensor, "N 3"],
    *,
    normals: Float[Tensor, "N 3"] | None = None,
    options: PointLift | None = None,
    out: Float[Tensor, "N C"] | None = None,
    block_rows: int | None = None,
    robust: RobustLift | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Lifted:
    """Average all views into one block of points after another.

    Args:
        views: The views; a lazy set is asked for the views that see a block, block by block.
        xyz: World frame, metres.
        normals: Unit normals, world frame, for the grazing angle.
        options: How points read views.
        out: Where the rows go: a buffer to be reused, or a tensor over a memory-mapped file.
        block_rows: Points per block; None for a good choice.
        robust: Weigh down views that disagree with the mean of all, in a second pass.
        progress: Called with the points done and the points in all, after each block.

    Returns:
        The averages; `rows` is `out` when that was given.

    Raises:
        ValueError: If there is no view, widths differ, `out` does not fit, or a feature that is
            used is not finite.
    """
    options = options or PointLift()
    lazy = as_view_set(views)
    if not len(lazy):
        raise ValueError("lift_by_block needs at least one view, got none")
    job = _BlockLift(
        views=lazy,
        xyz=xyz,
        normals=normals,
        options=options,
        robust=robust,
        channels=lazy[0].rows.shape[1],
        compiled=resolve_backend(options.backend, xyz.device) == "numba",
    )
    return job.run(out, block_rows, progress)


@dataclass(kw_only=True, eq=False)
class _BlockLift:
    """State of one `lift_by_block`."""

    views: ViewSet
    xyz: Tensor
    normals: Tensor | None
    options: PointLift
    robust: RobustLift | None
    channels: int
    compiled: bool
    drawn: dict[int, ViewGeometry] = field(default_factory=dict)
    radius_m: float | None = None

    def run(
        self,
        out: Tensor | None,
        block_rows: int | None,
        progress: Callable[[int, int], None] | None,
    ) -> Lifted:
        num = len(self.xyz)
        dtype = torch.promote_types(self.xyz.dtype, torch.float32)
        if out is None:
            out = torch.empty(num, self.channels, dtype=_sum_dtype(self.views[0].rows))
            out = out.to(self.xyz.device)
        _check_out(out, num, self.channels)
        result = Lifted(
            rows=out,
            valid=torch.zeros(num, dtype=torch.bool, device=out.device),
            weight=torch.zeros(num, dtype=dtype, device=out.device),
            num_views=torch.zeros(num, dtype=torch.int64, device=out.device),
            disagreement=torch.zeros(num, dtype=dtype, device=out.device),
        )
        step = block_rows or (_BLOCK_ROWS if self.compiled else _BLOCK_ROWS_TORCH)
        if step < 1:
            raise ValueError(f"block_rows must be 1 or more, got {step}")
        for start in range(0, num, step):
            block = slice(start, min(start + step, num))
            self._lift_block(block, result)
            if progress is not None:
                progress(block.stop, num)
        return result

    def _lift_block(self, block: slice, result: Lifted) -> None:
        parts = [part for i in range(len(self.views)) if (part := self._see(i, block)) is not None]
        rows = result.rows[block]
        figures = fuse_parts(parts, rows, robust=self.robust, backend=self.options.backend)
        weight, count, disagreement = figures
        result.weight[block] = weight.to(result.weight.dtype)
        result.valid[block] = weight > 0
        result.num_views[block] = count
        result.disagreement[block] = disagreement.to(result.disagreement.dtype)

    def _see(self, index: int, block: slice) -> ViewPart | None:
        """What a view gives to a block; its features are not asked for if it gives nothing."""
        xyz = self.xyz[block]
        points = see(self._geometry(index), xyz, self.options)
        if not len(points.index):
            return None
        view = self.views[index]
        _check_width(view, self.channels)
        normals = None if self.normals is None else self.normals[block]
        operator = visible_operator(view, points, xyz, normals, self.options)
        if not operator.nnz:
            return None
        return ViewPart(view.name, points.index, operator, view.rows)

    def _geometry(self, index: int) -> ViewGeometry:
        """The view's geometry; a depth map that has to be drawn is drawn once, from all points."""
        if index in self.drawn:
            return self.drawn[index]
        geometry = self.views.geometry(index)
        if geometry.depth_m is not None or not self.options.zbuffer_fallback:
            return geometry
        if self.radius_m is None:
            self.radius_m = splat_radius(self.xyz)
        geometry = with_occlusion(geometry, self.xyz, self.options, radius_m=self.radius_m)
        self.drawn[index] = geometry
        return geometry


def fuse_parts(
    parts: Sequence[ViewPart],
    rows: Float[Tensor, "M C"],
    *,
    robust: RobustLift | None = None,
    backend: str = "auto",
) -> tuple[Float[Tensor, " M"], Int64[Tensor, " M"], Float[Tensor, " M"]]:
    """Average what several views give to the same targets, without gradients.

    Args:
        parts: The views, weights zero or more.
        rows: Written: the means; zero where nothing was observed.
        robust: Weigh down sources that disagree with the mean, in a second pass.
        backend: Who multiplies; see `lifting.backends.resolve_backend`.

    Returns:
        Per target the sum of weights, the number of views and the disagreement.

    Raises:
        ValueError: If a feature that is used is not finite.
    """
    compiled = resolve_backend(backend, rows.device) == "numba"
    if compiled and all(part.rows.dtype != torch.float64 for part in parts):
        return _fuse_compiled(parts, rows, robust)
    return _fuse_reference(parts, rows, robust, backend)


def _fuse_compiled(
    parts: Sequence[ViewPart], rows: Tensor, robust: RobustLift | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Average a block with the compiled kernel: weight, count and disagreement; fills `rows`."""
    from lifting.backends import numba_views  # numba costs half a second to import

    in_place = rows.dtype == torch.float32 and rows.is_contiguous()
    target = rows if in_place else torch.empty(rows.shape)
    tuning = robust.tuning if robust is not None else 0.0
    figures, count, bad = numba_views.fuse_views(parts, tuning=tuning, out=target)
    if bad >= 0:
        _raise_not_finite([part for part in parts if bool((part.targets == bad).any())])
    if not in_place:
        rows.copy_(target)
    return figures[:, 0], count, figures[:, 1]


def _fuse_reference(
    parts: Sequence[ViewPart], rows: Tensor, robust: RobustLift | None, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Average a block in plain torch: weight, count and disagreement; fills `rows`."""
    dtype = _sum_dtype(rows)
    for part in parts:
        dtype = torch.promote_types(dtype, part.rows.dtype)
    moments = Moments.zeros(len(rows), rows.shape[1], dtype=dtype, device=rows.device)
    for part in parts:
        _add(moments, part, backend)
    lifted = moments.finish()
    rows.copy_(lifted.rows if robust is None else reweight(parts, lifted, robust, backend))
    return lifted.weight, lifted.num_views, lifted.disagreement


def _add(moments: Moments, part: ViewPart, backend: str) -> None:
    """Add one view's sums in place at the targets that it reaches."""
    try:
        sums = part.operator.moments(part.rows, backend=backend)
    except ValueError as error:
        raise ValueError(f"{part.name}: {error}") from error
    moments.sum.index_add_(0, part.targets, sums.sum.to(moments.sum.dtype))
    moments.weight.index_add_(0, part.targets, sums.weight.to(moments.weight.dtype))
    moments.count.index_add_(0, part.targets, sums.count)
    moments.resultant.index_add_(0, part.targets, sums.resultant.to(moments.resultant.dtype))


def _sum_dtype(rows: Tensor) -> torch.dtype:
    """Sums of half precision are kept in float32."""
    return torch.promote_types(rows.dtype, torch.float32)


def _check_width(view: LiftView, channels: int) -> None:
    if view.rows.shape[1] != channels:
        raise ValueError(
            f"{view.name}: all views must have {channels} channels, got {view.rows.shape[1]}"
        )


def _check_out(out: Tensor, num: int, channels: int) -> None:
    if tuple(out.shape) != (num, channels) or not out.dtype.is_floating_point:
        raise ValueError(
            f"lift_by_block needs `out` of shape {(num, channels)} and a float dtype, got "
            f"{tuple(out.shape)} {out.dtype}"
        )


def _raise_not_finite(parts: list[ViewPart]) -> None:
    for part in parts:
        if not bool(part.rows.isfinite().all()):
            raise ValueError(f"{part.name}: features to lift must be finite, got NaN or infinity")
    raise ValueError(
        f"{parts[0].name}: features to lift are too large, their squared length overflows float32"
    )
