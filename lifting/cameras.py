"""Cameras: pinhole with and without distortion, and fisheye.

Frames follow `T_a_b` (b-coordinates to a-coordinates). Camera axes are OpenCV's: x right, y down,
z forward. Pixel centres lie at +0.5, so pixel (row r, column c) covers [c, c + 1) x [r, r + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Camera:
    """One posed camera.

    Attributes:
        K: Intrinsics in pixels of an image of size `hw`.
        T_world_cam: Camera-to-world rigid transform, metres.
        hw: Image height and width, pixels.
        distortion: OpenCV coefficients, `k1 k2 p1 p2 [k3 [k4 k5 k6]]` for `pinhole`,
            `k1 k2 k3 k4` for `fisheye`; None for an ideal lens.
        model: Lens model.
        time_s: Time of exposure, seconds; None when unknown.
    """

    K: Float[Tensor, "3 3"]
    T_world_cam: Float[Tensor, "4 4"]
    hw: tuple[int, int]
    distortion: Float[Tensor, " D"] | None = None
    model: Literal["pinhole", "fisheye"] = "pinhole"
    time_s: float | None = None
