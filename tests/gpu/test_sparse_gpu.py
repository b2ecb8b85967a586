"""Sparse convolutions on a CUDA device against the same call on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detectors.backends import ConvBackend, spconv_problem
from detectors.sparse_conv import sparse_conv
from detectors.sparse_grid import KernelMap, SparseGrid, sparse_grid
from detectors.sparse_unet import Size, SparseUNet

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SIDE, NUM = 24, 4000


@pytest.fixture(params=["torch", "spconv"])
def backend(request: pytest.FixtureRequest) -> ConvBackend:
    problem = spconv_problem() if request.param == "spconv" else None
    if problem is not None:
        pytest.skip(f"spconv: {problem}")
    return request.param


def cells() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randperm(2 * SIDE**3, generator=generator)[:NUM]
    sample, rest = flat // SIDE**3, flat % SIDE**3
    coords = torch.stack([rest // SIDE**2, rest // SIDE % SIDE, rest % SIDE], dim=1) - 7
    return coords, sample


def grid_on(device: str) -> SparseGrid:
    coords, sample = cells()
    return sparse_grid(coords.to(device), sample.to(device))[0]


def map_on(device: str, kind: str) -> KernelMap:
    grid = grid_on(device)
    if kind in ("near", "wide"):
        return grid.neighbours(3 if kind == "near" else 5)
    halve = grid.halved()[1]
    return halve if kind == "down" else halve.transpose()


def arm(backend: ConvBackend, device: str, kind: str, rows: Tensor, weight: Tensor) -> list[Tensor]:
    kernel = map_on(device, kind)
    rows = rows.to(device).detach().requires_grad_()
    weight = weight.to(device).detach().requires_grad_()
    out = sparse_conv(rows, weight, kernel, backend)
    slope = torch.linspace(-1, 2, out.numel(), device=device).reshape(out.shape)
    (out * slope).sum().backward()
    assert rows.grad is not None
    assert weight.grad is not None
    return [part.detach().cpu() for part in (out, rows.grad, weight.grad)]


@pytest.mark.parametrize("kind", ["near", "wide", "down", "up"])
def test_maps_are_the_same_on_both_devices(kind: str) -> None:
    ours, reference = map_on("cuda", kind), map_on("cpu", kind)
    assert ours.counts == reference.counts
    assert torch.equal(ours.sources.cpu(), reference.sources)
    assert torch.equal(ours.targets.cpu(), reference.targets)


@pytest.mark.parametrize("kind", ["near", "wide", "down", "up"])
@pytest.mark.parametrize("widths", [(32, 48), (9, 32), (3, 5)])
def test_parity_forward_and_backward(
    backend: ConvBackend, kind: str, widths: tuple[int, int]
) -> None:
    kernel = map_on("cpu", kind)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(widths[0], kernel.num_sources, generator=generator).T
    weight = torch.randn(len(kernel.counts), *widths, generator=generator)
    for ours, reference in zip(
        arm(backend, "cuda", kind, rows, weight),
        arm("torch", "cpu", kind, rows, weight),
        strict=True,
    ):
        # Sums of thousands of products in another order: relative to the largest.
        scale = float(reference.abs().max())
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("size", ["tiny", "published"])
def test_a_network_gives_the_same_on_both_devices(backend: ConvBackend, size: Size) -> None:
    torch.manual_seed(0)
    net = SparseUNet(4, 6, size)
    theirs = SparseUNet(4, 6, size, backend=backend).cuda()
    theirs.load_state_dict(net.state_dict())
    (coords, sample), inputs = cells(), torch.randn(NUM, 4)
    expected = net(coords, sample, inputs)
    found = theirs(coords.cuda(), sample.cuda(), inputs.cuda())
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)
    expected.square().mean().backward()
    found.square().mean().backward()
    for ours, reference in zip(theirs.parameters(), net.parameters(), strict=True):
        assert ours.grad is not None
        assert reference.grad is not None
        scale = float(reference.grad.abs().max())
        torch.testing.assert_close(ours.grad.cpu(), reference.grad, rtol=1e-2, atol=1e-3 * scale)


def test_autocast_computes_in_half_and_stays_close(backend: ConvBackend) -> None:
    kernel = map_on("cuda", "near")
    rows, weight = torch.randn(NUM, 16, device="cuda"), torch.randn(27, 16, 16, device="cuda")
    expected = sparse_conv(rows, weight, kernel, backend)
    rows.requires_grad_()
    with torch.autocast("cuda", dtype=torch.float16):
        out = sparse_conv(rows, weight, kernel, backend)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.float(), expected, rtol=1e-2, atol=0.2)
    out.float().sum().backward()
    assert rows.grad is not None
    assert rows.grad.dtype == torch.float32


def test_spconv_is_chosen_when_it_is_there() -> None:
    from detectors.backends import resolve_backend

    expected = "torch" if spconv_problem() else "spconv"
    assert resolve_backend("auto", torch.device("cuda"), torch.float32) == expected
