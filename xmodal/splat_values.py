"""Gaussians of a graph as what `lifting` works on, and as points."""

from __future__ import annotations

import torch

from lifting.gaussians.harmonics import sh_colours
from lifting.gaussians.splats import Splats
from xmodal.errors import DataError
from xmodal.values import Gaussians, Points


def as_gaussians(splats: Splats) -> Gaussians:
    """Splats of one scene as a value of the graph, without features."""
    return Gaussians(
        means=splats.means,
        quats=splats.quats,
        scales=splats.scales,
        opacities=splats.opacities,
        sh=splats.sh,
        offsets=torch.tensor([0, len(splats)]),
    )


def as_splats(gaussians: Gaussians, where: str) -> Splats:
    """The splats of a value of one scene.

    Args:
        gaussians: The value.
        where: Who asks, for messages.

    Raises:
        DataError: If it holds several scenes, or its numbers make no splats.
    """
    if gaussians.offsets.numel() != 2:
        raise DataError(
            where,
            wanted="the splats of one scene, which all frames look at",
            got=f"splats of {gaussians.offsets.numel() - 1} scenes",
            fix="lift each scene by itself",
        )
    try:
        return Splats(
            means=gaussians.means,
            quats=gaussians.quats,
            scales=gaussians.scales,
            opacities=gaussians.opacities,
            sh=gaussians.sh,
        )
    except ValueError as error:
        raise DataError(
            where,
            wanted="splats of finite numbers",
            got=str(error),
            fix="fit the scene again",
        ) from error


def centres(gaussians: Gaussians) -> Points:
    """The centres of splats as points, with their features and the part of colour that is even."""
    rgb = None
    if gaussians.sh is not None:
        ahead = torch.zeros_like(gaussians.means)
        ahead[:, 2] = 1.0
        rgb = sh_colours(gaussians.sh[:, :1], ahead).clamp(0.0, 1.0)
    return Points(
        xyz=gaussians.means,
        offsets=gaussians.offsets,
        rgb=rgb,
        rows=gaussians.rows,
        valid=gaussians.valid,
        weight=gaussians.weight,
        num_views=gaussians.num_views,
        disagreement=gaussians.disagreement,
    )
