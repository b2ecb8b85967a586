"""Pictures as teachers: which points a view shows, and the views that a step renders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xmodal.splats.frames import Frame, frame_at, stack_frames
from xmodal.values import Frames

# Splats whose centres lie this far outside the picture, in widths of it, still reach into it.
_MARGIN = 0.1
# Points so far behind what the depth camera read are hidden: a twentieth, and a hand's width more.
_BEHIND, _BEHIND_M = 1.05, 0.1
_NEAR_M = 0.05


@dataclass(frozen=True)
class Shown:
    """A view of a step, and the z-depth beyond which points were left out of the step, metres."""

    view: int
    far_m: float = math.inf


def shown_points(frames: Frames, xyz: Float[Tensor, "N 3"]) -> list[Int[Tensor, " _"]]:
    """Points that each view shows or nearly shows, the nearest to the camera first.

    Where a view has depth readings, points well behind them are left out.

    Args:
        frames: The views.
        xyz: Points, world frame, metres.
    """
    return [_in_front(frame_at(frames, index), xyz) for index in range(len(frames))]


def _in_front(frame: Frame, xyz: Tensor) -> Tensor:
    depth_m, uv = _seen_at(frame, xyz)
    size = uv.new_tensor((frame.camera.hw[1], frame.camera.hw[0]))
    near = (uv >= -_MARGIN * size) & (uv <= (1 + _MARGIN) * size)
    rows = (near.all(dim=1) & (depth_m > _NEAR_M)).nonzero().squeeze(1)
    # The farthest reading around a pixel: at the edge of a thing its background is seen, too.
    far_m = torch.nn.functional.max_pool2d(frame.depth_m[None, None], 5, stride=1, padding=2)[0, 0]
    place = uv[rows].floor().long()
    column = place[:, 0].clamp(0, frame.camera.hw[1] - 1)
    row = place[:, 1].clamp(0, frame.camera.hw[0] - 1)
    reading = far_m[row, column].to(depth_m)
    kept = (reading <= 0) | (depth_m[rows] <= reading * _BEHIND + _BEHIND_M)
    rows = rows[kept]
    return rows[depth_m[rows].argsort(stable=True)]


def _seen_at(frame: Frame, xyz: Tensor) -> tuple[Tensor, Tensor]:
    """z-depth of points, and where they are in the picture if they are in front of it."""
    T, K = frame.camera.T_world_cam.double(), frame.camera.K.double()
    in_camera = (xyz.double() - T[:3, 3]) @ T[:3, :3]
    depth_m = in_camera[:, 2]
    safe = depth_m.clamp_min(_NEAR_M)
    return depth_m, in_camera[:, :2] / safe[:, None] * K.diagonal()[:2] + K[:2, 2]


def draw_views(
    frames: Frames,
    shown: Sequence[Int[Tensor, " _"]],
    xyz: Float[Tensor, "N 3"],
    rng: np.random.Generator,
    *,
    num: int,
    most: int,
) -> tuple[tuple[Shown, ...], Int[Tensor, " K"]]:
    """Views of a step, by chance, and the points that they show, in ascending order.

    Args:
        frames: All views.
        shown: Points of each view, the nearest first.
        xyz: All points.
        rng: Where chance comes from.
        num: Number of views; all that show something where there are fewer.
        most: Points of all views together. Of a view that shows more than its share the farthest
            are left out, and pixels that look beyond them are not compared.
    """
    full = [index for index, rows in enumerate(shown) if len(rows)]
    chosen = sorted(rng.permutation(full)[:num].tolist())
    each = max(1, most // max(len(chosen), 1))
    views: list[Shown] = []
    kept: list[Tensor] = []
    for index in chosen:
        rows = shown[index]
        far_m = math.inf
        if len(rows) > each:
            depth_m, _ = _seen_at(frame_at(frames, index), xyz[rows[each - 1 : each]])
            far_m, rows = float(depth_m[0]), rows[:each]
        views.append(Shown(index, far_m))
        kept.append(rows)
    return tuple(views), torch.cat(kept).unique()


def take_views(frames: Frames, views: Sequence[Shown], device: str) -> Frames:
    """The views of a step; pixels that look beyond the step's points are not compared.

    Args:
        frames: All views.
        views: Which ones, at least one.
        device: Where the result lies.
    """
    parts: list[Frame] = []
    for view in views:
        frame = frame_at(frames, view.view)
        parts.append(replace(frame, inside=frame.inside & ~(frame.depth_m > view.far_m)))
    taken = stack_frames(parts)
    return replace(
        taken,
        rgb=taken.rgb.to(device),
        depth_m=taken.depth_m.to(device),
        inside=taken.inside.to(device),
        rows=taken.rows.to(device, torch.float32),
        valid=taken.valid.to(device),
        weight=taken.weight.to(device),
        taps=taken.taps.to(device=device),
    )
