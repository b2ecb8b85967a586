"""Projection and harmonics against gsplat's own formulas in torch, which need no CUDA device."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import pytest
import torch
from torch import Tensor

from lifting.cameras import Camera
from lifting.gaussians.harmonics import sh_colours
from lifting.gaussians.projection import covariances, project_splats
from lifting.gaussians.splats import Splats

pytestmark = pytest.mark.backends
HW = (45, 70)


@pytest.fixture(scope="module")
def gsplat_torch() -> ModuleType:
    pytest.importorskip("gsplat", reason="no gsplat")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that it imports
        return importlib.import_module("gsplat.cuda._torch_impl")


def looking() -> Camera:
    """Turned and off the origin, with its principal point off the middle."""
    angle = torch.tensor(0.3)
    T_world_cam = torch.eye(4, dtype=torch.float64)
    T_world_cam[0, 0] = T_world_cam[2, 2] = angle.cos()
    T_world_cam[0, 2], T_world_cam[2, 0] = angle.sin(), -angle.sin()
    T_world_cam[:3, 3] = torch.tensor([0.2, -0.1, 0.3])
    K = torch.tensor([[60.0, 0, 33.0], [0, 55.0, 25.0], [0, 0, 1]], dtype=torch.float64)
    return Camera(K=K, T_world_cam=T_world_cam, hw=HW)


def leaves(count: int = 300) -> list[Tensor]:
    """Means, quats and scales; some beside the image and behind the camera."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    means = normal(count, 3) + torch.tensor([0.5, 0.0, 2.5])
    return [
        part.requires_grad_()
        for part in (means, normal(count, 4), 0.1 * torch.exp(0.7 * normal(count, 3)))
    ]


def test_projection_and_its_gradients(gsplat_torch: ModuleType) -> None:
    camera, ours, theirs = looking(), leaves(), leaves()
    opacities = torch.ones(len(ours[0]), dtype=torch.float64)
    means, quats, scales = ours
    mine = project_splats(
        Splats(means=means, quats=quats, scales=scales, opacities=opacities), camera
    )
    covars, _ = gsplat_torch._quat_scale_to_covar_preci(theirs[1], theirs[2])
    torch.testing.assert_close(covariances(quats, scales), covars)
    view = torch.linalg.inv(camera.T_world_cam)[None]
    radii, uv, depths, conics, _ = gsplat_torch._fully_fused_projection(
        theirs[0], covars, view, camera.K[None], HW[1], HW[0]
    )
    kept = mine.drawn
    assert 50 < int(kept.sum()) < len(kept)
    # Their boxes are as wide or wider: whatever we draw, they do.
    assert bool((radii[0][kept] > 0).all())
    for name, a, b in (
        ("uv", mine.uv, uv[0]),
        ("depth", mine.depth_m, depths[0]),
        ("conics", mine.conics, conics[0]),
    ):
        torch.testing.assert_close(a[kept], b[kept], msg=name)
    slope = torch.linspace(-1, 2, int(kept.sum()), dtype=torch.float64)[:, None]
    mine_sum = (mine.uv[kept] * slope).sum() + (mine.conics[kept] * slope).sum()
    their_sum = (uv[0][kept] * slope).sum() + (conics[0][kept] * slope).sum()
    for a, b in zip(
        torch.autograd.grad(mine_sum, ours), torch.autograd.grad(their_sum, theirs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_harmonics_and_their_gradients(gsplat_torch: ModuleType, degree: int) -> None:
    generator = torch.Generator().manual_seed(degree)
    directions = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    sh = 0.4 * torch.randn(50, (degree + 1) ** 2, 3, generator=generator, dtype=torch.float64)
    found: list[tuple[Tensor, ...]] = []
    for which in ("ours", "theirs"):
        towards, parts = directions.clone().requires_grad_(), sh.clone().requires_grad_()
        if which == "ours":
            colours = sh_colours(parts, towards)
        else:
            colours = gsplat_torch._spherical_harmonics(degree, towards, parts)
            colours = (colours + 0.5).clamp_min(0)
        slope = torch.linspace(-1, 2, 50, dtype=torch.float64)[:, None]
        grads = torch.autograd.grad((colours * slope).sum(), (towards, parts), allow_unused=True)
        found.append((colours, *(g if g is not None else torch.zeros(()) for g in grads)))
    for mine, other in zip(*found, strict=True):
        # They round their constants to ten digits.
        torch.testing.assert_close(mine, other.expand_as(mine), rtol=1e-7, atol=1e-8)
