"""Compiled loops for projection, visibility and sampling on a CPU.

A chain of tensor operations writes a dozen temporaries per point and view; one loop writes nothing
for a point that is not visible, and most are not. The plain torch forms beside their callers are
the reference; tests compare the two.

Arithmetic is float64, so a result differs from exact only by the rounding of the stored number.
A camera comes as `Camera.parameters`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lifting.backends.jit import jit_exact

_NEAR_M = 1e-6
# Points culled at a time: the scratch stays in the first-level cache.
_CHUNK = 1024


@jit_exact
def _camera_point(px: float, py: float, pz: float, camera: Any) -> tuple[float, float, float]:
    """World point in camera axes."""
    px -= camera[9]
    py -= camera[10]
    pz -= camera[11]
    z = camera[6] * px + camera[7] * py + camera[8] * pz
    x = camera[0] * px + camera[1] * py + camera[2] * pz
    y = camera[3] * px + camera[4] * py + camera[5] * pz
    return x, y, z


@jit_exact
def _pixel(x: float, y: float, z: float, camera: Any) -> tuple[float, float]:
    """Pixel of a point in camera axes.

    NaN, which fails every comparison, behind the camera and outside the valid radius.
    """
    if not (z > _NEAR_M and z < math.inf):
        return math.nan, math.nan
    x /= z
    y /= z
    if camera[18] != 0.0:
        r2 = x * x + y * y
        if not r2 < camera[19]:
            return math.nan, math.nan
        if camera[18] == 2.0:
            r = math.sqrt(max(r2, 1e-12))
            theta = math.atan(r)
            t = theta * theta
            series = camera[22] + t * camera[23]
            scale = theta * (1 + t * (camera[20] + t * (camera[21] + t * series))) / r
            x, y = x * scale, y * scale
        else:
            top = 1 + r2 * (camera[20] + r2 * (camera[21] + r2 * camera[24]))
            low = 1 + r2 * (camera[25] + r2 * (camera[26] + r2 * camera[27]))
            p1, p2 = camera[22], camera[23]
            radial = top / low
            shifted_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
            y = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
            x = shifted_x
    return camera[12] * x + camera[14], camera[13] * y + camera[15]


@jit_exact
def _slope(here: float, before: float, after: float) -> float:
    """Depth change per pixel along one axis: the smaller side, so that an edge does not count."""
    slope = math.inf
    if before > 0 and before < math.inf:
        slope = abs(before - here)
    if after > 0 and after < math.inf:
        slope = min(slope, abs(after - here))
    return 0.0 if slope == math.inf else slope


@jit_exact
def _agrees(z: float, depth: Any, u: float, v: float, focal: float, noise: Any) -> bool:
    """Whether the reading at a pixel confirms depth z; `noise` is `DepthNoise.parameters`."""
    height, width = depth.shape
    if not (u >= 0 and u < width and v >= 0 and v < height):
        return False
    row, column = int(v), int(u)
    here = float(depth[row, column])
    if not (here > 0 and here < math.inf):
        return False
    difference = abs(here - z)
    beyond = max(here - noise[2], 0.0)
    tolerance = noise[3] * (noise[0] + noise[1] * beyond * beyond) + noise[4]
    if difference <= tolerance:
        return True
    limit = noise[6] * here / focal
    if noise[5] <= 0 or difference > tolerance + 2 * noise[5] * limit:
        return False
    left = float(depth[row, column - 1]) if column > 0 else 0.0
    right = float(depth[row, column + 1]) if column + 1 < width else 0.0
    above = float(depth[row - 1, column]) if row > 0 else 0.0
    below = float(depth[row + 1, column]) if row + 1 < height else 0.0
    across = min(_slope(here, left, right), limit)
    down = min(_slope(here, above, below), limit)
    return difference <= tolerance + noise[5] * (across + down)


@jit_exact
def _cull(xyz: Any, camera: Any, inside: Any) -> None:
    """Signed measure of each point against the view's four side planes; negative is outside.

    No branch and no division, so that it runs in vector instructions. Local copies of the planes,
    because the compiler cannot know that `inside` does not overlap them.
    """
    cx, cy, cz = camera[9], camera[10], camera[11]
    ax, ay, az, bx, by, bz = camera[28], camera[29], camera[30], camera[31], camera[32], camera[33]
    ex, ey, ez, fx, fy, fz = camera[34], camera[35], camera[36], camera[37], camera[38], camera[39]
    for i in range(xyz.shape[0]):
        x, y, z = xyz[i, 0] - cx, xyz[i, 1] - cy, xyz[i, 2] - cz
        sides = min(ax * x + ay * y + az * z, bx * x + by * y + bz * z)
        inside[i] = min(sides, min(ex * x + ey * y + ez * z, fx * x + fy * y + fz * z))


@jit_exact
def visible_points(
    xyz: Any, camera: Any, depth: Any, depth_camera: Any, noise: Any, index: Any, uvz: Any
) -> int:
    """Write the visible points' indices and (u, v, z); return how many there are.

    `index` and `uvz` hold one row more than there are points.

    `depth` of size zero means no occlusion test. `depth_camera` equal to `camera` in all numbers
    saves the second projection.
    """
    shared = True
    for k in range(camera.size):
        shared = shared and camera[k] == depth_camera[k]
    focal = min(depth_camera[12], depth_camera[13])
    occlusion = depth.size > 0
    inside = np.empty(_CHUNK)
    count = 0
    for start in range(0, xyz.shape[0], _CHUNK):
        stop = min(start + _CHUNK, xyz.shape[0])
        _cull(xyz[start:stop], camera, inside)
        first = count
        last = first
        for i in range(stop - start):
            # Written always, kept sometimes: no branch to mispredict.
            index[last] = start + i
            last += inside[i] >= 0
        for candidate in range(first, last):
            i = index[candidate]
            x, y, z = _camera_point(xyz[i, 0], xyz[i, 1], xyz[i, 2], camera)
            u, v = _pixel(x, y, z, camera)
            # Test what is stored: rounding to float32 can carry 319.9999999 to 320.
            uvz[count, 0], uvz[count, 1], uvz[count, 2] = u, v, z
            u, v = uvz[count, 0], uvz[count, 1]
            if not (u >= 0 and u < camera[16] and v >= 0 and v < camera[17]):
                continue
            if occlusion:
                if not shared:
                    x, y, z = _camera_point(xyz[i, 0], xyz[i, 1], xyz[i, 2], depth_camera)
                    u, v = _pixel(x, y, z, depth_camera)
                if not _agrees(z, depth, u, v, focal, noise):
                    continue
            index[count] = i
            count += 1
    return count


@jit_exact
def splat(xyz: Any, camera: Any, radius_m: float, max_radius_px: float, depth: Any) -> None:
    """Draw every point as a disc that faces the camera; `depth` keeps the nearest."""
    height, width = depth.shape
    for i in range(xyz.shape[0]):
        x, y, z = _camera_point(xyz[i, 0], xyz[i, 1], xyz[i, 2], camera)
        u, v = _pixel(x, y, z, camera)
        rx = min(radius_m * camera[12] / z, max_radius_px)
        ry = min(radius_m * camera[13] / z, max_radius_px)
        if not (u >= -rx and u < width + rx and v >= -ry and v < height + ry):
            continue
        if u >= 0 and u < width and v >= 0 and v < height:
            depth[int(v), int(u)] = min(depth[int(v), int(u)], z)
        first_row, last_row = max(0, math.ceil(v - ry - 0.5)), min(height - 1, int(v + ry))
        first_column, last_column = max(0, math.ceil(u - rx - 0.5)), min(width - 1, int(u + rx))
        for row in range(first_row, last_row + 1):
            down = (row + 0.5 - v) / ry
            for column in range(first_column, last_column + 1):
                across = (column + 0.5 - u) / rx
                if across * across + down * down <= 1:
                    depth[row, column] = min(depth[row, column], z)


@jit_exact
def bilinear_taps(
    uv: Any, image_hw: tuple[int, int], grid_hw: tuple[int, int], col: Any, weight: Any
) -> None:
    """Four grid cells and their weights for each pixel; all weights 0 outside the image."""
    height, width = image_hw
    rows, columns = grid_hw
    for i in range(uv.shape[0]):
        u, v = float(uv[i, 0]), float(uv[i, 1])
        inside = u >= 0 and u < width and v >= 0 and v < height
        x, y = (u * columns / width - 0.5, v * rows / height - 0.5) if inside else (0.0, 0.0)
        x, y = min(max(x, 0.0), columns - 1.0), min(max(y, 0.0), rows - 1.0)
        left, top = int(x), int(y)
        right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
        fx, fy, present = x - left, y - top, 1.0 if inside else 0.0
        col[i, 0], weight[i, 0] = top * columns + left, present * (1 - fx) * (1 - fy)
        col[i, 1], weight[i, 1] = top * columns + right, present * fx * (1 - fy)
        col[i, 2], weight[i, 2] = bottom * columns + left, present * (1 - fx) * fy
        col[i, 3], weight[i, 3] = bottom * columns + right, present * fx * fy


@jit_exact
def view_quality(
    xyz: Any, normals: Any, camera: Any, uv: Any, depth_m: Any, options: Any, weight: Any
) -> None:
    """Distance x grazing x border; `options` is (distance_m, grazing power, border fraction)."""
    width, height = camera[16], camera[17]
    border_px = options[2] * min(width, height)
    for i in range(uv.shape[0]):
        u, v, z = float(uv[i, 0]), float(uv[i, 1]), float(depth_m[i])
        dx = float(xyz[i, 0]) - camera[9]
        dy = float(xyz[i, 1]) - camera[10]
        dz = float(xyz[i, 2]) - camera[11]
        distance2 = dx * dx + dy * dy + dz * dz
        edge = min(min(u, width - u), min(v, height - v))
        if not (z > 0 and z < math.inf and edge >= 0 and distance2 < math.inf):
            weight[i] = 0.0
            continue
        value = 1.0 / (1.0 + distance2 / (options[0] * options[0]))
        if options[2] > 0:
            value *= min(edge / border_px, 1.0)
        if options[1] > 0:
            nx, ny, nz = float(normals[i, 0]), float(normals[i, 1]), float(normals[i, 2])
            length2 = (nx * nx + ny * ny + nz * nz) * distance2
            if length2 > 0 and length2 < math.inf:
                cosine = abs(nx * dx + ny * dy + nz * dz) / math.sqrt(length2)
                value *= min(cosine, 1.0) ** options[1]
        weight[i] = value
