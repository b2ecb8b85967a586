"""Prompts of splat queries, and what each of them hits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lifting.cameras import Camera
from lifting.gaussians.projection import covariances
from lifting.gaussians.rendering import view_operator
from lifting.gaussians.splats import Splats
from xmodal.errors import UsageError
from xmodal.store import Features
from xmodal.values import Image

# Less than one step of an 8-bit image is nothing that one can click on or draw a box around.
_LEAST_LIGHT = 1 / 255
# Splats with less than a tenth of the weight of the first do not take part in a point's feature.
_MINOR = 0.1


@dataclass(frozen=True, kw_only=True)
class TextPrompt:
    """Words, and words to tell them from."""

    text: str
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePrompt:
    """A picture of the thing, such as a crop of a photo."""

    image: Image


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelPrompt:
    """A click: `uv` in pixels of a camera's image, x then y."""

    camera: Camera
    uv: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class PointPrompt:
    """A point in the world, metres, on the thing: within reach of one of its splats."""

    xyz_m: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageBoxPrompt:
    """A box drawn in a camera's image: left, top, right, bottom in pixels."""

    camera: Camera
    box_px: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class BoxPrompt:
    """A box in the world; `T_world_box` puts its centre at the origin, axes along its sides."""

    T_world_box: Float[Tensor, "4 4"]
    size_m: tuple[float, float, float]


SplatPrompt = TextPrompt | ImagePrompt | PixelPrompt | PointPrompt | ImageBoxPrompt | BoxPrompt


def clicked_pixel(splats: Splats, features: Features, prompt: PixelPrompt) -> tuple[int, Tensor]:
    """The observed splat that a pixel shows most of, and the mixture of features that it shows.

    Raises:
        UsageError: If the pixel lies outside the image or shows no observed splat.
    """
    check_camera(prompt.camera)
    (height, width), (u, v) = prompt.camera.hw, prompt.uv
    where = f"click at ({u:g}, {v:g})"
    if not (0 <= u < width and 0 <= v < height):
        raise UsageError(
            where,
            wanted=f"a pixel inside {width} x {height}",
            got="one outside",
            fix="x runs from the left, y from the top",
        )
    with torch.no_grad():
        operator = view_operator(splats, prompt.camera)
    pixel = int(v) * width + int(u)
    entries = slice(int(operator.crow[pixel]), int(operator.crow[pixel + 1]))
    return _hit(features, operator.col[entries], operator.weight[entries], where, "no splat there")


def clicked_point(splats: Splats, features: Features, prompt: PointPrompt) -> tuple[int, Tensor]:
    """The observed splat that is densest at a point, and the mixture of features there.

    Raises:
        UsageError: If no observed splat reaches the point.
    """
    xyz = torch.tensor(prompt.xyz_m, dtype=torch.float64)
    where = f"point {prompt.xyz_m}"
    if not bool(xyz.isfinite().all()):
        raise UsageError(
            where, wanted="three finite numbers, metres", got="others", fix="give x, y and z"
        )
    means = splats.means.detach().cpu().double()
    away = xyz - means
    spread = covariances(splats.quats.detach(), splats.scales.detach()).cpu().double()
    # A splat as flat as paper still has a thickness of a tenth of a millimetre, or nobody hits it.
    spread = spread + 1e-8 * torch.eye(3, dtype=torch.float64)
    squares = (away * torch.linalg.solve(spread, away)).sum(1)
    density = splats.opacities.detach().cpu().double() * torch.exp(-0.5 * squares)
    got = f"the nearest splat is {float(torch.linalg.vector_norm(away, dim=1).min()):.3g} m away"
    return _hit(features, torch.arange(len(splats)), density, where, got)


def share_in_image_box(splats: Splats, prompt: ImageBoxPrompt) -> tuple[Tensor, Tensor]:
    """Of each splat the share of its light in a view that lies inside a box, and that light.

    Light is the sum of compositing weights over pixels; a splat that the view does not show, or
    that others hide, has none, and share 0. A pixel is inside where its centre is.

    Raises:
        UsageError: If the box is empty, outside the image, or shows no splat.
    """
    check_camera(prompt.camera)
    height, width = prompt.camera.hw
    left, top, right, bottom = prompt.box_px
    u, v = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    across, down = (u >= left) & (u <= right), (v >= top) & (v <= bottom)
    inside = (down[:, None] & across).reshape(-1)
    if not bool(inside.any()):
        raise UsageError(
            f"box {prompt.box_px}",
            wanted=f"left, top, right, bottom around pixels of an image of {width} x {height}",
            got="a box without any pixel",
            fix="x runs from the left, y from the top",
        )
    with torch.no_grad():
        lift = view_operator(splats, prompt.camera).transpose()
        columns = torch.stack((inside, torch.ones_like(inside)), 1).to(lift.weight)
        light, total = lift.apply(columns).cpu().unbind(1)
    light = light * (total >= _LEAST_LIGHT)
    if not bool((light > 0).any()):
        raise UsageError(
            f"box {prompt.box_px}",
            wanted="a box in which the view shows splats",
            got="background alone",
            fix="draw the box around something",
        )
    return light / total.clamp_min(_LEAST_LIGHT), light


def share_in_box(splats: Splats, prompt: BoxPrompt) -> Tensor:
    """Of each splat the share of its Gaussian that lies inside a box in the world.

    The three sides are taken as independent, which is exact for splats along the box's axes.

    Raises:
        UsageError: If the box has no size or no pose, or no splat lies inside.
    """
    T, size = prompt.T_world_box.detach().cpu().double(), torch.tensor(prompt.size_m).double()
    if not bool(T.isfinite().all()) or not bool((size.isfinite() & (size > 0)).all()):
        raise UsageError(
            "box in the world",
            wanted="a finite pose and three sizes above 0, metres",
            got=f"size {prompt.size_m}",
            fix="put the centre into the last column of T_world_box",
        )
    axes = T[:3, :3]
    along = (splats.means.detach().cpu().double() - T[:3, 3]) @ axes
    spread = covariances(splats.quats.detach(), splats.scales.detach()).cpu().double()
    sigma = torch.einsum("ia,mij,ja->ma", axes, spread, axes).clamp_min(1e-24).sqrt()
    bounds = [(side * size / 2 - along) / (sigma * math.sqrt(2)) for side in (-1, 1)]
    share = ((torch.erf(bounds[1]) - torch.erf(bounds[0])) / 2).prod(1)
    if not bool((share >= _LEAST_LIGHT).any()):
        raise UsageError(
            "box in the world",
            wanted="a box that holds splats",
            got="an empty one",
            fix="boxes are in the frame of the splats, metres",
        )
    return share


def check_rows(splats: Splats, features: Features) -> None:
    """Refuse features of another scene.

    Raises:
        UsageError: If there is not one row per splat.
    """
    if len(features.rows) != len(splats):
        raise UsageError(
            "query of splats",
            wanted=f"one row of features for each of {len(splats)} splats",
            got=f"{len(features.rows)} rows",
            fix="take splats and features of the same run; after an edit, let features follow",
        )


def check_camera(camera: Camera) -> None:
    """Refuse cameras that splats cannot be projected into.

    Raises:
        UsageError: If the camera has lens coefficients.
    """
    if camera.coefficients is not None:
        raise UsageError(
            "view of splats",
            wanted="a pinhole camera without lens coefficients",
            got=f"a {camera.model} lens with {camera.coefficients}",
            fix="undistort the photo, and leave the coefficients out",
        )


def _hit(
    features: Features, index: Tensor, weight: Tensor, where: str, nothing: str
) -> tuple[int, Tensor]:
    """The heaviest observed splat, and the mean feature of those that are not much lighter."""
    seen = torch.from_numpy(np.asarray(features.valid))[index.cpu()]
    light = weight.detach().cpu().double() * seen
    if not len(light) or not float(light.max()) >= _LEAST_LIGHT:
        hidden = len(seen) and bool((weight.cpu() >= _LEAST_LIGHT).any())
        raise UsageError(
            where,
            wanted="a place where a splat was observed",
            got="splats that no teacher observed" if hidden else nothing,
            fix="point at the middle of a larger object",
        )
    near = (light >= _MINOR * light.max()).nonzero().squeeze(1)
    rows = torch.from_numpy(features.take(index.cpu()[near].numpy()))
    return int(index[light.argmax()]), (light[near, None] * rows).sum(0).float()
