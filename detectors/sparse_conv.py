"""Sparse 3D convolutions over kernel maps: for each offset, the pairs that exist and one matrix.

A surface fills about a third of a 3x3x3 neighbourhood, so products over the pairs that exist beat
one large product over gathered neighbourhoods with holes. On a CPU they run in register tiles
(`detectors.backends.numba_conv`), on CUDA by spconv where it is installed, elsewhere in plain
torch; the weights are the same and so are the results, up to rounding. On a CPU the sum is done in
a fixed order whatever the number of threads, so runs repeat bit for bit.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detectors.backends import ConvBackend, implementation, resolve_backend
from detectors.sparse_grid import KernelMap


class _SparseConv(torch.autograd.Function):
    """`out[t] += features[s] @ weight[k]` over all pairs (s, t) of every offset k.

    The backward gathers again instead of keeping what was gathered: memory stays at the size of
    the features.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, kernel: KernelMap, backend: ModuleType
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.kernel, ctx.backend = kernel, backend
        return backend.convolve(features, weight, kernel)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator's doing
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        features, weight = ctx.saved_tensors
        wants = ctx.needs_input_grad[:2]
        found = ctx.backend.gradients(features, weight, grad, ctx.kernel, wants)
        return *found, None, None


def sparse_conv(
    features: Float[Tensor, "S Ci"],
    weight: Float[Tensor, "K Ci Co"],
    kernel: KernelMap,
    backend: ConvBackend = "auto",
) -> Float[Tensor, "T Co"]:
    """Convolve over the pairs of a kernel map; differentiable in features and weight (once).

    Args:
        features: One row per source cell. Under autocast on CUDA they are taken in its type.
        weight: One matrix per kernel offset, in the order of `kernel.counts`; taken in the type
            of the features.
        kernel: From `SparseGrid.neighbours`, `SparseGrid.halved` or its transpose.
        backend: `auto`, `torch`, `numba` (CPU) or `spconv` (CUDA).

    Raises:
        ValueError: If features or weight do not belong to the kernel map or to each other.
        BackendUnavailableError: If the backend cannot run here.

    Source:
        Choy et al., 4D Spatio-Temporal ConvNets, CVPR 2019, equation 3.
    """
    if len(features) != kernel.num_sources or len(weight) != len(kernel.counts):
        msg = (
            f"the kernel map is for {kernel.num_sources} rows and {len(kernel.counts)} offsets, "
            f"not {len(features)} rows and {len(weight)} offsets"
        )
        raise ValueError(msg)
    if features.shape[1] != weight.shape[1]:
        msg = f"the weight is for {weight.shape[1]} input channels, not {features.shape[1]}"
        raise ValueError(msg)
    kind = features.device.type
    if kind == "cuda" and torch.is_autocast_enabled(kind):
        features = features.to(torch.get_autocast_dtype(kind))
    chosen = implementation(resolve_backend(backend, features.device, features.dtype))
    weight = weight.to(features.dtype)
    with torch.autocast(kind, enabled=False):  # the types are settled
        return _SparseConv.apply(features, weight, kernel, chosen)  # pyright: ignore[reportReturnType]


class SparseConv(nn.Module):
    """A sparse convolution without bias (a normalisation follows).

    Args:
        in_channels: Width of the input rows.
        out_channels: Width of the output rows.
        num_offsets: Cells of the kernel: 27 for 3x3x3, 8 for 2x2x2.
        fan_offsets: How many of them an output meets on average; only sets the initial scale.
        backend: Who computes, see `sparse_conv`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_offsets: int,
        fan_offsets: float,
        backend: ConvBackend = "auto",
    ) -> None:
        super().__init__()
        self.backend: ConvBackend = backend
        self.weight = nn.Parameter(torch.empty(num_offsets, in_channels, out_channels))
        # He et al. 2015 for ReLU, with the fan of the offsets that are occupied on surfaces.
        nn.init.normal_(self.weight, std=math.sqrt(2.0 / (in_channels * fan_offsets)))

    def forward(self, features: Float[Tensor, "S Ci"], kernel: KernelMap) -> Float[Tensor, "T Co"]:
        """Convolve rows over the pairs of `kernel`."""
        return sparse_conv(features, self.weight, kernel, self.backend)
