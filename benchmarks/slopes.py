"""How the time and memory of a lift grow with points, views and channels.

Times go into a buffer that was allocated and touched before, for both arms; `slope_*` are slopes
of a straight line through log time over log size, 1 for linear growth. Memory is measured with the
output in a file: `memory_span_mb` is the spread of the extra memory from 50k to 800k points,
`memory_per_view_mb` its growth per view. `error` is the steepest slope minus 1, or 0.
"""

from __future__ import annotations

import functools
import gc
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.fusion import OPTIONS, as_views, make_maps, make_world, peer_fusion
from benchmarks.harness import Benchmark, Case, Number, main, peak_mb
from lifting.schedules import lift_by_block

_HW = (240, 320)
_BASE = {"num_points": 200_000, "num_views": 10, "channels": 128}
_SWEEPS: dict[str, tuple[int, ...]] = {
    "num_points": (200_000, 400_000, 800_000),
    "num_views": (5, 10, 20),
    "channels": (128, 256, 512),
}
_MEMORY_POINTS = (50_000, 200_000, 800_000)
_MEMORY_VIEWS = (5, 20)
_REPEATS = 5


def build(
    num_points: int, num_views: int, channels: int, in_file: bool = False, small: bool = False
) -> Case:
    """Inputs and output, touched, and the two arms over them."""
    hw = (24, 32) if small else _HW
    world = make_world(num_points, num_views, hw)
    maps = make_maps(num_views, hw[0] * hw[1], channels)
    peer_maps = [m.T.view(channels, *hw) for m in maps]
    views = as_views(world, maps)
    out = _file_buffer(num_points, channels) if in_file else torch.empty(num_points, channels)
    out.fill_(1.0)
    return Case(
        ours=lambda: lift_by_block(views, world.xyz, options=OPTIONS, out=out),
        peer=lambda: peer_fusion(world, peer_maps, out),
        error=lambda: max(0.0, max(_slopes().values()) - 1),
    )


def _file_buffer(num_points: int, channels: int) -> torch.Tensor:
    """A tensor over a file that vanishes with the process."""
    with tempfile.NamedTemporaryFile(suffix=".rows") as file:
        shape = (num_points, channels)
        return torch.from_numpy(np.memmap(Path(file.name), np.float32, "w+", shape=shape))


@functools.cache
def _slopes() -> dict[str, float]:
    return {name: _slope(name, sizes) for name, sizes in _SWEEPS.items()}


def _slope(name: str, sizes: tuple[int, ...]) -> float:
    """Slope in log-log over the minimum times of interleaved runs."""
    cases = [build(**(_BASE | {name: size})) for size in sizes]
    best = [math.inf] * len(cases)
    for _ in range(_REPEATS):
        for index, case in enumerate(cases):
            gc.collect()
            start = time.perf_counter()
            case.ours()
            best[index] = min(best[index], time.perf_counter() - start)
    return float(np.polyfit(np.log(sizes), np.log(best), 1)[0])


def extra() -> dict[str, Number]:
    """Slopes and memory."""
    slopes = _slopes()

    def memory(**changed: int) -> float:
        return peak_mb("benchmarks.slopes", "ours", _BASE | changed | {"in_file": True})

    by_points = [memory(num_points=size) for size in _MEMORY_POINTS]
    by_views = [memory(num_views=size) for size in _MEMORY_VIEWS]
    return {
        "slope_points": slopes["num_points"],
        "slope_views": slopes["num_views"],
        "slope_channels": slopes["channels"],
        "memory_span_mb": max(by_points) - min(by_points),
        "memory_per_view_mb": (by_views[1] - by_views[0]) / (_MEMORY_VIEWS[1] - _MEMORY_VIEWS[0]),
    }


BENCHMARK = Benchmark(
    name="slopes",
    build=build,
    settings={"": _BASE},
    warm={"num_points": 500, "num_views": 2, "channels": 8, "small": True},
    extra=extra,
    note="200k points x 10 views x 128-d unless swept; per-pixel float32 maps of 240x320",
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
