from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifting.operator import LiftOperator
from xmodal.errors import DataError
from xmodal.teachers.codec import DamagedError, from_bytes, to_bytes
from xmodal.teachers.membership import membership_from_runs, membership_of, runs_of
from xmodal.values import FeatureMap, Masks


def feature_map(image, rows):
    return FeatureMap(
        rows=rows,
        valid=torch.ones(rows.shape[0], dtype=torch.bool),
        weight=torch.ones(rows.shape[0]),
        grid_hw=(1, rows.shape[0]),
        camera=image.camera,
        name=image.name,
    )


def test_membership_by_hand():
    members = torch.tensor([[[True, False], [True, True]], [[False, False], [True, False]]])
    found = membership_of(members)
    assert found.shape == (4, 2)
    assert found.to_dense().tolist() == [[1, 0], [0, 0], [1, 1], [1, 0]]
    start, length = runs_of(found)
    # mask 0 covers pixels 0, 2, 3; mask 1 covers pixel 2, that is number 4 + 2
    assert start.tolist() == [0, 2, 6]
    assert length.tolist() == [1, 2, 1]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 4), st.integers(1, 6), st.integers(1, 6), st.floats(0, 1), st.integers(0, 999)
)
def test_runs_round_trip(masks, height, width, share, seed):
    generator = torch.Generator().manual_seed(seed)
    members = torch.rand(masks, height, width, generator=generator) < share
    found = membership_of(members)
    start, length = runs_of(found)
    back = membership_from_runs(start, length, num_masks=masks, grid_hw=(height, width))
    assert torch.equal(back.crow, found.crow)
    assert torch.equal(back.col, found.col)


def test_runs_that_do_not_fit_are_refused():
    start, length = torch.tensor([3]), torch.tensor([2])
    with pytest.raises(ValueError, match="do not fit 1 masks of 2 x 2"):
        membership_from_runs(start, length, num_masks=1, grid_hw=(2, 2))


def test_soft_memberships_have_no_runs():
    soft = LiftOperator.identity(3)
    with pytest.raises(ValueError, match="weights of one"):
        runs_of(soft.with_weight(torch.tensor([1.0, 0.5, 1.0])))


def test_masks_come_back_and_are_small(make_image, colours):
    image = make_image(hw=(192, 256))
    value = colours().encode(image)
    data = to_bytes(value)
    found = from_bytes(data, image)
    assert isinstance(found, Masks)
    assert found.camera is image.camera
    assert found.grid_hw == value.grid_hw
    assert torch.equal(found.membership.to_dense(), value.membership.to_dense())
    assert torch.equal(found.weight, value.weight)
    assert torch.allclose(found.rows, value.rows, rtol=2**-11, atol=3e-8)
    assert to_bytes(found) == data


def test_numbers_beyond_half_precision_keep_single_precision(make_image):
    rows = torch.tensor([[1e5, 1.0], [3.0, 4.0]])
    found = from_bytes(to_bytes(feature_map(make_image(), rows)), make_image())
    assert torch.equal(found.rows, rows)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(make_image, four_parts, bad):
    value = feature_map(make_image(name="f7"), torch.tensor([[bad, 1.0]]))
    with pytest.raises(DataError, match="f7") as caught:
        to_bytes(value)
    four_parts(caught.value, 3)


def test_every_flipped_byte_is_noticed(make_image, colours):
    image = make_image(hw=(6, 8))
    data = to_bytes(colours().encode(image))
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        try:
            found = from_bytes(bytes(damaged), image)
        except DamagedError:
            continue
        # A flip may leave the meaning alone (white space of the header), never change it.
        assert to_bytes(found) == data, position


@pytest.mark.parametrize("cut", [0, 4, 8, 100, -1])
def test_truncated_data_is_noticed(make_image, colours, cut):
    data = to_bytes(colours().encode(make_image()))
    with pytest.raises(DamagedError):
        from_bytes(data[:cut], make_image())
