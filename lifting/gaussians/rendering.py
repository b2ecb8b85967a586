"""Rendering splats: colour, depth, normals and features of any width from one compositing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifting.backends import resolve_backend
from lifting.cameras import Camera
from lifting.gaussians.compositing import compositing_operator
from lifting.gaussians.harmonics import sh_colours
from lifting.gaussians.projection import Projected, project_splats, splat_normals
from lifting.gaussians.splats import Splats
from lifting.operator import LiftOperator

__all__ = ["Rendered", "View", "render", "render_rows", "view_operator"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rendered:
    """Rows drawn into one image.

    Attributes:
        alpha: How much light the splats of a pixel stop, [0, 1).
        rows: Sum of the rows by their share of the pixel; not divided by alpha.
    """

    alpha: Float[Tensor, "H W"]
    rows: Float[Tensor, "H W C"]


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What a camera sees of splats.

    Attributes:
        colour: Red, green and blue, not cut at 1; None for splats without colour.
        depth_m: Mean z-depth of the splats' centres by their share of the pixel, metres; 0 where
            alpha is 0.
        normals: Unit normals towards the camera, world frame; 0 where alpha is 0.
        alpha: How much light the splats of a pixel stop, [0, 1).
        features: Sum of the features by their share of the pixel, not divided by alpha.
    """

    colour: Float[Tensor, "3 H W"] | None
    depth_m: Float[Tensor, "H W"]
    normals: Float[Tensor, "3 H W"]
    alpha: Float[Tensor, "H W"]
    features: Float[Tensor, "C H W"] | None


def view_operator(splats: Splats, camera: Camera, *, backend: str = "auto") -> LiftOperator:
    """Share of every splat in every pixel of a camera, [H*W x M]; differentiable in the splats.

    Args:
        splats: World frame.
        camera: Pinhole camera without lens coefficients.
        backend: See `compositing_operator`.

    Raises:
        ValueError: If the camera has lens coefficients.
    """
    projected = project_splats(splats, camera)
    return compositing_operator(projected, splats.opacities, camera.hw, backend=backend)


def render_rows(
    splats: Splats,
    camera: Camera,
    rows: Float[Tensor, "M C"],
    *,
    background: Float[Tensor, " B"] | None = None,
    backend: str = "auto",
) -> Rendered:
    """Draw one row of any width per splat: features, class probabilities, colours.

    Differentiable in the rows and in the splats.

    Args:
        splats: World frame; their colours are not used.
        camera: Pinhole camera without lens coefficients.
        rows: What each splat shows.
        background: Row of what no splat hides; without it, nothing.
        backend: See `compositing_operator`.

    Raises:
        ValueError: If there is not one row per splat, a row that is seen is not finite, or the
            background has another width.
    """
    _check_rows("rows", rows, len(splats))
    if background is not None and background.shape != rows.shape[1:]:
        raise ValueError(
            f"a background of rows of width {rows.shape[1]} needs that width, got "
            f"{list(background.shape)}"
        )
    draw = _drawer(project_splats(splats, camera), splats, camera.hw, backend)
    alpha, drawn = draw(rows.new_ones(len(rows), 1)), _finite("rows", draw(rows))
    if background is not None:
        # In place: a second image of wide rows would double the memory.
        drawn = drawn.addcmul_(1 - alpha, background.to(drawn))
    return Rendered(alpha=alpha.reshape(camera.hw), rows=drawn.reshape(*camera.hw, rows.shape[1]))


def render(
    splats: Splats,
    camera: Camera,
    features: Float[Tensor, "M C"] | None = None,
    *,
    background: Float[Tensor, " 3"] | None = None,
    backend: str = "auto",
) -> View:
    """Draw colour, depth, normals and, when given, features; each splat is composited once.

    Differentiable in the splats and the features.

    Args:
        splats: World frame.
        camera: Pinhole camera without lens coefficients.
        features: One row of any width per splat.
        background: Colour of what no splat hides; without it, black.
        backend: See `compositing_operator`.

    Raises:
        ValueError: If there is not one row of features per splat, one that is seen is not finite,
            or a background is given for splats without colour.
    """
    if features is not None:
        _check_rows("features", features, len(splats))
    if background is not None and (splats.sh is None or background.shape != (3,)):
        raise ValueError(
            "a background is a colour of 3 numbers behind splats with colour (sh), got "
            f"{list(background.shape)} behind splats {'without' if splats.sh is None else 'with'}"
        )
    projected = project_splats(splats, camera)
    draw = _drawer(projected, splats, camera.hw, backend)
    columns = [torch.ones_like(projected.depth_m)[:, None], projected.depth_m[:, None]]
    columns.append(splat_normals(splats, camera))
    if splats.sh is not None:
        columns.append(sh_colours(splats.sh, splats.means - camera.centre.to(splats.means)))
    # Features are multiplied where they lie: beside the colours they would be copied, which costs
    # as much memory as they have and, from some dozen channels on, more time than a second product.
    alpha, depth, normals, colour = torch.split(
        _image(draw(torch.cat(columns, 1)), camera.hw),
        [1, 1, 3, 0 if splats.sh is None else 3],
    )
    if background is not None:
        colour = colour + (1 - alpha) * background.to(colour)[:, None, None]
    covered = alpha > 0
    length = torch.linalg.vector_norm(normals.where(covered, torch.ones_like(normals)), dim=0)
    return View(
        colour=None if splats.sh is None else colour,
        depth_m=(depth / alpha.where(covered, torch.ones_like(alpha)))[0],
        normals=normals / length.clamp_min(torch.finfo(length.dtype).tiny),
        alpha=alpha[0],
        features=None
        if features is None
        else _image(_finite("features", draw(features)), camera.hw),
    )


def _drawer(
    projected: Projected, splats: Splats, hw: tuple[int, int], backend: str
) -> Callable[[Tensor], Tensor]:
    """What turns rows of splats into rows of pixels."""
    if resolve_backend(backend, splats.means.device, "splat_weights") == "gsplat":
        # It draws without the matrix, which a photo of full size would fill a card with.
        from lifting.backends.gsplat_splats import draw_rows  # CUDA only: not on every machine

        return lambda rows: draw_rows(projected, splats.opacities, rows, hw)
    return compositing_operator(projected, splats.opacities, hw, backend=backend).apply


def _finite(name: str, drawn: Tensor) -> Tensor:
    """Drawn rows, looked at: rows of splats that nobody sees do no harm."""
    if drawn.numel():
        low, high = torch.aminmax(drawn.detach())
        if not bool(low.isfinite() & high.isfinite()):
            raise ValueError(f"{name} to draw must be finite, got NaN or infinity")
    return drawn


def _image(rows: Tensor, hw: tuple[int, int]) -> Tensor:
    """Pixels as rows, seen as channels x height x width."""
    return rows.T.unflatten(1, hw)


def _check_rows(name: str, rows: Tensor, count: int) -> None:
    if rows.ndim != 2 or len(rows) != count:
        raise ValueError(f"{count} splats need {name} [{count}, C], got {list(rows.shape)}")
