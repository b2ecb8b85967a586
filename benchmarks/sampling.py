"""Features of a view's visible points: taps in patch space against upsample-then-gather.

The map has 15 x 20 patches of 512 channels. The peer interpolates it to the image and indexes the
pixels the points fall in, as OpenScene and its successors do. The first setting is an image of 240
rows, `_480` one of 480.

`error` is the largest difference between the arms when the points lie on pixel centres, where both
mean the same; elsewhere our arm reads the exact place and the peer the pixel's centre.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.fusion import make_world
from benchmarks.harness import Benchmark, Case, main
from lifting.sampling import patch_taps
from lifting.visibility import visible_points

_GRID_HW = (15, 20)
_USUAL_SHARE = 0.06


def _ours(rows: Tensor, uv: Tensor, image_hw: tuple[int, int]) -> Tensor:
    return patch_taps(uv, image_hw=image_hw, grid_hw=_GRID_HW).apply(rows)


def _peer(grid: Tensor, uv: Tensor, image_hw: tuple[int, int]) -> Tensor:
    dense = functional.interpolate(grid[None], image_hw, mode="bilinear", align_corners=False)[0]
    pixel = uv.long()
    return dense[:, pixel[:, 1], pixel[:, 0]].T


def _build(points: int, rows: int, channels: int) -> Case:
    world = make_world(points, 20, (rows, rows * 4 // 3))
    seen = (
        visible_points(world.xyz, camera, depth_m=depth_m).uv
        for camera, depth_m in zip(world.cameras, world.depths, strict=True)
    )
    # The view that is nearest to the usual share of visible points.
    uv = min(seen, key=lambda uv: abs(len(uv) - _USUAL_SHARE * points))
    image_hw = world.hw
    generator = torch.Generator().manual_seed(1)
    patches = torch.randn(_GRID_HW[0] * _GRID_HW[1], channels, generator=generator)
    grid = patches.T.reshape(channels, *_GRID_HW).contiguous()

    def error() -> float:
        middle = uv.floor() + 0.5
        ours, peer = _ours(patches, middle, image_hw), _peer(grid, middle, image_hw)
        return float((ours - peer).abs().max())

    return Case(
        ours=lambda: _ours(patches, uv, image_hw),
        peer=lambda: _peer(grid, uv, image_hw),
        error=error,
        extra=lambda: {"visible_points": len(uv)},
    )


BENCHMARK = Benchmark(
    name="sampling",
    build=_build,
    settings={
        "": {"points": 200_000, "rows": 240, "channels": 512},
        "_480": {"points": 200_000, "rows": 480, "channels": 512},
    },
    warm={"points": 2_000, "rows": 48, "channels": 16},
    note="15 x 20 patches x 512 channels, the visible points of one view",
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
