"""What a teacher saw in a view, read where the splats of that view are drawn.

Splats are drawn through an ideal lens at a size of our choice; a teacher looked at the picture as
it was taken. The two meet pixel by pixel: the middle of a drawn pixel is a direction, and that has
a place in the taken picture. So no picture is undistorted and no teacher map is resampled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch

from lifting.cameras import Camera, pixel_centres, pixel_rays, project, scale_camera
from lifting.operator import LiftOperator
from lifting.views import LiftView, taps_at


def drawing_camera(camera: Camera, max_side_px: int | None = None) -> Camera:
    """The ideal camera that looks where another does, for drawing splats.

    Args:
        camera: Any camera; the drawing has its middle and focal length, without its lens.
        max_side_px: Longest side of the drawing, pixels; the camera's own size if None or smaller.

    Raises:
        ValueError: If the size is not positive.
    """
    if max_side_px is not None and max_side_px < 1:
        raise ValueError(f"max_side_px must be 1 or more, got {max_side_px}")
    ideal = replace(camera, distortion=None, model="pinhole")
    side = max(camera.hw)
    if max_side_px is None or side <= max_side_px:
        return ideal
    height, width = (max(1, round(size * max_side_px / side)) for size in camera.hw)
    return scale_camera(ideal, (height, width))


def view_taps(view: LiftView, drawn: Camera) -> LiftOperator:
    """Operator from a view's rows (patches or masks) to the pixels of a drawing of it.

    Args:
        view: What the teacher saw.
        drawn: A camera at the same place as the view's; see `drawing_camera`.

    Returns:
        Drawn pixels (row by row) x rows of the view. A pixel outside the taken picture, or one
        that no mask covers, has no weight. Rows weigh by `row_weight`.
    """
    uv = pixel_centres(drawn.hw)
    if view.camera.coefficients is not None:
        directions, exists = pixel_rays(uv, drawn)
        seen = project(drawn.centre + directions, view.camera)
        uv = seen.uv.where((seen.in_image & exists)[:, None], seen.uv.new_tensor(-1.0))
    else:
        scale = uv.new_tensor((view.camera.hw[1] / drawn.hw[1], view.camera.hw[0] / drawn.hw[0]))
        uv = uv * scale
    return taps_at(view, uv)


def mask_level_taps(
    level: Literal["smallest", "middle", "largest"],
) -> Callable[[LiftView, Camera], LiftOperator]:
    """Like `view_taps`, but a pixel takes one of the masks that cover it.

    Mask generators find a thing's parts, the thing, and the group that it stands in; masks of one
    size rank tell of one of these.

    Args:
        level: Which mask by its number of pixels; `middle` is the lower median.

    Returns:
        A function of a view and a drawing of it. It raises ValueError for a view without masks.
    """

    def read(view: LiftView, drawn: Camera) -> LiftOperator:
        if view.membership is None:
            raise ValueError(f"{view.name}: a level of masks was asked of a teacher without masks")
        taps = view_taps(view, drawn).drop_zeros()
        size = torch.zeros(len(view.rows), dtype=torch.float64)
        size.index_add_(0, view.membership.col, view.membership.weight.double())
        by_size = torch.argsort(size[taps.col], stable=True)
        order = by_size[torch.argsort(taps.row[by_size], stable=True)]
        count = taps.crow.diff()
        pixels = (count > 0).nonzero().squeeze(1)
        last = count[pixels] - 1
        place = {"smallest": last * 0, "middle": last // 2, "largest": last}[level]
        chosen = taps.col[order[taps.crow[:-1][pixels] + place]]
        return LiftOperator.from_coo(
            pixels, chosen, taps.weight.new_ones(len(pixels)), shape=taps.shape
        )

    return read
