"""Sparse convolution in plain torch: gather, multiply and add for each kernel offset.

The reference that every other backend is compared with. Within an offset every target occurs once,
so the sum is done in a fixed order on every device and runs repeat bit for bit.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from detectors.sparse_grid import KernelMap


def convolve(
    features: Float[Tensor, "S Ci"], weight: Float[Tensor, "K Ci Co"], kernel: KernelMap
) -> Float[Tensor, "T Co"]:
    """`out[t] = sum of features[s] @ weight[k]` over the pairs of all offsets."""
    out = features.new_zeros(kernel.num_targets, weight.shape[2], dtype=_sums(features))
    for offset, sources, targets in _groups(kernel):
        out.index_add_(0, targets, (features[sources] @ weight[offset]).to(out.dtype))
    return out.to(features.dtype)


def gradients(
    features: Float[Tensor, "S Ci"],
    weight: Float[Tensor, "K Ci Co"],
    grad: Float[Tensor, "T Co"],
    kernel: KernelMap,
    wants: tuple[bool, bool],
) -> tuple[Float[Tensor, "S Ci"] | None, Float[Tensor, "K Ci Co"] | None]:
    """Gradients of the features and of the weight, each if it is wanted."""
    grad_features = torch.zeros_like(features, dtype=_sums(features)) if wants[0] else None
    grad_weight = torch.zeros_like(weight) if wants[1] else None
    for offset, sources, targets in _groups(kernel):
        rows = grad[targets]
        if grad_features is not None:
            grad_features.index_add_(0, sources, (rows @ weight[offset].T).to(_sums(features)))
        if grad_weight is not None:
            grad_weight[offset] = features[sources].T @ rows
    back = grad_features if grad_features is None else grad_features.to(features.dtype)
    return back, grad_weight


def _sums(rows: Tensor) -> torch.dtype:
    """Type to add in: half precision would lose the small terms of many."""
    return torch.promote_types(rows.dtype, torch.float32)


def _groups(kernel: KernelMap) -> list[tuple[int, Tensor, Tensor]]:
    sources = kernel.sources.split(kernel.counts)
    targets = kernel.targets.split(kernel.counts)
    return [
        (offset, s, t) for offset, (s, t) in enumerate(zip(sources, targets, strict=True)) if len(s)
    ]
