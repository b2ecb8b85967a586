from __future__ import annotations

import pytest
import torch

from xmodal.teachers.mask_crops import GREY, mask_crops


def logits_of(rows: slice, columns: slice, hw=(24, 32)) -> torch.Tensor:
    logits = torch.full((1, *hw), -5.0)
    logits[0, rows, columns] = 5.0
    return logits


def test_a_crop_shows_the_mask_and_grey_around_it():
    rgb = torch.zeros(3, 96, 128)
    rgb[0] = 1.0
    crops = mask_crops(rgb, logits_of(slice(8, 16), slice(8, 16)), scales=(1.0, 2.0), side=64)
    assert crops.shape == (2, 64, 64, 3)
    assert crops[0, 32, 32].tolist() == [255, 0, 0]
    assert crops[1, 32, 32].tolist() == [255, 0, 0]
    assert crops[1, 4, 4].tolist() == list(GREY)
    # at scale 2 the object takes the middle half
    red = (crops[1, 32, :, 1] == 0).nonzero()[:, 0]
    assert abs(int(red[0]) - 16) <= 2
    assert abs(int(red[-1]) - 47) <= 2


def test_a_mask_at_the_border_is_not_squeezed():
    rgb = torch.ones(3, 96, 128)
    crops = mask_crops(rgb, logits_of(slice(0, 4), slice(24, 32)), scales=(1.3,), side=64)
    white = (crops[0] == 255).all(dim=-1)
    height, width = white.any(dim=1).sum(), white.any(dim=0).sum()
    assert abs(float(width / height) - 2.0) < 0.15


def test_a_tiny_mask_is_not_blown_up():
    rgb = torch.ones(3, 96, 128)
    crops = mask_crops(rgb, logits_of(slice(5, 6), slice(5, 6)), scales=(1.0,), side=24)
    white = (crops[0] == 255).all(dim=-1)
    assert int(white.any(dim=1).sum()) <= 6  # 4 pixels of a square of at least 24


def test_the_colour_outside_is_the_caller_s():
    crops = mask_crops(
        torch.ones(3, 24, 32),
        logits_of(slice(8, 16), slice(8, 16)),
        scales=(2.0,),
        side=32,
        fill=(1, 2, 3),
    )
    assert crops[0, 0, 0].tolist() == [1, 2, 3]


def test_no_masks_give_no_crops():
    crops = mask_crops(torch.ones(3, 8, 8), torch.zeros(0, 8, 8), scales=(1.0,), side=16)
    assert crops.shape == (0, 16, 16, 3)


def test_an_empty_mask_is_refused():
    with pytest.raises(IndexError):
        mask_crops(torch.ones(3, 8, 8), -torch.ones(1, 8, 8), scales=(1.0,), side=16)
