"""Colour, depth, normals and features of any width from one compositing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lifting.cameras import Camera
from lifting.gaussians.harmonics import sh_from_rgb
from lifting.gaussians.rendering import render, render_rows, view_operator
from lifting.gaussians.splats import Splats

HW = (18, 27)


def camera() -> Camera:
    K = torch.tensor([[25.0, 0, 13.5], [0, 25.0, 9.0], [0, 0, 1]])
    return Camera(K=K, T_world_cam=torch.eye(4), hw=HW)


def scene(count: int = 30, *, degree: int = 1) -> Splats:
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(count, 3, generator=generator) * torch.tensor([2.0, 1.5, 2.0])
    return Splats(
        means=means + torch.tensor([-1.0, -0.8, 1.0]),
        quats=torch.randn(count, 4, generator=generator),
        scales=0.02 + 0.1 * torch.rand(count, 3, generator=generator),
        opacities=torch.rand(count, generator=generator),
        sh=0.3 * torch.randn(count, (degree + 1) ** 2, 3, generator=generator),
    )


def wall(depth_m: float, rgb: tuple[float, float, float], opacity: float) -> Splats:
    """One splat across the whole view, flat towards the camera."""
    return Splats(
        means=torch.tensor([[0.0, 0.0, depth_m]]),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        scales=torch.tensor([[1e3, 1e3, 1e-3]]),
        opacities=torch.tensor([opacity]),
        sh=sh_from_rgb(torch.tensor([rgb])),
    )


def both(a: Splats, b: Splats) -> Splats:
    def joined(name: str) -> Tensor:
        return torch.cat((getattr(a, name), getattr(b, name)))

    names = ("means", "quats", "scales", "opacities", "sh")
    return Splats(**{name: joined(name) for name in names})


def test_two_walls_by_hand() -> None:
    splats = both(wall(4.0, (1.0, 0.0, 0.0), 0.8), wall(2.0, (0.0, 1.0, 0.0), 0.5))
    background = torch.tensor([0.0, 0.0, 1.0])
    view = render(splats, camera(), torch.tensor([[10.0], [20.0]]), background=background)
    near, far, rest = 0.5, 0.4, 0.1
    assert view.colour is not None
    assert view.features is not None

    def same(image: Tensor, value: float) -> None:
        torch.testing.assert_close(image, torch.full_like(image, value), rtol=1e-4, atol=1e-4)

    same(view.alpha, near + far)
    for channel, value in enumerate((far, near, rest)):
        same(view.colour[channel], value)
    same(view.depth_m, (near * 2 + far * 4) / (near + far))
    same(view.features[0], near * 20 + far * 10)
    torch.testing.assert_close(view.normals[2], -torch.ones(HW), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [0, 1, 3, 37, 512, 1000])
def test_any_width_is_the_product_with_the_weights(channels: int) -> None:
    splats, generator = scene(), torch.Generator().manual_seed(1)
    features = torch.randn(len(splats), channels, generator=generator)
    dense = view_operator(splats, camera(), backend="torch").to_dense()
    wanted = (dense @ features).reshape(*HW, channels)
    view = render(splats, camera(), features)
    assert view.features is not None
    torch.testing.assert_close(view.features, wanted.permute(2, 0, 1), rtol=1e-4, atol=1e-5)
    drawn = render_rows(splats, camera(), features)
    torch.testing.assert_close(drawn.rows, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(drawn.alpha, dense.sum(1).reshape(HW), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_backends_draw_the_same(degree: int) -> None:
    splats, features = scene(degree=degree), torch.randn(30, 5)
    views = [
        render(splats, camera(), features, background=torch.ones(3), backend=backend)
        for backend in ("numba", "torch")
    ]
    for name in ("colour", "depth_m", "normals", "alpha", "features"):
        ours, wanted = (getattr(view, name) for view in views)
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=2e-5)


def test_shapes_and_ranges() -> None:
    view = render(scene(), camera())
    assert view.features is None
    assert view.colour is not None
    assert view.colour.shape == view.normals.shape == (3, *HW)
    assert view.depth_m.shape == view.alpha.shape == HW
    covered = view.alpha > 0
    assert bool(covered.any()) and not bool(covered.all())
    assert bool((view.alpha < 1).all())
    assert bool((view.depth_m[covered] >= 1).all())
    length = torch.linalg.vector_norm(view.normals, dim=0)
    assert bool((length <= 1 + 1e-5).all())
    for image in (view.depth_m[None], view.normals, view.colour):
        assert not image[:, ~covered].any()


def test_gradients_reach_every_part_and_are_finite() -> None:
    splats, features = scene(), torch.randn(30, 4, requires_grad=True)
    names = ("means", "quats", "scales", "opacities", "sh")
    parts = {name: getattr(splats, name).clone().requires_grad_() for name in names}
    view = render(Splats(**parts), camera(), features, background=torch.ones(3))
    assert view.colour is not None
    assert view.features is not None
    images = (view.colour, view.depth_m, view.normals[:1], view.features)
    sum(image.square().sum() for image in images).backward()
    for tensor in (*parts.values(), features):
        assert tensor.grad is not None
        assert bool(tensor.grad.isfinite().all())
        assert bool(tensor.grad.any())


def test_a_view_without_splats_is_background() -> None:
    splats = replace(scene(), means=scene().means - 100)
    features = torch.ones(30, 2, requires_grad=True)
    view = render(splats, camera(), features, background=torch.tensor([0.1, 0.2, 0.3]))
    assert view.colour is not None
    assert view.features is not None
    torch.testing.assert_close(view.colour[:, 0, 0], torch.tensor([0.1, 0.2, 0.3]))
    assert not view.alpha.any() and not view.depth_m.any() and not view.normals.any()
    (view.features.sum() + view.depth_m.sum() + view.normals.sum()).backward()
    assert not features.grad.any()  # pyright: ignore[reportOptionalMemberAccess]


def test_rows_have_a_background_of_their_width() -> None:
    splats, background = wall(2.0, (1.0, 1.0, 1.0), 0.5), torch.arange(4.0)
    drawn = render_rows(splats, camera(), torch.zeros(1, 4), background=background)
    torch.testing.assert_close(drawn.rows[3, 3], 0.5 * background, rtol=1e-4, atol=1e-4)


def test_splats_without_colour_have_depth_and_features() -> None:
    view = render(replace(scene(), sh=None), camera(), torch.ones(30, 1))
    assert view.colour is None
    assert view.features is not None
    torch.testing.assert_close(view.features[0], view.alpha)


def test_a_wrong_number_of_rows_is_refused() -> None:
    for count in (29, 31, 0):
        with pytest.raises(ValueError, match=rf"30 splats need features \[30, C\], got \[{count}"):
            render(scene(), camera(), torch.ones(count, 3))
        with pytest.raises(ValueError, match="30 splats need rows"):
            render_rows(scene(), camera(), torch.ones(count, 3))


def test_backgrounds_that_fit_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="needs that width"):
        render_rows(scene(), camera(), torch.ones(30, 3), background=torch.ones(4))
    with pytest.raises(ValueError, match="behind splats without"):
        render(replace(scene(), sh=None), camera(), background=torch.ones(3))


def test_lenses_and_harmonics_of_no_degree_are_refused() -> None:
    bent = replace(camera(), distortion=torch.tensor([0.1, 0, 0, 0]))
    with pytest.raises(ValueError, match="undistort the images first"):
        render(scene(), bent)
    with pytest.raises(ValueError, match="K one of 1, 4, 9, 16"):
        replace(scene(), sh=torch.zeros(30, 5, 3))


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="splat_weights has the backends"):
        render(scene(), camera(), backend="opengl")
