"""Lifting to splats: the peers of the benchmark agree, and the table's world is what it says."""

from __future__ import annotations

import pytest
import torch

from benchmarks import splat_lift
from benchmarks.tables import splat_recovery
from lifting.gaussians.closed_form import Tikhonov, lift_splats


@pytest.mark.slow
def test_both_peers_give_the_mean_lift():
    splats, cameras = splat_lift.ball(300, scale_m=0.05, seed=0), splat_lift.ring(2)
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1200, 40, generator=generator) for _ in cameras]
    ours = lift_splats(splat_lift.views(splats, cameras, maps), 300)
    for shapes in (True, False):
        out = torch.empty(300, 40)
        peer = splat_lift.back_project(splats, cameras, maps, out, shapes=shapes)
        assert float((peer - ours.rows).abs().max()) < 1e-5


def test_all_splats_of_the_ball_are_in_every_picture():
    splats = splat_lift.ball(50, scale_m=0.01, seed=1)
    assert float(splats.means.norm(dim=1).max()) <= 1 + 1e-6
    for camera in splat_lift.ring(5):
        xyz = (splats.means - camera.centre) @ camera.T_world_cam[:3, :3]
        uv = xyz[:, :2] / xyz[:, 2:] * camera.K[0, 0] + camera.K[:2, 2]
        assert bool((xyz[:, 2] > 0).all())
        assert bool(((uv > 0) & (uv < torch.tensor([160.0, 120.0]))).float().mean() > 0.9)


def test_without_noise_and_with_many_views_the_solve_finds_the_truth():
    world = splat_recovery.World("little", "own", 7)
    seen = world.views(10, noise=0.0)
    solve = Tikhonov(ridge=1e-3, tolerance=1e-5, max_iterations=300)
    count = splat_recovery.NUM_SPLATS
    error, cosine, ranks = world.judge(lift_splats(seen, count, how="solve", solve=solve))
    mean_error, mean_cosine, _ = world.judge(lift_splats(seen, count))
    assert error < 0.2 * mean_error
    assert cosine > 0.98 > mean_cosine
    assert -1 <= ranks <= 1


def test_objects_share_features_and_a_wrong_view_shows_others():
    world = splat_recovery.World("little", "objects", 7)
    assert len(world.truth.unique(dim=0)) == 12
    assert torch.allclose(world.truth.norm(dim=1), torch.ones(len(world.truth)))
    right, wrong = (world.views(10, noise=noise) for noise in (0.0, splat_recovery.WRONG))
    off = [float((a.rows - b.rows).abs().max()) for a, b in zip(right, wrong, strict=True)]
    assert [k for k, value in enumerate(off) if value > 1e-6] == [0, 5]


def test_a_patch_is_the_mean_of_its_pixels():
    world = splat_recovery.World("much", "own", 7)
    (fine, *_), (coarse, *_) = (world.views(3, noise=0.0, grid=g) for g in (None, (12, 16)))
    corner = fine.rows.view(24, 32, -1)[:2, :2].mean((0, 1))
    assert torch.allclose(coarse.rows[0], corner, atol=1e-6)


def test_ranks_of_constants_say_nothing():
    rank = splat_recovery._rank_correlation
    assert rank(torch.ones(4), torch.arange(4.0)) == 0
    assert rank(torch.arange(4.0), torch.arange(4.0) ** 3) == pytest.approx(1)
    assert rank(torch.arange(4.0), -torch.arange(4.0)) == pytest.approx(-1)
