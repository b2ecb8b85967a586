"""Splats in one image: the local affine (EWA) projection, differentiable in splats and camera."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from lifting.cameras import Camera
from lifting.gaussians.splats import Splats

# A splat adds to a pixel from this alpha on: one step of an 8-bit image.
LEAST_ALPHA = 1 / 255
# The affine approximation is taken at most this share of half the field of view outside the
# image: farther out the slope of the projection grows without bound. 3DGS and gsplat use the same.
_MARGIN = 0.3
# Splats beyond these sizes are not drawn. They keep every product finite in float32: the
# determinant of a covariance is at most the fourth power of the greatest standard deviation.
_MOST_SIGMA_PX = 1e9
_MOST_SLOPE = 1e6
_MOST_OFFSET_M = 1e18
# Nearer splats are not drawn whatever their size: slopes stay finite in float32.
_LEAST_DEPTH_M = 1e-9
# A splat without any area in the image, in px^4; reached only without dilation.
_LEAST_DETERMINANT = 1e-12
# Added to each half width: pixel coordinates are rounded, too.
_EXTENT_SLACK_PX = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class Projected:
    """Splats in one image.

    Attributes:
        uv: Centres in pixels, x then y.
        conics: Inverse covariances in 1/px^2, as `a b c` of `[[a, b], [b, c]]`.
        depth_m: z-depth of the centres, metres.
        extent_px: Half width and half height of the box around `uv` outside which the splat adds
            less than 1/255 to any pixel; 0 for a splat that is not drawn, whose other fields mean
            nothing (they are finite). Not differentiable; it can exceed the image by far.
    """

    uv: Float[Tensor, "M 2"]
    conics: Float[Tensor, "M 3"]
    depth_m: Float[Tensor, " M"]
    extent_px: Float[Tensor, "M 2"]

    def __len__(self) -> int:
        return len(self.uv)

    @property
    def drawn(self) -> Bool[Tensor, " M"]:
        """Whether a splat can add to any pixel."""
        return self.extent_px[:, 0] > 0


def project_splats(
    splats: Splats, camera: Camera, *, dilation_px2: float = 0.3, near_m: float = 0.01
) -> Projected:
    """Project splats into a camera by the derivative of the projection at their centres.

    Differentiable in means, quats and scales and in the camera's pose and K. Splats that are not
    drawn (too near or behind, outside the image, opacity below 1/255, without area) get zero
    gradients. A camera inside a splat sees it as long as its centre is `near_m` in front. Small
    splats may be nearer, so that a scene in other units than metres looks the same.

    Args:
        splats: World frame. Their opacities decide the extents only; whoever composites with
            other opacities must not exceed these.
        camera: Pinhole camera, used in the splats' precision and device.
        dilation_px2: Added to the variances in the image, so that a splat covers about a pixel at
            least.
        near_m: Splats whose centre is nearer, in z-depth, are not drawn, unless it is farther than
            their greatest standard deviation.

    Raises:
        ValueError: If the camera has lens coefficients, or a setting is out of range.

    Source:
        Zwicker et al., EWA volume splatting, Visualization 2001; Kerbl et al., 3D Gaussian
        splatting, SIGGRAPH 2023; limits and extents as in gsplat 1.5.
    """
    _check_settings(camera, dilation_px2, near_m)
    if _is_plain(splats, camera):
        return _projected_at_once(splats, camera, dilation_px2, near_m)
    # What cannot be drawn is left out before anything is differentiated: zero times the infinite
    # slope of a splat at the camera would be NaN.
    index = _candidates(splats, camera, near_m).nonzero().squeeze(1)
    means, K = splats.means, camera.K.to(splats.means)
    xyz_cam = _camera_frame(means.index_select(0, index), camera)
    depth_m = xyz_cam[:, 2]
    slope = xyz_cam[:, :2] / depth_m[:, None]
    quats, scales = (part.index_select(0, index) for part in (splats.quats, splats.scales))
    axes_px = _projected_axes(quats, scales, slope, depth_m, camera)
    conics, solid = _conics(axes_px, dilation_px2)
    uv = slope * K.diagonal()[:2] + K[:2, 2]
    with torch.no_grad():
        extent = _extents(conics, splats.opacities[index]) * solid[:, None]
        size = extent.new_tensor((camera.hw[1], camera.hw[0]))
        extent *= ((uv + extent > 0) & (uv - extent < size)).all(1)[:, None]

    def spread(part: Tensor) -> Tensor:
        return part.new_zeros((len(means), *part.shape[1:])).index_copy(0, index, part)

    return Projected(
        uv=spread(uv), conics=spread(conics), depth_m=spread(depth_m), extent_px=spread(extent)
    )


def rotation_matrices(quats: Float[Tensor, "M 4"]) -> Float[Tensor, "M 3 3"]:
    """Rotations of quaternions w x y z of any length above zero; the columns are the axes."""
    # A rotation does not depend on the length, so a first division may count as constant; it
    # keeps the squares of very short and very long quaternions in range.
    quats = quats / quats.detach().abs().amax(1, keepdim=True)
    w, x, y, z = (quats / torch.linalg.vector_norm(quats, dim=1, keepdim=True)).unbind(1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def covariances(
    quats: Float[Tensor, "M 4"], scales: Float[Tensor, "M 3"]
) -> Float[Tensor, "M 3 3"]:
    """Covariances in the world frame, square metres.

    Args:
        quats: Rotations w x y z of any length above zero.
        scales: Standard deviations along the rotated axes, metres.
    """
    axes = rotation_matrices(quats) * scales[:, None, :]
    return axes @ axes.mT


def splat_normals(splats: Splats, camera: Camera) -> Float[Tensor, "M 3"]:
    """Unit normals: the shortest axis of each splat, on the side of the camera, world frame.

    Differentiable in quats. Of equally short axes the first counts.
    """
    shortest = splats.scales.argmin(1)
    normals = rotation_matrices(splats.quats).mT[torch.arange(len(splats)), shortest]
    away = (normals * (splats.means - camera.centre.to(splats.means))).sum(1) > 0
    return torch.where(away[:, None], -normals, normals)


def _is_plain(splats: Splats, camera: Camera) -> bool:
    """Whether the compiled loop can do it: on a CPU, and nobody wants gradients."""
    parts = (splats.means, splats.quats, splats.scales, splats.opacities)
    kinds = {part.dtype for part in parts}
    if len(kinds) != 1 or not kinds <= {torch.float32, torch.float64}:
        return False
    if any(part.device.type != "cpu" for part in parts):
        return False
    asked = torch.is_grad_enabled() and any(
        part.requires_grad for part in (*parts, camera.T_world_cam, camera.K)
    )
    return not asked


def _projected_at_once(
    splats: Splats, camera: Camera, dilation_px2: float, near_m: float
) -> Projected:
    from lifting.backends import numba_projection  # numba costs half a second to import

    like = torch.zeros((), dtype=torch.float64)
    K = camera.K.detach().cpu().double()
    low, high = _slope_limits(camera, like)
    steepest = float(torch.maximum(-low, high).square().sum().add(1).sqrt())
    focal = K.diagonal()[:2]
    numbers = (camera.centre.detach().cpu().double(), focal, K[:2, 2])
    size = like.new_tensor((camera.hw[1], camera.hw[0]))
    limits = np.array(
        (
            dilation_px2,
            near_m,
            float(splats.means.new_tensor(LEAST_ALPHA)),
            _MOST_OFFSET_M,
            _MOST_SLOPE,
            _MOST_SIGMA_PX / (float(focal.max()) * steepest),
            _LEAST_DETERMINANT,
            _EXTENT_SLACK_PX,
            torch.finfo(splats.means.dtype).eps,
            _LEAST_DEPTH_M,
        )
    )

    def array(part: Tensor) -> NDArray[Any]:
        return part.detach().contiguous().numpy()

    found = numba_projection.project(
        (array(splats.means), array(splats.quats), array(splats.scales), array(splats.opacities)),
        _world_to_camera(camera, like).numpy(),
        torch.cat((*numbers, size, low, high)).numpy(),
        limits,
    )
    uv, conics, depth_m, extent = (torch.from_numpy(part) for part in found)
    return Projected(uv=uv, conics=conics, depth_m=depth_m, extent_px=extent)


def _check_settings(camera: Camera, dilation_px2: float, near_m: float) -> None:
    if camera.coefficients is not None:
        raise ValueError(
            f"splats are projected through ideal pinhole cameras only, but this {camera.model} "
            f"camera has lens coefficients {camera.coefficients}; undistort the images first"
        )
    if not (math.isfinite(dilation_px2) and dilation_px2 >= 0):
        raise ValueError(f"dilation_px2 must be 0 or more and finite, got {dilation_px2}")
    if not (math.isfinite(near_m) and near_m > 0):
        raise ValueError(f"near_m must be above 0 and finite, got {near_m}")


def _camera_frame(xyz: Tensor, camera: Camera) -> Tensor:
    """Points in the camera frame, in the points' precision."""
    # Subtracting the centre first, in the better precision of both, keeps float32 exact for
    # scenes far from the world's origin.
    return (xyz - camera.centre.to(xyz.device)).to(xyz) @ _world_to_camera(camera, xyz).T


def _world_to_camera(camera: Camera, like: Tensor) -> Tensor:
    """The rotation into the camera frame."""
    R_world_cam = camera.T_world_cam[:3, :3].to(like.device)
    return torch.linalg.inv(R_world_cam.double()).to(like)


@torch.no_grad()
def _candidates(splats: Splats, camera: Camera, near_m: float) -> Tensor:
    """Splats that may be drawn and whose projection stays in the range of float32."""
    offset = splats.means - camera.centre.to(splats.means)
    in_range = offset.abs().amax(1) < _MOST_OFFSET_M
    xyz_cam = _camera_frame(splats.means, camera)
    z = xyz_cam[:, 2]
    widest = splats.scales.amax(1)
    near = widest.clamp(min=_LEAST_DEPTH_M).clamp(max=near_m)
    in_range &= (z >= near) & (splats.opacities >= LEAST_ALPHA)
    in_range &= xyz_cam[:, :2].abs().amax(1) < _MOST_SLOPE * z
    low, high = _slope_limits(camera, z)
    steepest = torch.maximum(-low, high).square().sum().add(1).sqrt()
    focal = camera.K.diagonal()[:2].amax().to(z)
    return in_range & (widest * (focal * steepest) < _MOST_SIGMA_PX * z)


def _slope_limits(camera: Camera, like: Tensor) -> tuple[Tensor, Tensor]:
    """Least and greatest x/z, y/z at which the projection is made affine."""
    K = camera.K.to(like)
    focal, middle = K.diagonal()[:2], K[:2, 2]
    size = like.new_tensor((camera.hw[1], camera.hw[0]))
    margin = _MARGIN * 0.5 * size / focal
    return -middle / focal - margin, (size - middle) / focal + margin


def _projected_axes(
    quats: Tensor, scales: Tensor, slope: Tensor, depth_m: Tensor, camera: Camera
) -> Tensor:
    """The three semi-axes of each splat in the image, [M, 2, 3], pixels."""
    axes = _world_to_camera(camera, quats) @ (rotation_matrices(quats) * scales[:, None, :])
    low, high = _slope_limits(camera, slope)
    slope = torch.clamp(slope, min=low, max=high)
    stretch = camera.K.to(slope).diagonal()[:2] / depth_m[:, None]
    return stretch[:, :, None] * (axes[:, :2] - slope[:, :, None] * axes[:, 2:])


def _conics(axes_px: Tensor, dilation_px2: float) -> tuple[Tensor, Tensor]:
    """Inverses of the dilated covariances, and which of them have an area."""
    x, y = axes_px.unbind(1)
    xx, xy, yy = (x * x).sum(1), (x * y).sum(1), (y * y).sum(1)
    # The determinant as a sum of what cannot be negative (Cauchy-Binet): the textbook difference
    # xx yy - xy^2 loses all digits of long thin splats in float32.
    determinant = torch.linalg.cross(x, y).square().sum(1)
    determinant = determinant + dilation_px2 * (xx + yy) + dilation_px2**2
    solid = determinant.detach() > _LEAST_DETERMINANT
    determinant = determinant.where(solid, torch.ones_like(determinant))
    a, c = (yy + dilation_px2) / determinant, (xx + dilation_px2) / determinant
    # Rounding may leave needles of thousands of pixels without a shortest axis: keep them convex.
    limit = (1 - 8 * torch.finfo(a.dtype).eps) * (a * c).clamp_min(1e-37).sqrt()
    b = torch.minimum(torch.maximum(-xy / determinant, -limit), limit)
    conics = torch.stack((a, b, c), 1)
    return conics.where(solid[:, None], torch.zeros_like(conics)), solid


def _extents(conics: Tensor, opacities: Tensor) -> Tensor:
    """Half widths of the boxes around all points with alpha of at least 1/255, pixels.

    They are those of the ellipse that the stored conic has, widened by what its evaluation in
    the same precision can be wrong by: a (x^2) of the terms reaches level / (1 - b^2 / ac).
    """
    a, b, c = conics.double().unbind(1)
    convex = a * c - b * b
    convex = convex.where(convex > 0, torch.ones_like(convex))
    level = 2 * torch.log(opacities.detach().double() / LEAST_ALPHA).clamp_min(0)
    rounding = 16 * torch.finfo(conics.dtype).eps * (1 + a * c / convex)
    area = level * (1 + rounding) / convex
    return ((torch.stack((c, a), 1) * area[:, None]).sqrt() + _EXTENT_SLACK_PX).to(conics)
