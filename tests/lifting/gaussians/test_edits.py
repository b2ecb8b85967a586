"""Colour maps carried through harmonics."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifting.gaussians.edits import base_colours, hue_rotation, map_colours, tint
from lifting.gaussians.harmonics import sh_colours, sh_from_rgb


def directions(num: int) -> torch.Tensor:
    return torch.randn(num, 3, generator=torch.Generator().manual_seed(0))


def test_a_third_of_a_turn_takes_red_to_green() -> None:
    turned = torch.eye(3) @ hue_rotation(2 * math.pi / 3).T
    torch.testing.assert_close(turned, torch.eye(3).roll(1, 1), atol=1e-6, rtol=0)


@given(st.floats(-10, 10), st.floats(-10, 10))
@settings(deadline=None, max_examples=30)
def test_hue_turns_add_up_and_leave_grey_alone(a: float, b: float) -> None:
    both = hue_rotation(a) @ hue_rotation(b)
    torch.testing.assert_close(both, hue_rotation(a + b), atol=1e-5, rtol=0)
    torch.testing.assert_close(hue_rotation(a) @ torch.ones(3), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(hue_rotation(a).sum(0), torch.ones(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_mapped_splat_looks_mapped_from_every_side(degree: int) -> None:
    sh = sh_from_rgb(torch.full((50, 3), 0.5), degree)
    noise = torch.randn(sh.shape, generator=torch.Generator().manual_seed(1))
    sh = sh + 0.03 * noise
    ways, matrix = directions(50), hue_rotation(1.0)
    after = sh_colours(map_colours(sh, matrix, torch.zeros(3)), ways)
    torch.testing.assert_close(after, sh_colours(sh, ways) @ matrix.T, atol=1e-6, rtol=1e-5)


def test_a_tint_by_hand() -> None:
    """Greys of 0.2 and 0.6 have mean 0.4: they become half and one and a half of the colour."""
    sh = sh_from_rgb(torch.tensor([[0.2, 0.2, 0.2], [0.6, 0.6, 0.6]]))
    colour = torch.tensor([0.4, 0.2, 0.0])
    matrix, offset = tint(sh, torch.ones(2), colour)
    found = base_colours(map_colours(sh, matrix, offset))
    torch.testing.assert_close(found, torch.stack((colour / 2, colour * 1.5)))


def test_opaque_splats_count_for_the_mean() -> None:
    sh = sh_from_rgb(torch.tensor([[0.2, 0.2, 0.2], [0.6, 0.6, 0.6]]))
    colour = torch.tensor([0.4, 0.2, 0.0])
    found = map_colours(sh, *tint(sh, torch.tensor([1.0, 0.0]), colour))
    torch.testing.assert_close(base_colours(found)[0], colour)


def test_black_things_take_the_colour_too() -> None:
    sh = sh_from_rgb(torch.zeros(3, 3), 2)
    colour = torch.tensor([0.9, 0.1, 0.3])
    found = base_colours(map_colours(sh, *tint(sh, torch.ones(3), colour)))
    torch.testing.assert_close(found, colour.expand(3, 3))


def test_colours_stay_in_range_and_finite() -> None:
    sh = 5 * torch.randn(40, 16, 3, generator=torch.Generator().manual_seed(2))
    for matrix, offset in (
        (hue_rotation(2.0), torch.zeros(3)),
        tint(sh, torch.zeros(40), torch.ones(3)),
    ):
        found = map_colours(sh, matrix, offset)
        assert bool(found.isfinite().all())
        base = base_colours(found)
        assert float(base.min()) >= -1e-6 and float(base.max()) <= 1 + 1e-6
