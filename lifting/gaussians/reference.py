"""Brute force: every pixel against every splat, in plain torch. The oracle of faster code."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lifting.cameras import pixel_centres
from lifting.gaussians.projection import LEAST_ALPHA, Projected

# No splat is fully opaque: what lies behind keeps a share of the gradient.
MOST_ALPHA = 0.99
# Compositing stops before the splat that would leave less light than this.
LEAST_TRANSMITTANCE = 1e-4


def dense_alphas(
    projected: Projected, opacities: Float[Tensor, " M"], hw: tuple[int, int]
) -> Float[Tensor, "P M"]:
    """Alpha of every splat in every pixel; 0 where it is below 1/255 and for splats not drawn.

    Extents are not used beyond that, so this finds what a box that is too small would lose.

    Args:
        projected: Splats in the image.
        opacities: In [0, 1].
        hw: Height and width of the image; the pixels are its rows laid end to end.
    """
    pixels = pixel_centres(hw, dtype=projected.uv.dtype, device=projected.uv.device)
    dx, dy = (pixels[:, None, :] - projected.uv[None]).unbind(-1)
    a, b, c = projected.conics.unbind(1)
    distance = a * dx * dx + 2 * b * dx * dy + c * dy * dy
    # Rounding can make the distance of a long thin splat negative.
    alpha = opacities * torch.exp(-0.5 * distance.clamp_min(0))
    alpha = alpha.clamp_max(MOST_ALPHA)
    kept = (alpha >= LEAST_ALPHA) & projected.drawn
    return alpha.where(kept, torch.zeros_like(alpha))


def dense_weights(
    projected: Projected, opacities: Float[Tensor, " M"], hw: tuple[int, int]
) -> Float[Tensor, "P M"]:
    """Share of every splat in every pixel: alpha x transmittance in front of it.

    Splats are composited by depth, ties by index. The splat that would bring the transmittance
    to 1e-4 or less is left out, and so are all behind it. Differentiable in `uv`, `conics` and
    opacities. Memory is pixels x splats.

    Args:
        projected: Splats in the image.
        opacities: In [0, 1].
        hw: Height and width of the image; the pixels are its rows laid end to end.

    Source:
        Kerbl et al., 3D Gaussian splatting, SIGGRAPH 2023, equation 3 and appendix C.
    """
    order = torch.argsort(projected.depth_m.detach(), stable=True)
    alpha = dense_alphas(projected, opacities, hw)[:, order]
    behind = torch.cumprod(1 - alpha, 1)
    front = torch.cat((torch.ones_like(behind[:, :1]), behind[:, :-1]), 1)
    # Transmittance never grows, so all behind the first splat that is left out are, too.
    weight = alpha * front * (behind.detach() > LEAST_TRANSMITTANCE)
    return torch.zeros_like(weight).index_copy(1, order, weight)
