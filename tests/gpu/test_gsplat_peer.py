"""gsplat as a whole against our reference: pictures, gradients, and a fit of photos."""

# The package is optional and has no types.
# pyright: reportMissingImports=false

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from lifting.backends import backend_problem
from lifting.cameras import Camera
from lifting.gaussians.fit import evaluate_views, fit_splats
from lifting.gaussians.fit_options import FitOptions
from lifting.gaussians.image_loss import photo_loss
from lifting.gaussians.initialise import splats_from_points
from lifting.gaussians.mcmc import Mcmc
from lifting.gaussians.photos import Photo, scene_extent_m
from lifting.gaussians.plane_sweep import swept_points
from lifting.gaussians.raw_splats import Rates
from lifting.gaussians.rendering import render
from lifting.gaussians.splats import Splats

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(backend_problem("gsplat") is not None, reason="no gsplat"),
]
PARTS = ("means", "quats", "scales", "opacities", "sh")
needs_data = pytest.mark.skipif("XMODAL_DATA" not in os.environ, reason="XMODAL_DATA is not set")


def drawn_by_gsplat(parts: dict[str, Tensor], camera: Camera, degree: int) -> tuple[Tensor, Any]:
    """Colours `[3, H, W]` on black, and what strategies want to know."""
    from gsplat import rasterization

    view = torch.linalg.inv(camera.T_world_cam.double()).float().cuda()
    colours, _, info = rasterization(
        means=parts["means"],
        quats=parts["quats"],
        scales=parts["scales"],
        opacities=parts["opacities"],
        colors=parts["sh"],
        viewmats=view[None],
        Ks=camera.K.float().cuda()[None],
        width=camera.hw[1],
        height=camera.hw[0],
        sh_degree=degree,
        packed=False,
    )
    return colours[0].permute(2, 0, 1), info


def leaves(splats: Splats, device: str) -> dict[str, Tensor]:
    return {n: getattr(splats, n).detach().to(device).requires_grad_() for n in PARTS}


def compare(splats: Splats, camera: Camera) -> None:
    """Pictures and gradients of all parts: gsplat on the card, our reference on the processor.

    gsplat caps alpha at 0.999 and we at 0.99: opacities must stay below both.
    """
    assert float(splats.opacities.max()) < 0.985
    assert splats.sh_degree is not None
    theirs, ours = leaves(splats, "cuda"), leaves(splats, "cpu")
    picture, _ = drawn_by_gsplat(theirs, camera, splats.sh_degree)
    view = render(Splats(**ours), camera)
    assert view.colour is not None
    # A pixel on a threshold may fall either way; they are rare.
    close = torch.isclose(picture.detach().cpu(), view.colour.detach(), rtol=1e-3, atol=1e-3)
    assert float(close.double().mean()) > 0.998
    slope = torch.linspace(-1, 2, math.prod(camera.hw)).reshape(camera.hw)
    (picture * slope.cuda()).sum().backward()
    (view.colour * slope).sum().backward()
    for name in PARTS:
        mine, other = ours[name].grad, theirs[name].grad
        assert mine is not None and other is not None
        assert float((mine - other.cpu()).norm() / mine.norm()) < 2e-2, name


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_pictures_and_gradients_are_those_of_gsplat(degree: int) -> None:
    generator = torch.Generator().manual_seed(degree)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    means = torch.rand(400, 3, generator=generator) * torch.tensor([3.0, 2.0, 3.0])
    splats = Splats(
        means=means + torch.tensor([-1.5, -1.0, 0.8]),
        quats=normal(400, 4),
        scales=0.04 * torch.exp(normal(400, 3)),
        opacities=0.05 + 0.9 * torch.rand(400, generator=generator),
        sh=0.3 * normal(400, (degree + 1) ** 2, 3),
    )
    K = torch.tensor([[60.0, 0, 35.0], [0, 60.0, 22.0], [0, 0, 1]])
    compare(splats, Camera(K=K, T_world_cam=torch.eye(4), hw=(45, 70)))


@pytest.mark.realdata
@needs_data
@pytest.mark.parametrize("view", [0, 1, 2])
def test_the_garden_and_its_gradients_are_those_of_gsplat(view: int) -> None:
    """138,766 points as round splats, at a quarter of the size of the photos."""
    with np.load(Path(os.environ["XMODAL_DATA"]) / "gsplat_garden" / "test_garden.npz") as data:
        xyz, rgb = torch.from_numpy(data["means3d"]), torch.from_numpy(data["colors"]) / 255
        T_world_cam = torch.linalg.inv(torch.from_numpy(data["viewmats"][view]).double())
        K = torch.from_numpy(data["Ks"][view]) / 4
        hw = int(data["height"]) // 4, int(data["width"]) // 4
    K[2, 2] = 1
    splats = splats_from_points(xyz, rgb.clamp(0, 1), opacity=0.7, sh_degree=1)
    # As in its own test of the garden: points far out would be metres wide.
    splats = replace(splats, scales=splats.scales.clamp(max=0.02))
    compare(splats, Camera(K=K, T_world_cam=T_world_cam, hw=hw))


# ---- a fit ---------------------------------------------------------------------------------------

STEPS = 7000
COUNT = 100_000
EVERY = 1000  # steps after which each next degree of colour joins in


def fox() -> tuple[list[Photo], list[Photo]]:
    """Photos of full size to fit and to judge by, in a world as large as trainers make it."""
    from xmodal.datasets import open_scene
    from xmodal.datasets.photos import held_out
    from xmodal.edges.lift.fit_splats import photo_of

    scene = open_scene(Path(os.environ["XMODAL_DATA"]) / "fox_half", need=("views",))
    photos = [photo_of(scene.images[i], None, 10_000) for i in range(len(scene.images))]
    centres = torch.stack([photo.camera.centre.double() for photo in photos])
    middle, size = centres.mean(0), (centres - centres.mean(0)).norm(dim=1).max()
    found: list[Photo] = []
    for photo in photos:
        T_world_cam = photo.camera.T_world_cam.double().clone()
        T_world_cam[:3, 3] = (T_world_cam[:3, 3] - middle) / size
        found.append(replace(photo, camera=replace(photo.camera, T_world_cam=T_world_cam)))
    fit, test = held_out([photo.name for photo in found])
    return [found[i] for i in fit], [found[i] for i in test]


def fitted_by_gsplat(photos: list[Photo], start: Splats, extent_m: float) -> Splats:
    """gsplat's trainer in short: its rasteriser, its strategy, its settings and its rates."""
    from gsplat.strategy import MCMCStrategy

    assert start.sh is not None
    rates = Rates()
    values = {
        "means": (start.means, rates.means * extent_m),
        "scales": (start.scales.log(), rates.scales),
        "quats": (start.quats, rates.quats),
        "opacities": (start.opacities.logit(), rates.opacities),
        "sh0": (start.sh[:, :1], rates.sh_first),
        "shN": (start.sh[:, 1:], rates.sh_rest),
    }
    params = torch.nn.ParameterDict({n: Parameter(v.cuda()) for n, (v, _) in values.items()})
    optimizers = {
        n: torch.optim.Adam([{"params": params[n], "lr": lr, "name": n}], eps=1e-15)
        for n, (_, lr) in values.items()
    }
    falling = torch.optim.lr_scheduler.ExponentialLR(
        optimizers["means"], gamma=rates.means_last ** (1 / STEPS)
    )
    strategy = MCMCStrategy(cap_max=COUNT, refine_stop_iter=int(0.8 * STEPS))
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state()
    chance = torch.Generator().manual_seed(0)
    shown = [photo.to("cuda") for photo in photos]
    for step in range(STEPS):
        photo = shown[int(torch.randint(len(shown), (1,), generator=chance))]
        now = current(params)
        colours, info = drawn_by_gsplat(now, photo.camera, min(step // EVERY, 3))
        loss = photo_loss(colours, photo.rgb, dssim=0.2, valid=photo.valid)
        loss = loss + 0.01 * now["opacities"].abs().mean() + 0.01 * now["scales"].abs().mean()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        falling.step()
        rate = falling.get_last_lr()[0]
        strategy.step_post_backward(params, optimizers, state, step, info, lr=rate)
    found = {name: part.detach().cpu() for name, part in current(params).items()}
    return Splats(**found)


def current(params: torch.nn.ParameterDict) -> dict[str, Tensor]:
    """The splats that raw parameters stand for."""
    return {
        "means": params["means"],
        "quats": params["quats"],
        "scales": params["scales"].exp(),
        "opacities": params["opacities"].sigmoid(),
        "sh": torch.cat((params["sh0"], params["shN"]), 1),
    }


def mean_psnr_db(splats: Splats, photos: list[Photo]) -> float:
    scores = evaluate_views(splats.to(device="cuda"), photos)
    return sum(score.psnr_db for score in scores) / len(scores)


@pytest.mark.slow
@pytest.mark.realdata
@needs_data
def test_a_fit_of_full_size_photos_is_as_good_as_gsplat_s_own() -> None:
    """Same photos, start, steps, rates and limits: not worse by more than 0.2 dB on new views."""
    fit, test = fox()
    xyz, rgb = swept_points(fit)
    chosen = torch.randperm(len(xyz), generator=torch.Generator().manual_seed(0))[: COUNT // 2]
    start = splats_from_points(xyz[chosen], rgb[chosen], opacity=0.5, sh_degree=3)
    start = replace(start, scales=0.1 * start.scales)  # as its trainer starts this strategy
    extent_m = scene_extent_m(fit, start)
    strategy = Mcmc(
        max_splats=COUNT, first_step=500, every=100, opacity_penalty=0.01, scale_penalty=0.01
    )
    options = FitOptions(
        steps=STEPS,
        strategy=strategy,
        rates=Rates(),
        sh_degree=3,
        sh_every=EVERY,
        extent_m=extent_m,
    )
    ours = fit_splats(fit, start.to(device="cuda"), options).splats
    theirs = fitted_by_gsplat(fit, start, extent_m)
    assert mean_psnr_db(ours, test) > mean_psnr_db(theirs, test) - 0.2
