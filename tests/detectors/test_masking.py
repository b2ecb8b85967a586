"""Masked modelling: what is hidden, from whom, and what is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detectors.masking import CellMask
from detectors.point_mlp import PointMLP
from detectors.point_student import TRUNK_CHANNELS, VoxelStudent
from lifting.points import voxelize


class Seen(nn.Module):
    """A trunk that keeps what it was shown."""

    def forward(self, coords: Tensor, sample: Tensor, features: Tensor) -> Tensor:
        self.features, self.coords = features, coords
        return features.new_zeros(len(coords), TRUNK_CHANNELS)


def student(ratio: float = 0.5, cell_m: float = 0.2) -> tuple[VoxelStudent, Seen]:
    torch.manual_seed(0)
    trunk, mask = Seen(), CellMask(ratio, cell_m)
    return VoxelStudent(5, 7, trunk=trunk, voxel_m=0.05, space="raw", mask=mask), trunk


def points(num: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num)
    xyz = torch.rand(num, 3, generator=generator) * 2 - 1
    return xyz, torch.tensor([0, num // 2, num]), torch.randn(num, 5, generator=generator)


def test_whole_cells_are_hidden_from_trunk_and_head_and_the_rest_is_seen() -> None:
    net, trunk = student()
    xyz, offsets, inputs = points()
    encoded = net.encode(xyz, offsets, inputs)
    masked = encoded.masked
    assert masked is not None
    assert 0.3 < masked.float().mean() < 0.7
    assert torch.equal(encoded.inputs[masked, :5], net.mask_token.expand(int(masked.sum()), 5))
    assert torch.equal(encoded.inputs[~masked, :5], inputs[~masked])
    hidden = encoded.cell[masked].unique()
    torch.testing.assert_close(trunk.features[hidden], net.mask_token.expand(len(hidden), 5))
    # No voxel is hidden in part, so that what a mask hides does not shine through a mean.
    assert not torch.isin(encoded.cell[~masked], hidden).any()


def test_geometry_stays() -> None:
    net, trunk = student()
    xyz, offsets, inputs = points()
    given = net.encode(xyz, offsets, inputs)
    coords = trunk.coords
    plain = net.eval().encode(xyz, offsets, inputs)
    assert torch.equal(trunk.coords, coords)
    assert torch.equal(given.inputs[:, 5:], plain.inputs[:, 5:])


def test_a_cell_is_hidden_or_seen_as_a_whole_and_apart_in_each_sample() -> None:
    cell_m = 0.5
    xyz, _, _ = points()
    xyz = xyz.repeat(2, 1)
    voxels = voxelize(xyz, 0.05, torch.tensor([0, 400, 800]))
    torch.manual_seed(3)
    hidden = CellMask(0.5, cell_m).draw(voxels)
    cells = voxelize(voxels.centres_m(), cell_m, voxels.offsets)
    share = cells.operator().lift(hidden.float()[:, None]).rows[:, 0]
    assert set(share.tolist()) == {0.0, 1.0}
    first, second = hidden.split(voxels.offsets.diff().tolist())
    assert not torch.equal(first, second)


def test_draws_come_from_the_generator_that_checkpoints_keep() -> None:
    net, _ = student()
    state = torch.get_rng_state()
    first, second = net.encode(*points()).masked, net.encode(*points()).masked
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    again = net.encode(*points()).masked
    assert again is not None
    assert torch.equal(again, first)


def test_nothing_is_hidden_or_drawn_in_evaluation() -> None:
    net, _ = student()
    state = torch.get_rng_state()
    encoded = net.eval().encode(*points())
    assert encoded.masked is None
    assert torch.equal(torch.get_rng_state(), state)


def test_the_token_learns_and_exists_only_where_it_is_used() -> None:
    net, _ = student()
    net(*points()).sum().backward()
    assert net.mask_token.grad is not None
    assert net.mask_token.grad.abs().max() > 0
    plain = VoxelStudent(5, 7, trunk=Seen(), voxel_m=0.05, space="raw")
    assert set(net.state_dict()) - set(plain.state_dict()) == {"mask_token"}
    assert plain.encode(*points()).masked is None


def test_a_student_that_never_hides_says_so() -> None:
    net = PointMLP(5, 7, width=8, depth=1, space="raw")
    assert net.encode(*points()).masked is None


def test_no_points_no_mask() -> None:
    net, _ = student()
    encoded = net.encode(torch.zeros(0, 3), torch.tensor([0, 0]), torch.zeros(0, 5))
    assert encoded.masked is not None
    assert len(encoded.masked) == 0


@pytest.mark.parametrize(
    ("ratio", "cell_m"),
    [(0.0, 0.2), (1.0, 0.2), (-0.1, 0.2), (float("nan"), 0.2), (0.5, 0.0), (0.5, float("inf"))],
)
def test_masks_without_meaning_are_refused(ratio: float, cell_m: float) -> None:
    with pytest.raises(ValueError, match="is hidden"):
        CellMask(ratio, cell_m)


@pytest.mark.parametrize("width", [1, 4])
def test_inputs_of_another_width_are_refused_and_not_spread(width: int) -> None:
    net, _ = student()
    xyz, offsets, _ = points()
    with pytest.raises(ValueError, match=f"takes 5 inputs of a point, not {width}"):
        net.encode(xyz, offsets, torch.zeros(400, width))
