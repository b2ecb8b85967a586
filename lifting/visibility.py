"""Which points a view sees: against a depth map, or against the points themselves.

The rule is the same for both: a point is visible where the pixel it falls in has a reading that
agrees with the point's depth within the sensor's noise. The nearest pixel is read, never an
interpolation: between a foreground and a background reading there is no surface. At a depth edge a
point therefore agrees with one side or with neither; it is lost there rather than coloured wrongly.
A point well in front of the reading is not visible either: the sensor saw through it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int64
from scipy.spatial import KDTree
from torch import Tensor

from lifting.cameras import Camera, project, scale_camera

GeometryBackend = Literal["auto", "torch", "numba"]

# tan(75 degrees): steeper surfaces give no usable readings, and the bound keeps a depth edge on
# both sides of a thin object from widening the tolerance.
_MAX_SLOPE = 3.73
_NEIGHBOUR = 6


@dataclass(frozen=True, kw_only=True)
class DepthNoise:
    """How far a true depth may lie from its reading: a few sigma of the sensor, plus geometry.

    `tolerance = num_sigma * (floor_m + quadratic_per_m * max(z - closest_m, 0)^2) + margin_m`, and
    `slant_px` pixels of the surface's own depth slope. The defaults are the axial noise of a
    structured-light sensor.

    Attributes:
        floor_m: Sigma at `closest_m` and nearer, metres.
        quadratic_per_m: Growth of sigma with the squared distance, 1/metre.
        closest_m: Depth from which sigma grows, metres.
        num_sigma: How many sigma still agree.
        margin_m: Half a voxel of the point cloud, plus the error of the poses, metres. The default
            is 1 cm and 2 cm: between frames of a hand-held scan, depths that agree differ by 1.2 cm
            (one sigma) more than the sensor's noise.
        slant_px: How many pixels a point may lie beside the spot that was measured; 0 ignores the
            slope of the surface.

    Raises:
        ValueError: If a value is negative or not finite, or nothing can ever agree.

    Source:
        Nguyen, Izadi and Lovell, Modeling Kinect sensor noise, 3DIMPVT 2012, equation 4.
    """

    floor_m: float = 0.0012
    quadratic_per_m: float = 0.0019
    closest_m: float = 0.4
    num_sigma: float = 3.0
    margin_m: float = 0.03
    slant_px: float = 0.5

    def __post_init__(self) -> None:
        names = ("floor_m", "quadratic_per_m", "closest_m", "num_sigma", "margin_m", "slant_px")
        for name in names:
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise ValueError(f"depth noise {name} must be finite and >= 0, got {value}")
        if self.margin_m == 0 and self.num_sigma * (self.floor_m + self.quadratic_per_m) == 0:
            raise ValueError("depth noise has zero tolerance: give margin_m or num_sigma > 0")

    @staticmethod
    def exact(margin_m: float) -> DepthNoise:
        """For depth without noise (rendered, or a z-buffer): only `margin_m` and the slope."""
        return DepthNoise(
            floor_m=0.0, quadratic_per_m=0.0, num_sigma=0.0, margin_m=margin_m, slant_px=1.0
        )

    def sigma_m(self, depth_m: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Standard deviation of a reading at this depth, metres."""
        beyond = (depth_m - self.closest_m).clamp_min(0)
        return self.floor_m + self.quadratic_per_m * beyond.square()

    def tolerance_m(self, depth_m: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Accepted difference on a surface that faces the camera, metres."""
        return self.num_sigma * self.sigma_m(depth_m) + self.margin_m

    @cached_property
    def parameters(self) -> npt.NDArray[np.float64]:
        """The numbers in order of declaration and the steepest slope, for compiled kernels."""
        return np.array(
            (
                self.floor_m,
                self.quadratic_per_m,
                self.closest_m,
                self.num_sigma,
                self.margin_m,
                self.slant_px,
                _MAX_SLOPE,
            )
        )


_STRUCTURED_LIGHT = DepthNoise()


@dataclass(frozen=True, kw_only=True, eq=False)
class VisiblePoints:
    """The points that a view sees, in ascending order of index.

    Attributes:
        index: Which points.
        uv: Their pixels in the colour image, x then y.
        depth_m: Their z-depth in the colour camera, metres.
    """

    index: Int64[Tensor, " n"]
    uv: Float[Tensor, "n 2"]
    depth_m: Float[Tensor, " n"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ZBuffer:
    """Depth drawn from points alone, to be used in place of a sensor's depth map.

    Attributes:
        depth_m: z-depth of the nearest splat, metres; 0 where there is none.
        camera: Camera it was drawn for.
        noise: The tolerance that fits the size of the splats.
    """

    depth_m: Float[Tensor, "H W"]
    camera: Camera
    noise: DepthNoise


def visible_points(
    xyz: Float[Tensor, "N 3"],
    camera: Camera,
    *,
    depth_m: Float[Tensor, "H W"] | None = None,
    depth_camera: Camera | None = None,
    noise: DepthNoise | None = None,
    backend: GeometryBackend = "auto",
) -> VisiblePoints:
    """Find the points that a view sees: in the image, and confirmed by its depth map.

    On a CPU this is one compiled loop that stores only what it keeps. It gives no gradients; for
    those, call `project` on the rows it names.

    Args:
        xyz: World frame, metres. Non-finite points are never visible.
        camera: Camera of the colour image.
        depth_m: z-depth, metres; 0 or non-finite where there is no reading. None skips the test
            for occlusion: all points in the image are returned.
        depth_camera: Camera of the depth map, with its own intrinsics, size and pose; by default
            the colour camera, scaled to the size of the map.
        noise: Tolerance; structured light by default.
        backend: `numba` (CPU), `torch`, or `auto`: numba for points on a CPU.

    Raises:
        ValueError: If the depth map does not have the size of its camera, a depth camera or noise
            is given without a map, or the backend cannot work on the points' device.
    """
    compiled = _use_numba(xyz, backend)
    if depth_m is None:
        if depth_camera is not None or noise is not None:
            raise ValueError("visible_points: depth_camera and noise need a depth_m to act on")
    else:
        noise = noise or _STRUCTURED_LIGHT
        depth_camera = _depth_camera(depth_m, camera, depth_camera)
    if compiled:
        return _visible_numba(xyz, camera, depth_m, depth_camera or camera, noise)
    projection = project(xyz.detach(), camera)
    index = torch.nonzero(projection.in_image).squeeze(-1)
    if depth_m is not None and depth_camera is not None and noise is not None:
        seen = depth_visibility(xyz.detach()[index], depth_m, depth_camera, noise)
        index = index[seen]
    return VisiblePoints(index=index, uv=projection.uv[index], depth_m=projection.depth_m[index])


def depth_visibility(
    xyz: Float[Tensor, "N 3"],
    depth_m: Float[Tensor, "H W"],
    depth_camera: Camera,
    noise: DepthNoise,
) -> Bool[Tensor, " N"]:
    """Whether a depth map confirms each point; the reference form of `visible_points`.

    Args:
        xyz: World frame, metres.
        depth_m: z-depth, metres; 0 or non-finite where there is no reading: not visible there.
        depth_camera: Camera of the depth map.
        noise: Tolerance.

    Raises:
        ValueError: If the map does not have the size of its camera.
    """
    _depth_camera(depth_m, depth_camera, depth_camera)
    projection = project(xyz.detach(), depth_camera)
    height, width = depth_camera.hw
    column = projection.uv[:, 0].long().clamp(0, width - 1)
    row = projection.uv[:, 1].long().clamp(0, height - 1)
    depth_m = depth_m.to(xyz)
    depth_m = depth_m.where(depth_m.isfinite() & (depth_m > 0), torch.zeros_like(depth_m))
    here = depth_m[row, column]
    tolerance = noise.tolerance_m(here)
    if noise.slant_px > 0:
        focal = min(depth_camera.parameters[12], depth_camera.parameters[13])
        limit = here * (_MAX_SLOPE / focal)
        padded = torch.nn.functional.pad(depth_m, (1, 1, 1, 1))
        across = _slope(here, padded[row + 1, column], padded[row + 1, column + 2])
        down = _slope(here, padded[row, column + 1], padded[row + 2, column + 1])
        slope = torch.minimum(across, limit) + torch.minimum(down, limit)
        tolerance = tolerance + noise.slant_px * slope
    agrees = (here - projection.depth_m).abs() <= tolerance
    return projection.in_image & (here > 0) & agrees


def zbuffer(
    xyz: Float[Tensor, "N 3"],
    camera: Camera,
    *,
    radius_m: float,
    max_radius_px: float = 32.0,
    backend: GeometryBackend = "auto",
) -> ZBuffer:
    """Draw points as discs that face the camera and keep the nearest, when there is no depth map.

    Pass the result to `visible_points`: `depth_m=z.depth_m, depth_camera=z.camera, noise=z.noise`.
    A disc covers the pixels whose middle it contains, and always the pixel it is centred in.

    Args:
        xyz: World frame, metres. Non-finite points are not drawn.
        camera: Camera to draw for; scale it (`scale_camera`) to draw fewer pixels.
        radius_m: Radius of a disc, metres; large enough that discs of one surface overlap, see
            `splat_radius`. Off the axis of a fisheye lens discs are drawn somewhat too large.
        max_radius_px: Bound on a disc's radius, for points close to the camera.
        backend: As in `visible_points`.

    Raises:
        ValueError: If a radius is not positive.
    """
    if not (radius_m > 0 and max_radius_px > 0):
        raise ValueError(
            f"zbuffer: radii must be > 0, got radius_m={radius_m}, max_radius_px={max_radius_px}"
        )
    depth = torch.full(camera.hw, torch.inf, dtype=xyz.dtype, device=xyz.device)
    if _use_numba(xyz, backend):
        from lifting.backends import numba_geometry

        numba_geometry.splat(
            xyz.detach().numpy(), camera.parameters, radius_m, max_radius_px, depth.numpy()
        )
    else:
        _splat_torch(xyz.detach(), camera, radius_m, max_radius_px, depth)
    depth = depth.where(depth.isfinite(), torch.zeros_like(depth))
    # On a surface at 60 degrees a disc stands 1.7 radii in front of its neighbours.
    return ZBuffer(depth_m=depth, camera=camera, noise=DepthNoise.exact(2 * radius_m))


def splat_radius(xyz: Float[Tensor, "N 3"], *, sample: int = 4096) -> float:
    """Disc radius that closes the surface of a point cloud, metres.

    It is the median distance to the sixth nearest point: 1.4 spacings on a grid, where 0.7 would
    do, and on points scattered at random few enough holes stay open (exp(-5.7) = 0.3 %).

    Args:
        xyz: World frame, metres. Non-finite points are ignored.
        sample: How many points (evenly strided) it is measured at.

    Raises:
        ValueError: If there are fewer than seven finite points, or they coincide.
    """
    points = xyz.detach().cpu().numpy()
    points = points[np.isfinite(points).all(-1)]
    distance = np.zeros(0)
    if len(points) > _NEIGHBOUR:
        queries = points[:: max(1, len(points) // sample)]
        distance = np.asarray(KDTree(points).query(queries, k=_NEIGHBOUR + 1)[0])[:, -1]
        distance = distance[distance > 0]
    if not len(distance):
        raise ValueError(
            f"splat_radius: needs {_NEIGHBOUR + 1} finite points that are not all the same, got "
            f"{len(points)}; choose radius_m by hand"
        )
    return float(np.median(distance))


def _use_numba(xyz: Tensor, backend: str) -> bool:
    on_cpu = xyz.device.type == "cpu"
    if backend not in ("auto", "torch", "numba"):
        raise ValueError(f"geometry backend must be auto, torch or numba, got {backend!r}")
    if backend == "numba" and not on_cpu:
        raise ValueError(f"geometry backend numba works on a CPU, the points are on {xyz.device}")
    return on_cpu and backend != "torch"


def _depth_camera(depth_m: Tensor, camera: Camera, depth_camera: Camera | None) -> Camera:
    size = (depth_m.shape[0], depth_m.shape[1])
    if depth_camera is None:
        return camera if size == camera.hw else scale_camera(camera, size)
    if size != depth_camera.hw:
        raise ValueError(
            f"depth map is {size} but its camera has hw {depth_camera.hw}; "
            "scale the camera with scale_camera"
        )
    return depth_camera


_NO_DEPTH = np.zeros((0, 0), dtype=np.float32)
_NO_NOISE = np.zeros(7)


def _visible_numba(
    xyz: Tensor,
    camera: Camera,
    depth_m: Tensor | None,
    depth_camera: Camera,
    noise: DepthNoise | None,
) -> VisiblePoints:
    from lifting.backends import numba_geometry  # numba costs half a second to import

    points = xyz.detach().numpy()
    # One row more than there are points: the loop writes a candidate before it decides.
    index = np.empty(len(points) + 1, dtype=np.int64)
    uvz = np.empty((len(points) + 1, 3), dtype=points.dtype)
    count = numba_geometry.visible_points(
        points,
        camera.parameters,
        _NO_DEPTH if depth_m is None else depth_m.detach().cpu().numpy(),
        depth_camera.parameters,
        _NO_NOISE if noise is None else noise.parameters,
        index,
        uvz,
    )
    kept = torch.from_numpy(uvz[:count].copy())
    return VisiblePoints(
        index=torch.from_numpy(index[:count].copy()), uv=kept[:, :2], depth_m=kept[:, 2]
    )


def _slope(here: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Depth change per pixel along one axis: the smaller side, so that an edge does not count."""
    far = torch.full_like(here, torch.inf)
    slope = torch.minimum(
        (before - here).abs().where(before > 0, far), (after - here).abs().where(after > 0, far)
    )
    return slope.where(slope.isfinite(), torch.zeros_like(slope))


def _splat_torch(
    xyz: Tensor, camera: Camera, radius_m: float, max_radius_px: float, depth: Tensor
) -> None:
    """Reference form: one pass over the points per pixel offset inside the largest disc."""
    height, width = camera.hw
    # A margin around the image, so that discs centred just outside still reach in.
    margin = int(np.ceil(max_radius_px))
    K = camera.K.clone()
    K[0, 2] += margin
    K[1, 2] += margin
    wide = replace(camera, K=K, hw=(height + 2 * margin, width + 2 * margin))
    projection = project(xyz, wide)
    uv = projection.uv[projection.in_image] - margin
    z = projection.depth_m[projection.in_image]
    focal = K.diagonal()[:2].to(z)
    radius = (radius_m * focal / z[:, None]).clamp(max=max_radius_px)
    pixel = uv.floor()
    reach = int(radius.amax().ceil()) + 1 if len(z) else 0
    flat = depth.view(-1)
    for row in range(-reach, reach + 1):
        for column in range(-reach, reach + 1):
            target = pixel + torch.tensor((column, row), dtype=z.dtype, device=z.device)
            covered = (((target + 0.5 - uv) / radius).square().sum(-1) <= 1) | (row == column == 0)
            inside = (target >= 0).all(-1) & (target[:, 0] < width) & (target[:, 1] < height)
            keep = covered & inside
            index = (target[keep, 1] * width + target[keep, 0]).long()
            flat.scatter_reduce_(0, index, z[keep], "amin")
