"""Photographs made ready for splats: smaller, without the bend of the lens, some held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample

from lifting.cameras import Camera, pixel_centres, scale_camera
from lifting.lens import LensModel, distort, undistort, valid_radius

# A wider field of view is cut: a plane image of more than 120 degrees is mostly stretched border.
_MAX_HALF_ANGLE_RAD = math.pi / 3
# Points of each side of a picture whose rays are looked at; a lens is smooth between them.
_BORDER_SAMPLES = 257
# Steps of making a field of view smaller until the lens model holds in all of it.
_SHRINK = 0.97


@dataclass(frozen=True, kw_only=True, eq=False)
class Undistorted:
    """A picture as an ideal lens would have taken it.

    Attributes:
        image: Its channels; 0 where not valid.
        camera: The pinhole camera that it belongs to, with the pose and size of the first.
        valid: Whether the first picture shows what a pixel sees.
    """

    image: Float[Tensor, "C H W"]
    camera: Camera
    valid: Bool[Tensor, "H W"]


def pinhole_camera(camera: Camera) -> Camera:
    """The ideal camera whose picture is filled by that of a camera with a lens.

    Its image plane is the largest upright rectangle around the optical axis inside the straightened
    picture, at most 60 degrees to each side, in as many pixels as before. Pose, size and time stay.

    Args:
        camera: Any camera; one without a lens comes back as it is.

    Raises:
        ValueError: If the optical axis does not pass through the picture.
    """
    if camera.coefficients is None:
        return replace(camera, distortion=None, model="pinhole")
    K = _pinhole_intrinsics(_lens(camera))
    return replace(camera, K=K.to(camera.K), distortion=None, model="pinhole")


def undistorted(
    image: Float[Tensor, "C H W"],
    camera: Camera,
    *,
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> Undistorted:
    """Resample a picture so that straight lines of the world are straight in it.

    Args:
        image: Channels of any meaning.
        camera: The camera that took it, of its size.
        mode: How pixels are read: `nearest` for depth and labels, whose values must not be mixed.

    Returns:
        The picture of `pinhole_camera(camera)`; as it came when the camera has no lens.

    Raises:
        ValueError: If the picture does not have the camera's size, or as `pinhole_camera`.
    """
    if tuple(image.shape[1:]) != camera.hw:
        raise ValueError(
            f"undistorted: the picture is {tuple(image.shape[1:])} but its camera has hw "
            f"{camera.hw}; scale the camera with scale_camera"
        )
    ideal = pinhole_camera(camera)
    if camera.coefficients is None:
        return Undistorted(
            image=image, camera=ideal, valid=image.new_ones(camera.hw, dtype=torch.bool)
        )
    grid, valid = _source_grid(_lens(camera))
    grid, valid = grid.to(image), valid.to(image.device)
    padding = "border"  # by rounding a pixel may lie a hair outside
    sampled = grid_sample(image[None], grid[None], mode, padding, align_corners=False)[0]
    return Undistorted(image=sampled * valid, camera=ideal, valid=valid)


def fitting_hw(hw: tuple[int, int], max_side_px: int | None) -> tuple[int, int]:
    """Height and width of a picture whose longer side is to be at most `max_side_px`."""
    if max_side_px is None or max(hw) <= max_side_px:
        return hw
    share = max_side_px / max(hw)
    return max(1, round(hw[0] * share)), max(1, round(hw[1] * share))


def averaged(image: Float[Tensor, "C H W"], hw: tuple[int, int]) -> Float[Tensor, "C h w"]:
    """Make a picture smaller: each pixel is the mean of the area that it covers, parts included.

    Args:
        image: Channels of any meaning.
        hw: New height and width, at most those of the picture.

    Raises:
        ValueError: If a side would grow or is not positive.
    """
    old = (image.shape[1], image.shape[2])
    if min(hw) < 1 or hw[0] > old[0] or hw[1] > old[1]:
        raise ValueError(f"averaged: hw must be 1 to {old}, got {hw}")
    rows = _averaged_rows(image, hw[0])
    return _averaged_rows(rows.mT.contiguous(), hw[1]).mT.contiguous()


def resized(
    image: Float[Tensor, "C H W"], camera: Camera, max_side_px: int | None
) -> tuple[Float[Tensor, "C h w"], Camera]:
    """A picture and its camera, made smaller by averaging where a side is longer than asked for.

    Args:
        image: Channels of any meaning.
        camera: The camera that took it.
        max_side_px: Longest side; None leaves everything as it is.
    """
    hw = fitting_hw(camera.hw, max_side_px)
    if hw == camera.hw:
        return image, camera
    return averaged(image, hw), scale_camera(camera, hw)


def held_out(names: Sequence[str], every: int = 8) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split photographs into those to fit and those to test new views with.

    By the habit of the field, every eighth in plain order of name is held out, from the first on.

    Args:
        names: Names of the photographs, in any order.
        every: One of so many is held out.

    Returns:
        Indices into `names`, in order of name: to fit, and held out.

    Raises:
        ValueError: If `every` is below 2, which leaves nothing to fit.

    Source:
        Barron et al., Mip-NeRF 360, CVPR 2022; kept by 3D Gaussian splatting.
    """
    if every < 2:
        raise ValueError(f"held_out: every must be at least 2, got {every}")
    order = sorted(range(len(names)), key=lambda index: names[index])
    fit = tuple(index for place, index in enumerate(order) if place % every)
    return fit, tuple(order[::every])


@dataclass(frozen=True, kw_only=True)
class _Lens:
    """What a straightened picture depends on, as a key of caches."""

    focal: tuple[float, float]
    centre: tuple[float, float]
    hw: tuple[int, int]
    model: LensModel
    coefficients: tuple[float, ...]

    def ideal(self, uv: Tensor) -> tuple[Tensor, Tensor]:
        """Ideal coordinates x/z, y/z of pixels, and whether the lens has a ray there."""
        xy = (uv - uv.new_tensor(self.centre)) / uv.new_tensor(self.focal)
        return undistort(xy, self.model, self.coefficients)

    def pixels(self, xy: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels of ideal coordinates, and whether the picture has them."""
        seen = xy.square().sum(-1) < valid_radius(self.model, self.coefficients) ** 2
        bent = distort(xy.where(seen[:, None], torch.zeros_like(xy)), self.model, self.coefficients)
        uv = bent * xy.new_tensor(self.focal) + xy.new_tensor(self.centre)
        inside = (uv >= 0) & (uv <= uv.new_tensor((self.hw[1], self.hw[0])))
        return uv, seen & inside.all(-1)


def _lens(camera: Camera) -> _Lens:
    assert camera.coefficients is not None, "cameras without a lens need no resampling"
    K = camera.K.detach().cpu().double()
    return _Lens(
        focal=(float(K[0, 0]), float(K[1, 1])),
        centre=(float(K[0, 2]), float(K[1, 2])),
        hw=camera.hw,
        model=camera.model,
        coefficients=camera.coefficients,
    )


@lru_cache(maxsize=64)
def _pinhole_intrinsics(lens: _Lens) -> Tensor:
    height, width = lens.hw
    u, v = lens.centre
    if not (0 < u < width and 0 < v < height):
        raise ValueError(
            f"pinhole_camera: the principal point ({u:g}, {v:g}) must lie inside the picture of "
            f"{width} x {height}"
        )
    low, high = _field(lens)
    inset = _inset(lens.hw)
    size = torch.tensor((width, height), dtype=torch.float64)
    K = torch.eye(3, dtype=torch.float64)
    K[[0, 1], [0, 1]] = (size - 2 * inset) / (high - low)
    K[:2, 2] = inset - low * K.diagonal()[:2]
    return K


def _inset(hw: tuple[int, int]) -> float:
    """From middle to middle of the outermost pixels nothing is read beyond them."""
    return 0.5 if min(hw) > 1 else 0.0


def _field(lens: _Lens) -> tuple[Tensor, Tensor]:
    """The largest upright rectangle of ideal coordinates that the picture fills: low and high."""
    first = torch.full((2,), _inset(lens.hw), dtype=torch.float64)
    last = torch.tensor((lens.hw[1], lens.hw[0]), dtype=torch.float64) - first
    border = _rectangle(first, last)
    xy, known = lens.ideal(border.reshape(-1, 2))
    # Where the lens has no ray the picture shows nothing; what it shows ends further out.
    limit = math.tan(_MAX_HALF_ANGLE_RAD)
    off = torch.where(known[:, None], xy.abs(), limit).clamp(max=limit).reshape(border.shape)
    top, bottom, left, right = off.unbind(0)
    low = -torch.stack((left[:, 0].min(), top[:, 1].min()))
    high = torch.stack((right[:, 0].min(), bottom[:, 1].min()))
    # A lens may fold inside that rectangle; beside the axis none does.
    while not bool(lens.pixels(_rectangle(low, high).reshape(-1, 2))[1].all()):
        low, high = low * _SHRINK, high * _SHRINK
    return low, high


def _rectangle(low: Tensor, high: Tensor) -> Tensor:
    """Points of the sides of a rectangle `[4, S, 2]`: top, bottom, left, right."""
    steps = torch.linspace(0, 1, _BORDER_SAMPLES, dtype=torch.float64)[:, None]
    between = low + steps * (high - low)
    sides = torch.stack([between] * 4)
    sides[0, :, 1], sides[1, :, 1] = low[1], high[1]
    sides[2, :, 0], sides[3, :, 0] = low[0], high[0]
    return sides


# Two of 12 megapixels are 200 MB; the frames of a scene share one lens, or few.
@lru_cache(maxsize=2)
def _source_grid(lens: _Lens) -> tuple[Tensor, Tensor]:
    """Where each straightened pixel lies in the first picture, from -1 to 1, and if it does."""
    K = _pinhole_intrinsics(lens)
    xy = (pixel_centres(lens.hw, dtype=torch.float64) - K[:2, 2]) / K.diagonal()[:2]
    uv, seen = lens.pixels(xy)
    height, width = lens.hw
    grid = 2 * uv / uv.new_tensor((width, height)) - 1
    return grid.float().reshape(height, width, 2), seen.reshape(height, width)


def _averaged_rows(image: Tensor, height: int) -> Tensor:
    """Average the rows of `[C, H, W]`; a row that two new ones share counts by its parts."""
    old = image.shape[1]
    if height == old:
        return image
    share = old / height
    edges = torch.arange(height + 1, dtype=torch.float64) * share
    first = edges[:-1].long()
    total = image.new_zeros(image.shape[0], height, image.shape[2])
    for tap in range(math.ceil(share) + 1):
        row = first + tap
        part = (torch.minimum(edges[1:], row + 1.0) - torch.maximum(edges[:-1], row * 1.0)) / share
        weight = part.clamp_min(0).to(image)[:, None]
        total += image[:, row.clamp(max=old - 1).to(image.device)] * weight
    return total
