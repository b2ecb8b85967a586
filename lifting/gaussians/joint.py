"""One view of splats with all that is learnt from it: colour, depth, features, and the weights.

`rendering.render` draws the same; here the compositing weights are kept, so that what a pixel shows
can be given back to the splats that it shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifting.cameras import Camera
from lifting.gaussians.compositing import compositing_operator
from lifting.gaussians.harmonics import sh_colours
from lifting.gaussians.projection import project_splats
from lifting.gaussians.splats import Splats
from lifting.operator import LiftOperator


@dataclass(frozen=True, kw_only=True, eq=False)
class JointView:
    """What a camera sees of splats; pixels of `features` row by row.

    Attributes:
        colour: Red, green and blue over black, not cut at 1.
        depth_m: Mean z-depth of the splats' centres by their share, metres; 0 where alpha is 0.
        alpha: How much light the splats of a pixel stop, [0, 1).
        features: Sum of the features by their share of the pixel, not divided by alpha.
        weights: Share of every splat in every pixel, [pixels x splats].
        splat_depth_m: z-depth of each splat's centre, metres.
    """

    colour: Float[Tensor, "3 H W"]
    depth_m: Float[Tensor, "H W"]
    alpha: Float[Tensor, "H W"]
    features: Float[Tensor, "P C"]
    weights: LiftOperator
    splat_depth_m: Float[Tensor, " M"]


def draw_jointly(
    splats: Splats, camera: Camera, features: Float[Tensor, "M C"], *, backend: str = "auto"
) -> JointView:
    """Draw colour, depth and features from one compositing; differentiable in everything.

    Args:
        splats: World frame, with colour.
        camera: Pinhole camera without lens coefficients.
        features: One row of any width per splat.
        backend: See `compositing_operator`.

    Raises:
        ValueError: If splats have no colour, there is not one row per splat, or the camera has
            lens coefficients.
    """
    if splats.sh is None:
        raise ValueError("a joint view needs splats with colour (sh), got none")
    if len(features) != len(splats):
        raise ValueError(f"{len(splats)} splats need as many rows, got {list(features.shape)}")
    projected = project_splats(splats, camera)
    weights = compositing_operator(projected, splats.opacities, camera.hw, backend=backend)
    colours = sh_colours(splats.sh, splats.means - camera.centre.to(splats.means))
    columns = (torch.ones_like(splats.opacities)[:, None], projected.depth_m[:, None], colours)
    shown = weights.apply(torch.cat(columns, 1)).T.unflatten(1, camera.hw)
    alpha, depth_m, colour = shown[0], shown[1], shown[2:]
    return JointView(
        colour=colour,
        depth_m=depth_m / alpha.where(alpha > 0, torch.ones_like(alpha)),
        alpha=alpha,
        features=weights.apply(features),
        weights=weights,
        splat_depth_m=projected.depth_m,
    )


def near_surface(view: JointView, band_m: float) -> LiftOperator:
    """The weights of a view, less the further a splat lies from the depth that its pixel shows.

    Args:
        view: The view. Neither its weights nor its depths get a gradient from the result.
        band_m: Distance in depth at which a weight has fallen to 61 % (one standard deviation).

    Raises:
        ValueError: If the band has no width.
    """
    if not 0 < band_m < math.inf:
        raise ValueError(f"band_m must be above 0 metres, got {band_m}")
    weights = view.weights
    surface_m = view.depth_m.detach().flatten()[weights.row]
    away = (view.splat_depth_m.detach()[weights.col] - surface_m) / band_m
    return weights.with_weight(weights.weight.detach() * torch.exp(-0.5 * away.square()))
