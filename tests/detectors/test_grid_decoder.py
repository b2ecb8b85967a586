"""Dense maps from one window."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from detectors.audio_cnn import AudioCNN
from detectors.clip_student import ClipTrunk
from detectors.grid_decoder import DenseGrid, GridDecoder, resized_by_mean
from detectors.imu_tcn import ImuTCN
from detectors.panorama_cnn import PanoramaCNN
from detectors.spaces import Space
from tests.detectors.clips import inputs_for


def decoder(
    hw: tuple[int, int] = (9, 17),
    space: Space = "raw",
    *,
    trunk: ClipTrunk | None = None,
    positive: bool = False,
) -> GridDecoder:
    torch.manual_seed(0)
    trunk = trunk or AudioCNN(2, 32, 40, "micro")
    return GridDecoder(trunk, 3, DenseGrid(hw), space=space, positive=positive).eval()


@pytest.mark.parametrize("hw", [(8, 8), (9, 17), (16, 32)])
@pytest.mark.parametrize("num", [1, 3])
def test_one_row_for_each_cell(hw: tuple[int, int], num: int) -> None:
    net = decoder(hw)
    inputs = inputs_for(net.trunk, num)
    assert net(inputs).shape == (num, hw[0] * hw[1], 3)
    maps = net.features(inputs)
    assert tuple(part.shape[1] for part in maps) == net.map_channels
    assert maps[-1].shape[2:] == hw
    assert maps[0].shape[2:] == (-(-hw[0] // 8), -(-hw[1] // 8))


def test_rows_are_row_major() -> None:
    net = decoder((8, 16))
    inputs = inputs_for(net.trunk, 2)
    dense = net.output(net.features(inputs)[-1])
    torch.testing.assert_close(net(inputs)[1, 16 * 3 + 5], dense[1, :, 3, 5])


def test_slices_stand_over_the_same_places() -> None:
    torch.manual_seed(0)
    net = GridDecoder(AudioCNN(2, 32, 40, "micro"), 2, DenseGrid((24, 16), 3, levels=2)).eval()
    inputs = inputs_for(net.trunk, 2)
    last = net.features(inputs)[-1]
    assert last.shape[2:] == (8, 16)
    rows = net(inputs)
    assert rows.shape == (2, 24 * 16, 2)
    # Row 5, column 7 of the slices 0 and 2, from two of the channels of one place each.
    place = net.output(last)[1, :, 5, 7]
    torch.testing.assert_close(rows[1, 5 * 16 + 7], place[:2])
    torch.testing.assert_close(rows[1, (2 * 8 + 5) * 16 + 7], place[4:])
    net.start_from(torch.tensor([[0.2, 0.8], [0.4, 0.6]]))
    assert net.output.bias is not None
    torch.testing.assert_close(net.output.bias.data, torch.tensor([0.3, 0.7] * 3))


@pytest.mark.parametrize(("rows", "slices"), [(16, 3), (16, 0), (24, 6)])
def test_slices_that_are_not_whole_or_too_small_are_refused(rows: int, slices: int) -> None:
    with pytest.raises(ValueError, match=r"slices|doubled"):
        DenseGrid((rows, 16), slices)


def test_rows_are_in_the_declared_space() -> None:
    inputs = inputs_for(decoder().trunk, 2)
    simplex, unit = decoder(space="simplex")(inputs), decoder(space="unit")(inputs)
    torch.testing.assert_close(simplex.sum(dim=2), torch.ones(2, 153))
    torch.testing.assert_close(unit.norm(dim=2), torch.ones(2, 153))
    assert (decoder(positive=True)(inputs) > 0).all()
    assert (decoder()(inputs) < 0).any()


def test_a_trunk_over_time_alone_is_decoded_too() -> None:
    net = decoder(trunk=ImuTCN(64, "micro"))
    assert net(inputs_for(net.trunk, 2)).shape == (2, 153, 3)


def test_every_weight_learns() -> None:
    net = decoder().train()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.01 * torch.randn(parameter.shape)
    net(inputs_for(net.trunk, 3)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_windows_do_not_see_each_other() -> None:
    net = decoder()
    inputs = inputs_for(net.trunk, 4)
    torch.testing.assert_close(net(inputs[2:3]), net(inputs)[2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positive", [False, True])
def test_the_start_is_the_teachers_mean(positive: bool) -> None:
    net = decoder(positive=positive)
    net.output.weight.data.zero_()
    # Cells without a reading are zero, and others may be broken: neither is a depth.
    teacher = torch.tensor([[1.0, 2.0, 40.0], [3.0, 4.0, 60.0], [0.0] * 3, [float("nan")] * 3])
    net.start_from(teacher)
    rows = net(inputs_for(net.trunk, 1))
    torch.testing.assert_close(rows[0, 0], torch.tensor([2.0, 3.0, 50.0]))


def test_the_start_of_classes_is_their_share() -> None:
    net = decoder(space="simplex")
    net.output.weight.data.zero_()
    net.start_from(torch.tensor([[0.7, 0.2, 0.1]]).repeat(9, 1))
    rows = net(inputs_for(net.trunk, 1))
    torch.testing.assert_close(rows[0, 0], torch.tensor([0.7, 0.2, 0.1]))


def test_nothing_to_start_from_changes_nothing() -> None:
    net = decoder()
    before = net.state_dict()["output.bias"].clone()
    net.start_from(torch.zeros(4, 3))
    assert torch.equal(before, net.state_dict()["output.bias"])


def test_a_start_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="gives 3 channels, the rows have 4"):
        decoder().start_from(torch.rand(5, 4))


@pytest.mark.parametrize("hw", [(7, 16), (16, 0)])
def test_a_grid_smaller_than_its_levels_is_refused(hw: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be doubled"):
        decoder(hw)


def test_positive_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="no meaning for rows in the space simplex"):
        decoder(space="simplex", positive=True)


def test_inputs_of_another_shape_are_refused() -> None:
    net = decoder()
    with pytest.raises(ValueError, match="one input has the shape"):
        net(inputs_for(net.trunk, 2)[:, :1])


@pytest.mark.parametrize("size", [(4, 4), (5, 9), (3, 1), (16, 30)])
def test_means_are_those_of_adaptive_pooling(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(
        resized_by_mean(x, (4, 4)), functional.adaptive_avg_pool2d(x, (4, 4))
    )


def panorama(*, aligned: bool, levels: int = 3) -> GridDecoder:
    torch.manual_seed(0)
    trunk = PanoramaCNN((32, 64), "micro")
    return GridDecoder(trunk, 3, DenseGrid((16, 32), levels=levels), aligned=aligned).eval()


@torch.no_grad()
def test_a_map_with_the_axes_of_the_picture_follows_it_place_by_place() -> None:
    net = panorama(aligned=True)
    # What is left without the seed is seen place by place alone.
    for part in net.seed.parameters():
        part.zero_()
    picture = torch.rand(1, 3, 32, 64)
    near, far = picture.clone(), picture.clone()
    near[..., 0] += 2.0
    far[..., 40] += 2.0
    dense = [net(one).unflatten(1, (16, 32)) for one in (picture, near, far)]
    moved = [(other - dense[0]).abs().sum(dim=(0, 1, 3)) for other in dense[1:]]
    assert moved[0][:2].sum() > 3 * moved[0][14:16].sum()
    assert moved[1][19:21].sum() > 3 * moved[1][2:4].sum()


def test_a_map_of_other_axes_sees_the_seed_alone() -> None:
    net = panorama(aligned=False)
    assert len(net.beside) == 0
    assert net(inputs_for(net.trunk, 2)).shape == (2, 512, 3)


def test_more_levels_than_maps_see_the_largest() -> None:
    net = panorama(aligned=True, levels=4)
    assert net(inputs_for(net.trunk, 2)).shape == (2, 512, 3)


def test_a_small_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="16 rows and columns"):
        PanoramaCNN((8, 64))
