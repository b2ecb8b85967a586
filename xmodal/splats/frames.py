"""Frames of a graph one by one, and put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lifting.cameras import Camera
from lifting.operator import LiftOperator
from lifting.point_sets import stack_rows
from xmodal.values import Frames


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One view of `Frames`; see there for what each part means.

    `taps` has a row per pixel and a column for each of this view's own rows.
    """

    rgb: Float[Tensor, "3 H W"]
    depth_m: Float[Tensor, "H W"]
    inside: Bool[Tensor, "H W"]
    camera: Camera
    rows: Float[Tensor, "M C"]
    valid: Bool[Tensor, " M"]
    weight: Float[Tensor, " M"]
    taps: LiftOperator


def frame_at(frames: Frames, index: int) -> Frame:
    """One view.

    Args:
        frames: All views.
        index: Which one, from 0.

    Raises:
        IndexError: If there is no such view.
    """
    if not 0 <= index < len(frames):
        raise IndexError(f"view {index} of {len(frames)} frames")
    sizes = frames.hw.prod(1).tolist()
    height, width = frames.hw[index].tolist()
    pixels = slice(sum(sizes[:index]), sum(sizes[: index + 1]))
    rows = slice(int(frames.offsets[index]), int(frames.offsets[index + 1]))
    device = frames.taps.crow.device
    mine = frames.taps.select_rows(torch.arange(pixels.start, pixels.stop, device=device))
    return Frame(
        rgb=frames.rgb[pixels].T.reshape(3, height, width),
        depth_m=frames.depth_m[pixels].reshape(height, width),
        inside=frames.inside[pixels].reshape(height, width),
        camera=Camera(K=frames.K[index], T_world_cam=frames.T_world_cam[index], hw=(height, width)),
        rows=frames.rows[rows],
        valid=frames.valid[rows],
        weight=frames.weight[rows],
        taps=LiftOperator(
            crow=mine.crow,
            col=mine.col - rows.start,
            weight=mine.weight,
            num_sources=rows.stop - rows.start,
        ),
    )


def stack_frames(views: Sequence[Frame]) -> Frames:
    """Views as one value.

    Args:
        views: At least one; all with rows of one width.

    Raises:
        ValueError: If there is none, or their widths differ.
    """
    if not views:
        raise ValueError("frames need at least one view, got none")
    widths = {view.rows.shape[1] for view in views}
    if len(widths) > 1:
        raise ValueError(f"all views need rows of one width, got {sorted(widths)}")
    counts = torch.tensor([0, *(len(view.rows) for view in views)])
    offsets = counts.cumsum(0)
    total = int(offsets[-1])
    taps = [
        LiftOperator(
            crow=view.taps.crow,
            col=view.taps.col + start,
            weight=view.taps.weight,
            num_sources=total,
        )
        for view, start in zip(views, offsets.tolist(), strict=False)
    ]
    return Frames(
        rgb=torch.cat([view.rgb.flatten(1).T for view in views]),
        depth_m=torch.cat([view.depth_m.flatten() for view in views]),
        inside=torch.cat([view.inside.flatten() for view in views]),
        hw=torch.tensor([view.camera.hw for view in views]),
        K=torch.stack([view.camera.K for view in views]),
        T_world_cam=torch.stack([view.camera.T_world_cam for view in views]),
        rows=torch.cat([view.rows for view in views]),
        valid=torch.cat([view.valid for view in views]),
        weight=torch.cat([view.weight for view in views]),
        offsets=offsets,
        taps=stack_rows(taps, num_sources=total),
    )
