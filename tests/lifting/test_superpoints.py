"""Super-points: cut where the surface bends or the colour changes, whatever the order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lifting.superpoints import superpoints


def corner(side: int = 25) -> tuple[Tensor, Tensor]:
    """Points of a floor and a wall that meet at a right angle, and which is which."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(2, side * side, 2, generator=generator)
    none = torch.zeros(side * side, 1)
    floor, wall = torch.cat([flat[0], none], dim=1), torch.cat([none, flat[1]], dim=1)
    face = torch.arange(2).repeat_interleave(side * side)
    return torch.cat([floor, wall]), face


def purity(segment: Tensor, truth: Tensor) -> float:
    """Share of points that belong to their segment's main class."""
    table = torch.zeros(int(segment.max()) + 1, int(truth.max()) + 1, dtype=torch.int64)
    table.index_put_((segment, truth), torch.ones_like(segment), accumulate=True)
    return float(table.max(dim=1).values.sum() / segment.numel())


def test_cuts_at_a_corner() -> None:
    xyz, face = corner()
    segment = superpoints(xyz)
    assert purity(segment, face) > 0.97
    assert int(segment.max()) + 1 <= 12


def test_cuts_where_the_colour_changes() -> None:
    xyz, _ = corner()
    floor = xyz[:625]
    truth = (floor[:, 0] > 0.5).long()
    rgb = torch.tensor([[0.8, 0.2, 0.2], [0.2, 0.2, 0.8]])[truth]
    assert purity(superpoints(floor, rgb=rgb), truth) == 1
    # Without colour, or with no weight on it, the floor is one piece of wood.
    assert superpoints(floor).unique().numel() == 1
    assert superpoints(floor, rgb=rgb, colour_weight=0.0).unique().numel() == 1


def test_the_sign_of_a_normal_does_not_matter() -> None:
    xyz, face = corner()
    normals = torch.eye(3)[torch.tensor([2, 0])][face]
    flipped = torch.where(torch.arange(len(xyz))[:, None] % 2 == 0, normals, -normals)
    assert torch.equal(superpoints(xyz, normals), superpoints(xyz, flipped))
    assert superpoints(xyz, normals).unique().numel() == 2


def test_small_segments_join_a_neighbour() -> None:
    xyz, _ = corner()
    generator = torch.Generator().manual_seed(1)
    rgb = torch.rand(len(xyz), 3, generator=generator)
    sizes = torch.bincount(superpoints(xyz, rgb=rgb, min_size=30))
    assert sizes.min() >= 30
    assert torch.bincount(superpoints(xyz, rgb=rgb, min_size=1)).min() < 30


def test_a_gap_is_never_bridged() -> None:
    xyz, _ = corner()
    two = torch.cat([xyz[:40] * 0.1, xyz[:10] * 0.1 + 5])
    assert superpoints(two, max_edge_m=0.5).tolist() == [0] * 40 + [1] * 10
    # Without the limit ten points, fewer than their eleven neighbours, reach across.
    assert superpoints(two, min_size=11).unique().numel() == 1


@pytest.mark.parametrize(
    ("xyz", "expected"),
    [
        (torch.zeros(0, 3), []),
        (torch.ones(1, 3), [0]),
        (torch.full((6, 3), 0.3), [0] * 6),
        (torch.tensor([[0.0, 0, 0], [1.0, 0, 0]]), [0, 0]),
    ],
)
def test_degenerate_clouds(xyz: Tensor, expected: list[int]) -> None:
    assert superpoints(xyz).tolist() == expected
    assert superpoints(xyz, torch.zeros_like(xyz), torch.zeros_like(xyz)).tolist() == expected


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 80), st.integers(0, 999), st.randoms(use_true_random=False))
def test_order_does_not_matter(size: int, seed: int, random: object) -> None:
    rng = np.random.default_rng(seed)
    # A lattice, two colours: equal distances and equal weights everywhere.
    xyz = torch.from_numpy(rng.integers(0, 4, (size, 3)).astype(np.float32))
    rgb = torch.from_numpy(rng.integers(0, 2, (size, 3)).astype(np.float32))
    order = torch.tensor(random.sample(range(size), size), dtype=torch.int64)
    segment = superpoints(xyz, rgb=rgb, min_size=4)
    assert torch.equal(superpoints(xyz[order], rgb=rgb[order], min_size=4), segment[order])
    assert torch.equal(segment.unique(), torch.arange(segment.unique().numel()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_neighbours": 1}, "num_neighbours must be at least 2"),
        ({"scale": -1.0}, "scale must be"),
        ({"scale": math.inf}, "scale must be"),
        ({"min_size": 0}, "min_size must be at least 1"),
        ({"colour_weight": -0.1}, "colour_weight must be"),
        ({"colour_weight": math.nan}, "colour_weight must be"),
        ({"max_edge_m": 0.0}, "max_distance_m must be above 0"),
        ({"rgb": torch.full((4, 3), torch.nan)}, "rgb must be finite"),
        ({"normals": torch.full((4, 3), torch.inf)}, "normals must be finite"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        superpoints(torch.rand(4, 3), **options)


def test_attributes_must_fit_the_cloud() -> None:
    with pytest.raises(ValueError, match=r"rgb must have the shape of the cloud \[4, 3\]"):
        superpoints.__wrapped__(torch.rand(4, 3), rgb=torch.rand(3, 3))
    with pytest.raises(ValueError, match="1 of 4 points"):
        superpoints(torch.tensor([[math.nan] * 3, [0.0] * 3, [1.0] * 3, [2.0] * 3]))


def test_kernels_as_python() -> None:
    from lifting.backends.numba_points import merge_segments, number_segments

    # A chain of six points with one strong edge in the middle, and a loop at its end.
    edges = np.array([[0, 1], [1, 2], [3, 4], [4, 5], [3, 5], [2, 3]])
    weight = np.array([0.1, 0.1, 0.1, 0.2, 0.2, 0.9])
    parent, size, label = np.arange(6), np.ones(6, np.int64), np.empty(6, np.int64)
    merge_segments.py_func(edges, weight, parent, size, np.full(6, 0.5), 0.5, 0)
    assert number_segments.py_func(parent, label) == 2
    assert label.tolist() == [0, 0, 0, 1, 1, 1]
    merge_segments.py_func(edges, weight, parent, size, np.full(6, -np.inf), -np.inf, 4)
    assert number_segments.py_func(parent, label) == 1
