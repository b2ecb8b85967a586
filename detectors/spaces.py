"""Spaces of feature rows."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Space = Literal["unit", "simplex", "raw"]


def to_space(rows: Float[Tensor, "M C"], space: Space) -> Float[Tensor, "M C"]:
    """Bring raw rows into a space: soft-max for `simplex`, length 1 for `unit`.

    A row of zeros stays zero in `unit`.
    """
    if space == "simplex":
        return rows.softmax(dim=1)
    return functional.normalize(rows, dim=1) if space == "unit" else rows
