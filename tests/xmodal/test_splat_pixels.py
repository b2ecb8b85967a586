"""The op `splat_pixels`: some pixels of every mask as sets of splats."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from lifting.cameras import Camera, pixel_centres
from lifting.operator import LiftOperator
from xmodal.config.problems import ConfigReportError
from xmodal.edges.distill.mask_contrast import MaskContrast
from xmodal.edges.lift.splat_pixels import SplatPixels
from xmodal.errors import DataError
from xmodal.graph import Graph
from xmodal.values import Gaussians, Masks, PointSets

HW = (12, 16)
K = torch.tensor([[15.0, 0, 8], [0, 15.0, 6], [0, 0, 1]])


@pytest.fixture(scope="module")
def wall() -> Gaussians:
    """A wall of flat splats 1 m ahead that ends below the middle of the pictures."""
    y, x = torch.meshgrid(torch.arange(-0.6, 0.1, 0.1), torch.arange(-1, 1, 0.1), indexing="ij")
    means = torch.stack((x, y, torch.ones_like(x)), -1).reshape(-1, 3)
    num = len(means)
    return Gaussians(
        means=means,
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(num, 1),
        scales=torch.tensor([0.06, 0.06, 0.005]).repeat(num, 1),
        opacities=torch.full((num,), 0.95),
        offsets=torch.tensor([0, num]),
    )


def masks(x_m: float, name: str) -> Masks:
    """The left and the right half of a picture, and a mask of both."""
    T = torch.eye(4)
    T[0, 3] = x_m
    camera = Camera(K=K, T_world_cam=T, hw=HW)
    left = pixel_centres(HW)[:, 0] < HW[1] / 2
    row = torch.arange(HW[0] * HW[1])
    pixels, mask = torch.cat((row, row)), torch.cat((torch.where(left, 0, 1), row * 0 + 2))
    return Masks(
        rows=torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]),
        valid=torch.ones(3, dtype=torch.bool),
        weight=torch.ones(3),
        membership=LiftOperator.from_coo(
            pixels, mask, torch.ones(len(pixels)), shape=(len(row), 3)
        ),
        grid_hw=HW,
        camera=camera,
        name=name,
    )


VIEWS = [masks(-0.1, "a"), masks(0.1, "b")]


def drawn(wall: Gaussians, views: list[Masks] = VIEWS, **settings: Any) -> PointSets:
    return SplatPixels(**settings)(views, wall)


def test_pixels_know_their_mask_and_view(wall: Gaussians) -> None:
    sets = drawn(wall, per_mask=3)
    assert sets.groups is not None
    assert sets.views is not None
    # Three masks a view; the one of both halves is never the smallest.
    assert sets.groups.tolist() == [0, 0, 0, 1, 1, 1, 3, 3, 3, 4, 4, 4]
    assert sets.views.tolist() == [0] * 6 + [1] * 6
    assert sets.rows[:, 0].tolist() == [1, 1, 1, 0, 0, 0] * 2
    assert sets.membership.shape == (12, len(wall.means))
    assert float(sets.weight.min()) >= 0.5


def test_a_pixel_is_made_of_the_splats_that_are_drawn_there(wall: Gaussians) -> None:
    sets = drawn(wall, per_mask=999, keep=1.0, level="largest")
    # The lower half of the pictures is empty: none of its pixels are opaque.
    assert 100 < len(sets.rows) < 2 * HW[0] * HW[1] * 0.75
    assert torch.allclose(sets.membership.row_sum(), sets.weight, atol=1e-5)
    centre = sets.membership.mean().apply(wall.means)
    assert float(centre[:, 1].max()) < 0.15
    # Neighbouring pixels look at places 1/15 m from each other.
    seen = centre[:, 0] - torch.where(sets.views == 0, -0.1, 0.1)
    column = (seen * 15 + 8).round()
    assert float((seen * 15 + 8 - column).abs().mean()) < 0.55
    assert set(sets.groups.tolist() if sets.groups is not None else []) == {2, 5}


def test_the_same_seed_draws_the_same_pixels(wall: Gaussians) -> None:
    first, again, other = (drawn(wall, per_mask=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.membership.col, again.membership.col)
    assert torch.equal(first.membership.weight, again.membership.weight)
    assert not torch.equal(first.weight, other.weight)


def test_opaque_pixels_only(wall: Gaussians) -> None:
    assert len(drawn(replace(wall, opacities=wall.opacities * 0.1)).rows) == 0
    thin = drawn(replace(wall, opacities=wall.opacities * 0.1), least_alpha=0.05)
    assert len(thin.rows) > 0


def test_pixels_of_masks_are_contrasted(wall: Gaussians) -> None:
    sets = drawn(wall, per_mask=4)
    left = (wall.means[:, :1] < 0).float()
    loss = MaskContrast()
    told = replace(wall, rows=torch.cat((left, 1 - left), 1))
    torch.manual_seed(0)
    blind = replace(wall, rows=torch.randn(len(left), 2))
    assert loss(sets, told) < loss(sets, blind)


def test_no_frames_are_refused(wall: Gaussians) -> None:
    with pytest.raises(DataError, match="at least one frame"):
        drawn(wall, [])


def test_frames_of_two_widths_are_refused(wall: Gaussians) -> None:
    wide = replace(VIEWS[1], rows=torch.rand(3, 5))
    with pytest.raises(DataError, match="b: 5 channels"):
        drawn(wall, [VIEWS[0], wide])


@pytest.mark.parametrize(
    "wrong",
    [{"per_mask": 0}, {"max_side_px": 0}, {"least_alpha": 1.5}, {"keep": 0.0}, {"seed": -1}],
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SplatPixels(**wrong)


def test_patches_have_no_masks() -> None:
    text = """
name: wrong
nodes:
  cameras: {kind: image}
  cloud:   {kind: points}
  maps:    {kind: feature_map, channels: 384}
  splats:  {kind: gaussians}
  pixels:  {kind: point_sets, channels: 384, on: splats}
  field:   {kind: gaussians, channels: 8, on: splats}
encode:
  cameras -> maps: {op: imagenet_dense, space: unit}
  splats -> field: {op: splat_field}
lift:
  cameras, cloud -> splats: {op: fit_splats, steps: 0, strategy: none}
  maps, splats -> pixels: {op: splat_pixels}
distill:
  pixels -> field: {op: mask_contrast}
"""
    with pytest.raises(ConfigReportError, match="masks"):
        Graph.from_yaml(text)


def test_a_view_that_is_left_out_gives_no_pixels(wall: Gaussians) -> None:
    found = SplatPixels(per_mask=4, hold_out=2)([*VIEWS, masks(0.0, "c")], wall)
    alone = SplatPixels(per_mask=4)(VIEWS[1:], wall)
    assert torch.equal(found.rows, alone.rows)
    assert found.views is not None
    assert found.views.max() == 0
