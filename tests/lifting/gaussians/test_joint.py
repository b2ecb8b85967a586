"""A view with its weights: the same picture as `render`, and pixels given back by depth."""

from __future__ import annotations

import pytest
import torch

from lifting.cameras import Camera
from lifting.gaussians.harmonics import sh_from_rgb
from lifting.gaussians.joint import draw_jointly, near_surface
from lifting.gaussians.rendering import render
from lifting.gaussians.splats import Splats

CAMERA = Camera(
    K=torch.tensor([[10.0, 0, 4], [0, 10.0, 3], [0, 0, 1]]), T_world_cam=torch.eye(4), hw=(6, 8)
)


def cloud(num: int = 30) -> tuple[Splats, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    place = torch.rand(num, 3, generator=chance) - torch.tensor([0.5, 0.5, -1.0])
    splats = Splats(
        means=place,
        quats=torch.randn(num, 4, generator=chance),
        scales=torch.rand(num, 3, generator=chance) * 0.2 + 0.02,
        opacities=torch.rand(num, generator=chance) * 0.8 + 0.1,
        sh=sh_from_rgb(torch.rand(num, 3, generator=chance)),
    )
    return splats, torch.rand(num, 5, generator=chance)


def two(depth_m: tuple[float, float] = (1.0, 2.0), opacity: float = 0.5) -> Splats:
    """Two wide splats behind each other on the optical axis."""
    return Splats(
        means=torch.tensor([[0.0, 0, depth_m[0]], [0, 0, depth_m[1]]]),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1),
        scales=torch.full((2, 3), 50.0),
        opacities=torch.full((2,), opacity),
        sh=sh_from_rgb(torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])),
    )


def test_it_is_the_picture_that_render_draws() -> None:
    splats, rows = cloud()
    view, drawn = draw_jointly(splats, CAMERA, rows), render(splats, CAMERA, rows)
    assert drawn.colour is not None
    assert drawn.features is not None
    assert torch.allclose(view.colour, drawn.colour, atol=1e-6)
    assert torch.allclose(view.depth_m, drawn.depth_m, atol=1e-6)
    assert torch.allclose(view.alpha, drawn.alpha, atol=1e-6)
    assert torch.allclose(view.features, drawn.features.flatten(1).T, atol=1e-6)
    assert view.weights.shape == (48, 30)


def test_two_splats_by_hand() -> None:
    view = draw_jointly(two(), CAMERA, torch.tensor([[1.0], [0.0]]))
    # Half of the light at 1 m, half of the rest at 2 m: 0.5 and 0.25 of 0.75.
    middle = view.weights.to_dense()[3 * 8 + 4]
    assert middle.tolist() == pytest.approx([0.5, 0.25], abs=1e-3)
    assert float(view.depth_m[3, 4]) == pytest.approx(4 / 3, abs=1e-3)
    assert view.colour[:, 3, 4].tolist() == pytest.approx([0.5, 0, 0.25], abs=1e-3)


def test_the_splat_at_the_shown_depth_keeps_its_weight() -> None:
    view = draw_jointly(two(), CAMERA, torch.zeros(2, 1))
    near = near_surface(view, 1 / 3).to_dense()[3 * 8 + 4]
    # The pixel shows 4/3 m: the first splat is one standard deviation away, the second two.
    assert float(near[0]) == pytest.approx(0.5 * 2.718281828**-0.5, abs=2e-3)
    assert float(near[1]) == pytest.approx(0.25 * 2.718281828**-2, abs=2e-3)


def test_nothing_flows_back_through_the_band() -> None:
    splats, rows = cloud()
    means = splats.means.requires_grad_()
    view = draw_jointly(splats, CAMERA, rows)
    assert view.weights.weight.requires_grad
    assert not near_surface(view, 0.1).weight.requires_grad
    view.depth_m.sum().backward()
    assert means.grad is not None


def test_a_camera_among_splats_sees_finite_things() -> None:
    splats, rows = cloud()
    inside = Splats(
        means=splats.means - torch.tensor([0.0, 0, 1.5]), quats=splats.quats,
        scales=splats.scales, opacities=splats.opacities, sh=splats.sh,
    )  # fmt: skip
    view = draw_jointly(inside, CAMERA, rows)
    for part in (view.colour, view.depth_m, view.features, near_surface(view, 0.1).weight):
        assert bool(part.isfinite().all())


def test_behind_the_camera_there_is_nothing() -> None:
    view = draw_jointly(two((-1.0, -2.0)), CAMERA, torch.ones(2, 3))
    assert float(view.alpha.max()) == 0
    assert float(view.depth_m.max()) == 0
    assert near_surface(view, 0.1).nnz == 0


@pytest.mark.parametrize("band_m", [0.0, -1.0, float("nan"), float("inf")])
def test_a_band_has_a_width(band_m: float) -> None:
    view = draw_jointly(two(), CAMERA, torch.zeros(2, 1))
    with pytest.raises(ValueError, match="band_m"):
        near_surface(view, band_m)


def test_rows_and_colour_are_needed() -> None:
    splats, rows = cloud()
    with pytest.raises(ValueError, match="as many rows"):
        draw_jointly(splats, CAMERA, rows[:3])
    grey = Splats(
        means=splats.means, quats=splats.quats, scales=splats.scales, opacities=splats.opacities
    )
    with pytest.raises(ValueError, match="colour"):
        draw_jointly(grey, CAMERA, rows)
