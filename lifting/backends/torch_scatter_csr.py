"""CSR product by the optional torch-scatter package."""

# The package is optional and has no types.
# pyright: reportMissingImports=false

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor
from torch_scatter import segment_csr

from lifting.backends.torch_csr import entry_dots

__all__ = ["csr_product", "entry_dots"]


def csr_product(
    crow: Int64[Tensor, " M1"],
    col: Int64[Tensor, " nnz"],
    weight: Float[Tensor, " nnz"],
    features: Float[Tensor, "S C"],
    *,
    out: Float[Tensor, "M C"] | None = None,
) -> Float[Tensor, "M C"]:
    """Segment sums of weighted, gathered rows; holds one row of features per entry.

    Args:
        crow: Row pointers.
        col: Source row of each entry.
        weight: Weight of each entry, same dtype as the features.
        features: Source rows.
        out: Where the result is copied to, if given.
    """
    gathered = features[col] * weight[:, None]
    result = segment_csr(gathered, crow, reduce="sum")
    return result if out is None else out.copy_(result)
