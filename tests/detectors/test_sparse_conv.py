"""Sparse convolutions against dense ones, by hand, and at their edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from detectors.sparse_conv import SparseConv, sparse_conv
from detectors.sparse_grid import KernelMap, SparseGrid, sparse_grid

SIDE = 6


def random_cells(seed: int, num: int, *, samples: int = 1, low: int = 0) -> tuple[Tensor, Tensor]:
    """Distinct cells of a small cube, in random order, and the sample of each."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randperm(samples * SIDE**3, generator=generator)[:num]
    sample, rest = flat // SIDE**3, flat % SIDE**3
    coords = torch.stack([rest // SIDE**2, rest // SIDE % SIDE, rest % SIDE], dim=1)
    return coords + low, sample


def dense(cells: Tensor, rows: Tensor, samples: int, side: int = SIDE) -> Tensor:
    """Rows scattered into a zero volume [B, C, side, side, side]."""
    volume = rows.new_zeros(samples, side, side, side, rows.shape[1])
    volume = volume.index_put(tuple(cells.T), rows)
    return volume.permute(0, 4, 1, 2, 3)


def at(volume: Tensor, cells: Tensor) -> Tensor:
    return volume.permute(0, 2, 3, 4, 1)[tuple(cells.T)]


def kernel_3(weight: Tensor) -> Tensor:
    """[27, Ci, Co] as the kernel of conv3d."""
    return weight.unflatten(0, (3, 3, 3)).permute(4, 3, 0, 1, 2)


def test_a_neighbour_is_found_on_the_right_side() -> None:
    grid, order = sparse_grid(torch.tensor([[0, 0, 0], [0, 0, 1]]), torch.zeros(2).long())
    assert order.tolist() == [0, 1]
    weight = torch.zeros(27, 1, 1)
    weight[14] = 10.0  # offset (0, 0, 1): what lies at z + 1
    out = sparse_conv(torch.tensor([[1.0], [2.0]]), weight, grid.neighbours())
    assert out.tolist() == [[20.0], [0.0]]


def test_cells_of_another_sample_or_across_the_border_are_no_neighbours() -> None:
    coords = torch.tensor([[0, 0, 2], [0, 1, 0], [0, 0, 2]])
    grid, _ = sparse_grid(coords, torch.tensor([0, 0, 1]))
    assert grid.neighbours().counts == (*[0] * 13, 3, *[0] * 13)


def test_stride_two_sums_children_into_their_parent() -> None:
    coords = torch.tensor([[-1, 0, 0], [0, 0, 0], [1, 1, 1]])
    grid, order = sparse_grid(coords, torch.zeros(3).long())
    coarse, halve = grid.halved()
    assert coarse.cells.tolist() == [[0, -1, 0, 0], [0, 0, 0, 0]]
    rows = torch.tensor([[1.0], [2.0], [4.0]])[order]
    assert sparse_conv(rows, torch.ones(8, 1, 1), halve).tolist() == [[1.0], [6.0]]


@pytest.mark.parametrize("low", [-4, 0, 100_000])
@pytest.mark.parametrize("num", [1, 20, 2 * SIDE**3])
def test_submanifold_equals_dense_forward_and_backward(num: int, low: int) -> None:
    coords, sample = random_cells(1, num, samples=2, low=low)
    grid, order = sparse_grid(coords, sample)
    rows = torch.randn(num, 3, dtype=torch.float64)
    weight = torch.randn(27, 3, 5, dtype=torch.float64, requires_grad=True)
    a, b = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    ours = sparse_conv(a[order], weight, grid.neighbours())

    cells = torch.cat([sample[:, None], coords - low], dim=1)[order]
    kernel = weight.detach().clone().requires_grad_()
    peer = at(functional.conv3d(dense(cells, b[order], 2), kernel_3(kernel), padding=1), cells)
    torch.testing.assert_close(ours, peer)
    grad = torch.randn_like(ours)
    ours.backward(grad)
    peer.backward(grad)
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(weight.grad, kernel.grad)


@pytest.mark.parametrize("num", [1, 30])
def test_down_and_up_equal_dense_forward_and_backward(num: int) -> None:
    coords, sample = random_cells(2, num)
    grid, order = sparse_grid(coords, sample)
    coarse, halve = grid.halved()
    rows = torch.randn(num, 3, dtype=torch.float64)[order]
    weights = [torch.randn(8, 3, 4, dtype=torch.float64), torch.randn(8, 4, 2, dtype=torch.float64)]
    a = [t.clone().requires_grad_() for t in (rows, *weights)]
    b = [t.clone().requires_grad_() for t in (rows, *weights)]
    down = sparse_conv(a[0], a[1], halve)
    ours = sparse_conv(down, a[2], halve.transpose())

    kernel_down = b[1].unflatten(0, (2, 2, 2)).permute(4, 3, 0, 1, 2)
    kernel_up = b[2].unflatten(0, (2, 2, 2)).permute(3, 4, 0, 1, 2)
    low = functional.conv3d(dense(grid.cells, b[0], 1), kernel_down, stride=2)
    peer = at(functional.conv_transpose3d(low, kernel_up, stride=2), grid.cells)
    torch.testing.assert_close(down, at(low, coarse.cells))
    torch.testing.assert_close(ours, peer)
    grad = torch.randn_like(ours)
    ours.backward(grad)
    peer.backward(grad)
    for mine, theirs in zip(a, b, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("kind", ["neighbours", "down", "up"])
def test_gradients_agree_with_finite_differences(kind: str) -> None:
    coords, sample = random_cells(3, 12)
    grid, _ = sparse_grid(coords, sample)
    coarse, halve = grid.halved()
    kernel, num = {
        "neighbours": (grid.neighbours(), 12),
        "down": (halve, 12),
        "up": (halve.transpose(), len(coarse.cells)),
    }[kind]
    rows = torch.randn(num, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(kernel.counts), 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, w: sparse_conv(f, w, kernel), (rows, weight))


def test_rows_that_are_not_contiguous_give_the_same() -> None:
    coords, sample = random_cells(4, 20)
    grid, _ = sparse_grid(coords, sample)
    rows, weight = torch.randn(3, 20).T, torch.randn(27, 4, 3).transpose(1, 2)
    kernel = grid.neighbours()
    expected = sparse_conv(rows.contiguous(), weight.contiguous(), kernel)
    torch.testing.assert_close(sparse_conv(rows, weight, kernel), expected)


def test_an_empty_grid_gives_empty_rows_and_zero_gradients() -> None:
    grid, _ = sparse_grid(torch.zeros(0, 3).long(), torch.zeros(0).long())
    coarse, halve = grid.halved()
    assert len(coarse.cells) == 0
    conv = SparseConv(3, 5, 27, 9.0)
    out = conv(torch.zeros(0, 3), grid.neighbours())
    out.sum().backward()
    assert out.shape == (0, 5)
    assert conv.weight.grad is not None
    assert conv.weight.grad.abs().sum() == 0
    assert sparse_conv(torch.zeros(0, 3), torch.zeros(8, 3, 2), halve).shape == (0, 2)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), num=st.integers(1, 60))
def test_neighbours_are_what_a_dictionary_finds(seed: int, num: int) -> None:
    coords, sample = random_cells(seed, num, samples=2)
    grid, order = sparse_grid(coords, sample)
    assert torch.equal(grid.cells[:, 1:], coords[order])
    lookup = {tuple(cell): row for row, cell in enumerate(grid.cells.tolist())}
    expected: set[tuple[int, int, int]] = set()
    for (b, x, y, z), target in lookup.items():
        for offset in range(27):
            dx, dy, dz = offset // 9 - 1, offset // 3 % 3 - 1, offset % 3 - 1
            source = lookup.get((b, x + dx, y + dy, z + dz))
            if source is not None:
                expected.add((offset, source, target))
    kernel = grid.neighbours()
    offsets = torch.repeat_interleave(torch.arange(27), torch.tensor(kernel.counts))
    pairs = zip(offsets.tolist(), kernel.sources.tolist(), kernel.targets.tolist(), strict=True)
    assert set(pairs) == expected
    assert len(kernel.sources) == len(expected)


def test_a_repeated_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="2 rows repeat a cell"):
        sparse_grid(torch.zeros(3, 3).long(), torch.zeros(3).long())


def test_a_grid_too_large_to_index_is_refused() -> None:
    coords = torch.tensor([[0, 0, 0], [1 << 22, 1 << 22, 1 << 22]])
    with pytest.raises(ValueError, match="too large to index"):
        sparse_grid(coords, torch.zeros(2).long())


@pytest.mark.parametrize(("rows", "offsets"), [(4, 27), (3, 8)])
def test_rows_or_weights_of_another_map_are_refused(rows: int, offsets: int) -> None:
    grid, _ = sparse_grid(torch.eye(3).long(), torch.zeros(3).long())
    with pytest.raises(ValueError, match="kernel map is for 3 rows and 27 offsets"):
        sparse_conv(torch.zeros(rows, 2), torch.zeros(offsets, 2, 2), grid.neighbours())


def test_widths_that_differ_are_refused() -> None:
    grid, _ = sparse_grid(torch.eye(3).long(), torch.zeros(3).long())
    with pytest.raises((TypeError, RuntimeError)):
        sparse_conv(torch.zeros(3, 2), torch.zeros(27, 3, 2), grid.neighbours())


def test_a_map_transposed_twice_is_itself() -> None:
    grid, _ = sparse_grid(*random_cells(5, 30))
    _, halve = grid.halved()
    twice: KernelMap = halve.transpose().transpose()
    assert torch.equal(twice.sources, halve.sources)
    assert (twice.num_sources, twice.num_targets) == (halve.num_sources, halve.num_targets)
    assert isinstance(grid, SparseGrid)
