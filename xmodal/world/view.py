"""A drawn view and the camera model that all views share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from numpy.typing import NDArray

from xmodal.world.meshes import Ints, Reals
from xmodal.world.textures import Bytes

# About the field of view of a Kinect; whole table from a metre away.
FOV_Y_RAD = float(np.radians(48.0))


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One drawn view.

    Attributes:
        rgb: Colour.
        depth_m: z-depth of pixel centres; 0 where nothing is.
        owner: Index into the scene's room and objects, -1 where nothing is.
        T_world_cam: Pose, OpenCV axes.
    """

    rgb: UInt8[Bytes, "H W 3"]
    depth_m: Float32[NDArray[np.float32], "H W"]
    owner: Int[Ints, "H W"]
    T_world_cam: Float[Reals, "4 4"]


def intrinsics(hw: tuple[int, int]) -> Float[Reals, "3 3"]:
    """K of the drawn views: square pixels, principal point in the middle, centres at +0.5."""
    height, width = hw
    focal = height / 2 / np.tan(FOV_Y_RAD / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
