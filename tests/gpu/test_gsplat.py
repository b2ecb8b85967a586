"""Compositing weights and drawing by gsplat against brute force and the CPU."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lifting.backends import backend_problem, resolve_backend
from lifting.cameras import Camera
from lifting.gaussians.compositing import compositing_operator
from lifting.gaussians.projection import Projected, project_splats
from lifting.gaussians.rendering import render, render_rows
from lifting.gaussians.splats import Splats

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(backend_problem("gsplat") is not None, reason="no gsplat"),
]
HW = (45, 70)


def camera(device: str = "cpu") -> Camera:
    K = torch.tensor([[60.0, 0, 35.0], [0, 60.0, 22.0], [0, 0, 1]], device=device)
    return Camera(K=K, T_world_cam=torch.eye(4, device=device), hw=HW)


def scene(count: int, size_m: float, most_opacity: float = 1.0) -> Splats:
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(count, 3, generator=generator) * torch.tensor([3.0, 2.0, 3.0])
    return Splats(
        means=means + torch.tensor([-1.5, -1.0, 0.5]),
        quats=torch.randn(count, 4, generator=generator),
        scales=size_m * torch.exp(torch.randn(count, 3, generator=generator)),
        opacities=most_opacity * torch.rand(count, generator=generator),
        sh=0.3 * torch.randn(count, 4, 3, generator=generator),
    )


def arm(splats: Splats, backend: str, device: str) -> tuple[Tensor, list[Tensor]]:
    """Weights as a dense matrix, and the gradients of a product in centres, conics, opacities."""
    p = project_splats(splats, camera())
    parts = [p.uv, p.conics, splats.opacities]
    parts = [part.detach().to(device).requires_grad_() for part in parts]
    here = Projected(
        uv=parts[0],
        conics=parts[1],
        depth_m=p.depth_m.to(device),
        extent_px=p.extent_px.to(device),
    )
    W = compositing_operator(here, parts[2], HW, backend=backend)
    rows = torch.linspace(-1, 1, 3 * len(splats), device=device).reshape(-1, 3)
    slope = torch.linspace(-1, 2, HW[0] * HW[1], device=device)[:, None]
    grads = torch.autograd.grad((W.apply(rows) * slope).sum(), parts)
    return W.to_dense().detach().cpu(), [grad.cpu() for grad in grads]


@pytest.mark.parametrize(("count", "size_m"), [(500, 0.02), (300, 0.2), (1000, 0.005), (1, 5.0)])
def test_weights_and_gradients_are_those_of_brute_force(count: int, size_m: float) -> None:
    splats = scene(count, size_m)
    ours, ours_grads = arm(splats, "gsplat", "cuda")
    for backend in ("torch", "numba"):
        wanted, grads = arm(splats, backend, "cpu")
        # A pixel on a threshold may fall either way; they are rare.
        off = ((ours - wanted).abs() > 1e-5).any(1)
        assert float(off.double().mean()) < 2e-3
        for mine, other in zip(ours_grads, grads, strict=True):
            assert float((mine - other).norm() / other.norm()) < 1e-2


def test_rows_are_near_to_far() -> None:
    splats = scene(300, 0.1)
    projected = project_splats(splats.to(device="cuda"), camera("cuda"))
    W = compositing_operator(projected, splats.opacities.cuda(), HW)
    depth = projected.depth_m[W.col]
    same_row = W.row[1:] == W.row[:-1]
    assert bool((depth[1:] >= depth[:-1])[same_row].all())


@pytest.mark.parametrize("channels", [0, 1, 3, 37, 512, 1000])
def test_drawing_any_width(channels: int) -> None:
    """gsplat caps alpha at 0.999: compared where no splat is more opaque than 0.98."""
    splats = scene(400, 0.05, most_opacity=0.98)
    features = torch.randn(400, channels, generator=torch.Generator().manual_seed(1))
    ours = render_rows(splats.to(device="cuda"), camera("cuda"), features.cuda())
    wanted = render_rows(splats, camera(), features)
    for mine, other in ((ours.rows, wanted.rows), (ours.alpha, wanted.alpha)):
        close = torch.isclose(mine.cpu(), other, rtol=1e-3, atol=1e-3)
        assert not close.numel() or float(close.double().mean()) > 0.998


def test_drawing_is_differentiable_in_all_parts() -> None:
    splats = scene(200, 0.05, most_opacity=0.9)
    names = ("means", "quats", "scales", "opacities", "sh")
    found: list[dict[str, Tensor]] = []
    for device in ("cuda", "cpu"):
        parts = {n: getattr(splats, n).to(device).detach().requires_grad_() for n in names}
        view = render(Splats(**parts), camera(device))
        assert view.colour is not None
        slope = torch.linspace(-1, 2, HW[0] * HW[1], device=device).reshape(HW)
        ((view.colour + view.depth_m) * slope).sum().backward()
        found.append({n: part.grad.cpu() for n, part in parts.items() if part.grad is not None})
    for name in names:
        mine, other = found[0][name], found[1][name]
        assert float((mine - other).norm() / other.norm()) < 2e-2


def test_empty_views() -> None:
    behind = scene(10, 0.1)
    behind = replace(behind, means=behind.means - 50).to(device="cuda")
    for nobody in (behind, behind.select(torch.zeros(0, dtype=torch.int64, device="cuda"))):
        projected = project_splats(nobody, camera("cuda"))
        assert compositing_operator(projected, nobody.opacities, HW).nnz == 0
        view = render(nobody, camera("cuda"))
        assert not view.alpha.any()


def test_auto_is_gsplat_and_others_are_refused() -> None:
    assert resolve_backend("auto", "cuda", "splat_weights") == "gsplat"
    splats = scene(10, 0.1).to(device="cuda")
    projected = project_splats(splats, camera("cuda"))
    with pytest.raises(RuntimeError, match="'numba' does not run on device 'cuda'"):
        compositing_operator(projected, splats.opacities, HW, backend="numba")
    double = splats.to(dtype=torch.float64)
    with pytest.raises(ValueError, match="gsplat composites float32 splats"):
        compositing_operator(
            project_splats(double, camera("cuda")), double.opacities, HW, backend="gsplat"
        )


@pytest.mark.realdata
@pytest.mark.skipif("XMODAL_DATA" not in os.environ, reason="XMODAL_DATA is not set")
@pytest.mark.parametrize("view", [0, 1, 2])
def test_the_garden_looks_the_same(view: int) -> None:
    """138,766 points as round splats, at a quarter of the size of the photos."""
    with np.load(Path(os.environ["XMODAL_DATA"]) / "gsplat_garden" / "test_garden.npz") as data:
        xyz, rgb = torch.from_numpy(data["means3d"]), torch.from_numpy(data["colors"]) / 255
        T_cam_world = torch.from_numpy(data["viewmats"][view]).double()
        K = torch.from_numpy(data["Ks"][view]) / 4
        hw = int(data["height"]) // 4, int(data["width"]) // 4
    K[2, 2] = 1
    posed = Camera(K=K, T_world_cam=torch.linalg.inv(T_cam_world), hw=hw)
    there = replace(posed, K=K.cuda(), T_world_cam=posed.T_world_cam.cuda())
    splats = Splats(
        means=xyz,
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(len(xyz), 1),
        scales=torch.full((len(xyz), 3), 0.01),
        opacities=torch.full((len(xyz),), 0.7),
    )
    wanted = render_rows(splats, posed, rgb)
    ours = render_rows(splats.to(device="cuda"), there, rgb.cuda())
    close = torch.isclose(ours.rows.cpu(), wanted.rows, rtol=1e-3, atol=1e-3)
    assert float(close.double().mean()) > 0.998
    W = compositing_operator(project_splats(splats, posed), splats.opacities, hw)
    cuda = splats.to(device="cuda")
    V = compositing_operator(project_splats(cuda, there), cuda.opacities, hw)
    assert abs(V.nnz - W.nnz) < 1e-3 * W.nnz
    torch.testing.assert_close(V.row_sum().cpu(), W.row_sum(), rtol=1e-2, atol=5e-3)
