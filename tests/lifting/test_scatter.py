"""Sums, means and maxima by segment."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lifting.backends import backend_problem
from lifting.scatter import scatter_mean, scatter_sum, segment_max, segment_pattern

BACKENDS = ["torch", "numba", pytest.param("torch_scatter", marks=pytest.mark.backends)]
ROWS = torch.tensor([[1.0, -1.0], [2.0, -2.0], [3.0, -3.0], [5.0, 5.0]])
INDEX = torch.tensor([2, 0, 2, 2])


def need(backend: str) -> None:
    if backend_problem(backend) is not None:
        pytest.skip(f"{backend} is not installed")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_by_hand(backend: str, dtype: torch.dtype) -> None:
    need(backend)
    rows = ROWS.to(dtype)
    total = scatter_sum(rows, INDEX, 4, backend=backend)
    assert total.dtype == dtype
    assert total.tolist() == [[2, -2], [0, 0], [9, 1], [0, 0]]
    mean = scatter_mean(rows, INDEX, 4, backend=backend)
    expected = torch.tensor([[2, -2], [0, 0], [3, 1 / 3], [0, 0]], dtype=dtype)
    torch.testing.assert_close(mean, expected)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_maximum_by_hand(backend: str, dtype: torch.dtype) -> None:
    found = segment_max(ROWS.to(dtype), INDEX, 4, backend=backend)
    assert found.rows.tolist() == [[2, -2], [0, 0], [5, 5], [0, 0]]
    assert found.rows.dtype == dtype
    assert found.valid.tolist() == [True, False, True, False]
    assert found.source.tolist() == [[1, 1], [-1, -1], [3, 3], [-1, -1]]


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_maximum_gradient_goes_to_the_first_of_equals(backend: str) -> None:
    rows = torch.tensor([[1.0], [7.0], [7.0], [-torch.inf]], requires_grad=True)
    found = segment_max(rows, torch.tensor([0, 0, 0, 1]), 3, backend=backend)
    assert found.source.tolist() == [[1], [3], [-1]]
    found.rows[found.valid][0].sum().backward()
    assert rows.grad is not None
    assert rows.grad.tolist() == [[0], [1], [0], [0]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reduce", [scatter_sum, scatter_mean])
def test_gradcheck(backend: str, reduce: type[scatter_sum]) -> None:
    need(backend)
    rows = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([3, 0, 0, 1, 3, 3, 0])
    assert torch.autograd.gradcheck(lambda r: reduce(r, index, 5, backend=backend), rows)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_input(backend: str) -> None:
    need(backend)
    rows, none = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    for num in (0, 2):
        total = scatter_mean(rows, none, num, backend=backend)
        assert total.shape == (num, 3)
        assert not total.any()
        total.sum().backward()
    if backend != "torch_scatter":
        found = segment_max(rows, none, 2, backend=backend)
        assert found.rows.shape == (2, 3)
        assert not found.valid.any()
        assert (found.source == -1).all()


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_non_contiguous_input(backend: str) -> None:
    rows, index = torch.randn(3, 8).T, torch.randint(0, 3, (16,))[::2]
    plain = scatter_sum(rows.clone(memory_format=torch.contiguous_format), index.clone(), 3)
    torch.testing.assert_close(scatter_sum(rows, index, 3, backend=backend), plain)
    assert torch.equal(
        segment_max(rows, index, 3, backend=backend).source,
        segment_max(rows.contiguous(), index.contiguous(), 3, backend="torch").source,
    )


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("wrong", [-1, 4, 1 << 40])
@pytest.mark.parametrize("reduce", [scatter_sum, scatter_mean, segment_max])
def test_index_out_of_range_is_refused(backend: str, wrong: int, reduce: type[scatter_sum]) -> None:
    index = torch.tensor([0, wrong, 3, 3])
    with pytest.raises(ValueError, match=rf"segment index {wrong} lies outside \[0, 4\)"):
        reduce(ROWS, index, 4, backend=backend)


def test_maximum_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN is not defined"):
        segment_max(torch.full((4, 1), torch.nan), INDEX, 3)


@pytest.mark.parametrize("reduce", [scatter_sum, segment_max])
def test_lengths_must_agree(reduce: type[scatter_sum]) -> None:
    # Through the undecorated function: the run-time checker of the tests would answer first.
    bare = reduce.__wrapped__
    with pytest.raises(ValueError, match=r"rows \[4, 2\] and index \[3\]"):
        bare(ROWS, INDEX[:3], 4)


def test_maximum_has_no_triton() -> None:
    with pytest.raises(ValueError, match="segment_max has the backends"):
        segment_max(ROWS, INDEX, 4, backend="triton")


@st.composite
def segmented(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    size, channels, num = draw(st.integers(0, 40)), draw(st.integers(0, 4)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    # Whole numbers add up without rounding, so orders and backends must agree exactly.
    rows = torch.from_numpy(rng.integers(-9, 9, (size, channels)).astype(np.float32))
    return rows, torch.from_numpy(rng.integers(0, num, size)), num


@settings(deadline=None, max_examples=40)
@given(segmented(), st.randoms(use_true_random=False))
def test_permutation_parity_and_mass(case: tuple[Tensor, Tensor, int], random: object) -> None:
    rows, index, num = case
    order = torch.tensor(random.sample(range(len(rows)), len(rows)), dtype=torch.int64)
    for reduce in (scatter_sum, lambda *a, **k: segment_max(*a, **k).rows):
        reference = reduce(rows, index, num, backend="torch")
        for backend in ("torch", "numba"):
            assert torch.equal(reduce(rows[order], index[order], num, backend=backend), reference)
    assert torch.equal(scatter_sum(rows, index, num).sum(0), rows.sum(0))
    crow, found = segment_pattern(index, num)
    assert torch.equal(found.sort().values, torch.arange(len(rows)))
    assert torch.equal(crow.diff(), torch.bincount(index, minlength=num))


def test_kernel_as_python() -> None:
    from lifting.backends.numba_points import segment_argmax

    source = np.empty((3, 2), np.int64)
    rows = np.array([[1.0, 5], [3, 2], [3, 9]])
    segment_argmax.py_func(np.array([0, 2, 2, 3]), np.array([0, 1, 2]), rows, source, 0, 3)
    assert source.tolist() == [[1, 0], [-1, -1], [2, 2]]
