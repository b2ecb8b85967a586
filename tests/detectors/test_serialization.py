"""Space-filling curves: codes by hand, neighbours, prefixes, ranges."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detectors.serialization import (
    CURVES,
    DEPTH,
    Curve,
    coarser_keys,
    curve_keys,
    hilbert_codes,
    morton_codes,
)


def cube(side: int) -> Tensor:
    steps = torch.arange(side)
    return torch.cartesian_prod(steps, steps, steps)


def test_morton_codes_by_hand() -> None:
    cells = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [3, 0, 1], [2, 3, 0]])
    # Bits x1 y1 z1 x0 y0 z0: (3, 0, 1) is 100 101, (2, 3, 0) is 110 010.
    assert morton_codes(cells).tolist() == [0, 1, 2, 4, 0b100101, 0b110010]
    last = torch.full((1, 3), 2**DEPTH - 1)
    assert morton_codes(last).tolist() == [2 ** (3 * DEPTH) - 1]


def test_hilbert_codes_of_the_smallest_cube_by_hand() -> None:
    # One level is the Gray code of (x, y, z): one coordinate changes at a time.
    path = [[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1], [1, 0, 0]]
    assert hilbert_codes(torch.tensor(path), depth=1).tolist() == list(range(8))


@pytest.mark.parametrize("depth", [3, 4, 5, DEPTH])
def test_hilbert_neighbours_on_the_curve_share_a_face(depth: int) -> None:
    cells = cube(8)
    codes, order = hilbert_codes(cells, depth).sort()
    # The curve fills the cube at the origin before it leaves it, however deep it is.
    assert torch.equal(codes, torch.arange(512))
    assert (cells[order].diff(dim=0).abs().sum(dim=1) == 1).all()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(*[st.integers(0, 2**DEPTH - 1)] * 3), min_size=1, max_size=20))
def test_a_code_without_its_last_bits_is_the_code_of_the_larger_cell(cells: Any) -> None:
    cell = torch.tensor(cells)
    assert torch.equal(hilbert_codes(cell) >> 3, hilbert_codes(cell >> 1, DEPTH - 1))
    assert torch.equal(morton_codes(cell) >> 3, morton_codes(cell >> 1))


@pytest.mark.parametrize("curve", CURVES)
def test_keys_sort_by_sample_then_curve_and_are_distinct(curve: Curve) -> None:
    cells, sample = cube(4).repeat(2, 1), torch.arange(2).repeat_interleave(64)
    keys = curve_keys(cells, sample, curve)
    assert len(keys.unique()) == 128
    assert sample[keys.argsort()].tolist() == sample.tolist()
    assert (coarser_keys(keys).unique(return_counts=True)[1] == 8).all()


@pytest.mark.parametrize("name", ["morton", "hilbert"])
def test_swapped_curves_exchange_x_and_y(name: str) -> None:
    cells, sample = cube(4), torch.zeros(64).long()
    swapped = curve_keys(cells, sample, cast("Curve", f"{name}_swapped"))
    assert torch.equal(swapped, curve_keys(cells[:, [1, 0, 2]], sample, cast("Curve", name)))
    assert not torch.equal(swapped, curve_keys(cells, sample, cast("Curve", name)))


def test_no_cell_has_no_code() -> None:
    none = torch.zeros(0, 3).long()
    assert len(morton_codes(none)) == len(hilbert_codes(none)) == 0
    assert len(curve_keys(none, torch.zeros(0).long(), "hilbert")) == 0


@pytest.mark.parametrize("bad", [[-1, 0, 0], [0, 2**DEPTH, 0]])
def test_cells_out_of_range_are_refused(bad: list[int]) -> None:
    for codes in (morton_codes, hilbert_codes):
        with pytest.raises(ValueError, match="cells must lie in"):
            codes(torch.tensor([bad]))
    with pytest.raises(ValueError, match=r"in \[0, 4\)"):
        hilbert_codes(torch.tensor([[0, 0, 4]]), depth=2)


@pytest.mark.parametrize("depth", [0, DEPTH + 1])
def test_a_depth_without_meaning_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="depth must be"):
        hilbert_codes(torch.zeros(1, 3).long(), depth)


@pytest.mark.parametrize("sample", [-1, 1 << 15])
def test_a_sample_out_of_range_is_refused(sample: int) -> None:
    with pytest.raises(ValueError, match="samples are numbered"):
        curve_keys(torch.zeros(1, 3).long(), torch.tensor([sample]), "morton")
