"""Changing the colours of splats: linear maps of RGB, carried through all harmonics.

A colour that depends on direction is 0.5 + the sum of harmonics. A map `colour -> A colour + b`
therefore acts on every coefficient by A, and on the constant one by what is left of the 0.5: the
edited splat looks from every side as the old one would after the map.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lifting.gaussians.harmonics import sh_from_rgb

__all__ = ["base_colours", "hue_rotation", "map_colours", "tint"]

# Of the constant harmonic.
_C0 = math.sqrt(1 / (4 * math.pi))
# Shares of red, green and blue in brightness (ITU-R BT.709).
_LUMA = (0.2126, 0.7152, 0.0722)
# A twentieth of full brightness: in darker things shading is noise and is not stretched.
_DARKEST = 0.05


def base_colours(sh: Float[Tensor, "M K 3"]) -> Float[Tensor, "M 3"]:
    """Colours by the constant harmonic alone; they may lie outside [0, 1]."""
    return 0.5 + _C0 * sh[:, 0]


def map_colours(
    sh: Float[Tensor, "M K 3"], matrix: Float[Tensor, "3 3"], offset: Float[Tensor, " 3"]
) -> Float[Tensor, "M K 3"]:
    """Harmonics of splats whose colours are mapped by `matrix @ colour + offset`.

    The base colour is cut to [0, 1], which the map may leave; what depends on direction is not.
    """
    base = (base_colours(sh) @ matrix.T + offset).clamp(0, 1)
    return torch.cat((sh_from_rgb(base), sh[:, 1:] @ matrix.T), 1)


def hue_rotation(angle_rad: float) -> Float[Tensor, "3 3"]:
    """Rotation of RGB about grey: a third of a turn takes red to green and green to blue.

    Grey stays grey, and red + green + blue stays the same.
    """
    c, s = math.cos(angle_rad), math.sin(angle_rad) / math.sqrt(3)
    along = torch.full((3, 3), (1 - c) / 3)
    across = torch.tensor([[0.0, -s, s], [s, 0.0, -s], [-s, s, 0.0]])
    return c * torch.eye(3) + along + across


def tint(
    sh: Float[Tensor, "M K 3"], opacities: Float[Tensor, " M"], colour: Float[Tensor, " 3"]
) -> tuple[Float[Tensor, "3 3"], Float[Tensor, " 3"]]:
    """The map (matrix, offset) that gives splats one colour and keeps their shading.

    A splat of mean brightness becomes `colour`; brighter and darker ones become brighter and darker
    shades of it, in proportion.

    Args:
        sh: Harmonics of the splats.
        opacities: How much each counts for the mean brightness.
        colour: In [0, 1].
    """
    luma = torch.tensor(_LUMA).to(sh)
    bright = base_colours(sh).clamp(0, 1) @ luma
    mean = (bright * opacities).sum() / opacities.sum().clamp_min(1e-12)
    stretch = 1 / mean.clamp_min(_DARKEST)
    return stretch * torch.outer(colour, luma), colour * (1 - stretch * mean)
