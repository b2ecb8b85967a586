"""Splats, cameras and views at the ends of what is possible: a defined result, or an error."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lifting.cameras import Camera
from lifting.gaussians.closed_form import LiftedSplats, SplatView, lift_splats
from lifting.gaussians.fit import evaluate_views, fit_splats
from lifting.gaussians.fit_options import FitOptions
from lifting.gaussians.photos import Photo
from lifting.gaussians.projection import project_splats
from lifting.gaussians.reference import dense_weights
from lifting.gaussians.rendering import View, render, render_rows, view_operator
from lifting.gaussians.splats import Splats
from lifting.operator import LiftOperator

HW = (12, 18)
COUNT = 20
HOWS = ["mean", "robust", "solve"]
NAN = float("nan")


def camera(hw: tuple[int, int] = HW) -> Camera:
    K = torch.tensor([[20.0, 0, hw[1] / 2], [0, 20.0, hw[0] / 2], [0, 0, 1]])
    return Camera(K=K, T_world_cam=torch.eye(4), hw=hw)


def scene(count: int = COUNT, z_m: float = 2.0) -> Splats:
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(count, 3, generator=generator) - 0.5
    means[:, 2] = z_m + 0.1 * means[:, 2]
    return Splats(
        means=means,
        quats=torch.randn(count, 4, generator=generator),
        scales=torch.full((count, 3), 0.1),
        opacities=torch.full((count,), 0.5),
        sh=0.3 * torch.randn(count, 4, 3, generator=generator),
    )


def sized(*scales: float) -> Splats:
    return replace(scene(), scales=torch.tensor(scales).repeat(COUNT, 1))


def transparent() -> Splats:
    return replace(scene(), opacities=torch.zeros(COUNT))


def parts(view: View) -> list[Tensor]:
    found = [view.colour, view.depth_m, view.normals, view.alpha, view.features]
    return [part for part in found if part is not None]


# ---- drawing ------------------------------------------------------------------------------------

EXTREMES = {
    "covering the image": lambda: sized(1e4, 1e4, 1e4),
    "covering the image from one side": lambda: sized(1e4, 1e-9, 1e-9),
    "as needles": lambda: sized(1e3, 1e-9, 1e-9),
    "as plates": lambda: sized(1e3, 1e3, 1e-12),
    "as specks": lambda: sized(1e-20, 1e-20, 1e-20),
    "around the camera": lambda: replace(scene(z_m=0.11), scales=torch.full((COUNT, 3), 3.0)),
    "at the near plane": lambda: scene(z_m=0.06),
    "behind and before": lambda: scene(z_m=0.0),
    "at one place": lambda: replace(scene(), means=torch.tensor([[0.0, 0, 2]]).repeat(COUNT, 1)),
    "opaque": lambda: replace(scene(), opacities=torch.ones(COUNT)),
}


@pytest.mark.parametrize("which", EXTREMES)
def test_extreme_splats_are_drawn_as_the_reference_draws_them(which: str) -> None:
    splats = EXTREMES[which]()
    view = render(splats, camera(), torch.ones(COUNT, 2))
    assert all(bool(part.isfinite().all()) for part in parts(view))
    wanted = dense_weights(project_splats(splats, camera()), splats.opacities, HW)
    found = view_operator(splats, camera()).to_dense()
    # A pixel on a threshold may fall either way.
    off = ((found - wanted).abs() > 1e-4).any(1)
    assert float(off.float().mean()) < 0.02
    assert bool(wanted.isfinite().all())


@pytest.mark.parametrize("which", EXTREMES)
def test_extreme_splats_have_finite_gradients(which: str) -> None:
    splats = EXTREMES[which]()
    names = ("means", "quats", "scales", "opacities", "sh")
    leaves = {n: getattr(splats, n).clone().requires_grad_() for n in names}
    sum(part.sum() for part in parts(render(Splats(**leaves), camera()))).backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        assert bool(leaf.grad.isfinite().all()), name


@pytest.mark.parametrize("splats", [transparent(), scene(z_m=-2.0), scene(0)])
def test_nothing_to_see_is_the_background(splats: Splats) -> None:
    """All transparent, all behind the camera, none at all."""
    behind = torch.tensor([0.2, 0.4, 0.6])
    view = render(splats, camera(), torch.ones(len(splats), 2), background=behind)
    assert view.colour is not None and view.features is not None
    torch.testing.assert_close(view.colour, behind[:, None, None].expand(3, *HW))
    for part in (view.alpha, view.depth_m, view.normals, view.features):
        assert not part.any()


@pytest.mark.parametrize("hw", [(1, 1), (1, 17), (17, 1)])
def test_pictures_of_one_pixel_or_line(hw: tuple[int, int]) -> None:
    view = render(scene(), camera(hw), torch.ones(COUNT, 2))
    assert view.alpha.shape == hw
    assert bool((view.alpha > 0).any())
    assert all(bool(part.isfinite().all()) for part in parts(view))
    photo = Photo(rgb=torch.full((3, *hw), 0.5), camera=camera(hw))
    score = evaluate_views(scene(), [photo])[0]
    assert torch.tensor([score.psnr_db, score.ssim]).isfinite().all()


def test_rows_that_are_seen_must_be_finite() -> None:
    """NaN spreads over every pixel that a splat touches."""
    splats, rows = scene(), torch.ones(COUNT, 3)
    rows[4, 1] = NAN
    with pytest.raises(ValueError, match="rows to draw must be finite"):
        render_rows(splats, camera(), rows)
    with pytest.raises(ValueError, match="features to draw must be finite"):
        render(splats, camera(), rows)
    hidden = splats.means.clone()
    hidden[4, 2] = -5.0
    drawn = render_rows(replace(splats, means=hidden), camera(), rows)
    assert bool(drawn.rows.isfinite().all())


@pytest.mark.parametrize("name", ["K", "T_world_cam"])
def test_cameras_that_are_not_finite(name: str) -> None:
    wrong = getattr(camera(), name).clone()
    wrong[0, 0] = NAN
    with pytest.raises(ValueError, match=f"camera {name} must be finite"):
        render(scene(), replace(camera(), **{name: wrong}))


# ---- lifting ------------------------------------------------------------------------------------


def no_taps(pixels: int, patches: int) -> LiftOperator:
    return LiftOperator(
        crow=torch.zeros(pixels + 1, dtype=torch.int64),
        col=torch.zeros(0, dtype=torch.int64),
        weight=torch.zeros(0),
        num_sources=patches,
    )


def unobserved(lifted: LiftedSplats) -> bool:
    """Nothing was seen, and it says so without a NaN."""
    return (
        not bool(lifted.valid.any() | lifted.weight.any() | lifted.rows.any())
        and bool((lifted.uncertainty == 1).all())
        and bool(lifted.rows.isfinite().all())
    )


@pytest.mark.parametrize("how", HOWS)
def test_views_of_nothing_observe_nothing(how: str) -> None:
    rows = torch.ones(HW[0] * HW[1], 5)
    for splats in (transparent(), scene(z_m=-2.0)):
        view = SplatView(weights=view_operator(splats, camera()), rows=rows)
        assert unobserved(lift_splats([view], COUNT, how=how))


@pytest.mark.parametrize("how", HOWS)
def test_taps_that_read_nothing_observe_nothing(how: str) -> None:
    """No mask covers a pixel, or the teacher's map is of another part of the picture."""
    weights = view_operator(scene(), camera())
    view = SplatView(
        weights=weights, rows=torch.full((6, 5), NAN), taps=no_taps(len(weights.crow) - 1, 6)
    )
    assert unobserved(lift_splats([view], COUNT, how=how))


@pytest.mark.parametrize("how", HOWS)
def test_one_view_of_one_pixel_is_enough(how: str) -> None:
    weights = view_operator(scene(), camera((1, 1)))
    seen = torch.zeros(COUNT, dtype=torch.bool)
    seen[weights.col] = True
    lifted = lift_splats([SplatView(weights=weights, rows=torch.ones(1, 5))], COUNT, how=how)
    assert torch.equal(lifted.valid, seen)
    assert bool(seen.any()) and not bool(seen.all())
    assert bool(lifted.rows.isfinite().all())


@pytest.mark.parametrize("how", HOWS)
def test_no_splats_have_no_rows(how: str) -> None:
    view = SplatView(weights=view_operator(scene(0), camera()), rows=torch.ones(HW[0] * HW[1], 5))
    assert lift_splats([view], 0, how=how).rows.shape == (0, 5)


# ---- fits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [*EXTREMES.values(), transparent, lambda: scene(z_m=-2.0), lambda: scene(1)],
    ids=[*EXTREMES, "transparent", "behind the camera", "of one splat"],
)
def test_a_fit_of_one_photo_starts_anywhere(start) -> None:
    """Relocation and noise included; what comes out passes the checks of `Splats`."""
    photo = Photo(rgb=torch.full((3, *HW), 0.5), camera=camera())
    fitted = fit_splats([photo], start(), FitOptions(steps=101, sh_degree=1))
    fitted.splats.validate()
    assert bool(render(fitted.splats, camera()).alpha.isfinite().all())
