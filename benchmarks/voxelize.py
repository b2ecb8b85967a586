"""Voxelisation of a million points: coordinates in, voxel of every point out.

Ours: `lifting.points.voxelize`, which numbers the cells of the bounding box exactly and hashes the
numbers. Main peer: the usual grid sampling, which mixes each cell into a 64-bit FNV key, sorts the
keys and finds their runs (two cells can share a key, and do: `peer_merged` counts the voxels it
loses). Suffix `_unique`: `np.unique` over the rows of cells, exact and slow. `error` is the number
of points whose grouping differs from `np.unique`. The cloud is a room: points on walls, floor and
ceiling with 5 mm of noise, in no order. Suffixes `_2cm` and `_unique_2cm`: voxels of 2 cm, not 5.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import Benchmark, Case, Number, main
from lifting.points import voxelize

_ROOM_M = np.array([6.0, 5.0, 2.8])
_FNV_OFFSET, _FNV_PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)


def room(num_points: int) -> NDArray[np.float32]:
    """Points on the six sides of a room."""
    rng = np.random.default_rng(0)
    xyz = rng.uniform(0, 1, (num_points, 3)) * _ROOM_M
    axis = rng.integers(0, 3, num_points)
    side = rng.integers(0, 2, num_points) * _ROOM_M[axis]
    xyz[np.arange(num_points), axis] = side + rng.normal(0, 0.005, num_points)
    return xyz.astype(np.float32)


def _cells(xyz: NDArray[np.float32], voxel_m: float) -> NDArray[np.int64]:
    return np.floor(xyz.astype(np.float64) / voxel_m).astype(np.int64)


def hashed_keys(xyz: NDArray[np.float32], voxel_m: float) -> NDArray[np.int64]:
    """Voxel of each point by sorting 64-bit keys, the usual grid sampling."""
    cells = _cells(xyz, voxel_m).view(np.uint64)
    key = np.full(len(xyz), _FNV_OFFSET)
    for axis in range(3):
        key = (key * _FNV_PRIME) ^ cells[:, axis]
    order = np.argsort(key)
    _, run = np.unique(key[order], return_inverse=True)
    voxel = np.empty(len(xyz), np.int64)
    voxel[order] = run
    return voxel


def unique_rows(xyz: NDArray[np.float32], voxel_m: float) -> NDArray[np.int64]:
    """Voxel of each point by sorting the rows of integer cells."""
    return np.unique(_cells(xyz, voxel_m), axis=0, return_inverse=True)[1].reshape(-1)


def build(*, num_points: int, voxel_m: float, peer: str) -> Case:
    """One cloud, one cell size, one peer."""
    xyz = room(num_points)
    cloud = torch.from_numpy(xyz)
    arm = {"hashed": hashed_keys, "unique": unique_rows}[peer]

    def error() -> float:
        ours, exact = voxelize(cloud, voxel_m).index.numpy(), unique_rows(xyz, voxel_m)
        # Equal partitions number their voxels alike once each number is replaced by the smallest
        # point that has it.
        return float(np.count_nonzero(_first_point(ours) != _first_point(exact)))

    def extra() -> dict[str, Number]:
        merged = int(unique_rows(xyz, voxel_m).max() - arm(xyz, voxel_m).max())
        return {"voxels": voxelize(cloud, voxel_m).num_voxels, "peer_merged": merged}

    return Case(
        ours=lambda: voxelize(cloud, voxel_m),
        peer=lambda: arm(xyz, voxel_m),
        error=error,
        extra=extra,
    )


def _first_point(voxel: NDArray[np.int64]) -> NDArray[np.int64]:
    first = np.full(voxel.max() + 1, len(voxel))
    np.minimum.at(first, voxel, np.arange(len(voxel)))
    return first[voxel]


_MAIN = {"num_points": 1_000_000, "voxel_m": 0.05, "peer": "hashed"}
BENCHMARK = Benchmark(
    name="voxelize",
    build=build,
    settings={
        "": _MAIN,
        "_unique": {**_MAIN, "peer": "unique"},
        "_2cm": {**_MAIN, "voxel_m": 0.02},
        "_unique_2cm": {**_MAIN, "voxel_m": 0.02, "peer": "unique"},
    },
    warm={"num_points": 1000, "voxel_m": 0.05, "peer": "hashed"},
    note="1M points of a room, coordinates to voxels",
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
