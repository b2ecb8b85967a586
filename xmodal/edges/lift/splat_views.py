"""What a teacher saw of splats, one view in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lifting.gaussians.closed_form import SplatView
from lifting.gaussians.rendering import view_operator
from lifting.gaussians.splats import Splats
from lifting.gaussians.teacher_views import drawing_camera, view_taps
from lifting.operator import LiftOperator
from xmodal.edges.lift.lazy_views import lazy_views
from xmodal.values import FeatureMap, Masks, Views

# Weights of drawn views that are kept for a second pass; further views are drawn again.
_KEPT_BYTES = 2 << 30
_ENTRY_BYTES = 12

Report = Callable[[int, int], None]


class SplatViews:
    """All views of splats with what a teacher saw in them, as often as they are iterated.

    Args:
        splats: The splats.
        maps: Teacher output of every frame.
        max_side_px: Longest side of the drawings, pixels.
        read: What a view's pixels read of its rows; `view_taps` unless given.
        report: Told of views done and views in all, in the first pass.
    """

    def __init__(
        self,
        splats: Splats,
        maps: Views[FeatureMap | Masks],
        max_side_px: int,
        *,
        read: Callable[..., LiftOperator] = view_taps,
        report: Report | None = None,
    ) -> None:
        self._splats, self._side, self._read, self._report = splats, max_side_px, read, report
        self._views = lazy_views(maps, None)
        self._weights: dict[int, LiftOperator] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[SplatView]:
        for index in range(len(self._views)):
            view = self._views[index]
            drawn = drawing_camera(view.camera, self._side)
            weights = self._weights.get(index)
            if weights is None:
                weights = view_operator(self._splats, drawn)
                self._keep(index, weights)
            yield SplatView(
                weights=weights, rows=view.rows, taps=self._read(view, drawn), name=view.name
            )
            if self._report is not None:
                self._report(index + 1, len(self._views))
        self._report = None

    def _keep(self, index: int, weights: LiftOperator) -> None:
        size = _ENTRY_BYTES * weights.nnz
        if self._bytes + size <= _KEPT_BYTES:
            self._weights[index] = weights
            self._bytes += size
