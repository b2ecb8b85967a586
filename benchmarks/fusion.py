"""Multi-view fusion against OpenScene's per-view map-and-average loop.

Both arms read the same per-pixel float32 maps, stored pixel by pixel ([H * W, C]); the peer, which
indexes [C, H, W], gets a strided view of that memory (it takes as long on maps stored channel by
channel). Both arms write into a buffer that was allocated and touched before; `by_view_s` is our
other schedule, which keeps sums and allocates them.

`error` is 1 - mean cosine to a brute-force average in float64. A pixel coordinate that float32
rounds to the other side of a pixel border reads another pixel; `border_points` counts the points
that differ, `unexplained_points` those that differ without lying within 1e-3 px of a border.

Source:
    Peng et al., OpenScene, CVPR 2023, section 3.1; the loop is written anew after the description.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Benchmark, Case, Number, main
from lifting.cameras import Camera
from lifting.quality import QualityWeights
from lifting.schedules import lift_by_block, lift_by_view
from lifting.views import LiftView, PointLift

# The peer accepts a point up to a quarter of its depth away from the reading.
_PEER_TOLERANCE = 0.25
_FOCAL_PER_WIDTH = 0.9
# Points on the shell around the room, which every view must reject by depth, and the room's size.
_HIDDEN_SHARE, _ROOM_M, _HEIGHT_M = 0.52, 8.0, 3.0


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """Points on the walls of a room and on a shell twice its size, and views from inside."""

    xyz: Tensor
    cameras: list[Camera]
    depths: list[Tensor]
    hw: tuple[int, int]


def make_world(num_points: int, num_views: int, hw: tuple[int, int], seed: int = 0) -> World:
    """Build the geometry; about 6 % of (point, view) pairs are visible."""
    rng = np.random.default_rng(seed)
    half = np.array([_ROOM_M, _ROOM_M, _HEIGHT_M]) / 2
    xyz = _on_box(rng, num_points, half)
    hidden = rng.random(num_points) < _HIDDEN_SHARE
    xyz[hidden] *= 2
    cameras, depths = [], []
    for index in range(num_views):
        centre = rng.uniform(-0.5, 0.5, 3) * half
        yaw, pitch = 2 * np.pi * index / num_views, rng.uniform(-0.2, 0.2)
        camera = _camera(centre, yaw, pitch, hw)
        cameras.append(camera)
        depths.append(_room_depth(camera, half))
    points = torch.from_numpy(xyz.astype(np.float32))
    return World(xyz=points, cameras=cameras, depths=depths, hw=hw)


def _on_box(rng: np.random.Generator, num: int, half: np.ndarray) -> np.ndarray:
    """Points spread evenly over the surface of a box."""
    axis = rng.choice(3, num, p=_face_share(half))
    xyz = rng.uniform(-1, 1, (num, 3)) * half
    sign = np.where(rng.random(num) < 0.5, -1.0, 1.0)
    xyz[np.arange(num), axis] = sign * half[axis]
    return xyz


def _face_share(half: np.ndarray) -> np.ndarray:
    area = half.prod() / half
    return area / area.sum()


def _camera(centre: np.ndarray, yaw: float, pitch: float, hw: tuple[int, int]) -> Camera:
    forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)])
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = centre
    focal = _FOCAL_PER_WIDTH * hw[1]
    K = np.array([[focal, 0, hw[1] / 2], [0, focal, hw[0] / 2], [0, 0, 1]])
    return Camera(K=torch.from_numpy(K), T_world_cam=torch.from_numpy(pose), hw=hw)


def _room_depth(camera: Camera, half: np.ndarray) -> Tensor:
    """Exact z-depth of the room's inner walls through pixel centres."""
    height, width = camera.hw
    K, pose = camera.K.numpy(), camera.T_world_cam.numpy()
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], axis=-1)
    rays = rays @ pose[:3, :3].T
    with np.errstate(divide="ignore"):
        reach = (np.sign(rays) * half - pose[:3, 3]) / rays
    return torch.from_numpy(reach.min(axis=-1).astype(np.float32))


def make_maps(num_views: int, num_pixels: int, channels: int, seed: int = 0) -> list[Tensor]:
    """Random float32 features, one row per pixel."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(num_pixels, channels, generator=generator).sub_(0.3) for _ in range(num_views)
    ]


def as_views(world: World, maps: list[Tensor]) -> list[LiftView]:
    """Our arm's input: the same memory."""
    return [
        LiftView(camera=camera, rows=rows, grid_hw=world.hw, depth_m=depth, name=f"view {i}")
        for i, (camera, depth, rows) in enumerate(
            zip(world.cameras, world.depths, maps, strict=True)
        )
    ]


# One pixel per point and all views alike, as in the peer.
OPTIONS = PointLift(
    sampling="nearest", quality=QualityWeights(distance_m=None, grazing_power=None, border=None)
)


def peer_fusion(world: World, maps: list[Tensor], out: Tensor) -> Tensor:
    """The peer's loop: map all points into a view, gather for all, add the visible ones."""
    points = world.xyz.numpy()
    counter = torch.zeros(len(points), 1)
    out.zero_()
    for camera, depth, features in zip(world.cameras, world.depths, maps, strict=True):
        mapping = torch.from_numpy(peer_mapping(points, camera, depth.numpy()))
        seen = mapping[:, 2]
        if not seen.any():
            continue
        gathered = features[:, mapping[:, 0], mapping[:, 1]].permute(1, 0)
        counter[seen != 0] += 1
        out[seen != 0] += gathered[seen != 0]
    counter[counter == 0] = 1e-5
    out /= counter
    return out


def peer_mapping(points: np.ndarray, camera: Camera, depth: np.ndarray) -> np.ndarray:
    """Row, column and visibility of every point, zero where it is not visible."""
    height, width = camera.hw
    mapping = np.zeros((3, len(points)), dtype=int)
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1).T
    local = np.linalg.inv(camera.T_world_cam.numpy()) @ homogeneous
    K = camera.K.numpy()
    # The peer counts pixel centres at whole numbers, half a pixel from our convention.
    local[0] = local[0] * K[0, 0] / local[2] + K[0, 2] - 0.5
    local[1] = local[1] * K[1, 1] / local[2] + K[1, 2] - 0.5
    pixel = np.round(local).astype(int)
    inside = (pixel[0] >= 0) & (pixel[1] >= 0) & (pixel[0] < width) & (pixel[1] < height)
    reading = depth[pixel[1][inside], pixel[0][inside]]
    agrees = np.abs(reading - local[2][inside]) <= _PEER_TOLERANCE * reading
    inside[inside] = agrees
    mapping[0][inside], mapping[1][inside], mapping[2][inside] = (
        pixel[1][inside],
        pixel[0][inside],
        1,
    )
    return mapping.T


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Our result against brute force in float64."""

    mean_cosine: float
    border_points: int
    unexplained_points: int
    visible_fraction: float


def compare(world: World, maps: list[Tensor], rows: Tensor, chunk: int = 20_000) -> Comparison:
    """Average again in float64, a chunk of points at a time."""
    cosines, border, unexplained, pairs = [], 0, 0, 0
    for start in range(0, len(world.xyz), chunk):
        ours = rows[start : start + chunk].double()
        truth, count, near = _brute_force(world, maps, world.xyz[start : start + chunk])
        pairs += int(count.sum())
        norms = ours.norm(dim=1) * truth.norm(dim=1)
        cosine = (ours * truth).sum(1) / norms.clamp_min(1e-300)
        both_empty = (count == 0) & (ours.norm(dim=1) == 0)
        differs = (cosine < 0.9999) & ~both_empty
        border += int(differs.sum())
        unexplained += int((differs & ~near).sum())
        cosines.append(cosine[~both_empty])
    return Comparison(
        mean_cosine=float(torch.cat(cosines).mean()),
        border_points=border,
        unexplained_points=unexplained,
        visible_fraction=pairs / (len(world.xyz) * len(maps)),
    )


def _brute_force(world: World, maps: list[Tensor], xyz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, number of views, and whether a coordinate is within 1e-3 px of a pixel border."""
    total = torch.zeros(len(xyz), maps[0].shape[1], dtype=torch.float64)
    count = torch.zeros(len(xyz), dtype=torch.int64)
    near = torch.zeros(len(xyz), dtype=torch.bool)
    height, width = world.hw
    for camera, depth, rows in zip(world.cameras, world.depths, maps, strict=True):
        T_cam_world = torch.linalg.inv(camera.T_world_cam)
        local = xyz.double() @ T_cam_world[:3, :3].T + T_cam_world[:3, 3]
        uv = local[:, :2] / local[:, 2:] * camera.K.diagonal()[:2] + camera.K[:2, 2]
        near |= (local[:, 2] > 0) & ((uv - uv.round()).abs() < 1e-3).any(1)
        pixel = uv.floor().long()
        seen = (pixel >= 0).all(1) & (pixel[:, 0] < width) & (pixel[:, 1] < height)
        seen &= local[:, 2] > 0
        flat = pixel[seen, 1] * width + pixel[seen, 0]
        reading = depth.reshape(-1)[flat].double()
        agrees = (reading - local[seen, 2]).abs() <= _PEER_TOLERANCE * reading
        index = torch.nonzero(seen).squeeze(1)[agrees]
        total.index_add_(0, index, rows[flat[agrees]].double())
        count[index] += 1
    return total / count.clamp_min(1)[:, None], count, near


def build(num_points: int, num_views: int, channels: int, rows: int, columns: int) -> Case:
    """Inputs and output buffer, touched, and the two arms over them."""
    hw = (rows, columns)
    world = make_world(num_points, num_views, hw)
    maps = make_maps(num_views, rows * columns, channels)
    peer_maps = [m.T.view(channels, rows, columns) for m in maps]
    views = as_views(world, maps)
    out = torch.zeros(num_points, channels)
    out.fill_(1.0)  # zeros are lazy: touch every page

    def ours() -> Tensor:
        return lift_by_block(views, world.xyz, options=OPTIONS, out=out).rows

    @functools.cache
    def comparison() -> Comparison:
        return compare(world, maps, ours())

    def extra() -> dict[str, Number]:
        found = comparison()
        return {
            "mean_cosine": found.mean_cosine,
            "border_points": found.border_points,
            "unexplained_points": found.unexplained_points,
            "visible_fraction": found.visible_fraction,
            "by_view_s": _by_view_seconds(views, world),
        }

    return Case(
        ours=ours,
        peer=lambda: peer_fusion(world, peer_maps, out),
        error=lambda: 1 - comparison().mean_cosine,
        extra=extra,
    )


def _by_view_seconds(views: list[LiftView], world: World) -> float:
    times = []
    for _ in range(2):
        start = time.perf_counter()
        lift_by_view(views, world.xyz, options=OPTIONS).finish()
        times.append(time.perf_counter() - start)
    return min(times)


_FULL = {"num_points": 200_000, "num_views": 20, "channels": 512, "rows": 240, "columns": 320}
BENCHMARK = Benchmark(
    name="fusion",
    build=build,
    settings={"": _FULL},
    warm={"num_points": 500, "num_views": 2, "channels": 8, "rows": 24, "columns": 32},
    note="200k points x 20 views x 512-d, per-pixel float32 maps stored [H * W, C] for both arms",
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
