"""A coloured bumpy floor, seen by cameras above it: pictures, depth and rows of known splats."""

from __future__ import annotations

from typing import Any

import torch

from lifting.cameras import Camera
from lifting.gaussians.initialise import splats_from_points
from lifting.gaussians.joint import draw_jointly
from lifting.gaussians.splats import Splats
from lifting.operator import LiftOperator
from xmodal.splats.frames import Frame, stack_frames
from xmodal.values import Frames, Points

CHANNELS = 4
HW = (18, 24)
GRID = (6, 8)
K = torch.tensor([[24.0, 0, 12], [0, 24.0, 9], [0, 0, 1]])


def floor(num: int = 300, seed: int = 0) -> Points:
    """Points on a floor of 2 m x 2 m, red to the left and green to the right, blue in front."""
    chance = torch.Generator().manual_seed(seed)
    xyz = torch.rand(num, 3, generator=chance) * torch.tensor([2.0, 2.0, 0.05])
    red = xyz[:, 0] / 2
    rgb = torch.stack((1 - red, red, xyz[:, 1] / 2), 1)
    return Points(
        xyz=xyz,
        offsets=torch.tensor([0, num]),
        rgb=rgb,
        normals=torch.tensor([[0.0, 0, 1]]).repeat(num, 1),
    )


def rows_of(cloud: Points) -> torch.Tensor:
    """A row of length 1 that turns with the colour."""
    assert cloud.rgb is not None
    turn = torch.randn(3, CHANNELS, generator=torch.Generator().manual_seed(9))
    return torch.nn.functional.normalize(cloud.rgb @ turn + 0.2, dim=1)


def truth(cloud: Points) -> Splats:
    """What the pictures show: opaque discs on the points."""
    return splats_from_points(cloud.xyz, cloud.rgb, cloud.normals, opacity=0.95)


def above(x_m: float, y_m: float, height_m: float = 1.6) -> Camera:
    """A camera that looks straight down."""
    T = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    T[:3, 3] = torch.tensor([x_m, y_m, height_m])
    return Camera(K=K, T_world_cam=T, hw=HW)


def patches() -> LiftOperator:
    """Every pixel reads the patch that it lies in: 3 x 3 pixels each."""
    row, column = torch.meshgrid(torch.arange(HW[0]), torch.arange(HW[1]), indexing="ij")
    patch = (row // 3 * GRID[1] + column // 3).flatten()
    pixels = torch.arange(len(patch))
    return LiftOperator.from_coo(
        pixels, patch, torch.ones(len(pixels)), shape=(len(pixels), GRID[0] * GRID[1])
    )


@torch.no_grad()
def frame(cloud: Points, camera: Camera, **changed: Any) -> Frame:
    """The picture of a camera, with depth and the mean row of every patch."""
    view = draw_jointly(truth(cloud), camera, rows_of(cloud))
    taps = patches()
    rows = taps.transpose().mean().apply(view.features)
    parts: dict[str, Any] = {
        "rgb": view.colour.clamp(0, 1),
        "depth_m": view.depth_m.where(view.alpha > 0.5, torch.zeros_like(view.alpha)),
        "inside": view.alpha > 0.5,
        "camera": camera,
        "rows": rows.half().float(),  # as a store keeps them
        "valid": rows.norm(dim=1) > 0,
        "weight": torch.ones(len(rows)),
        "taps": taps,
    }
    return Frame(**(parts | changed))


def frames(cloud: Points, places: tuple[tuple[float, float], ...] | None = None) -> Frames:
    """Pictures from places above the floor."""
    places = ((0.7, 0.7), (1.3, 0.7), (0.7, 1.3), (1.3, 1.3)) if places is None else places
    return stack_frames([frame(cloud, above(*place)) for place in places])
