"""Gaussians of a graph as what `lifting` works on, and as points."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lifting.gaussians.harmonics import sh_colours
from lifting.gaussians.splats import Splats
from xmodal.errors import DataError
from xmodal.values import Gaussians, Points

_OPACITY_RANGE = (1e-4, 1 - 1e-4)


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


def start_columns(splats: Splats) -> Float[Tensor, "M 11"]:
    """Splats as students that shape splats are told of them (`detectors.splat_student`).

    Log scales, quaternion of length 1, logit of the opacity, and the colour seen along z; splats
    without colour are grey.
    """
    quats = torch.nn.functional.normalize(splats.quats, dim=1)
    # Logits of 0 and 1 are infinite; an 8-bit picture shows no difference beyond these.
    logits = splats.opacities.clamp(*_OPACITY_RANGE).logit()[:, None]
    rgb = torch.full_like(splats.means, 0.5)
    if splats.sh is not None:
        rgb = sh_colours(splats.sh[:, :1], _ahead(splats.means))
    return torch.cat((splats.scales.log(), quats, logits, rgb), dim=1).float()


def centres(gaussians: Gaussians) -> Points:
    """The centres of splats as points, with their features and the part of colour that is even."""
    rgb = None
    if gaussians.sh is not None:
        rgb = sh_colours(gaussians.sh[:, :1], _ahead(gaussians.means)).clamp(0.0, 1.0)
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


def _ahead(means: Tensor) -> Tensor:
    """The same direction for every splat: colour of degree 0 is even."""
    ahead = torch.zeros_like(means)
    ahead[:, 2] = 1.0
    return ahead
