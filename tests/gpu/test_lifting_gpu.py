"""Lifting on a CUDA device against the same call on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lifting.backends import csr_apply, resolve_backend
from lifting.completion import complete_knn
from lifting.points import estimate_normals, voxelize
from lifting.scatter import scatter_mean, scatter_sum, segment_max
from lifting.superpoints import superpoints

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def arm(
    backend: str, device: str, pattern: tuple[Tensor, Tensor], weight: Tensor, features: Tensor
) -> list[Tensor]:
    crow, col = (part.to(device) for part in pattern)
    weight = weight.to(device).detach().requires_grad_()
    features = features.to(device).detach().requires_grad_()
    product = csr_apply(crow, col, weight, features, backend)
    slope = torch.linspace(-1, 2, product.numel(), dtype=product.dtype, device=device)
    (product * slope.reshape(product.shape)).sum().backward()
    assert weight.grad is not None
    assert features.grad is not None
    return [part.detach().cpu() for part in (product, weight.grad, features.grad)]


def pattern(num_targets: int, num_sources: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(0, 6, (num_targets,), generator=generator)
    length[0] = length[-1] = 0
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), length.cumsum(0)])
    return crow, torch.randint(0, num_sources, (int(crow[-1]),), generator=generator)


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [0, 1, 3, 37, 512, 1000])
def test_product_parity_forward_and_backward(
    backend: str, dtype: torch.dtype, channels: int
) -> None:
    where = pattern(301, 97)
    weight = torch.randn(where[1].numel(), dtype=dtype)
    # Transposed memory: the kernels must not assume contiguous rows.
    features = torch.randn(channels, 97, dtype=dtype).T
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    for ours, reference in zip(
        arm(backend, "cuda", where, weight, features),
        arm("torch", "cpu", where, weight, features),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype: torch.dtype) -> None:
    crow = torch.tensor([0, 4096], device="cuda")
    col = torch.zeros(4096, dtype=torch.int64, device="cuda")
    features = torch.ones(1, 2, dtype=dtype, device="cuda")
    out = csr_apply(crow, col, torch.ones(4096, device="cuda"), features, "triton")
    assert out.dtype == dtype
    assert out.tolist() == [[4096.0, 4096.0]]


def test_triton_is_deterministic() -> None:
    crow, col = (part.cuda() for part in pattern(2000, 50))
    weight = torch.randn(col.numel(), device="cuda")
    features = torch.randn(50, 130, device="cuda", requires_grad=True)
    results: list[Tensor] = []
    for _ in range(3):
        features.grad = None
        csr_apply(crow, col, weight, features, "triton").square().sum().backward()
        assert features.grad is not None
        results.append(features.grad)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_auto_is_triton_and_numba_is_refused() -> None:
    assert resolve_backend("auto", "cuda") == "triton"
    with pytest.raises(RuntimeError, match="'numba' does not run on device 'cuda'"):
        resolve_backend("numba", "cuda")


def test_points_and_segments_agree_with_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(5000, 3, generator=generator)
    offsets = torch.tensor([0, 2000, 5000])
    cpu, gpu = voxelize(xyz, 0.05, offsets), voxelize(xyz.cuda(), 0.05, offsets.cuda())
    for name in ("index", "coords", "offsets"):
        assert torch.equal(getattr(cpu, name), getattr(gpu, name).cpu())
    rows = torch.randn(5000, 7, generator=generator)
    for reduce in (scatter_sum, scatter_mean):
        ours = reduce(rows.cuda(), gpu.index, gpu.num_voxels)
        torch.testing.assert_close(ours.cpu(), reduce(rows, cpu.index, cpu.num_voxels))
    top = segment_max(rows.cuda(), gpu.index, gpu.num_voxels)
    assert torch.equal(top.source.cpu(), segment_max(rows, cpu.index, cpu.num_voxels).source)
    torch.testing.assert_close(
        estimate_normals(xyz.cuda()).abs().cpu(), estimate_normals(xyz).abs()
    )
    flat = xyz * torch.tensor([1.0, 1.0, 0.0])
    assert torch.equal(superpoints(flat.cuda()).cpu(), superpoints(flat))
    valid = torch.rand(5000, generator=generator) < 0.5
    ours = complete_knn(xyz.cuda(), rows.cuda(), valid.cuda())
    reference = complete_knn(xyz, rows, valid)
    assert torch.equal(ours.filled.cpu(), reference.filled)
    torch.testing.assert_close(ours.rows.cpu(), reference.rows)
