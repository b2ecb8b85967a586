"""The compiled compositing weights and their gradients against brute force."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lifting.backends import resolve_backend
from lifting.backends.jit import jit
from lifting.backends.numba_splats import decay
from lifting.cameras import Camera
from lifting.gaussians.compositing import compositing_operator
from lifting.gaussians.projection import LEAST_ALPHA, Projected, project_splats
from lifting.gaussians.reference import LEAST_TRANSMITTANCE, dense_alphas, dense_weights
from lifting.gaussians.splats import Splats

HW = (21, 35)


def camera(hw: tuple[int, int] = HW) -> Camera:
    height, width = hw
    K = torch.tensor([[30.0, 0, width / 2], [0, 28.0, height / 2], [0, 0, 1]])
    return Camera(K=K, T_world_cam=torch.eye(4), hw=hw)


def scene(count: int, size_m: float, seed: int, dtype: torch.dtype = torch.float64) -> Splats:
    """Splats in front of the camera, some beside it and some behind."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    means = (uniform(count, 3) - 0.5) * torch.tensor([4.0, 3.0, 4.0]) + torch.tensor([0, 0, 1.8])
    return Splats(
        means=means,
        quats=uniform(count, 4) - 0.5,
        scales=size_m * torch.exp(3 * uniform(count, 3) - 2),
        opacities=uniform(count),
    ).to(dtype=dtype)


def leaves(splats: Splats) -> tuple[Projected, list[Tensor]]:
    """The projected splats, with centres, conics and opacities as leaves."""
    p = project_splats(splats, camera())
    parts = [part.detach().requires_grad_() for part in (p.uv, p.conics, splats.opacities.clone())]
    return replace(p, uv=parts[0], conics=parts[1]), parts


def stacked(opacities: list[float], depth_m: list[float]) -> tuple[Projected, Tensor]:
    """Wide splats behind each other on the centre of a single pixel."""
    count = len(opacities)
    return (
        Projected(
            uv=torch.full((count, 2), 0.5),
            conics=torch.tensor([[1.0, 0.0, 1.0]]).repeat(count, 1),
            depth_m=torch.tensor(depth_m),
            extent_px=torch.ones(count, 2),
        ),
        torch.tensor(opacities),
    )


# ---- worked by hand -------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_each_splat_takes_its_share_of_the_light_that_is_left(backend: str) -> None:
    projected, opacities = stacked([0.5, 0.5, 0.2], [3.0, 1.0, 2.0])
    W = compositing_operator(projected, opacities, (1, 1), backend=backend)
    assert W.col.tolist() == [1, 2, 0]
    torch.testing.assert_close(W.weight, torch.tensor([0.5, 0.5 * 0.2, 0.5 * 0.8 * 0.5]))


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_cap_skip_and_stop(backend: str) -> None:
    # Capped at 0.99; below 1/255 skipped; 0.01 x 0.05 = 5e-4 is left; the next would leave 2.5e-5,
    # so it and all behind it are left out, even a faint one.
    projected, opacities = stacked([1.0, 0.003, 0.95, 0.95, 0.1], [1.0, 2.0, 3.0, 4.0, 5.0])
    W = compositing_operator(projected, opacities, (1, 1), backend=backend)
    assert W.col.tolist() == [0, 2]
    torch.testing.assert_close(W.weight, torch.tensor([0.99, 0.01 * 0.95]))


def test_equal_depths_go_by_index() -> None:
    projected, opacities = stacked([0.1, 0.2, 0.3], [1.0, 1.0, 1.0])
    assert compositing_operator(projected, opacities, (1, 1)).col.tolist() == [0, 1, 2]


def test_a_gaussian_falls_off_from_pixel_centre_to_pixel_centre() -> None:
    projected = Projected(
        uv=torch.tensor([[2.5, 1.5]]),
        conics=torch.tensor([[0.5, 0.1, 0.25]]),
        depth_m=torch.ones(1),
        extent_px=torch.ones(1, 2),
    )
    W = compositing_operator(projected, torch.tensor([0.8]), (3, 5))
    row, column = 2, 4  # dx = 2, dy = 1
    expected = 0.8 * np.exp(-0.5 * (0.5 * 4 + 2 * 0.1 * 2 + 0.25))
    assert float(W.to_dense()[row * 5 + column, 0]) == pytest.approx(expected, rel=1e-6)


# ---- against brute force --------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(0, 60),
    size_m=st.sampled_from([0.003, 0.03, 0.3, 3.0]),
    seed=st.integers(0, 10_000),
)
def test_weights_and_gradients_are_those_of_brute_force(
    count: int, size_m: float, seed: int
) -> None:
    projected, parts = leaves(scene(count, size_m, seed))
    W = compositing_operator(projected, parts[2], HW, backend="numba")
    same = compositing_operator(projected, parts[2], HW, backend="torch")
    assert torch.equal(W.crow, same.crow)
    assert torch.equal(W.col, same.col)
    torch.testing.assert_close(W.weight, same.weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        W.to_dense(), dense_weights(projected, parts[2], HW), rtol=1e-9, atol=1e-12
    )
    if not W.nnz:
        return
    slope = torch.randn(W.nnz, dtype=W.weight.dtype, generator=torch.Generator().manual_seed(seed))
    ours = torch.autograd.grad(W.weight, parts, slope)
    theirs = torch.autograd.grad(same.weight, parts, slope)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-9 * float(other.abs().max()))


@pytest.mark.parametrize("size_m", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("hw", [(21, 35), (64, 64), (1, 1), (5, 130)])
def test_single_precision_where_no_threshold_is_near(hw: tuple[int, int], size_m: float) -> None:
    """Alphas within 1e-4 of 1/255 and light within 1e-3 of 1e-4 may fall either way: left out."""
    splats = scene(250, size_m, 3)
    exact = project_splats(splats, camera(hw))
    single = Projected(
        uv=exact.uv.float(),
        conics=exact.conics.float(),
        depth_m=exact.depth_m.float(),
        extent_px=exact.extent_px.float(),
    )
    W = compositing_operator(single, splats.opacities.float(), hw)
    assert W.weight.dtype == torch.float32
    order = exact.depth_m.argsort(stable=True)
    alpha = dense_alphas(exact, splats.opacities, hw)[:, order]
    all_alpha = dense_alphas(exact, (splats.opacities * 1.01).clamp_max(1), hw)[:, order]
    near = (all_alpha > 0) & ((all_alpha / 1.01 - LEAST_ALPHA).abs() < 1e-4 * LEAST_ALPHA)
    light = torch.cumprod(1 - alpha, 1)
    near |= (light - LEAST_TRANSMITTANCE).abs() < 1e-3 * LEAST_TRANSMITTANCE
    clear = ~near.any(1)
    assert float((~clear).double().mean()) < 0.02
    difference = (W.to_dense() - dense_weights(exact, splats.opacities, hw)).abs()
    assert float(difference[clear].max()) < 1e-5


def test_gradcheck_through_the_projection() -> None:
    splats = scene(4, 0.15, 11)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 2, generator=generator, dtype=torch.float64)

    def draw(
        means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, rows: Tensor
    ) -> Tensor:
        made = Splats(means=means, quats=quats, scales=scales, opacities=opacities)
        projected = project_splats(made, camera((5, 7)))
        # Steps of 1e-7 are far smaller than any splat's distance from a jump at 1/255.
        return compositing_operator(projected, opacities, (5, 7)).apply(rows)

    inputs = (splats.means, splats.quats, splats.scales, splats.opacities.clamp(0.1, 0.8), rows)
    inputs = tuple(part.detach().clone().requires_grad_() for part in inputs)
    assert torch.autograd.gradcheck(draw, inputs, eps=1e-7, atol=1e-5, rtol=1e-4)


def test_decay_is_exact_enough() -> None:
    @jit
    def fill(exponent: np.ndarray, out: np.ndarray) -> None:
        for i in range(len(exponent)):
            out[i] = decay(exponent[i])

    for dtype, tolerance in ((np.float32, 4e-7), (np.float64, 1e-15)):
        exponent = np.linspace(0, 6, 20_001).astype(dtype)
        out = np.empty_like(exponent)
        fill(exponent, out)
        wanted = np.exp(-exponent.astype(np.float64))
        assert np.abs(out / wanted - 1).max() < tolerance
    assert decay(np.float64(1.5)) == np.exp(-1.5)


# ---- as an operator -------------------------------------------------------------------------


def test_the_transpose_is_the_lift_and_keeps_gradients() -> None:
    projected, parts = leaves(scene(40, 0.1, 2))
    W = compositing_operator(projected, parts[2], HW)
    assert W.shape == (HW[0] * HW[1], 40)
    lift = W.transpose()
    torch.testing.assert_close(lift.to_dense(), W.to_dense().T)
    pixels = torch.randn(W.num_targets, 3, dtype=torch.float64)
    ours = torch.autograd.grad(lift.apply(pixels).square().sum(), parts)
    dense = dense_weights(projected, parts[2], HW)
    theirs = torch.autograd.grad((dense.T @ pixels).square().sum(), parts)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-7 * float(other.abs().max()))


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    splats = scene(400, 0.2, 5, torch.float32)
    found: list[list[Tensor]] = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        projected, parts = leaves(splats)
        W = compositing_operator(projected, parts[2], HW)
        slope = torch.linspace(-1, 2, W.nnz)
        found.append(
            [W.crow, W.col, W.weight.detach(), *torch.autograd.grad(W.weight, parts, slope)]
        )
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_views_without_splats_are_empty_and_differentiable() -> None:
    splats = scene(5, 0.1, 0)
    behind = replace(splats, means=splats.means - torch.tensor([0.0, 0.0, 50.0]))
    for nobody in (behind, behind.select(torch.zeros(0, dtype=torch.int64))):
        projected, parts = leaves(nobody)
        W = compositing_operator(projected, parts[2], HW)
        assert (W.nnz, W.shape) == (0, (HW[0] * HW[1], len(nobody)))
        drawn = W.apply(torch.ones(len(nobody), 4, dtype=torch.float64))
        assert not drawn.any()
        for grad in torch.autograd.grad(W.weight.sum(), parts):
            assert not grad.any()


def test_inside_a_splat_and_needles_across_the_image() -> None:
    """Splats of a kilometre and of a micrometre by a kilometre; nothing is NaN or missing."""
    splats = Splats(
        means=torch.tensor([[0.0, 0, 0.5], [0.1, 0.1, 1.0], [0.0, 0.0, 2.0]]),
        quats=torch.tensor([[1.0, 0, 0, 0], [0.9, 0.1, 0.2, 0.4], [1.0, 0.3, 0, 0.2]]),
        scales=torch.tensor([[1e3, 1e3, 1e3], [1e-6, 1e3, 1e-6], [1e-6, 1e-6, 1e-6]]),
        opacities=torch.tensor([0.5, 0.9, 1.0]),
    )
    projected, parts = leaves(splats)
    W = compositing_operator(projected, parts[2], HW)
    assert bool((W.to_dense()[:, 0] > 0.04).all())
    for grad in torch.autograd.grad(W.weight.sum(), parts):
        assert bool(grad.isfinite().all())


def test_weights_without_gradients_keep_none() -> None:
    splats = scene(20, 0.1, 1)
    W = compositing_operator(project_splats(splats, camera()), splats.opacities, HW)
    assert not W.weight.requires_grad
    assert W.nnz > 0


# ---- refused --------------------------------------------------------------------------------


def test_wrong_inputs_are_refused() -> None:
    splats = scene(4, 0.1, 0)
    projected = project_splats(splats, camera())
    with pytest.raises(ValueError, match="4 projected splats need as many opacities"):
        compositing_operator(projected, splats.opacities[:3], HW)
    with pytest.raises(ValueError, match="must share one precision"):
        compositing_operator(projected, splats.opacities.float(), HW)
    with pytest.raises(ValueError, match="height and a width of at least 1 pixel"):
        compositing_operator(projected, splats.opacities, (0, 5))
    with pytest.raises(ValueError, match="opacity up to 1; splat"):
        compositing_operator(projected, splats.opacities * 0 + 2, HW)


def test_half_precision_is_refused() -> None:
    splats = scene(4, 0.1, 0)
    p = project_splats(splats, camera())
    half = Projected(
        uv=p.uv.half(),
        conics=p.conics.half(),
        depth_m=p.depth_m.half(),
        extent_px=p.extent_px.half(),
    )
    with pytest.raises(ValueError, match="float32 or float64"):
        compositing_operator(half, splats.opacities.half(), HW)


def test_backends_are_named_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    splats = scene(4, 0.1, 0)
    projected = project_splats(splats, camera())
    with pytest.raises(
        ValueError, match="splat_weights has the backends auto, gsplat, numba, torch"
    ):
        compositing_operator(projected, splats.opacities, HW, backend="triton")
    with pytest.raises(RuntimeError, match="'gsplat' does not run on device 'cpu'"):
        compositing_operator(projected, splats.opacities, HW, backend="gsplat")
    with caplog.at_level(logging.INFO):
        assert resolve_backend("auto", "cpu", "splat_weights") == "numba"
