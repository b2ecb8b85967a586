"""Every backend gives the reference's product and gradients; absent ones say so."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

import lifting.backends as backends
from lifting.backends import BackendUnavailableError, csr_apply, resolve_backend
from lifting.backends.jit import even_bounds, jit, run_ranges

WIDTHS = (0, 1, 3, 37, 512, 1000)
OTHERS = ["numba", pytest.param("torch_scatter", marks=pytest.mark.backends)]
ROOT = Path(__file__).resolve().parents[2]


def need(backend: str) -> None:
    problem = backends.backend_problem(backend)
    if problem is not None:
        pytest.skip(f"{backend} is not installed: {problem}")


def pattern(num_targets: int, num_sources: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of 0 to 5 entries in any order, with repeats; the first and last row are empty."""
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(0, 6, (num_targets,), generator=generator)
    length[0] = length[-1] = 0
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), length.cumsum(0)])
    return crow, torch.randint(0, num_sources, (int(crow[-1]),), generator=generator)


def arm(
    backend: str, crow: Tensor, col: Tensor, weight: Tensor, features: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Product, gradient of the weights, gradient of the features."""
    weight, features = weight.clone().requires_grad_(), features.clone().requires_grad_()
    product = csr_apply(crow, col, weight, features, backend)
    # A gradient that differs per row and channel.
    slope = torch.linspace(-1, 2, product.numel(), dtype=product.dtype).reshape(product.shape)
    (product * slope).sum().backward()
    assert weight.grad is not None
    assert features.grad is not None
    return product.detach(), weight.grad, features.grad


def test_by_hand() -> None:
    crow, col = torch.tensor([0, 2, 2, 3]), torch.tensor([0, 2, 1])
    weight, features = torch.tensor([2.0, 3.0, -1.0]), torch.tensor([[1.0], [10.0], [100.0]])
    for backend in ("torch", "numba"):
        assert csr_apply(crow, col, weight, features, backend).tolist() == [[302.0], [0.0], [-10.0]]


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", WIDTHS)
def test_parity_forward_and_backward(backend: str, dtype: torch.dtype, channels: int) -> None:
    need(backend)
    crow, col = pattern(23, 17)
    weight, features = torch.randn(col.numel(), dtype=dtype), torch.randn(17, channels, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for ours, reference in zip(
        arm(backend, crow, col, weight, features),
        arm("torch", crow, col, weight, features),
        strict=True,
    ):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("backend", ["torch", *OTHERS])
def test_empty_shapes(backend: str) -> None:
    need(backend)
    zero = torch.zeros(1, dtype=torch.int64)
    none = torch.zeros(0, dtype=torch.int64)
    for crow, sources in ((zero, 0), (zero, 4), (zero.expand(4).clone(), 5), (zero.repeat(3), 0)):
        out, grad_weight, grad_features = arm(
            backend, crow, none, torch.zeros(0), torch.zeros(sources, 3)
        )
        assert out.shape == (crow.numel() - 1, 3)
        assert not out.any()
        assert grad_weight.shape == (0,)
        assert not grad_features.any()


@pytest.mark.parametrize("backend", ["torch", *OTHERS])
def test_non_contiguous_input(backend: str) -> None:
    need(backend)
    crow, col = pattern(9, 8)
    weight, features = torch.randn(2 * col.numel())[::2], torch.randn(5, 8).T
    strided = torch.stack([col, col], dim=1)[:, 0]
    out = csr_apply(torch.stack([crow, crow], 1)[:, 1], strided, weight, features, backend)
    torch.testing.assert_close(out, csr_apply(crow, col, weight.clone(), features.clone(), "torch"))


@pytest.mark.parametrize("backend", ["torch", *OTHERS])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(backend: str, dtype: torch.dtype) -> None:
    need(backend)
    # In half precision 2048 + 1 is 2048 again: a sum kept in half would stop there.
    crow, col = torch.tensor([0, 4096]), torch.zeros(4096, dtype=torch.int64)
    out = csr_apply(crow, col, torch.ones(4096), torch.ones(1, 2, dtype=dtype), backend)
    assert out.dtype == dtype
    assert out.tolist() == [[4096.0, 4096.0]]


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_gradcheck(backend: str) -> None:
    crow, col = pattern(6, 5)
    weight = torch.randn(col.numel(), dtype=torch.float64, requires_grad=True)
    features = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda w, f: csr_apply(crow, col, w, f, backend), (weight, features)
    )


def test_one_gradient_only() -> None:
    crow, col = pattern(6, 5)
    weight = torch.randn(col.numel())
    features = torch.randn(5, 3, requires_grad=True)
    csr_apply(crow, col, weight, features, "numba").sum().backward()
    assert features.grad is not None
    only = torch.randn(col.numel(), requires_grad=True)
    csr_apply(crow, col, only, features.detach(), "numba").sum().backward()
    assert only.grad is not None


@pytest.mark.parametrize("channels", [1, 4, 16, 17])
def test_gradients_of_many_entries_a_column(channels):
    # 40 entries a column: narrow features are scattered to, wide ones through the transpose.
    chance = torch.Generator().manual_seed(channels)
    crow = torch.arange(0, 401, 4)
    col = torch.randint(10, (400,), generator=chance)
    weight = torch.rand(400, generator=chance, dtype=torch.float64)
    features = torch.rand(10, channels, generator=chance, dtype=torch.float64).requires_grad_()
    scale = torch.rand(100, channels, generator=chance, dtype=torch.float64)
    (csr_apply(crow, col, weight, features, "numba") * scale).sum().backward()
    wanted = torch.zeros(10, channels, dtype=torch.float64)
    wanted.index_add_(0, col, weight[:, None] * scale.repeat_interleave(4, 0))
    torch.testing.assert_close(features.grad, wanted)


def test_a_callers_transpose_is_used() -> None:
    crow, col = pattern(6, 5)
    calls: list[int] = []

    def transpose() -> tuple[Tensor, Tensor, Tensor]:
        calls.append(1)
        return backends.transpose_pattern(crow, col, 5)

    features = torch.randn(5, 3, requires_grad=True)
    weight = torch.randn(col.numel())
    csr_apply(crow, col, weight, features, "numba", transpose=transpose).sum().backward()
    assert calls == [1]
    expected = torch.zeros(5).index_add(0, col, weight)
    assert features.grad is not None
    torch.testing.assert_close(features.grad, expected[:, None].expand(5, 3))


@pytest.mark.parametrize("backend", ["torch", *OTHERS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_out_is_written(backend: str, dtype: torch.dtype) -> None:
    need(backend)
    crow, col = pattern(9, 8)
    weight, features = torch.randn(col.numel()), torch.randn(8, 4).to(dtype)
    out = torch.full((9, 4), torch.nan, dtype=dtype)
    assert csr_apply(crow, col, weight, features, backend, out=out) is out
    torch.testing.assert_close(out, csr_apply(crow, col, weight, features, "torch"))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.zeros(8, 4), r"shape \(9, 4\)"),
        (torch.zeros(9, 4, dtype=torch.float64), "float64"),
        (torch.zeros(4, 9).T, "contiguous"),
        (torch.zeros(9, 4, requires_grad=True), "without gradients"),
    ],
)
def test_wrong_out_is_refused(out: Tensor, message: str) -> None:
    crow, col = pattern(9, 8)
    with pytest.raises(ValueError, match=message):
        csr_apply(crow, col, torch.ones(col.numel()), torch.ones(8, 4), "numba", out=out)


def test_out_with_gradients_is_refused() -> None:
    crow, col = pattern(9, 8)
    weight = torch.ones(col.numel(), requires_grad=True)
    with pytest.raises(ValueError, match="without gradients"):
        csr_apply(crow, col, weight, torch.ones(8, 4), "torch", out=torch.zeros(9, 4))


def test_wrong_shapes_are_refused_in_tests() -> None:
    crow, col = pattern(9, 8)
    with pytest.raises(TypeCheckError):
        csr_apply(crow, col, torch.ones(col.numel() + 1), torch.ones(8, 4))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5), st.integers(0, 99))
def test_adjointness(targets: int, sources: int, channels: int, seed: int) -> None:
    """<W x, y> = <x, W.T y> on the numba backend."""
    crow, col = pattern(targets, sources, seed)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(col.numel(), dtype=torch.float64, generator=generator)
    x = torch.randn(sources, channels, dtype=torch.float64, generator=generator)
    y = torch.randn(targets, channels, dtype=torch.float64, generator=generator)
    crow_t, col_t, order = backends.transpose_pattern(crow, col, sources)
    forward = (csr_apply(crow, col, weight, x, "numba") * y).sum()
    adjoint = (csr_apply(crow_t, col_t, weight[order], y, "numba") * x).sum()
    torch.testing.assert_close(forward, adjoint, rtol=1e-10, atol=1e-10)


# ---- choosing -------------------------------------------------------------------------------


def test_auto_prefers_numba_on_a_cpu_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    backends._log_choice.cache_clear()
    with caplog.at_level(logging.INFO, logger="lifting.backends"):
        assert [resolve_backend("auto", "cpu", "csr_apply") for _ in range(3)] == ["numba"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "csr_apply on cpu runs on backend 'numba'"
    ]


def test_devices_without_a_backend_have_torch() -> None:
    assert resolve_backend("auto", "mps", "voxelize") == "torch"
    assert resolve_backend("torch", torch.device("meta")) == "torch"


@pytest.mark.parametrize("op", ["csr_apply", "voxelize", "segment_max"])
def test_unknown_name_lists_the_known(op: backends.Operation) -> None:
    with pytest.raises(ValueError, match=f"{op} has the backends auto, .*got 'cupy'"):
        resolve_backend("cupy", "cpu", op)


def test_wrong_device_is_refused() -> None:
    with pytest.raises(BackendUnavailableError, match="'numba' does not run on device 'cuda'"):
        resolve_backend("numba", "cuda")
    with pytest.raises(BackendUnavailableError, match="'triton' does not run on device 'cpu'"):
        csr_apply(
            torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), torch.ones(1, 1), "triton"
        )


def test_operation_without_that_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="voxelize has the backends auto, numba, torch"):
        resolve_backend("triton", "cuda", "voxelize")


def test_absent_package_names_the_install_line(tmp_path: Path) -> None:
    """A package whose wheel does not load here; a fresh process, where it shadows the real one."""
    (tmp_path / "torch_scatter.py").write_text("raise OSError('undefined symbol: _ZN2at')\n")
    program = textwrap.dedent("""
        from lifting.backends import BackendUnavailableError, available_backends, resolve_backend
        assert "undefined symbol" in available_backends()["torch_scatter"]
        assert available_backends()["torch"] is None
        try:
            resolve_backend("torch_scatter", "cpu")
        except BackendUnavailableError as error:
            print(error)
    """)
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "OSError: undefined symbol" in finished.stdout
    assert "pip install --no-build-isolation torch-scatter" in finished.stdout


def test_available_backends_lists_all() -> None:
    found = backends.available_backends()
    assert list(found) == ["torch", "numba", "torch_scatter", "triton", "gsplat"]
    assert found["torch"] is None
    assert found["numba"] is None
    assert torch.cuda.is_available() or found["triton"]


# ---- threads and compilation ----------------------------------------------------------------


def test_ranges_cover_everything_once() -> None:
    for total, work in ((0, 0), (1, 1 << 30), (3, 1 << 30), (1000, 1 << 30), (1000, 5)):
        bounds = even_bounds(total, work)
        assert bounds[0] == 0
        assert bounds[-1] == total
        assert all(a <= b for a, b in pairwise(bounds))


def test_threads_share_ranges_and_pass_errors_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    seen: list[tuple[int, int]] = []
    run_ranges(lambda begin, end: seen.append((begin, end)), [0, 2, 5, 9])
    assert sorted(seen) == [(0, 2), (2, 5), (5, 9)]

    def fail(begin: int, end: int) -> None:
        raise ArithmeticError(f"{begin} to {end}")

    with pytest.raises(ArithmeticError, match="0 to 2"):
        run_ranges(fail, [0, 2, 5])


def test_result_does_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    crow, col = pattern(3000, 50)
    weight, features = torch.randn(col.numel()), torch.randn(50, 64)
    results: list[Tensor] = []
    for threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(csr_apply(crow, col, weight, features, "numba"))
    assert torch.equal(*results)


def test_kernels_compile_without_a_writable_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    real = numba.njit

    def refuses_to_cache(*, cache: bool, **options: object) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba, "njit", refuses_to_cache)

    def double(x: float) -> float:
        return 2 * x

    assert jit(double)(4.0) == 8.0


# ---- kernels as plain Python: what the compiler sees, line by line -----------------------------


def test_kernels_as_python() -> None:
    from lifting.backends.numba_csr import counting_sort, gather_sum, row_dots

    crow, col = np.array([0, 2, 2, 3]), np.array([0, 2, 1])
    weight, features = np.array([2.0, 3.0, -1.0]), np.array([[1.0, 2], [10, 20], [100, 200]])
    out = np.full((3, 2), np.nan)
    gather_sum.py_func(crow, col, weight, features, out, 0, 3)
    assert out.tolist() == [[302, 604], [0, 0], [-10, -20]]
    dots = np.empty(3)
    row_dots.py_func(crow, col, features, features, dots, 0, 3)
    assert dots.tolist() == [5.0, 500.0, 100 * 10 + 200 * 20]
    index, order = np.array([1, 0, 1, 2]), np.empty(4, np.int64)
    runs = np.empty(4, np.int64)
    sort = counting_sort.py_func
    assert sort(index, runs, order) == -1
    assert runs.tolist() == [0, 1, 3, 4]
    assert order.tolist() == [1, 0, 2, 3]
    assert sort(np.array([0, 3]), runs, order) == 1
    assert sort(np.array([-1, 0]), runs, order) == 0


@pytest.mark.backends
def test_triton_kernels_in_triton_s_interpreter() -> None:
    """The kernels' arithmetic on a machine without a GPU; tests/gpu runs them compiled."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    program = textwrap.dedent("""
        import torch
        from lifting.backends import torch_csr, triton_csr
        generator = torch.Generator().manual_seed(0)
        length = torch.tensor([0, 3, 1, 0, 5, 0])
        crow = torch.cat([torch.zeros(1, dtype=torch.int64), length.cumsum(0)])
        col = torch.randint(0, 7, (9,), generator=generator)
        for dtype in (torch.float32, torch.float64):
            for channels in (0, 1, 3, 37, 512, 1000):
                weight = torch.randn(9, dtype=dtype, generator=generator)
                features = torch.randn(channels, 7, dtype=dtype, generator=generator).T
                grad = torch.randn(6, channels, dtype=dtype, generator=generator)
                for name, inputs in (
                    ("csr_product", (crow, col, weight, features)),
                    ("entry_dots", (crow, col, grad, features)),
                ):
                    ours = getattr(triton_csr, name)(*inputs)
                    torch.testing.assert_close(ours, getattr(torch_csr, name)(*inputs))
    """)
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=ROOT,
        check=True,
    )
