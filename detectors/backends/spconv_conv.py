"""Sparse convolution on CUDA by spconv, over our own kernel maps.

spconv's native algorithm takes lists of pairs, one per offset, and an output of its own: the form
of every map here, so the sub-manifold, strided and transposed convolutions are one call with the
same weights as the reference, and no second hash table is built.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from detectors.sparse_grid import KernelMap


@cache
def _ops() -> Any:
    return import_module("spconv.pytorch.ops")


def pair_table(kernel: KernelMap) -> Int[Tensor, "2 K M"]:
    """Sources and targets of each offset in rows of equal length; behind the last pair is -1."""
    table = kernel.sources.new_full((2, len(kernel.counts), max(kernel.counts)), -1)
    parts = (kernel.sources.split(kernel.counts), kernel.targets.split(kernel.counts))
    for side, rows in zip(table, parts, strict=True):
        for row, part in zip(side, rows, strict=True):
            row[: len(part)] = part
    return table.int()


def convolve(
    features: Float[Tensor, "S Ci"], weight: Float[Tensor, "K Ci Co"], kernel: KernelMap
) -> Float[Tensor, "T Co"]:
    """`out[t] = sum of features[s] @ weight[k]` over the pairs of all offsets."""
    if not kernel.num_pairs:
        return features.new_zeros(kernel.num_targets, weight.shape[2])
    return _ops().indice_conv(
        features.contiguous(), _filters(weight), *_pairs(kernel), kernel.num_targets
    )


def gradients(
    features: Float[Tensor, "S Ci"],
    weight: Float[Tensor, "K Ci Co"],
    grad: Float[Tensor, "T Co"],
    kernel: KernelMap,
    wants: tuple[bool, bool],
) -> tuple[Float[Tensor, "S Ci"] | None, Float[Tensor, "K Ci Co"] | None]:
    """Gradients of the features and of the weight; spconv computes both at once."""
    if not kernel.num_pairs:
        return torch.zeros_like(features), torch.zeros_like(weight)
    grad_features, grad_filters = _ops().indice_conv_backward(
        features.contiguous(), _filters(weight), grad.contiguous(), *_pairs(kernel)
    )
    grad_weight = grad_filters.view(weight.shape[2], *weight.shape[:2]).permute(1, 2, 0)
    return (grad_features if wants[0] else None), (grad_weight if wants[1] else None)


def _filters(weight: Float[Tensor, "K Ci Co"]) -> Float[Tensor, "Co K Ci"]:
    """The layout of spconv from 2.2 on: output channels, the kernel, input channels."""
    return weight.permute(2, 0, 1).contiguous()


def _pairs(kernel: KernelMap) -> tuple[Tensor, Tensor]:
    """What spconv calls `indice_pairs` and `indice_pair_num`, kept with the map."""
    found = kernel.cache.get("spconv")
    if found is None:
        table = pair_table(kernel)
        counts = torch.tensor(kernel.counts, dtype=torch.int32, device=table.device)
        found = kernel.cache["spconv"] = (table, counts)
    return found
