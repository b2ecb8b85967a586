"""Every backend of the sparse convolution against plain torch, and what each one refuses."""

from __future__ import annotations

import logging
import os

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from detectors import backends
from detectors.backends import BackendUnavailableError, resolve_backend, torch_conv
from detectors.backends.numba_grid import half_neighbours
from detectors.sparse_conv import SparseConv, sparse_conv
from detectors.sparse_grid import KernelMap, SparseGrid, half_by_search, sparse_grid
from detectors.sparse_unet import SparseUNet

SIDE = 14


def grid_of(num: int, *, samples: int = 2, low: int = -5) -> SparseGrid:
    generator = torch.Generator().manual_seed(num)
    flat = torch.randperm(samples * SIDE**3, generator=generator)[:num]
    sample, rest = flat // SIDE**3, flat % SIDE**3
    coords = torch.stack([rest // SIDE**2, rest // SIDE % SIDE, rest % SIDE], dim=1) + low
    return sparse_grid(coords, sample)[0]


def maps() -> dict[str, KernelMap]:
    # More rows than a block of targets, so that borders of blocks are crossed.
    grid = grid_of(1500)
    halve = grid.halved()[1]
    near, wide = grid.neighbours(), grid.neighbours(5)
    return {"near": near, "wide": wide, "down": halve, "up": halve.transpose()}


MAPS = maps()


def arm(backend: str, kernel: KernelMap, rows: Tensor, weight: Tensor) -> list[Tensor]:
    rows, weight = rows.detach().requires_grad_(), weight.detach().requires_grad_()
    out = sparse_conv(rows, weight, kernel, backend)  # pyright: ignore[reportArgumentType]
    slope = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
    (out * slope).sum().backward()
    assert rows.grad is not None
    assert weight.grad is not None
    return [out.detach(), rows.grad, weight.grad]


@pytest.mark.parametrize("kind", ["near", "wide", "down", "up"])
# Whole tiles, ends of tiles in every place, and rows narrower than a vector.
@pytest.mark.parametrize("widths", [(32, 48), (1, 1), (9, 32), (17, 40), (16, 7), (33, 19)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_register_tiles_equal_plain_torch(
    kind: str, widths: tuple[int, int], dtype: torch.dtype
) -> None:
    kernel = MAPS[kind]
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(widths[0], kernel.num_sources, generator=generator, dtype=dtype).T
    weight = torch.randn(len(kernel.counts), *widths, generator=generator, dtype=dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    for ours, reference in zip(
        arm("numba", kernel, rows, weight), arm("torch", kernel, rows, weight), strict=True
    ):
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=10 * tolerance)


def test_threads_do_not_change_a_bit() -> None:
    kernel, before = MAPS["near"], torch.get_num_threads()
    rows, weight = torch.randn(kernel.num_sources, 32), torch.randn(27, 32, 32)
    try:
        torch.set_num_threads(1)
        alone = arm("numba", kernel, rows, weight)
        torch.set_num_threads(2)
        shared = arm("numba", kernel, rows, weight)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


@pytest.mark.parametrize("wants", [(True, False), (False, True)])
def test_only_the_gradient_that_is_wanted_is_given(wants: tuple[bool, bool]) -> None:
    kernel = MAPS["down"]
    rows = torch.randn(kernel.num_sources, 3, requires_grad=wants[0])
    weight = torch.randn(8, 3, 2, requires_grad=wants[1])
    sparse_conv(rows, weight, kernel).sum().backward()
    assert ((rows.grad is not None), (weight.grad is not None)) == wants


@pytest.mark.parametrize("reach", [1, 2, 3])
@pytest.mark.parametrize("num", [1, 2, 300, 2 * SIDE**3])
def test_walking_finds_what_searching_finds(reach: int, num: int) -> None:
    cells = grid_of(num).cells
    low = cells.amin(dim=0)
    extent = cells.amax(dim=0) - low + 1 + reach
    strides = torch.tensor([int(extent[2] * extent[3]), int(extent[3]), 1])
    keys = (cells - low) @ torch.tensor([int(extent[1]) * int(strides[0]), *strides.tolist()])
    steps = torch.arange(-reach, reach + 1)
    rows = torch.cartesian_prod(steps, steps)[: len(steps) ** 2 // 2 + 1]
    walked = half_neighbours(keys, rows @ strides[:2], reach)
    for ours, found in zip(walked, half_by_search(keys, strides, reach), strict=True):
        assert torch.equal(ours[0], found[0])
        assert torch.equal(ours[1], found[1])


def test_pairs_rise_within_an_offset_as_the_blocks_rely_on() -> None:
    for kernel in MAPS.values():
        for rows in (kernel.sources, kernel.targets):
            assert rows.dtype == torch.int32
            assert all(bool((part.diff() > 0).all()) for part in rows.split(kernel.counts))
        assert kernel.starts.tolist()[-1] == kernel.num_pairs == len(kernel.sources)


def test_a_kernel_of_side_five_equals_a_dense_one() -> None:
    grid = grid_of(400, samples=1, low=0)
    rows = torch.randn(400, 3, dtype=torch.float64)
    weight = torch.randn(125, 3, 4, dtype=torch.float64)
    volume = rows.new_zeros(1, SIDE, SIDE, SIDE, 3).index_put(tuple(grid.cells.T), rows)
    dense = weight.unflatten(0, (5, 5, 5)).permute(4, 3, 0, 1, 2)
    peer = functional.conv3d(volume.permute(0, 4, 1, 2, 3), dense, padding=2)
    expected = peer.permute(0, 2, 3, 4, 1)[tuple(grid.cells.T)]
    torch.testing.assert_close(sparse_conv(rows, weight, grid.neighbours(5)), expected)


def test_a_kernel_of_side_one_is_a_linear_layer() -> None:
    kernel = grid_of(50).neighbours(1)
    rows, weight = torch.randn(50, 3), torch.randn(1, 3, 4)
    torch.testing.assert_close(sparse_conv(rows, weight, kernel), rows @ weight[0])


def test_half_precision_is_summed_in_single() -> None:
    kernel = MAPS["near"]
    rows, weight = torch.randn(kernel.num_sources, 8).half(), torch.randn(27, 8, 8)
    out = sparse_conv(rows, weight, kernel)
    assert out.dtype == torch.float16
    exact = sparse_conv(rows.float(), weight.half().float(), kernel)
    torch.testing.assert_close(out.float(), exact, rtol=4e-3, atol=2e-2)


def test_autocast_on_a_cpu_changes_nothing() -> None:
    kernel = MAPS["down"]
    rows, weight = torch.randn(kernel.num_sources, 8), torch.randn(8, 8, 8)
    expected = sparse_conv(rows, weight, kernel)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sparse_conv(rows, weight, kernel), expected)


def test_a_network_gives_the_same_by_every_backend() -> None:
    grid = grid_of(600, samples=1)
    inputs, sample = torch.randn(600, 4), torch.zeros(600).long()
    fast, plain = SparseUNet(4, 6, backend="numba"), SparseUNet(4, 6, backend="torch")
    plain.load_state_dict(fast.state_dict())
    a, b = (net(grid.cells[:, 1:], sample, inputs) for net in (fast, plain))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_auto_takes_the_tiles_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    backends._log_choice.cache_clear()
    with caplog.at_level(logging.INFO, logger="detectors.backends"):
        for _ in range(3):
            assert resolve_backend("auto", torch.device("cpu"), torch.float32) == "numba"
    assert caplog.text.count("runs on backend 'numba'") == 1
    assert resolve_backend("auto", torch.device("cpu"), torch.float16) == "torch"
    assert resolve_backend("auto", torch.device("mps"), torch.float32) == "torch"
    assert resolve_backend("torch", torch.device("cuda"), torch.float64) == "torch"


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="auto, torch, numba, spconv, got 'cudnn'"):
        resolve_backend("cudnn", torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        ("spconv", "cpu", torch.float32),
        ("numba", "cuda", torch.float32),
        ("numba", "cpu", torch.float16),
        ("spconv", "cuda", torch.float64),
        ("spconv", "cuda", torch.bfloat16),
    ],
)
def test_a_backend_is_refused_where_it_does_not_run(
    name: str, device: str, dtype: torch.dtype
) -> None:
    with pytest.raises(BackendUnavailableError, match="does not run in"):
        resolve_backend(name, torch.device(device), dtype)


@pytest.mark.skipif(torch.cuda.is_available(), reason="spconv may run here")
def test_spconv_without_cuda_is_refused_and_never_chosen() -> None:
    device = torch.device("cuda")
    with pytest.raises(BackendUnavailableError, match="install it with: pip install spconv-cu126"):
        resolve_backend("spconv", device, torch.float32)
    assert resolve_backend("auto", device, torch.float32) == "torch"
    assert backends.available_backends() == {"spconv": "no CUDA device"}


def test_a_layer_refuses_a_backend_that_does_not_run_here() -> None:
    layer = SparseConv(3, 4, 8, 4.0, backend="spconv")
    with pytest.raises(BackendUnavailableError, match="'spconv' does not run"):
        layer(torch.zeros(MAPS["down"].num_sources, 3), MAPS["down"])


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="odd side, not 4"):
        grid_of(10).neighbours(4)


def test_a_second_derivative_is_refused() -> None:
    rows = torch.randn(MAPS["down"].num_sources, 3, requires_grad=True)
    out = sparse_conv(rows, torch.randn(8, 3, 2, requires_grad=True), MAPS["down"])
    (slope,) = torch.autograd.grad(out.square().sum(), rows, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.backends
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of spconv's imports
@pytest.mark.skipif(os.environ.get("OMP_NUM_THREADS") != "1", reason="spconv is wrong on threads")
@pytest.mark.parametrize("kind", ["near", "wide", "down", "up"])
def test_spconv_takes_our_maps_and_weights(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layouts of maps, weights and gradients, by spconv's CPU build, which `auto` never uses."""
    ops = pytest.importorskip("spconv.pytorch.ops")
    from detectors.backends import spconv_conv

    # All that keeps the gradient from running on a CPU: it asks CUDA for a stream it does not use.
    monkeypatch.setattr(ops, "get_current_stream", lambda: 0)
    kernel = MAPS[kind]
    rows, weight = torch.randn(kernel.num_sources, 8), torch.randn(len(kernel.counts), 8, 12)
    expected = torch_conv.convolve(rows, weight, kernel)
    torch.testing.assert_close(spconv_conv.convolve(rows, weight, kernel), expected)
    grad = torch.randn_like(expected)
    both = (True, True)
    for ours, reference in zip(
        spconv_conv.gradients(rows, weight, grad, kernel, both),
        torch_conv.gradients(rows, weight, grad, kernel, both),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-3)


@pytest.mark.backends
def test_spconv_is_not_asked_about_no_pairs() -> None:
    from detectors.backends import spconv_conv

    none = torch.zeros(0, dtype=torch.int32)
    kernel = KernelMap(none, none, (0, 0), 3, 2)
    rows, weight = torch.ones(3, 4), torch.ones(2, 4, 5)
    assert spconv_conv.convolve(rows, weight, kernel).tolist() == [[0.0] * 5] * 2
    slopes = spconv_conv.gradients(rows, weight, torch.ones(2, 5), kernel, (True, True))
    assert [float(slope.abs().sum()) for slope in slopes if slope is not None] == [0.0, 0.0]
