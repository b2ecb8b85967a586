"""Cameras: pinhole with and without distortion, and fisheye.

Frames follow `T_a_b` (b-coordinates to a-coordinates). Camera axes are OpenCV's: x right, y down,
z forward. Pixel centres lie at +0.5, so pixel (row r, column c) covers [c, c + 1) x [r, r + 1).
Depth is z-depth, so a fisheye camera sees at most 180 degrees here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lifting.lens import MAX_RADIUS, distort, pad_coefficients, undistort, valid_radius

# Nearer points are behind the camera: no sensor images them and 1/z would overflow.
NEAR_M = 1e-6
# Poses come from text files and optimisers; 1e-3 is a twentieth of a degree, far above rounding.
_ROTATION_TOLERANCE = 1e-3
_NUM_COEFFICIENTS = {"pinhole": (4, 5, 8), "fisheye": (4,)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Camera:
    """One posed camera. It checks itself when made, so every camera that exists is usable.

    The tensors must not be changed in place afterwards; use `dataclasses.replace`.

    Attributes:
        K: Intrinsics in pixels of an image of size `hw`; no skew.
        T_world_cam: Camera-to-world rigid transform, metres.
        hw: Image height and width, pixels.
        distortion: OpenCV coefficients, `k1 k2 p1 p2 [k3 [k4 k5 k6]]` for `pinhole`,
            `k1 k2 k3 k4` for `fisheye`; None for an ideal lens.
        model: Lens model.
        time_s: Time of exposure, seconds; None when unknown.
    """

    K: Float[Tensor, "3 3"]
    T_world_cam: Float[Tensor, "4 4"]
    hw: tuple[int, int]
    distortion: Float[Tensor, " D"] | None = None
    model: Literal["pinhole", "fisheye"] = "pinhole"
    time_s: float | None = None

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Check that the numbers make a camera.

        Raises:
            ValueError: Naming the field, what it must be and what it is.
        """
        _check_hw(self.hw)
        _check_intrinsics(self.K)
        _check_pose(self.T_world_cam)
        _check_distortion(self.distortion, self.model)

    @property
    def centre(self) -> Float[Tensor, " 3"]:
        """Optical centre in the world frame, metres."""
        return self.T_world_cam[:3, 3]

    @cached_property
    def coefficients(self) -> tuple[float, ...] | None:
        """Lens coefficients as numbers; None when the lens does nothing."""
        if self.model == "fisheye" and self.distortion is None:
            return (0.0, 0.0, 0.0, 0.0)
        if self.distortion is None:
            return None
        numbers = tuple(float(k) for k in self.distortion.detach().tolist())
        return None if self.model == "pinhole" and not any(numbers) else numbers

    @cached_property
    def valid_radius(self) -> float:
        """Radius in ideal coordinates (x/z, y/z) beyond which the lens model has no meaning."""
        if self.coefficients is None:
            return math.inf
        return valid_radius(self.model, self.coefficients)

    @cached_property
    def parameters(self) -> npt.NDArray[np.float64]:
        """Everything as one array of 40 numbers, for compiled kernels.

        Layout: R_cam_world (9, row-major), centre (3), fx fy cx cy, width height, lens (0 ideal,
        1 pinhole, 2 fisheye), squared valid radius, coefficients (8), and the four inward normals
        (12) of planes through the centre that enclose the view.
        """
        numbers = np.zeros(40)
        T = self.T_world_cam.detach().cpu().double().numpy()
        numbers[:9] = np.linalg.inv(T[:3, :3]).reshape(-1)
        numbers[9:12] = T[:3, 3]
        K = self.K.detach().cpu().double().numpy()
        numbers[12:16] = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
        numbers[16:18] = self.hw[1], self.hw[0]
        numbers[19] = self.valid_radius**2
        if self.coefficients is not None:
            numbers[18] = 2 if self.model == "fisheye" else 1
            numbers[20:28] = pad_coefficients(self.coefficients)
        right, down, forward = numbers[:9].reshape(3, 3)
        x_min, y_min, x_max, y_max = self._extent()
        numbers[28:40] = np.concatenate(
            (
                right - x_min * forward,
                x_max * forward - right,
                down - y_min * forward,
                y_max * forward - down,
            )
        )
        return numbers

    def _extent(self) -> tuple[float, float, float, float]:
        """A box in ideal coordinates around all that the image can show: x, y least and most."""
        height, width = self.hw
        steps = torch.linspace(0, 1, 33, dtype=torch.float64)
        size = torch.tensor((width, height), dtype=torch.float64)
        across = torch.stack((steps, torch.zeros_like(steps)), -1)
        border = torch.cat((across, across.flip(-1), across + across.new_tensor((0, 1))))
        border = torch.cat((border, across.flip(-1) + across.new_tensor((1, 0)))) * size
        K = self.K.detach().cpu().double()
        xy = (border - K[:2, 2]) / K.diagonal()[:2]
        if self.coefficients is not None:
            xy, converged = undistort(xy, self.model, self.coefficients)
            if not bool(converged.all()):
                r = self.valid_radius
                return -r, -r, r, r
        low, high = xy.amin(0), xy.amax(0)
        # Slack for what lies between the samples of a curved border; the exact test comes later.
        slack = 0.02 * (high - low)
        x_min, y_min = (low - slack).tolist()
        x_max, y_max = (high + slack).tolist()
        return x_min, y_min, x_max, y_max


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """Points in one image.

    Attributes:
        uv: Pixels, x then y; finite everywhere, meaningless (-1) where the point has no image.
        depth_m: z-depth, metres; 0 for a point that is not finite, negative behind the camera.
        in_image: True where the point is in front of the camera, inside the lens model's valid
            radius and inside the image. Occlusion is not considered.
    """

    uv: Float[Tensor, "N 2"]
    depth_m: Float[Tensor, " N"]
    in_image: Bool[Tensor, " N"]


def project(xyz: Float[Tensor, "N 3"], camera: Camera) -> Projection:
    """Project world points into a camera; differentiable in the points and the camera.

    Args:
        xyz: World frame, metres. Non-finite points are never in the image.
        camera: Camera to look through. It is used in the points' precision and device.
    """
    finite = xyz.isfinite().all(-1)
    # Clean before any product: 0 * NaN in a backward pass would poison the pose's gradient.
    xyz = torch.where(finite[:, None], xyz, torch.zeros_like(xyz))
    T_world_cam = camera.T_world_cam.to(device=xyz.device)
    R_cam_world = torch.linalg.inv(T_world_cam[:3, :3].double()).to(xyz.dtype)
    # Subtracting the centre first keeps float32 exact for scenes far from the world's origin.
    xyz_cam = (xyz - T_world_cam[:3, 3].to(xyz.dtype)) @ R_cam_world.T
    depth_m = xyz_cam[:, 2].where(finite, torch.zeros_like(xyz_cam[:, 2]))
    front = finite & (depth_m > NEAR_M)
    z = depth_m.where(front, torch.ones_like(depth_m))
    xy = xyz_cam[:, :2].where(front[:, None], torch.zeros_like(xyz_cam[:, :2])) / z[:, None]
    if camera.coefficients is not None:
        front = front & (xy.square().sum(-1) < camera.valid_radius**2)
        xy = xy.where(front[:, None], torch.zeros_like(xy))
        xy = distort(xy, camera.model, camera.coefficients)
    K = camera.K.to(xyz)
    uv = xy * K.diagonal()[:2] + K[:2, 2]
    front = front & uv.isfinite().all(-1)
    uv = uv.where(front[:, None], torch.full_like(uv, -1.0))
    height, width = camera.hw
    inside = (uv >= 0).all(-1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    return Projection(uv=uv, depth_m=depth_m, in_image=front & inside)


def pixel_rays(
    uv: Float[Tensor, "N 2"], camera: Camera
) -> tuple[Float[Tensor, "N 3"], Bool[Tensor, " N"]]:
    """World-frame directions of pixels, scaled so that z-depth 1 m is one length.

    Args:
        uv: Pixels, x then y. They need not lie inside the image.
        camera: Camera that took the image.

    Returns:
        Directions, and whether the lens model gives the pixel a direction at all: corners of a
        strongly distorted image may have none. Such rows are zero.
    """
    K = camera.K.to(uv)
    xy = (uv - K[:2, 2]) / K.diagonal()[:2]
    valid = xy.isfinite().all(-1) & (xy.abs().amax(-1) < MAX_RADIUS)
    xy = xy.where(valid[:, None], torch.zeros_like(xy))
    if camera.coefficients is not None:
        xy, converged = undistort(xy, camera.model, camera.coefficients)
        valid = valid & converged
    rays_cam = torch.cat((xy, torch.ones_like(xy[:, :1])), -1) * valid[:, None]
    return rays_cam @ camera.T_world_cam[:3, :3].to(uv).T, valid


def pixel_centres(
    hw: tuple[int, int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Float[Tensor, "N 2"]:
    """Middles of all pixels of an image, row by row: (0.5, 0.5), (1.5, 0.5), ...

    Args:
        hw: Height and width, pixels.
        dtype: Of the result.
        device: Of the result.
    """
    v = torch.arange(hw[0], dtype=dtype, device=device) + 0.5
    u = torch.arange(hw[1], dtype=dtype, device=device) + 0.5
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), -1).reshape(-1, 2)


def unproject(
    uv: Float[Tensor, "N 2"], depth_m: Float[Tensor, " N"], camera: Camera
) -> Float[Tensor, "N 3"]:
    """World points of pixels with known depth, the inverse of `project`.

    Args:
        uv: Pixels, x then y (the middle of pixel (r, c) is (c + 0.5, r + 0.5)).
        depth_m: z-depth, metres, finite and positive; leave pixels without a reading out.
        camera: Camera that took the image.

    Raises:
        ValueError: If a depth is not positive and finite, or a pixel has no direction under the
            lens model (see `pixel_rays`).
    """
    bad = ~(depth_m.isfinite() & (depth_m > 0))
    if bool(bad.any()):
        raise ValueError(
            f"unproject: depth_m must be finite and > 0, but {int(bad.sum())} of {len(bad)} are "
            "not; leave pixels without a reading out, or use unproject_depth on the whole image"
        )
    rays, valid = pixel_rays(uv, camera)
    if not bool(valid.all()):
        raise ValueError(
            f"unproject: {int((~valid).sum())} of {len(valid)} pixels have no viewing direction "
            f"under the {camera.model} lens {camera.coefficients}; mask them with pixel_rays"
        )
    return rays * depth_m[:, None] + camera.centre.to(rays)


def unproject_depth(
    depth_m: Float[Tensor, "H W"], camera: Camera
) -> tuple[Float[Tensor, "N 3"], Int[Tensor, " N"]]:
    """World points of all readings of a depth image.

    Args:
        depth_m: z-depth, metres; 0 or non-finite where there is no reading.
        camera: Camera of the depth image.

    Returns:
        Points, and the flat pixel (row-major) each came from. Pixels without a reading or without
        a direction under the lens model are left out.

    Raises:
        ValueError: If the image does not have the camera's size.
    """
    if tuple(depth_m.shape) != camera.hw:
        raise ValueError(
            f"unproject_depth: depth image is {tuple(depth_m.shape)} but its camera has "
            f"hw {camera.hw}; scale the camera with scale_camera"
        )
    flat = depth_m.reshape(-1)
    index = torch.nonzero(flat.isfinite() & (flat > 0)).squeeze(-1)
    width = camera.hw[1]
    column, row = index % width, index.div(width, rounding_mode="floor")
    uv = torch.stack((column, row), -1).to(depth_m.dtype) + 0.5
    rays, valid = pixel_rays(uv, camera)
    index, rays = index[valid], rays[valid]
    return rays * flat[index][:, None] + camera.centre.to(rays), index


def scale_camera(camera: Camera, hw: tuple[int, int]) -> Camera:
    """The same camera after its image was resized to `hw`.

    With pixel centres at +0.5 the intrinsics scale linearly, separately in x and y.

    Args:
        camera: Camera of the original image.
        hw: New height and width, pixels.
    """
    _check_hw(hw)
    ratio = (hw[1] / camera.hw[1], hw[0] / camera.hw[0], 1.0)
    scale = torch.tensor(ratio, dtype=camera.K.dtype, device=camera.K.device)
    return replace(camera, K=camera.K * scale[:, None], hw=hw)


def _check_hw(hw: Any) -> None:
    if len(hw) != 2 or not all(isinstance(n, int) and n > 0 for n in hw):
        raise ValueError(f"camera hw must be two positive integers (height, width), got {hw!r}")


def _numbers(name: str, tensor: Tensor, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"camera {name} must have shape {shape}, got {tuple(tensor.shape)}")
    numbers = tensor.detach().cpu().double().numpy()
    if not np.isfinite(numbers).all():
        raise ValueError(f"camera {name} must be finite, got {numbers.tolist()}")
    return numbers


def _check_intrinsics(K: Tensor) -> None:
    numbers = _numbers("K", K, (3, 3))
    fx, fy = float(numbers[0, 0]), float(numbers[1, 1])
    if fx <= 0 or fy <= 0:
        raise ValueError(f"camera K must have fx, fy > 0, got fx = {fx:g}, fy = {fy:g}")
    # Relative to the focal length, so that rounding of a written file is not called skew.
    if abs(numbers[0, 1]) > 1e-6 * fx or abs(numbers[1, 0]) > 1e-6 * fx:
        raise ValueError(
            f"camera K must have no skew (K[0, 1] = K[1, 0] = 0), got K[0, 1] = "
            f"{numbers[0, 1]:g}, K[1, 0] = {numbers[1, 0]:g}; is it transposed?"
        )
    if not np.allclose(numbers[2], (0, 0, 1), rtol=0, atol=1e-6):
        raise ValueError(f"camera K must end in the row 0 0 1, got {numbers[2].tolist()}")


def _check_pose(T_world_cam: Tensor) -> None:
    numbers = _numbers("T_world_cam", T_world_cam, (4, 4))
    if not np.allclose(numbers[3], (0, 0, 0, 1), rtol=0, atol=1e-6):
        raise ValueError(
            f"camera T_world_cam must end in the row 0 0 0 1, got {numbers[3].tolist()}; "
            "is it transposed?"
        )
    R = numbers[:3, :3]
    error = float(np.linalg.norm(R @ R.T - np.eye(3)))
    if error > _ROTATION_TOLERANCE:
        raise ValueError(
            f"camera T_world_cam must hold a rotation: ||R R^T - I|| is {error:.3g}, at most "
            f"{_ROTATION_TOLERANCE:g} is accepted; does the pose carry a scale?"
        )
    determinant = float(np.linalg.det(R))
    if determinant < 0:
        raise ValueError(
            f"camera T_world_cam must hold a rotation with determinant +1, got {determinant:.4f}: "
            "a mirrored frame; check the axis convention of the poses"
        )


def _check_distortion(distortion: Tensor | None, model: str) -> None:
    if model not in _NUM_COEFFICIENTS:
        raise ValueError(f"camera model must be 'pinhole' or 'fisheye', got {model!r}")
    if distortion is None:
        return
    wanted = _NUM_COEFFICIENTS[model]
    if distortion.ndim != 1 or len(distortion) not in wanted:
        raise ValueError(
            f"camera distortion of a {model} lens must have {' or '.join(map(str, wanted))} "
            f"coefficients, got shape {tuple(distortion.shape)}"
        )
    _numbers("distortion", distortion, tuple(distortion.shape))
