"""Backends of the sparse product."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def csr_apply(
    crow: Tensor, col: Tensor, weight: Tensor, features: Tensor, backend: str = "auto"
) -> Tensor:
    """The product of a CSR matrix with dense rows."""
    return functional.embedding_bag(
        col,
        features,
        crow,
        mode="sum",
        per_sample_weights=weight,
        include_last_offset=True,
    )
