"""The reference: a CSR product in plain torch, on any device."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

from lifting.backends import entry_rows


def csr_product(
    crow: Int64[Tensor, " M1"],
    col: Int64[Tensor, " nnz"],
    weight: Float[Tensor, " nnz"],
    features: Float[Tensor, "S C"],
    *,
    out: Float[Tensor, "M C"] | None = None,
) -> Float[Tensor, "M C"]:
    """Weighted sum of gathered rows; torch's own autograd differentiates it.

    Args:
        crow: Row pointers.
        col: Source row of each entry.
        weight: Weight of each entry, same dtype as the features.
        features: Source rows.
        out: Where the result is copied to, if given.
    """
    num_targets = crow.numel() - 1
    if not num_targets or not col.numel() or not features.shape[1]:
        # `embedding_bag` refuses empty inputs. The sums over nothing keep the gradients defined.
        nothing = features[:0].sum() + weight[:0].sum()
        result = features.new_zeros(num_targets, features.shape[1]) + nothing
    else:
        result = embedding_bag(
            col,
            features.contiguous(),
            crow,
            mode="sum",
            per_sample_weights=weight.contiguous(),
            include_last_offset=True,
        )
    return result if out is None else out.copy_(result)


def entry_dots(
    crow: Int64[Tensor, " M1"],
    col: Int64[Tensor, " nnz"],
    a: Float[Tensor, "M C"],
    b: Float[Tensor, "S C"],
) -> Float[Tensor, " nnz"]:
    """<a[row], b[col]> for each entry: the gradient of a product in its weights.

    Args:
        crow: Row pointers.
        col: Source row of each entry.
        a: One row per target.
        b: One row per source.
    """
    row = entry_rows(crow, col.numel())
    # Pieces of 16 MB of float32: the gathered pairs are never all in memory at once.
    step = max(1, (1 << 22) // max(1, a.shape[1]))
    dots = torch.empty(col.numel(), dtype=a.dtype, device=a.device)
    for start in range(0, col.numel(), step):
        piece = slice(start, start + step)
        torch.sum(a[row[piece]] * b[col[piece]], dim=1, out=dots[piece])
    return dots
