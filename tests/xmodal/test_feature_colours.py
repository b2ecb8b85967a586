"""Features as colours: the same rows, the same colours, of any width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.splats import splat_scene
from xmodal.feature_colours import coloured_store, feature_colours, store_colours


def rows_of(width: int, num: int = 200, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.linspace(3, 0.5, width)
    return torch.randn(num, width, generator=generator) * scale


@pytest.mark.parametrize("width", [3, 4, 48])
def test_red_is_the_direction_of_largest_variance(width: int) -> None:
    rows = torch.zeros(101, width)
    rows[:, 1] = torch.linspace(-5, 5, 101)
    rows[::2, 2], rows[1::2, 2] = 1.0, -1.0
    rows[::3, 0] = 0.5
    found = feature_colours(rows)
    assert found.components[:, 0].abs().argmax() == 1
    assert found.components[1, 0] > 0.99  # the sign is the one of the largest entry
    shown = found(rows)
    assert shown[0, 0] == 0 and shown[-1, 0] == 1
    assert ((shown >= 0) & (shown <= 1)).all()


def test_a_single_channel_is_grey() -> None:
    rows = torch.linspace(0, 1, 50)[:, None]
    shown = feature_colours(rows)(rows)
    assert (shown == shown[:, :1]).all()
    assert shown[0, 0] == 0 and shown[-1, 0] == 1 and (shown.diff(dim=0) >= 0).all()


def test_two_channels_leave_blue_at_a_half() -> None:
    found = feature_colours(rows_of(2))
    shown = found(rows_of(2))
    assert (shown[:, 2] == 0.5).all() and not found.components[:, 2].any()
    assert shown[:, :2].std(0).min() > 0.1


@pytest.mark.parametrize("width", [1, 2, 5])
def test_equal_rows_are_one_colour(width: int) -> None:
    rows = torch.full((7, width), 0.3)
    assert (feature_colours(rows)(rows) == 0.5).all()
    assert (feature_colours(rows[:1])(rows) == 0.5).all()


def test_what_is_not_finite_is_left_out_and_shown_as_nan() -> None:
    rows = rows_of(6)
    odd = torch.cat((rows, torch.full((3, 6), torch.nan), torch.full((1, 6), torch.inf)))
    found = feature_colours(odd)
    assert torch.equal(found.components, feature_colours(rows).components)
    assert found(odd)[-4:].isnan().all() and found(odd)[:-4].isfinite().all()


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), width=st.integers(1, 12))
def test_colours_do_not_depend_on_the_order_of_rows(seed: int, width: int) -> None:
    rows = rows_of(width, seed=seed)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    one, other = feature_colours(rows), feature_colours(rows[order])
    torch.testing.assert_close(one(rows), other(rows), atol=1e-3, rtol=0)


def test_directions_have_colours_whatever_their_length() -> None:
    rows = rows_of(8)
    found = feature_colours(rows, unit=True)
    torch.testing.assert_close(found(rows), found(7 * rows), atol=1e-5, rtol=0)
    assert found(torch.zeros(1, 8)).isfinite().all()
    assert not torch.allclose(feature_colours(rows)(rows), feature_colours(rows)(7 * rows))


def test_a_store_is_coloured_block_by_block(tmp_path: Path) -> None:
    features = splat_scene.features(tmp_path / "run")
    colours = store_colours(features)
    assert colours.unit  # its space says so
    shown = coloured_store(features, colours)
    assert shown.shape == (splat_scene.NUM, 3)
    assert np.isnan(shown[splat_scene.UNSEEN]).all()
    seen = np.delete(shown, splat_scene.UNSEEN, axis=0)
    assert np.isfinite(seen).all()
    # Three kinds of things vary in two directions; the third is noise.
    mug, lamp = seen[splat_scene.MUG, :2], seen[splat_scene.LAMP, :2]
    assert np.abs(mug.mean(0) - lamp.mean(0)).max() > 0.3 > 3 * mug.std(0).max()


def test_other_widths_and_nothing_are_refused() -> None:
    found = feature_colours(rows_of(5))
    with pytest.raises(ValueError, match="5 channels, got rows of 4"):
        found(rows_of(4))
    for rows in (torch.zeros(0, 3), torch.zeros(3, 0), torch.full((2, 3), torch.nan)):
        with pytest.raises(ValueError, match="at least one finite row"):
            feature_colours(rows)
