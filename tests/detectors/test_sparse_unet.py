"""The U-Net: what must not change its output, and its smallest inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detectors.sparse_unet import Size, SparseUNet


def cloud(seed: int, num: int) -> tuple[Tensor, Tensor]:
    """Distinct cells of a bumpy surface, and inputs."""
    generator = torch.Generator().manual_seed(seed)
    side = 40
    flat = torch.randperm(side * side, generator=generator)[:num]
    x, y = flat // side, flat % side
    z = ((x / 5).sin() * 3 + (y / 7).cos() * 2).long()
    return torch.stack([x, y, z], dim=1) - 20, torch.randn(num, 4, generator=generator)


@pytest.fixture(scope="module")
def net() -> SparseUNet:
    torch.manual_seed(0)
    return SparseUNet(4, 6)


def single(net: SparseUNet, coords: Tensor, features: Tensor) -> Tensor:
    return net(coords, torch.zeros(len(coords)).long(), features)


@pytest.mark.parametrize("size", ["tiny", "small", "base", "published"])
def test_presets_run_and_reach_every_weight(size: Size) -> None:
    net = SparseUNet(4, 6, size)
    coords, features = cloud(0, 300)
    single(net, coords, features).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_the_published_preset_is_as_large_as_its_source() -> None:
    """MinkUNet34C with 3 inputs and 96 outputs has 37.86 M weights in convolutions and head."""
    with torch.device("meta"):
        net = SparseUNet(3, 96, "published")
    norms = sum(p.numel() for name, p in net.named_parameters() if "norm" in name)
    total = sum(p.numel() for p in net.parameters()) - norms
    minkowski = (
        125 * 3 * 32  # stem
        + 8 * (32 * 32 + 32 * 32 + 64 * 64 + 128 * 128)  # down
        + 8 * (256 * 256 + 256 * 128 + 128 * 96 + 96 * 96)  # up
        + 27 * (4 * 32 * 32)
        + (27 * (32 * 64 + 5 * 64 * 64) + 32 * 64)
        + (27 * (64 * 128 + 7 * 128 * 128) + 64 * 128)
        + (27 * (128 * 256 + 11 * 256 * 256) + 128 * 256)
        + (27 * (384 * 256 + 3 * 256 * 256) + 384 * 256)
        + (27 * (192 * 128 + 3 * 128 * 128) + 192 * 128)
        + (27 * (128 * 96 + 3 * 96 * 96) + 128 * 96)
        + (27 * (128 * 96 + 3 * 96 * 96) + 128 * 96)
        + 96 * 96
        + 96
    )
    assert total == minkowski


def test_weights_of_the_tiny_preset_keep_their_names_and_shapes() -> None:
    """Checkpoints of students are read by name."""
    shapes = {name: tuple(p.shape) for name, p in SparseUNet(4, 6).named_parameters()}
    assert len(shapes) == 87
    assert shapes["stem.weight"] == (27, 4, 32)
    assert shapes["encoders.1.blocks.0.first.weight"] == (27, 48, 48)
    assert shapes["downs.0.weight"] == (8, 32, 48)
    assert shapes["ups.3.weight"] == (8, 128, 96)
    assert shapes["decoders.0.blocks.0.shortcut.weight"] == (32, 64)
    assert shapes["head.weight"] == (6, 32)


def test_order_of_rows_does_not_matter_to_the_last_bit(net: SparseUNet) -> None:
    coords, features = cloud(1, 400)
    shuffle = torch.randperm(400)
    expected = single(net, coords, features)[shuffle]
    assert torch.equal(single(net, coords[shuffle], features[shuffle]), expected)


def test_a_sample_does_not_depend_on_the_rest_of_the_batch(net: SparseUNet) -> None:
    (a, fa), (b, fb) = cloud(2, 300), cloud(3, 200)
    b = b + torch.tensor([1, 0, 0])
    sample = torch.cat([torch.zeros(300), torch.ones(200)]).long()
    both = net(torch.cat([a, b]), sample, torch.cat([fa, fb]))
    torch.testing.assert_close(both[:300], single(net, a, fa), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[300:], single(net, b, fb), rtol=1e-4, atol=1e-5)


def test_moving_by_whole_coarse_cells_changes_nothing(net: SparseUNet) -> None:
    coords, features = cloud(4, 200)
    moved = coords + 16 * torch.tensor([3, -2, 1])
    torch.testing.assert_close(
        single(net, moved, features), single(net, coords, features), rtol=1e-4, atol=1e-5
    )


def test_one_cell_is_an_ordinary_input(net: SparseUNet) -> None:
    out = single(net, torch.tensor([[-5, 0, 7]]), torch.ones(1, 4))
    assert out.shape == (1, 6)
    assert torch.isfinite(out).all()


def test_identical_inputs_stay_finite_forward_and_backward(net: SparseUNet) -> None:
    coords, _ = cloud(5, 100)
    features = torch.zeros(100, 4, requires_grad=True)
    single(net, coords, features).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_no_cell_gives_no_row(net: SparseUNet) -> None:
    out = single(net, torch.zeros(0, 3).long(), torch.zeros(0, 4))
    assert out.shape == (0, 6)
    out.sum().backward()


def test_training_and_evaluation_mode_agree(net: SparseUNet) -> None:
    coords, features = cloud(6, 100)
    train = single(net.train(), coords, features)
    assert torch.equal(single(net.eval(), coords, features), train)


def test_a_size_that_is_no_preset_is_refused() -> None:
    with pytest.raises(Exception, match="huge"):
        SparseUNet(4, 6, "huge")  # pyright: ignore[reportArgumentType]


def test_two_points_in_one_cell_are_refused(net: SparseUNet) -> None:
    with pytest.raises(ValueError, match="voxelise first"):
        single(net, torch.zeros(2, 3).long(), torch.zeros(2, 4))
