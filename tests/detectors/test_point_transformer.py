"""The point transformer: patches by hand, what must not change its output, gradients, failures."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from detectors.point_transformer import (
    PatchAttention,
    PointTransformer,
    TransformerSize,
    patches,
)


def cloud(seed: int, num: int) -> tuple[Tensor, Tensor]:
    """Distinct cells of a bumpy surface, and inputs."""
    generator = torch.Generator().manual_seed(seed)
    side = 40
    flat = torch.randperm(side * side, generator=generator)[:num]
    x, y = flat // side, flat % side
    z = ((x / 5).sin() * 3 + (y / 7).cos() * 2).long()
    return torch.stack([x, y, z], dim=1) - 20, torch.randn(num, 4, generator=generator)


@pytest.fixture(scope="module")
def net() -> PointTransformer:
    torch.manual_seed(0)
    return PointTransformer(4, 6).eval()


def single(net: PointTransformer, coords: Tensor, features: Tensor) -> Tensor:
    return net(coords, torch.zeros(len(coords)).long(), features)


# Patches.


def test_the_last_patch_of_a_sample_reaches_back() -> None:
    # Seven rows in falling order of keys: along the curve they are 6, 5, 4, 3, 2, 1, 0.
    cut = patches(torch.arange(7).flip(0), torch.tensor([7]), 3)
    assert cut.rows.tolist() == [[6, 5, 4], [3, 2, 1], [2, 1, 0]]
    assert cut.padding is None
    # Row 0 is read from the third patch's last place, row 1 from the second patch.
    assert cut.place.tolist() == [8, 5, 4, 3, 2, 1, 0]


def test_a_sample_smaller_than_a_patch_is_padded_and_stays_by_itself() -> None:
    cut = patches(torch.arange(7), torch.tensor([2, 0, 5]), 4)
    assert cut.padding is not None
    assert cut.padding.tolist() == [[False, False, True, True], [False] * 4, [False] * 4]
    assert cut.rows[0, :2].tolist() == [0, 1]
    assert cut.rows[1:].tolist() == [[2, 3, 4, 5], [3, 4, 5, 6]]
    assert cut.place.tolist() == [0, 1, 4, 5, 6, 7, 11]


def test_patches_are_no_larger_than_the_largest_sample() -> None:
    cut = patches(torch.arange(5), torch.tensor([2, 3]), 1024)
    assert cut.rows.shape == (2, 3)


@pytest.mark.parametrize("sizes", list(itertools.product([1, 3, 4, 9], repeat=2)))
def test_every_row_stands_in_its_own_place(sizes: tuple[int, int]) -> None:
    num = sum(sizes)
    keys = torch.cat([torch.randperm(sizes[0]), 100 + torch.randperm(sizes[1])])
    cut = patches(keys, torch.tensor(sizes), 4)
    assert torch.equal(cut.rows.flatten()[cut.place], torch.arange(num))
    if cut.padding is not None:
        assert not cut.padding.flatten()[cut.place].any()
    second = cut.rows >= sizes[0]
    real = torch.ones_like(second) if cut.padding is None else ~cut.padding
    for patch, present in zip(second, real, strict=True):
        assert len(patch[present].unique()) == 1


@pytest.mark.parametrize(
    ("num", "counts", "size"), [(0, [0], 4), (3, [3], 0), (3, [2], 4), (3, [2, 2], 4)]
)
def test_patches_that_cannot_be_cut_are_refused(num: int, counts: list[int], size: int) -> None:
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        patches(torch.arange(num), torch.tensor(counts), size)


# Attention.


def test_attention_to_equal_keys_is_the_mean_of_the_patch() -> None:
    attention = PatchAttention(2, 1)
    with torch.no_grad():
        attention.qkv.weight.copy_(torch.cat([torch.zeros(4, 2), torch.eye(2)]))
        attention.qkv.bias.zero_()
        attention.output.weight.copy_(torch.eye(2))
        attention.output.bias.zero_()
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    # Two samples, of two rows and of one: the second patch is padded.
    out = attention(x, patches(torch.arange(3), torch.tensor([2, 1]), 2))
    torch.testing.assert_close(out, torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 5.0]]))


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_that_do_not_share_the_width_are_refused(heads: int) -> None:
    with pytest.raises(ValueError, match="cannot be shared"):
        PatchAttention(8, heads)


# The network.


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_presets_run_and_reach_every_weight(size: TransformerSize) -> None:
    net = PointTransformer(4, 6, size)
    coords, features = cloud(0, 300)
    single(net, coords, features).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_order_of_rows_does_not_matter_to_the_last_bit(net: PointTransformer) -> None:
    coords, features = cloud(1, 400)
    shuffle = torch.randperm(400)
    expected = single(net, coords, features)[shuffle]
    assert torch.equal(single(net, coords[shuffle], features[shuffle]), expected)


@pytest.mark.parametrize("other", [1, 40, 300])
def test_a_sample_does_not_depend_on_the_rest_of_the_batch(
    net: PointTransformer, other: int
) -> None:
    (a, fa), (b, fb) = cloud(2, 250), cloud(3, other)
    sample = torch.cat([torch.zeros(250), torch.ones(other)]).long()
    both = net(torch.cat([a, b + 1000]), sample, torch.cat([fa, fb]))
    torch.testing.assert_close(both[:250], single(net, a, fa), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[250:], single(net, b, fb), rtol=1e-4, atol=1e-5)


def test_numbers_of_samples_may_be_left_out(net: PointTransformer) -> None:
    coords, features = cloud(2, 50)
    out = net(coords, torch.full((50,), 3), features)
    torch.testing.assert_close(out, single(net, coords, features), rtol=1e-4, atol=1e-5)


def test_moving_by_whole_cells_changes_nothing(net: PointTransformer) -> None:
    coords, features = cloud(4, 200)
    moved = coords + torch.tensor([3, -2, 701])
    assert torch.equal(single(net, moved, features), single(net, coords, features))


def test_far_cells_of_a_patch_are_seen(net: PointTransformer) -> None:
    coords = torch.tensor([[0, 0, 0], [500, 400, 300]])
    features = torch.zeros(2, 4)
    changed = features.clone()
    changed[1] = 3.0
    before, after = single(net, coords, features), single(net, coords, changed)
    assert (before[0] - after[0]).abs().max() > 1e-4


def test_turns_are_fixed_in_evaluation_and_drawn_from_the_saved_generator_in_training() -> None:
    torch.manual_seed(1)
    net = PointTransformer(4, 6)
    coords, features = cloud(5, 400)
    state = torch.get_rng_state()
    first = single(net, coords, features)
    others = [single(net, coords, features) for _ in range(3)]
    assert any(not torch.equal(first, other) for other in others)
    torch.set_rng_state(state)
    assert torch.equal(single(net, coords, features), first)
    net.eval()
    state = torch.get_rng_state()
    assert torch.equal(single(net, coords, features), single(net, coords, features))
    assert torch.equal(torch.get_rng_state(), state)


def test_one_cell_is_an_ordinary_input(net: PointTransformer) -> None:
    out = single(net, torch.tensor([[-5, 0, 7]]), torch.ones(1, 4))
    assert out.shape == (1, 6)
    assert torch.isfinite(out).all()


def test_no_cell_gives_no_row(net: PointTransformer) -> None:
    out = single(net, torch.zeros(0, 3).long(), torch.zeros(0, 4))
    assert out.shape == (0, 6)
    out.sum().backward()


def test_gradients_of_inputs_are_right() -> None:
    torch.manual_seed(2)
    net = PointTransformer(2, 2).double().eval()
    coords = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [4, 0, 2], [9, 9, 9], [0, 0, 0]])
    sample = torch.tensor([0, 0, 0, 0, 0, 1])
    features = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: net(coords, sample, f), (features,))


def test_two_rows_in_one_cell_are_refused(net: PointTransformer) -> None:
    with pytest.raises(ValueError, match="voxelise first"):
        single(net, torch.zeros(2, 3).long(), torch.zeros(2, 4))


def test_rows_of_another_width_are_refused(net: PointTransformer) -> None:
    with pytest.raises(ValueError, match="takes 4 channels, not 3"):
        single(net, torch.zeros(1, 3).long(), torch.zeros(1, 3))


def test_a_sample_that_is_too_wide_for_the_curve_is_refused(net: PointTransformer) -> None:
    with pytest.raises(ValueError, match="cells must lie in"):
        single(net, torch.tensor([[0, 0, 0], [1 << 16, 0, 0]]), torch.zeros(2, 4))


def test_a_negative_sample_is_refused(net: PointTransformer) -> None:
    with pytest.raises(ValueError, match="numbered from 0"):
        net(torch.zeros(1, 3).long(), torch.tensor([-1]), torch.zeros(1, 4))


def test_a_size_that_is_no_preset_is_refused() -> None:
    with pytest.raises(Exception, match="huge"):
        PointTransformer(4, 6, "huge")  # pyright: ignore[reportArgumentType]
