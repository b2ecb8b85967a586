from __future__ import annotations

import pytest
import torch

from xmodal.teachers.mask_grid import (
    GridOptions,
    MaskLogits,
    crop_padding,
    grid_masks,
    point_grid,
    scaled_hw,
    suppress,
)


def box(rows: slice, columns: slice, *, sharp: float = 8.0) -> torch.Tensor:
    logits = torch.full((16, 16), -sharp)
    logits[rows, columns] = sharp
    return logits


def decoder(masks, scores):
    def decode(xy, min_iou):
        iou = torch.tensor(scores)
        sure = iou > min_iou
        return torch.stack(masks)[sure], iou[sure]

    return decode


def found(masks, scores, **options) -> MaskLogits:
    return grid_masks(
        decoder(masks, scores),
        input_hw=(64, 64),
        input_side=64,
        options=GridOptions(grid=1, **options),
        long_side=16,
    )


def test_points_are_centres_of_cells():
    assert point_grid(2, (4, 8)).tolist() == [[2, 1], [6, 1], [2, 3], [6, 3]]


def test_points_come_in_batches():
    sizes: list[int] = []

    def decode(xy, min_iou):
        sizes.append(xy.shape[0])
        return torch.zeros(0, 16, 16), torch.zeros(0)

    options = GridOptions(grid=3, batch=4)
    nothing = grid_masks(decode, input_hw=(64, 64), input_side=64, options=options, long_side=16)
    assert sizes == [4, 4, 1]
    assert nothing.logits.shape == (0, 16, 16)


def test_unsure_unstable_small_and_huge_masks_go():
    good = box(slice(0, 4), slice(0, 4))
    unsure = box(slice(8, 12), slice(0, 4))
    unstable = box(slice(8, 12), slice(8, 12), sharp=0.5)
    unstable[8:10, 8:12] = 2.0  # area 8 at logit > 1, 16 + the rest at logit > -1
    small = box(slice(15, 16), slice(15, 16))
    huge = box(slice(0, 16), slice(0, 16))
    result = found([good, unsure, unstable, small, huge], [0.9, 0.5, 0.95, 0.9, 0.9], min_area=0.01)
    assert result.members.flatten(1).sum(dim=1).tolist() == [16]


def test_of_two_alike_the_surer_stays():
    a, b = box(slice(0, 8), slice(0, 8)), box(slice(0, 8), slice(0, 7))
    other = box(slice(8, 16), slice(8, 16))
    result = found([a, b, other], [0.9, 0.95, 0.92])
    assert result.iou.tolist() == pytest.approx([0.95, 0.92])


def test_suppression_by_hand():
    members = torch.zeros(3, 1, 10, dtype=torch.bool)
    members[0, 0, :8] = True
    members[1, 0, :6] = True  # IoU 0.75 with the first
    members[2, 0, :4] = True  # IoU 0.5 with the first, 0.67 with the second
    score = torch.tensor([0.5, 0.9, 0.5])
    assert suppress(members, score, 0.7).tolist() == [1, 2]
    assert suppress(members, score, 0.8).tolist() == [1, 0, 2]
    assert suppress(members[:0], score[:0], 0.7).tolist() == []


def test_padding_is_cut_off_without_resampling_where_cells_agree():
    logits = torch.rand(2, 16, 16)
    cut = crop_padding(logits, (48, 64), 64, (12, 16))
    assert torch.equal(cut, logits[:, :12])


def test_resampled_cells_keep_their_place():
    ramp = torch.arange(16.0).expand(16, 16)[None]
    # the image covers 15 of the 16 columns; cell centres of a grid of 5 lie at 1.5, 4.5, ... cells
    cut = crop_padding(ramp, (64, 60), 64, (16, 5))
    expected = (torch.arange(5) + 0.5) * 3 - 0.5
    assert torch.allclose(cut[0, 3], expected, atol=1e-5)


@pytest.mark.parametrize("hw", [(480, 640), (640, 480), (1, 1000), (968, 1296)])
def test_the_longer_side_is_given_the_length(hw):
    scaled = scaled_hw(hw, 256)
    assert max(scaled) == 256
    assert min(scaled) >= 1


def test_a_power_of_the_area_prefers_parts():
    logits = torch.stack([box(slice(0, 16), slice(0, 16)), box(slice(0, 8), slice(0, 8))])
    masks = MaskLogits(logits=logits, iou=torch.tensor([0.9, 0.8]))
    assert masks.weight(0.0).tolist() == pytest.approx([0.9, 0.8])
    assert masks.weight(0.5).tolist() == pytest.approx([0.9, 1.6])
