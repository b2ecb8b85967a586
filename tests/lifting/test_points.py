"""Voxels, normals, neighbours: exact partitions, defined results for degenerate clouds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lifting.neighbours import distinct_sites, nearest_neighbours
from lifting.points import Voxels, estimate_normals, segment_operator, voxelize

BACKENDS = ["torch", "numba"]
DEGENERATE = {
    "empty": torch.zeros(0, 3),
    "one": torch.tensor([[1.0, -2.0, 3.0]]),
    "identical": torch.full((50, 3), -0.3),
    "two": torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]),
}


def same_partition(a: Tensor, b: Tensor) -> bool:
    """Whether two numberings group the same points."""
    pairs = torch.unique(torch.stack([a, b]), dim=1).shape[1]
    return pairs == a.unique().numel() == b.unique().numel()


# ---- voxels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_voxels_by_hand(backend: str) -> None:
    xyz = torch.tensor([[0.1, 0.1, 0.1], [-0.1, 0.1, 0.1], [0.9, 0.1, 0.4], [-0.9, 0.6, 0.4]])
    found = voxelize(xyz, 1.0, backend=backend)
    assert found.index.tolist() == [0, 1, 0, 1]
    assert found.coords.tolist() == [[0, 0, 0], [-1, 0, 0]]
    assert found.offsets.tolist() == [0, 2]
    assert found.batch.tolist() == [0, 0]
    assert found.num_voxels == 2
    assert found.centres_m().tolist() == [[0.5, 0.5, 0.5], [-0.5, 0.5, 0.5]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_points_on_cell_edges_belong_to_the_upper_cell(backend: str, dtype: torch.dtype) -> None:
    # Halves and quarters are exact in binary, so these lie on the edges exactly.
    x = torch.tensor([-0.5, -0.25, 0.0, 0.25, 0.5, 0.75], dtype=dtype)
    xyz = torch.stack([x, -x, torch.zeros_like(x)], dim=1)
    found = voxelize(xyz, 0.25, backend=backend)
    expected = [[-2, 2, 0], [-1, 1, 0], [0, 0, 0], [1, -1, 0], [2, -2, 0], [3, -3, 0]]
    assert found.coords.tolist() == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_inexact_edges_follow_float64_of_the_stored_number(backend: str) -> None:
    # 0.7 is stored as 0.699999988: below the edge, although 0.7f / 0.1f rounds to 7.
    xyz = torch.tensor([[0.7, 0.3, -0.3]])
    assert voxelize(xyz, 0.1, backend=backend).coords.tolist() == [[6, 3, -4]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_partition_as_unique_rows(backend: str) -> None:
    rng = np.random.default_rng(0)
    xyz = rng.normal(0, 1, (20_000, 3)).astype(np.float32)
    cells = np.floor(xyz.astype(np.float64) / 0.2).astype(np.int64)
    unique, inverse = np.unique(cells, axis=0, return_inverse=True)
    found = voxelize(torch.from_numpy(xyz), 0.2, backend=backend)
    assert found.num_voxels == len(unique)
    assert same_partition(found.index, torch.from_numpy(inverse.reshape(-1)))
    assert torch.equal(found.coords[found.index], torch.from_numpy(cells))


def test_backends_number_voxels_alike() -> None:
    generator = torch.Generator().manual_seed(1)
    # Enough voxels that the hash table grows, twice.
    xyz = torch.rand(160_000, 3, generator=generator) * 50
    offsets = torch.tensor([0, 1000, 1000, 90_000, 160_000])
    ours, reference = (voxelize(xyz, 0.5, offsets, backend=b) for b in BACKENDS)
    assert reference.num_voxels > 1 << 17
    for name in ("index", "coords", "offsets"):
        assert torch.equal(getattr(ours, name), getattr(reference, name))


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_do_not_share_voxels(backend: str) -> None:
    xyz = torch.zeros(5, 3)
    found = voxelize(xyz, 1.0, torch.tensor([0, 2, 2, 5]), backend=backend)
    assert found.index.tolist() == [0, 0, 1, 1, 1]
    assert found.offsets.tolist() == [0, 1, 1, 2]
    assert found.batch.tolist() == [0, 2]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "voxels"), [("empty", 0), ("one", 1), ("identical", 1), ("two", 2)]
)
def test_degenerate_clouds(backend: str, name: str, voxels: int) -> None:
    xyz = DEGENERATE[name]
    found = voxelize(xyz, 0.1, backend=backend)
    assert found.num_voxels == voxels
    assert found.index.shape == (len(xyz),)
    assert found.offsets.tolist() == [0, voxels]
    assert found.operator().shape == (voxels, len(xyz))


@pytest.mark.parametrize("backend", BACKENDS)
def test_far_but_exact_coordinates(backend: str) -> None:
    xyz = torch.tensor([[5e6, -5e6, 100.0], [5e6 + 0.02, -5e6, 100.0]], dtype=torch.float64)
    assert voxelize(xyz, 0.01, backend=backend).index.tolist() == [0, 1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("xyz", "voxel_m", "message"),
    [
        ([[0, 0, 0], [1e9, 1e9, 1e9]], 1e-3, "more cells than int64"),
        ([[1e300, 0, 0], [-1e300, 0, 0]], 0.1, "coarser than voxel_m"),
        ([[math.nan, 0, 0]], 0.1, "NaN or infinite"),
        ([[0, math.inf, 0]], 0.1, "NaN or infinite"),
        ([[0, 0, -math.inf], [0, 0, 1]], 0.1, "NaN or infinite"),
        ([[0, 0, 0]], 0.0, "positive number of metres"),
        ([[0, 0, 0]], -1.0, "positive number of metres"),
        ([[0, 0, 0]], math.nan, "positive number of metres"),
        ([[0, 0, 0]], math.inf, "positive number of metres"),
    ],
)
def test_impossible_grids_are_refused(
    backend: str, xyz: list[list[float]], voxel_m: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        voxelize(torch.tensor(xyz, dtype=torch.float64), voxel_m, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_single_precision_map_coordinates_are_refused(backend: str) -> None:
    """At 5,000 km float32 knows half metres: 2 cm voxels would be an illusion."""
    with pytest.raises(ValueError, match="move the origin"):
        voxelize(torch.tensor([[5e6, 0.0, 0.0]]), 0.02, backend=backend)


@pytest.mark.parametrize("offsets", [[], [0], [1, 4], [0, 3], [0, 3, 2, 4], [0, 5]])
def test_wrong_offsets_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="offsets must rise from 0 to the number of points 4"):
        voxelize(torch.zeros(4, 3), 1.0, torch.tensor(offsets, dtype=torch.int64))


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[N, 3\], got \[4, 2\]"):
        voxelize.__wrapped__(torch.zeros(4, 2), 1.0)


def test_voxel_mean_is_an_operator() -> None:
    xyz = torch.tensor([[0.1, 0, 0], [2.5, 0, 0], [0.9, 0, 0]])
    lifted = voxelize(xyz, 1.0).operator().lift(torch.tensor([[1.0], [7.0], [3.0]]))
    assert lifted.rows.tolist() == [[2.0], [7.0]]
    assert lifted.weight.tolist() == [2.0, 1.0]


@st.composite
def clouds(draw: st.DrawFn) -> Tensor:
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    size = draw(st.integers(0, 60))
    spread = draw(st.sampled_from([0.01, 1.0, 1000.0]))
    # A coarse lattice makes repeats and points on cell edges common.
    return torch.from_numpy((rng.integers(-8, 8, (size, 3)) / 8 * spread).astype(np.float32))


@settings(deadline=None, max_examples=60)
@given(clouds(), st.sampled_from([0.125, 0.3, 1.0]), st.randoms(use_true_random=False))
def test_partition_ignores_order_and_batching(xyz: Tensor, voxel_m: float, random: object) -> None:
    order = torch.tensor(random.sample(range(len(xyz)), len(xyz)), dtype=torch.int64)
    half = len(xyz) // 2
    for backend in BACKENDS:
        plain = voxelize(xyz, voxel_m, backend=backend)
        shuffled = voxelize(xyz[order], voxel_m, backend=backend)
        assert torch.equal(plain.coords[plain.index][order], shuffled.coords[shuffled.index])
        assert plain.coords.unique(dim=0).shape[0] == plain.num_voxels
        pair = voxelize(xyz, voxel_m, torch.tensor([0, half, len(xyz)]), backend=backend)
        alone = voxelize(xyz[half:], voxel_m, backend=backend)
        assert torch.equal(pair.index[half:] - pair.offsets[1], alone.index)
        assert torch.equal(pair.coords[pair.offsets[1] :], alone.coords)


def test_voxel_kernels_as_python() -> None:
    from lifting.backends.numba_points import cell_keys, cloud_bounds, number_keys

    xyz = np.array([[0.5, -0.5, 2.5], [1.5, 0.5, 0.5], [0.6, -0.4, 2.1]])
    low, high = np.empty(3), np.empty(3)
    assert cloud_bounds.py_func(xyz, low, high)
    assert low.tolist() == [0.5, -0.5, 0.5]
    assert high.tolist() == [1.5, 0.5, 2.5]
    assert not cloud_bounds.py_func(np.array([[0.0, np.nan, 0.0]]), low, high)
    keys = np.empty(3, np.int64)
    cell_keys.py_func(xyz, 1.0, np.array([0, -1, 0, 2, 3]), 100, keys, 0, 3)
    assert keys.tolist() == [102, 109, 102]
    # Distinct keys, some repeated, in a table of two slots: it grows and collides.
    many = np.concatenate([np.arange(40) * 7, np.arange(40) * 7])
    index, first = np.empty(80, np.int64), np.empty(80, np.int64)
    with np.errstate(over="ignore"):  # the spread is meant to wrap around
        assert number_keys.py_func(many, index, first, 1) == 40
    assert index.tolist() == [*range(40), *range(40)]
    assert first[:40].tolist() == list(range(40))


# ---- segments ---------------------------------------------------------------------------------


def test_segment_operator_leaves_out_points_in_none() -> None:
    operator = segment_operator(torch.tensor([1, -1, 0, 1]), 3)
    assert operator.to_dense().tolist() == [[0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]]
    assert segment_operator(torch.tensor([0, 2])).shape == (3, 2)
    assert segment_operator(torch.zeros(0, dtype=torch.int64)).shape == (0, 0)


def test_impossible_segments_are_refused() -> None:
    with pytest.raises(ValueError, match="start at 0, with -1 for none, got -2"):
        segment_operator(torch.tensor([0, -2]))
    with pytest.raises(ValueError, match="segment index 3"):
        segment_operator(torch.tensor([0, 3, -1]), 3)


# ---- neighbours -------------------------------------------------------------------------------


def test_neighbours_by_hand() -> None:
    points = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0]])
    distance, index = nearest_neighbours(points, points, 3, max_distance_m=2.0)
    # The limit is inclusive.
    assert index.tolist() == [[0, 1, -1], [1, 0, 2], [2, 1, -1]]
    assert distance[1].tolist() == [0, 1, 2]
    assert distance[0, 2] == torch.inf


def test_neighbours_among_nothing() -> None:
    nothing, one = torch.zeros(0, 3), torch.zeros(1, 3)
    assert nearest_neighbours(nothing, one, 2)[1].shape == (0, 2)
    assert nearest_neighbours(one, nothing, 2)[1].tolist() == [[-1, -1]]


@pytest.mark.parametrize(
    ("k", "limit", "message"),
    [(0, 1.0, "at least 1"), (1, 0.0, "above 0"), (1, -1.0, "above 0"), (1, math.nan, "above 0")],
)
def test_impossible_searches_are_refused(k: int, limit: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest_neighbours(torch.zeros(1, 3), torch.zeros(1, 3), k, max_distance_m=limit)


def test_nan_is_counted_and_refused() -> None:
    xyz = torch.zeros(4, 3)
    xyz[1, 2] = xyz[1, 0] = xyz[3, 1] = torch.nan
    with pytest.raises(ValueError, match="2 of 4 points"):
        nearest_neighbours(xyz, torch.zeros(1, 3), 1)


def test_sites_do_not_depend_on_order() -> None:
    xyz = torch.tensor([[1.0, 0, 0], [0.0, 0, 0], [1.0, 0, 0], [-0.0, 0, 0]])
    sites, place = distinct_sites(xyz)
    assert place.tolist() == [1, 0, 1, 0]
    assert sites.tolist() == [1, 0]
    # The attribute decides which of the points at one place stands for it.
    sites, _ = distinct_sites(xyz, torch.tensor([[5.0], [9.0], [4.0], [8.0]]))
    assert sites.tolist() == [3, 2]


# ---- normals ----------------------------------------------------------------------------------


def plane(size: int = 400, seed: int = 0) -> Tensor:
    xy = torch.rand(size, 2, generator=torch.Generator().manual_seed(seed))
    return torch.cat([xy, 0.5 * xy[:, :1] + 1], dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_of_a_plane(dtype: torch.dtype) -> None:
    normal = estimate_normals(plane().to(dtype), 12)
    expected = torch.tensor([-0.5, 0.0, 1.0], dtype=dtype) / math.sqrt(1.25)
    assert normal.dtype == dtype
    torch.testing.assert_close(normal, expected.expand_as(normal), atol=1e-4, rtol=0)


def test_normals_turn_to_the_viewpoint() -> None:
    below = estimate_normals(plane(), viewpoint=torch.tensor([0.5, 0.5, -5.0]))
    assert (below[:, 2] < 0).all()
    each = torch.cat([torch.full((200, 3), 9.0), torch.full((200, 3), -9.0)])
    mixed = estimate_normals(plane(), viewpoint=each)
    assert (mixed[:200, 2] > 0).all()
    assert (mixed[200:, 2] < 0).all()


@pytest.mark.parametrize("name", list(DEGENERATE))
def test_no_plane_no_normal(name: str) -> None:
    normal = estimate_normals(DEGENERATE[name])
    assert normal.shape == DEGENERATE[name].shape
    assert not normal.any()


def test_a_line_has_no_normal_but_a_strip_has() -> None:
    t = torch.linspace(0, 1, 200)
    line = torch.stack([t, 2 * t, -t], dim=1)
    assert not estimate_normals(line).any()
    strip = torch.cat([line, line + torch.tensor([0.0, 0.0, 0.01])])
    assert (torch.linalg.vector_norm(estimate_normals(strip), dim=1) > 0.999).all()


def test_repeats_do_not_hide_the_plane() -> None:
    xyz = plane(60)
    repeated = torch.cat([xyz, xyz[:5].repeat(100, 1)])
    torch.testing.assert_close(estimate_normals(repeated)[:60], estimate_normals(xyz))


@settings(deadline=None, max_examples=25)
@given(clouds(), st.randoms(use_true_random=False))
def test_normals_are_unit_or_zero_and_follow_the_points(xyz: Tensor, random: object) -> None:
    order = torch.tensor(random.sample(range(len(xyz)), len(xyz)), dtype=torch.int64)
    normal = estimate_normals(xyz, 6)
    length = torch.linalg.vector_norm(normal, dim=1)
    assert ((length == 0) | ((length - 1).abs() < 1e-5)).all()
    assert torch.equal(estimate_normals(xyz[order], 6), normal[order])


def test_impossible_normals_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 points, got k = 2"):
        estimate_normals(plane(), 2)
    with pytest.raises(ValueError, match="1 of 1 points"):
        estimate_normals(torch.full((1, 3), torch.inf))


def test_voxels_are_a_value() -> None:
    found = voxelize(plane(), 0.25)
    assert isinstance(found, Voxels)
    with pytest.raises(AttributeError):
        found.voxel_m = 1.0
