"""How much a view of a point is worth: near, facing and away from the image border.

The factors multiply. They only shift the average between views; a point that is seen from a single
view keeps that view's feature whatever the factor, with less coverage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lifting.cameras import Camera


@dataclass(frozen=True, kw_only=True)
class QualityWeights:
    """Which factors are used; None switches one off.

    Attributes:
        distance_m: Distance at which a view counts half: `1 / (1 + (d / distance_m)^2)`, as the
            number of pixels on a surface falls with the squared distance.
        grazing_power: Exponent of |cos| between the normal and the line of sight. Normals may
            point to either side. Needs normals.
        border: Width of the ramp from 0 at the image border to 1, as a fraction of the shorter
            side: teachers see too little context there and lenses are least exact.

    Raises:
        ValueError: If a value is not positive and finite, or the ramps overlap.
    """

    distance_m: float | None = 2.0
    grazing_power: float | None = None
    border: float | None = 0.05

    def __post_init__(self) -> None:
        for name in ("distance_m", "grazing_power", "border"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(
                    f"view quality {name} must be finite and > 0, or None to switch it off, "
                    f"got {value}"
                )
        if self.border is not None and self.border > 0.5:
            raise ValueError(f"view quality border must be at most 0.5, got {self.border}")


def view_quality(
    xyz: Float[Tensor, "N 3"],
    normals: Float[Tensor, "N 3"] | None,
    camera: Camera,
    *,
    uv: Float[Tensor, "N 2"],
    depth_m: Float[Tensor, " N"],
    options: QualityWeights,
) -> Float[Tensor, " N"]:
    """Weight in [0, 1] of a view for each point; differentiable.

    Args:
        xyz: World frame, metres. Weight 0 where not finite.
        normals: World frame, of any length and sign. A zero or non-finite normal means unknown
            and gives the grazing factor 1.
        camera: Camera of the view.
        uv: The points' pixels, x then y. Weight 0 outside the image and, with `border`, on its rim.
        depth_m: The points' z-depth, metres. Weight 0 behind the camera.
        options: Which factors are used.

    Raises:
        ValueError: If grazing is asked for and there are no normals.
    """
    if options.grazing_power is not None and normals is None:
        raise ValueError(
            f"view quality with grazing_power={options.grazing_power} needs normals; "
            "estimate them or set grazing_power=None"
        )
    tensors = (xyz, uv, depth_m) if normals is None else (xyz, uv, depth_m, normals)
    if any(t.device.type != "cpu" or t.requires_grad for t in tensors):
        return _view_quality_torch(xyz, normals, camera, uv, depth_m, options)
    from lifting.backends import numba_geometry  # numba costs half a second to import

    weight = np.empty(len(uv), dtype=uv.numpy().dtype)
    numba_geometry.view_quality(
        xyz.numpy(),
        (xyz if normals is None else normals).numpy(),
        camera.parameters,
        uv.numpy(),
        depth_m.numpy(),
        (options.distance_m or math.inf, options.grazing_power or 0.0, options.border or 0.0),
        weight,
    )
    return torch.from_numpy(weight)


def _view_quality_torch(
    xyz: Tensor,
    normals: Tensor | None,
    camera: Camera,
    uv: Tensor,
    depth_m: Tensor,
    options: QualityWeights,
) -> Tensor:
    """Reference form; differentiable."""
    height, width = camera.hw
    size = torch.tensor((width, height), dtype=uv.dtype, device=uv.device)
    # Non-finite rows are replaced before any arithmetic, so that no gradient turns NaN.
    valid = xyz.isfinite().all(-1) & uv.isfinite().all(-1) & depth_m.isfinite() & (depth_m > 0)
    uv = uv.where(valid[:, None], torch.zeros_like(uv))
    edge = torch.minimum(uv, size - uv).amin(-1)
    sight = xyz.where(valid[:, None], torch.zeros_like(xyz)) - camera.centre.to(xyz)
    distance2 = sight.square().sum(-1)
    weight = (valid & (edge >= 0)).to(uv.dtype)
    if options.distance_m is not None:
        weight = weight / (1 + distance2 / options.distance_m**2)
    if options.border is not None:
        weight = weight * (edge / (options.border * min(height, width))).clamp(0, 1)
    if options.grazing_power is not None and normals is not None:
        known = normals.isfinite().all(-1) & (normals != 0).any(-1) & (distance2 > 0)
        normals = normals.where(known[:, None], torch.ones_like(normals))
        length2 = (normals.square().sum(-1) * distance2).where(known, torch.ones_like(distance2))
        cosine = ((normals * sight).sum(-1).abs() / length2.sqrt()).clamp(max=1)
        # A power below 1 has no derivative at 0, where the factor is 0 anyway.
        steep = cosine > 0
        factor = cosine.where(steep, torch.ones_like(cosine)).pow(options.grazing_power) * steep
        weight = weight * factor.where(known, torch.ones_like(factor))
    return weight
