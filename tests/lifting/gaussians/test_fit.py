"""A scene is recovered from renderings of itself, the same each time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lifting.cameras import Camera
from lifting.gaussians.densify import Densify
from lifting.gaussians.fit import FitRecord, Fitted, evaluate_views, fit_splats
from lifting.gaussians.fit_options import FitOptions
from lifting.gaussians.mcmc import Mcmc
from lifting.gaussians.photos import Photo, scene_extent_m
from lifting.gaussians.raw_splats import Rates
from lifting.gaussians.rendering import render
from lifting.gaussians.splats import Splats

HW = (32, 32)
# Far faster than usual: scenes of this size are learnt in some hundred steps.
FAST = Rates(means=3.2e-3, scales=4e-2, quats=2e-2, opacities=0.1, sh_first=5e-2)


def ring_camera(index: int, count: int = 8) -> Camera:
    """One of `count` cameras around the origin, 3 m from it."""
    angle = 2 * math.pi * index / count
    cosine, sine = math.cos(angle), math.sin(angle)
    T_world_cam = torch.eye(4, dtype=torch.float64)
    # Columns: right, down, forward (to the origin).
    T_world_cam[:3, :3] = torch.tensor(
        [[cosine, 0.0, -sine], [0.0, 1.0, 0.0], [sine, 0.0, cosine]], dtype=torch.float64
    )
    T_world_cam[:3, 3] = -3 * T_world_cam[:3, 2]
    K = torch.tensor([[30.0, 0.0, 16.0], [0.0, 30.0, 16.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return Camera(K=K, T_world_cam=T_world_cam, hw=HW)


def true_splats(count: int = 24) -> Splats:
    chance = torch.Generator().manual_seed(3)
    return Splats(
        means=torch.rand(count, 3, generator=chance) * 1.6 - 0.8,
        quats=torch.randn(count, 4, generator=chance),
        scales=torch.rand(count, 3, generator=chance) * 0.2 + 0.08,
        opacities=torch.rand(count, generator=chance) * 0.5 + 0.4,
        sh=torch.randn(count, 1, 3, generator=chance),
    )


def photos_of(splats: Splats, count: int = 8, *, depth: bool = False) -> list[Photo]:
    photos: list[Photo] = []
    for index in range(count):
        camera = ring_camera(index, count)
        view = render(splats, camera, backend="numba")
        assert view.colour is not None
        photos.append(
            Photo(
                rgb=view.colour.clamp(0, 1),
                camera=camera,
                depth_m=view.depth_m if depth else None,
                name=f"{index:03d}",
            )
        )
    return photos


def grey_start(count: int = 60) -> Splats:
    chance = torch.Generator().manual_seed(5)
    return Splats(
        means=torch.rand(count, 3, generator=chance) * 2 - 1,
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count, 1),
        scales=torch.full((count, 3), 0.15),
        opacities=torch.full((count,), 0.2),
    )


def short(**changes: object) -> FitOptions:
    settings: dict[str, object] = {"steps": 12, "sh_degree": 0, "rates": FAST, "backend": "numba"}
    return FitOptions(**settings | changes)


def mean_psnr(splats: Splats, photos: list[Photo]) -> float:
    scores = evaluate_views(splats, photos, backend="numba")
    return sum(score.psnr_db for score in scores) / len(scores)


def test_recovers_a_scene_from_grey() -> None:
    photos = photos_of(true_splats())
    fitted = fit_splats(photos, grey_start(), short(steps=150, strategy=None))
    assert mean_psnr(grey_start_with_colour(), photos) < 20
    assert mean_psnr(fitted.splats, photos) > 30
    assert fitted.history[-1].step == 150
    assert fitted.history[-1].loss < 0.4 * fitted.history[0].loss


def grey_start_with_colour() -> Splats:
    start = grey_start()
    return replace(start, sh=torch.zeros(len(start), 1, 3))


@pytest.mark.parametrize(
    "strategy",
    [
        Densify(first_step=20, every=10, until=0.7, grow_gradient=1e-4, max_splats=80),
        Mcmc(first_step=20, every=10, max_splats=80, growth=0.1),
    ],
    ids=["densify", "mcmc"],
)
def test_strategies_grow_to_their_limit(strategy: Densify | Mcmc) -> None:
    photos = photos_of(true_splats())
    fitted = fit_splats(photos, grey_start(40), short(steps=100, strategy=strategy))
    assert 40 < len(fitted.splats) <= 80
    assert mean_psnr(fitted.splats, photos) > 22


def test_the_same_seed_gives_the_same_bits() -> None:
    photos = photos_of(true_splats())
    strategy = Mcmc(first_step=5, every=5)
    ends: list[Fitted] = []
    for seed in (1, 1, 2):
        options = short(steps=20, strategy=strategy, seed=seed, background="random", sh_degree=1)
        ends.append(fit_splats(photos, grey_start(), options))
    assert torch.equal(ends[0].splats.means, ends[1].splats.means)
    assert [r.loss for r in ends[0].history] == [r.loss for r in ends[1].history]
    assert not torch.equal(ends[0].splats.means, ends[2].splats.means)


def test_depth_pulls_splats_to_the_surface() -> None:
    wall = Splats(
        means=torch.tensor([[0.0, 0.0, 0.0]]),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        scales=torch.tensor([[2.0, 2.0, 0.01]]),
        opacities=torch.tensor([0.95]),
        sh=torch.zeros(1, 1, 3),
    )
    photos = photos_of(wall, 1, depth=True)
    start = replace(wall, means=torch.tensor([[0.0, 0.0, 0.3]]))
    rates = Rates(means=1e-2, means_last=1.0, opacities=0.0, scales=0.0)
    options = short(steps=40, strategy=None, depth_weight=1.0, extent_m=1.0, rates=rates)
    fitted = fit_splats(photos, start, options)
    assert abs(float(fitted.splats.means[0, 2])) < 0.05


def test_photos_grow_with_the_levels() -> None:
    options = FitOptions(steps=100, levels=3, level_steps=10)
    assert [options.reduction(step) for step in (1, 10, 11, 20, 21, 100)] == [4, 4, 2, 2, 1, 1]
    assert [FitOptions(sh_every=10).degree(step) for step in (1, 10, 11, 21, 31, 99)] == [
        0, 0, 1, 2, 3, 3,
    ]  # fmt: skip
    photos = photos_of(true_splats())
    fitted = fit_splats(photos, grey_start(), short(levels=2, level_steps=6, strategy=None))
    assert len(fitted.splats) == 60


def test_progress_is_the_history() -> None:
    told: list[FitRecord] = []
    options = short(steps=7, log_every=3, strategy=None)
    fitted = fit_splats(photos_of(true_splats(), 2), grey_start(), options, told.append)
    assert [record.step for record in told] == [3, 6, 7]
    assert tuple(told) == fitted.history
    assert fitted.seconds >= told[-1].seconds > 0
    assert not fitted.splats.means.requires_grad


def test_invalid_pixels_teach_nothing() -> None:
    photo = photos_of(true_splats(), 1)[0]
    valid = torch.ones(HW, dtype=torch.bool)
    valid[:, 20:] = False
    noise = torch.where(valid, photo.rgb, torch.rand(3, *HW))
    ends = [
        fit_splats([Photo(rgb=rgb, camera=photo.camera, valid=valid)], grey_start(), short())
        for rgb in (photo.rgb, noise)
    ]
    assert torch.equal(ends[0].splats.means, ends[1].splats.means)
    scores = [
        evaluate_views(true_splats(), [Photo(rgb=rgb, camera=photo.camera, valid=valid)])[0]
        for rgb in (photo.rgb, noise)
    ]
    assert scores[0] == scores[1]


def test_reduced_photos() -> None:
    photo = photos_of(true_splats(), 1, depth=True)[0]
    valid = torch.ones(HW, dtype=torch.bool)
    valid[0, 0] = False
    half = replace(photo, valid=valid).reduced(2)
    assert half.camera.hw == (16, 16)
    torch.testing.assert_close(half.rgb[:, 3, 5], photo.rgb[:, 6:8, 10:12].mean((1, 2)))
    assert half.valid is not None
    assert half.valid.sum() == 16 * 16 - 1
    assert half.depth_m is not None
    assert photo.depth_m is not None
    assert float(half.depth_m[3, 5]) in photo.depth_m[6:8, 10:12].flatten().tolist()
    assert photo.reduced(100).camera.hw == (1, 1)
    assert photo.reduced(1) is photo


def test_extent_by_hand() -> None:
    photos = photos_of(true_splats(), 4)
    assert scene_extent_m(photos, grey_start()) == pytest.approx(1.1 * 3)
    start = replace(grey_start(1), means=torch.tensor([[0.0, 0.0, 0.0]]))
    # A single camera spreads over nothing; the splat is 3 m away.
    assert scene_extent_m(photos[:1], start) == pytest.approx(0.3)


def test_splats_that_nobody_sees_stay() -> None:
    photos = photos_of(true_splats(), 1)
    start = grey_start(3)
    start.means[:] = torch.tensor([0.0, 0.0, -50.0])
    fitted = fit_splats(photos, start, short(strategy=None))
    torch.testing.assert_close(fitted.splats.means, start.means)


# ---- failures -----------------------------------------------------------------------------


def test_nothing_to_fit() -> None:
    photos = photos_of(true_splats(), 1)
    with pytest.raises(ValueError, match="at least one photo, got none"):
        fit_splats([], grey_start())
    with pytest.raises(ValueError, match="at least one splat to start from"):
        fit_splats(photos, grey_start(0))
    with pytest.raises(ValueError, match=r"depth_weight is 0\.1 but no photo has depth"):
        fit_splats(photos, grey_start(), short(depth_weight=0.1))


def test_a_fit_that_diverges_says_so() -> None:
    photos = photos_of(true_splats(), 2)
    rates = replace(FAST, sh_first=1e38)
    with pytest.raises(ValueError, match=r"diverged before step 2: sh must be finite"):
        fit_splats(photos, grey_start(), short(rates=rates, strategy=None))


def test_a_loss_that_is_not_finite_names_the_photo() -> None:
    photos = photos_of(true_splats(), 1)
    # Colours of 1e30 are finite; their squares in the loss are not.
    start = replace(grey_start(), sh=torch.full((60, 1, 3), 1e30))
    with pytest.raises(ValueError, match=r"diverged: at step 1 the loss of 000 is (nan|inf)"):
        fit_splats(photos, start, short(strategy=None))


def test_views_of_splats_without_colour() -> None:
    with pytest.raises(ValueError, match="without colour"):
        evaluate_views(grey_start(), photos_of(true_splats(), 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"sh_degree": 4}, "sh_degree must be 0 to 3, got 4"),
        ({"dssim": 1.1}, "dssim must be a share"),
        ({"depth_weight": math.nan}, "depth_weight must be finite"),
        ({"extent_m": 0.0}, "extent_m must be finite and above 0"),
        ({"background": (0.0, 0.0, 2.0)}, r"three numbers in \[0, 1\]"),
        ({"steps": 100, "levels": 3, "level_steps": 50}, "leave none of 100 steps"),
    ],
)
def test_wrong_options(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FitOptions(**changes)


@pytest.mark.usefixtures("unchecked")
def test_wrong_photos() -> None:
    camera = ring_camera(0)
    rgb = torch.zeros(3, *HW)
    with pytest.raises(ValueError, match=r"rgb must have shape \[3, 32, 32\]"):
        Photo(rgb=torch.zeros(3, 8, 8), camera=camera)
    with pytest.raises(ValueError, match="divide 8-bit colours by 255"):
        Photo(rgb=rgb + 200, camera=camera)
    with pytest.raises(ValueError, match="finite"):
        Photo(rgb=rgb * math.nan, camera=camera)
    with pytest.raises(ValueError, match="valid must have shape"):
        Photo(rgb=rgb, camera=camera, valid=torch.ones(8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one pixel"):
        Photo(rgb=rgb, camera=camera, valid=torch.zeros(HW, dtype=torch.bool))
    lens = replace(camera, distortion=torch.tensor([0.1, 0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="undistort the picture first"):
        Photo(rgb=rgb, camera=lens)
    with pytest.raises(ValueError, match="factor must be at least 1"):
        Photo(rgb=rgb, camera=camera).reduced(0)
