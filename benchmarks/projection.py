"""Projection and depth visibility of a cloud in many views: `visible_points` against a mapper.

The peer is OpenScene's point-to-image mapper in numpy: homogeneous coordinates, a 4x4 product in
float64, division, rounding to pixels, a mask for the image, a gather from the depth map and a
mask for |difference| <= 25 % of depth.

`error` is the share of visible pairs on which our arm differs from a float64 evaluation of the
same rule; `visible_fraction` is the share of all pairs that are visible. Half of the cloud lies
behind walls, so that depth has work to do.
"""

from __future__ import annotations

import functools

import torch

from benchmarks.fusion import make_world, peer_mapping
from benchmarks.harness import Benchmark, Case, main
from lifting.visibility import DepthNoise, depth_visibility, visible_points


def _build(points: int, views: int) -> Case:
    world = make_world(points, views, (240, 320))
    xyz = world.xyz.numpy()
    noise = DepthNoise()
    pairs = list(zip(world.cameras, world.depths, strict=True))

    def ours() -> None:
        for camera, depth_m in pairs:
            visible_points(world.xyz, camera, depth_m=depth_m, noise=noise)

    def peer() -> None:
        for camera, depth_m in pairs:
            peer_mapping(xyz, camera, depth_m.numpy())

    @functools.cache
    def differing() -> tuple[int, int]:
        wrong, seen = 0, 0
        for camera, depth_m in pairs:
            exact = depth_visibility(world.xyz.double(), depth_m.double(), camera, noise)
            found = torch.zeros_like(exact)
            found[visible_points(world.xyz, camera, depth_m=depth_m, noise=noise).index] = True
            wrong, seen = wrong + int((found != exact).sum()), seen + int(exact.sum())
        return wrong, seen

    return Case(
        ours=ours,
        peer=peer,
        error=lambda: differing()[0] / max(differing()[1], 1),
        extra=lambda: {"visible_fraction": differing()[1] / (points * views)},
    )


BENCHMARK = Benchmark(
    name="projection",
    build=_build,
    settings={"": {"points": 200_000, "views": 20}},
    warm={"points": 2_000, "views": 3},
    note="200k points in random order x 20 views, depth maps of 240 x 320",
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
