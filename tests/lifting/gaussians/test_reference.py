"""Compositing by brute force, against cases worked by hand and a loop as plain as it gets."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor
from torch.autograd import gradcheck

from lifting.gaussians.projection import Projected
from lifting.gaussians.reference import dense_alphas, dense_weights


def projected(uv: list[tuple[float, float]], depth: list[float], conic: float = 0.5) -> Projected:
    count = len(uv)
    return Projected(
        uv=torch.tensor(uv, dtype=torch.float64).reshape(count, 2),
        conics=torch.tensor([conic, 0.0, conic], dtype=torch.float64).repeat(count, 1),
        depth_m=torch.tensor(depth, dtype=torch.float64),
        extent_px=torch.full((count, 2), 50.0, dtype=torch.float64),
    )


def opacity(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def scattered(count: int, seed: int) -> tuple[Projected, Tensor]:
    g = torch.Generator().manual_seed(seed)
    uv = torch.rand(count, 2, generator=g, dtype=torch.float64) * 5
    axes = torch.rand(count, 2, 2, generator=g, dtype=torch.float64) - 0.5
    conics = axes @ axes.mT + 0.05 * torch.eye(2).double()
    seen = Projected(
        uv=uv,
        conics=torch.stack((conics[:, 0, 0], conics[:, 0, 1], conics[:, 1, 1]), 1),
        depth_m=torch.rand(count, generator=g, dtype=torch.float64).mul(5).ceil(),  # with ties
        extent_px=torch.ones(count, 2, dtype=torch.float64),
    )
    return seen, torch.rand(count, generator=g, dtype=torch.float64)


def test_one_splat_by_hand() -> None:
    # Pixel centres at 0.5 and 1.5: 0 and 1 px away, so exp(-0.5 * 0.5 * 1).
    weights = dense_weights(projected([(0.5, 0.5)], [1.0]), opacity(0.8), (1, 2))
    expected = [[0.8], [0.8 * math.exp(-0.25)]]
    torch.testing.assert_close(weights, torch.tensor(expected).double(), rtol=1e-7, atol=0)


def test_the_nearer_splat_comes_first_and_equal_depths_go_by_index() -> None:
    same = [(0.5, 0.5)] * 3
    weights = dense_weights(projected(same, [2.0, 1.0, 2.0]), opacity(0.5, 0.4, 0.3), (1, 1))
    # 0.4, then 0.5 of the 0.6 left, then 0.3 of the 0.3 left.
    torch.testing.assert_close(weights[0], opacity(0.3, 0.4, 0.09))


def test_correlated_axes() -> None:
    # d = (1, 1): 0.5 (a + 2 b + c) with a = c = 1, b = 0.5 is 1.5; d = (1, -1) gives 0.5.
    seen = replace(projected([(0.5, 1.5)], [1.0]), conics=opacity(1.0, 0.5, 1.0)[None])
    alpha = dense_alphas(seen, opacity(0.9), (3, 2))
    assert alpha[5].item() == pytest.approx(0.9 * math.exp(-1.5))
    assert alpha[1].item() == pytest.approx(0.9 * math.exp(-0.5))


def test_alpha_ends_at_the_least_and_at_the_most() -> None:
    seen = projected([(0.5, 0.5)] * 4, [1.0, 2.0, 3.0, 4.0])
    alpha = dense_alphas(seen, opacity(1.0, 0.995, 0.0039, 0.00393), (1, 1))
    torch.testing.assert_close(alpha[0], opacity(0.99, 0.99, 0.0, 0.00393))


def test_compositing_stops_before_the_light_is_gone() -> None:
    # 0.99 leaves 1e-2; 0.98 leaves 2e-4; 0.6 would leave 8e-5: it and all behind are left out,
    # even one that would be faint enough.
    seen = projected([(0.5, 0.5)] * 4, [1.0, 2.0, 3.0, 4.0])
    weights = dense_weights(seen, opacity(0.99, 0.98, 0.6, 0.1), (1, 1))
    torch.testing.assert_close(weights[0], opacity(0.99, 0.0098, 0.0, 0.0))


def test_what_is_not_drawn_has_no_weight() -> None:
    seen = projected([(0.5, 0.5)] * 2, [1.0, 2.0])
    hidden = replace(seen, extent_px=torch.tensor([[0.0, 0.0], [9.0, 9.0]], dtype=torch.float64))
    torch.testing.assert_close(dense_weights(hidden, opacity(0.5, 0.5), (1, 1))[0], opacity(0, 0.5))


def by_loop(seen: Projected, opacities: Tensor, hw: tuple[int, int]) -> Tensor:
    weights = torch.zeros(hw[0] * hw[1], len(seen), dtype=torch.float64)
    order = sorted(range(len(seen)), key=lambda m: (seen.depth_m[m].item(), m))
    for pixel in range(hw[0] * hw[1]):
        light = 1.0
        for m in order:
            x = pixel % hw[1] + 0.5 - seen.uv[m, 0].item()
            y = pixel // hw[1] + 0.5 - seen.uv[m, 1].item()
            a, b, c = seen.conics[m].tolist()
            falloff = math.exp(-0.5 * (a * x * x + 2 * b * x * y + c * y * y))
            alpha = min(0.99, opacities[m].item() * falloff)
            if alpha < 1 / 255:
                continue
            if light * (1 - alpha) <= 1e-4:
                break
            weights[pixel, m] = alpha * light
            light *= 1 - alpha
    return weights


@given(seed=st.integers(0, 10_000), opaque=st.booleans())
@settings(deadline=None, max_examples=15)
def test_like_a_loop(seed: int, opaque: bool) -> None:
    seen, opacities = scattered(15, seed)
    opacities = opacities.sqrt().sqrt() if opaque else opacities
    expected = by_loop(seen, opacities, (4, 3))
    torch.testing.assert_close(dense_weights(seen, opacities, (4, 3)), expected)


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=20)
def test_light_is_shared_out_and_never_made(seed: int) -> None:
    seen, opacities = scattered(30, seed)
    weights = dense_weights(seen, opacities, (5, 5))
    assert (weights >= 0).all()
    assert (weights.sum(1) <= 1 - 1e-4).all()


def test_the_order_of_splats_does_not_matter() -> None:
    seen, opacities = scattered(12, 1)
    seen = replace(seen, depth_m=torch.arange(12).double())
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    mixed = Projected(
        uv=seen.uv[order],
        conics=seen.conics[order],
        depth_m=seen.depth_m[order],
        extent_px=seen.extent_px[order],
    )
    found = dense_weights(mixed, opacities[order], (4, 4))
    torch.testing.assert_close(found, dense_weights(seen, opacities, (4, 4))[:, order])


@pytest.mark.parametrize("seed", range(3))
def test_gradcheck(seed: int) -> None:
    seen, opacities = scattered(6, seed)

    def run(uv: Tensor, conics: Tensor, opacities: Tensor) -> Tensor:
        return dense_weights(replace(seen, uv=uv, conics=conics), opacities, (3, 4))

    leaves = [part.clone().requires_grad_() for part in (seen.uv, seen.conics, opacities)]
    assert gradcheck(run, leaves)


def test_slopes_are_zero_where_alpha_is_cut() -> None:
    opacities = opacity(0.995, 0.003).requires_grad_()
    seen = projected([(0.5, 0.5)] * 2, [1.0, 2.0])
    dense_weights(seen, opacities, (1, 1)).sum().backward()
    assert opacities.grad is not None
    assert opacities.grad.tolist() == [0, 0]


def test_no_splats_and_half_of_them() -> None:
    assert dense_weights(projected([], []), opacity(), (2, 3)).shape == (6, 0)
    with pytest.raises(TypeCheckError):
        dense_weights(projected([(0.5, 0.5)] * 2, [1.0, 2.0]), opacity(0.5)[None], (1, 1))
