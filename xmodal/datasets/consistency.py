"""Do the poses fit the depth? Catches poses that were written the wrong way round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lifting.cameras import Camera, project, unproject
from xmodal.datasets.views import LazyViews
from xmodal.errors import DataError
from xmodal.values import Depth

_PAIRS = 6
_PIXELS = 2000
# Fewer common readings than this say nothing about a pair.
_COMMON = 100
_TOLERANCE_M, _TOLERANCE_SHARE = 0.05, 0.02
# Neighbouring frames with good poses agree for 0.95 of the readings; inverted ones for 0.1 in a
# cluttered room, for 0.3 in an empty one.
_GOOD, _BAD = 0.75, 0.5


def check_pose_direction(depths: LazyViews[Depth], root: Path) -> None:
    """Refuse poses that fit the depth maps only after they are inverted.

    A few pairs of neighbouring frames are compared: the points of one, seen by the other. Nothing
    is said where frames do not overlap, or where neither direction fits.

    Args:
        depths: The frames in use.
        root: The scene folder, for the message.

    Raises:
        DataError: If neighbouring frames contradict each other as given and agree when inverted.
    """
    last = len(depths) - 1
    starts = np.unique(np.linspace(0, max(last - 1, 0), _PAIRS).round().astype(int)) if last else []
    given, inverse = list[float](), list[float]()
    for start in starts:
        first, second = depths[int(start)], depths[int(start) + 1]
        for found, flip in ((given, False), (inverse, True)):
            share = _agreement(first, second, flip=flip)
            if share is not None:
                found.append(share)
    if not given or not inverse:
        return
    if float(np.median(given)) < _BAD and float(np.median(inverse)) > _GOOD:
        raise DataError(
            str(root / "pose"),
            wanted="camera-to-world poses (T_world_cam)",
            got=f"world-to-camera poses: neighbouring depth maps agree for "
            f"{np.median(given):.0%} of the pixels, after inversion for {np.median(inverse):.0%}",
            fix="invert every pose matrix",
        )


def _agreement(first: Depth, second: Depth, *, flip: bool) -> float | None:
    """Share of the readings of `first` that `second` confirms; None with too few in common."""
    rows, columns = torch.nonzero(first.depth_m > 0).unbind(1)
    step = max(1, len(rows) // _PIXELS)
    rows, columns = rows[::step], columns[::step]
    uv = torch.stack((columns, rows), dim=1) + 0.5
    xyz = unproject(uv, first.depth_m[rows, columns], _turned(first.camera, flip=flip))
    seen = project(xyz, _turned(second.camera, flip=flip))
    column, row = seen.uv[seen.in_image].long().unbind(1)
    measured = second.depth_m[row, column]
    off = (seen.depth_m[seen.in_image] - measured)[measured > 0].abs()
    if len(off) < _COMMON:
        return None
    limit = _TOLERANCE_M + _TOLERANCE_SHARE * measured[measured > 0]
    return float((off <= limit).float().mean())


def _turned(camera: Camera, *, flip: bool) -> Camera:
    if not flip:
        return camera
    return replace(camera, T_world_cam=torch.linalg.inv(camera.T_world_cam))
