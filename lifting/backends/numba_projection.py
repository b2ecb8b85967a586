"""The projection of splats on a CPU where no gradient is asked for: one loop, no temporaries.

What is computed, and why, is told in `lifting.gaussians.projection`; its plain form is the
reference. Arithmetic is float64, so a result differs from exact only by the rounding of the stored
number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lifting.backends.jit import even_bounds, jit_exact, run_ranges

Array = NDArray[Any]
# Operations of one splat, for sharing splats out among threads.
_WORK = 300


@jit_exact
def _scaled_axes(quat: Array, scale: Array, R: Array, axes: Array) -> None:
    """Scaled axes of a splat in the camera frame, one in each column of `axes`."""
    w, x, y, z = float(quat[0]), float(quat[1]), float(quat[2]), float(quat[3])
    most = max(max(abs(w), abs(x)), max(abs(y), abs(z)))
    w, x, y, z = w / most, x / most, y / most, z / most
    length = math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / length, x / length, y / length, z / length
    a, b, c = float(scale[0]), float(scale[1]), float(scale[2])
    for i in range(3):
        u, v, t = R[i, 0], R[i, 1], R[i, 2]
        axes[i, 0] = a * (
            u * (1 - 2 * (y * y + z * z)) + v * 2 * (x * y + w * z) + t * 2 * (x * z - w * y)
        )
        axes[i, 1] = b * (
            u * 2 * (x * y - w * z) + v * (1 - 2 * (x * x + z * z)) + t * 2 * (y * z + w * x)
        )
        axes[i, 2] = c * (
            u * 2 * (x * z + w * y) + v * 2 * (y * z - w * x) + t * (1 - 2 * (x * x + y * y))
        )


@jit_exact
def _conic(ax: Array, ay: Array, dilation: float, least: float) -> tuple[float, float, float]:
    """Inverse of the dilated covariance of two rows of axes; zeros without an area."""
    xx = ax[0] * ax[0] + ax[1] * ax[1] + ax[2] * ax[2]
    xy = ax[0] * ay[0] + ax[1] * ay[1] + ax[2] * ay[2]
    yy = ay[0] * ay[0] + ay[1] * ay[1] + ay[2] * ay[2]
    p = ax[1] * ay[2] - ax[2] * ay[1]
    q = ax[2] * ay[0] - ax[0] * ay[2]
    r = ax[0] * ay[1] - ax[1] * ay[0]
    determinant = p * p + q * q + r * r + dilation * (xx + yy) + dilation * dilation
    if not determinant > least:
        return 0.0, 0.0, 0.0
    return (yy + dilation) / determinant, -xy / determinant, (xx + dilation) / determinant


@jit_exact
def _project(
    splats: tuple[Array, Array, Array, Array],
    R: Array,
    camera: Array,
    limits: Array,
    out: tuple[Array, Array, Array, Array],
    begin: int,
    end: int,
) -> None:
    """Write centres, conics, depths and extents of splats `begin` to `end`; zeros if not drawn.

    Args:
        splats: Means, quats, scales, opacities.
        R: World to camera.
        camera: Centre (3), fx fy cx cy, width height, least slopes (2), greatest slopes (2).
        limits: Dilation, nearest depth, least alpha, most offset, most slope, most scale over
            depth, least determinant, slack of extents, rounding of the stored precision, least
            depth of all.
        out: Zeros.
        begin: First splat.
        end: Splat after the last.
    """
    means, quats, scales, opacities = splats
    uv, conics, depth_m, extent = out
    dilation, near_m, least_alpha, eps = limits[0], limits[1], limits[2], limits[8]
    axes, ax, ay = np.empty((3, 3)), np.empty(3), np.empty(3)
    for m in range(begin, end):
        px, py, pz = means[m, 0] - camera[0], means[m, 1] - camera[1], means[m, 2] - camera[2]
        if opacities[m] < least_alpha or max(abs(px), max(abs(py), abs(pz))) >= limits[3]:
            continue
        z = R[2, 0] * px + R[2, 1] * py + R[2, 2] * pz
        x = R[0, 0] * px + R[0, 1] * py + R[0, 2] * pz
        y = R[1, 0] * px + R[1, 1] * py + R[1, 2] * pz
        widest = max(scales[m, 0], max(scales[m, 1], scales[m, 2]))
        if z < min(near_m, max(widest, limits[9])):
            continue
        if max(abs(x), abs(y)) >= limits[4] * z or widest >= limits[5] * z:
            continue
        u, v = x / z * camera[3] + camera[5], y / z * camera[4] + camera[6]
        _scaled_axes(quats[m], scales[m], R, axes)
        sx = min(max(x / z, camera[9]), camera[11])
        sy = min(max(y / z, camera[10]), camera[12])
        for k in range(3):
            ax[k] = camera[3] / z * (axes[0, k] - sx * axes[2, k])
            ay[k] = camera[4] / z * (axes[1, k] - sy * axes[2, k])
        a, b, c = _conic(ax, ay, dilation, limits[6])
        if a == 0:
            continue
        most_b = (1 - 8 * eps) * math.sqrt(max(a * c, 1e-37))
        # As they are stored: extents must hold what these numbers draw.
        conics[m, 0], conics[m, 1], conics[m, 2] = a, min(max(b, -most_b), most_b), c
        uv[m, 0], uv[m, 1], depth_m[m] = u, v, z
        a, b, c = conics[m, 0], conics[m, 1], conics[m, 2]
        convex = float(a) * c - float(b) * b
        if convex <= 0:
            convex = 1.0
        level = 2 * max(math.log(opacities[m] / least_alpha), 0.0)
        area = level * (1 + 16 * eps * (1 + float(a) * c / convex)) / convex
        wide, high = math.sqrt(c * area) + limits[7], math.sqrt(a * area) + limits[7]
        if u + wide > 0 and u - wide < camera[7] and v + high > 0 and v - high < camera[8]:
            extent[m, 0], extent[m, 1] = wide, high


def project(
    splats: tuple[Array, Array, Array, Array], R: Array, camera: Array, limits: Array
) -> tuple[Array, Array, Array, Array]:
    """Centres, conics, depths and extents of splats in the precision of their means.

    Args:
        splats: Means, quats, scales, opacities.
        R: World to camera, float64.
        camera: See `_project`.
        limits: See `_project`.
    """
    num, kind = len(splats[0]), splats[0].dtype
    out = tuple(np.zeros((num, width), kind) for width in (2, 3, 1, 2))
    run_ranges(
        _project,
        even_bounds(num, _WORK * num),
        splats,
        R,
        camera,
        limits,
        (out[0], out[1], out[2][:, 0], out[3]),
    )
    return out[0], out[1], out[2][:, 0], out[3]
