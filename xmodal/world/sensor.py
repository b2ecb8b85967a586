"""What a structured-light sensor makes of true depth."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.ndimage import maximum_filter, minimum_filter

from xmodal.world.meshes import Reals

_EDGE_RATIO = 0.02  # a jump of 2 % of depth between neighbours is an edge
_EDGE_LOSS = 0.5  # share of edge pixels without a reading
_STEEP = 3.0  # tangent of the grazing angle beyond which there is no reading
_OFFSET_PX = 0.5  # lateral noise: readings come from up to this far away


def noisy_depth(
    depth_m: Float[Reals, "H W"], focal_px: float, random: np.random.Generator
) -> Float[Reals, "H W"]:
    """Disturb true depth as a structured-light sensor does.

    Args:
        depth_m: True z-depth; 0 where there is nothing.
        focal_px: Focal length, pixels.
        random: Source of chance.

    Returns:
        Depth with axial noise 1.2 mm + 1.9 mm/m^2 (z - 0.4 m)^2, readings shifted sideways by a
        pixel at random, and holes (0) at depth edges and on grazing surfaces.

    Source:
        Nguyen, Izadi, Lovell, Modeling Kinect Sensor Noise for Improved 3D Reconstruction and
        Tracking, 3DIMPVT 2012, equation 1 and section 3.
    """
    height, width = depth_m.shape
    rows, columns = np.mgrid[:height, :width]
    shift = np.rint(random.normal(0, _OFFSET_PX, (2, height, width))).astype(int)
    moved = depth_m[
        np.clip(rows + shift[0], 0, height - 1), np.clip(columns + shift[1], 0, width - 1)
    ]
    sigma = 0.0012 + 0.0019 * (moved - 0.4) ** 2
    noisy = moved + sigma * random.standard_normal(moved.shape)
    jump = maximum_filter(depth_m, 3) - minimum_filter(depth_m, 3)
    edge = jump > _EDGE_RATIO * np.maximum(depth_m, 1e-6)
    lost = edge & (random.random(depth_m.shape) < _EDGE_LOSS)
    # The window spans two pixels, so this is depth change over sideways change.
    steep = jump > _STEEP * 2 * depth_m / focal_px
    return np.where((moved > 0) & ~lost & ~steep, noisy, 0.0)
