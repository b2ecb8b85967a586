"""One depth frame as oriented, coloured, weighted points: what fusion averages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lifting.visibility import DepthNoise
from xmodal.values import Depth, Image

# tan(80 degrees): a surface seen at a flatter angle than this is indistinguishable from the mixed
# pixels between a foreground and its background.
_STEEPEST = 5.67
# Half the base of the central difference of a normal, pixels. A structured-light sensor's depth
# steps are wider than one pixel from 2 m on.
_REACH_PX = 3
# Weight of "towards the camera" where no normal can be measured, against a measured one.
_FALLBACK = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Surfels:
    """Points of one frame, world frame.

    Attributes:
        xyz: Metres.
        rgb: In [0, 1].
        normal: Towards the camera; a thousandth of unit length where it is a guess.
        weight: Inverse variance of the depth reading, relative to a reading at one metre.
        num_edges: Readings left out as mixed pixels of a depth edge.
        num_far: Readings left out as noisier than was allowed.
    """

    xyz: Float[Tensor, "n 3"]
    rgb: Float[Tensor, "n 3"]
    normal: Float[Tensor, "n 3"]
    weight: Float[Tensor, " n"]
    num_edges: int
    num_far: int


def frame_surfels(image: Image, depth: Depth, *, noise: DepthNoise, max_sigma_m: float) -> Surfels:
    """Turn a depth frame into surfels.

    Readings beside a depth jump are dropped: real sensors return depths between the two surfaces
    there. A jump is a step beyond three sigma plus what a surface at 80 degrees would give.

    Args:
        image: The picture of the same pose; its colour is read at the nearest pixel. Readings that
            fall outside it are dropped, because colour is averaged with position.
        depth: The frame; cameras without lens distortion.
        noise: Depth noise of the sensor.
        max_sigma_m: Readings noisier than this are dropped, metres.

    Returns:
        The surfels, in row-major order of their pixels.
    """
    z = depth.depth_m
    fx, fy = float(depth.camera.K[0, 0]), float(depth.camera.K[1, 1])
    valid = z > 0
    near_enough = noise.sigma_m(z) <= max_sigma_m
    edge = _edges(z, valid, noise, min(fx, fy))
    rays = _rays(depth)
    column, row, inside = _colour_pixels(image, rays)
    # Row numbers once, not a mask five times: masks are searched again at every use.
    kept = torch.nonzero((valid & near_enough & ~edge & inside).flatten()).squeeze(1)
    xyz_cam = rays * z[..., None]
    normal_cam = _normals(xyz_cam, z, valid & ~edge).view(-1, 3)[kept]
    R = depth.camera.T_world_cam[:3, :3].to(z)
    sigma_m = noise.sigma_m(z.flatten()[kept])
    one_m = noise.sigma_m(torch.ones((), dtype=z.dtype))
    # Half a millimetre: noise-free sensors must not divide by zero.
    weight = ((one_m + 5e-4) / (sigma_m + 5e-4)).square()
    pixel = (row * image.camera.hw[1] + column).flatten()[kept]
    return Surfels(
        xyz=xyz_cam.view(-1, 3)[kept] @ R.T + depth.camera.T_world_cam[:3, 3].to(z),
        rgb=image.rgb.reshape(3, -1).index_select(1, pixel).T.contiguous(),
        normal=normal_cam @ R.T,
        weight=weight,
        num_edges=int((valid & near_enough & edge).sum()),
        num_far=int((valid & ~near_enough).sum()),
    )


def _rays(depth: Depth) -> Float[Tensor, "H W 3"]:
    """Point at unit z-depth through the middle of every pixel."""
    height, width = depth.depth_m.shape
    K = depth.camera.K
    x = (torch.arange(width) + 0.5 - K[0, 2]) / K[0, 0]
    y = (torch.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
    rays = torch.ones(height, width, 3)
    rays[..., 0] = x
    rays[..., 1] = y[:, None]
    return rays


def _colour_pixels(
    image: Image, rays: Float[Tensor, "H W 3"]
) -> tuple[Tensor, Tensor, Bool[Tensor, "H W"]]:
    """Colour column and row of every depth pixel; both sensors share the optical centre."""
    K, (height, width) = image.camera.K, image.camera.hw
    column = (rays[..., 0] * K[0, 0] + K[0, 2]).floor().long()
    row = (rays[..., 1] * K[1, 1] + K[1, 2]).floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return column.clamp(0, width - 1), row.clamp(0, height - 1), inside


def _edges(
    z: Float[Tensor, "H W"], valid: Bool[Tensor, "H W"], noise: DepthNoise, focal_px: float
) -> Bool[Tensor, "H W"]:
    """Both readings of every jump between neighbours."""
    limit = 3.0 * noise.sigma_m(z) + z * (_STEEPEST / focal_px)
    edge = torch.zeros_like(valid)
    for axis in (0, 1):
        first, second = (slice(None, -1), slice(1, None))
        a, b = (first, second) if axis == 0 else ((..., first), (..., second))
        jump = (z[a] - z[b]).abs() > torch.maximum(limit[a], limit[b])
        jump &= valid[a] & valid[b]
        edge[a] |= jump
        edge[b] |= jump
    return edge


def _normals(
    xyz: Float[Tensor, "H W 3"], z: Float[Tensor, "H W"], usable: Bool[Tensor, "H W"]
) -> Float[Tensor, "H W 3"]:
    """Cross products of central differences, towards the camera; a short guess elsewhere."""
    height, width = z.shape
    distance = torch.linalg.vector_norm(xyz, dim=-1, keepdim=True).clamp_min(1e-6)
    normals = xyz * (-_FALLBACK / distance)
    s = _REACH_PX
    if height <= 2 * s or width <= 2 * s:
        return normals
    middle = (slice(s, -s), slice(s, -s))
    left, right = (middle[0], slice(None, -2 * s)), (middle[0], slice(2 * s, None))
    above, below = (slice(None, -2 * s), middle[1]), (slice(2 * s, None), middle[1])
    measured = torch.linalg.cross(xyz[below] - xyz[above], xyz[right] - xyz[left], dim=-1)
    length = torch.linalg.vector_norm(measured, dim=-1, keepdim=True)
    good = usable[left] & usable[right] & usable[above] & usable[below]
    # The four neighbours of a normal must lie on one surface, not across an edge three pixels off.
    spread = torch.maximum((z[left] - z[right]).abs(), (z[above] - z[below]).abs())
    good &= (spread < 0.1 * z[middle]) & (length[..., 0] > 0)
    unit = measured / length.clamp_min(1e-12)
    facing = (unit * xyz[middle]).sum(-1, keepdim=True)
    unit = torch.where(facing > 0, -unit, unit)
    normals[middle] = torch.where(good[..., None], unit, normals[middle])
    return normals
