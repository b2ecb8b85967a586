"""How far two teachers agree on what is alike, whatever their rows mean.

Rows of two teachers cannot be compared: they have other widths and other axes. What each of them
finds alike can: a point is described by its cosines to the same few anchor points, once in each
teacher's rows, and the two descriptions are correlated.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

# Enough that the correlation of two unrelated teachers is small (its deviation is 1 / sqrt(128)),
# and few enough that points x anchors is less than the rows themselves.
_ANCHORS = 128
_BLOCK = 16384


def agreement(
    first: Float[Tensor, "N C"],
    second: Float[Tensor, "N D"],
    valid: Bool[Tensor, " N"],
    *,
    num_anchors: int = _ANCHORS,
    seed: int = 0,
) -> Float[Tensor, " N"]:
    """Correlation over anchors of two teachers' cosines, below 0 taken as 0.

    Args:
        first: Rows of one teacher.
        second: Rows of another one, of the same points.
        valid: Points that both observed.
        num_anchors: How many of those are anchors; at least 3.
        seed: Which ones.

    Returns:
        In [0, 1]; 0 where not valid, and everywhere with fewer than three valid points.

    Raises:
        ValueError: If `num_anchors` is below 3.

    Source:
        Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, equation 1 (the
        similarities); the correlation as a weight is ours.
    """
    if num_anchors < 3:
        msg = f"a correlation needs at least 3 anchors, not {num_anchors}"
        raise ValueError(msg)
    out = first.new_zeros(len(first))
    rows = valid.nonzero().squeeze(1)
    if len(rows) < 3:
        return out
    generator = torch.Generator().manual_seed(seed)
    chosen = rows[torch.randperm(len(rows), generator=generator)[:num_anchors]]
    anchors = [functional.normalize(side[chosen].float(), dim=1) for side in (first, second)]
    means = [
        _cosines(side[chosen], a).mean(dim=0)
        for side, a in zip((first, second), anchors, strict=True)
    ]
    for block in rows.split(_BLOCK):
        parts = [
            functional.normalize(_cosines(side[block], a) - mean, dim=1)
            for side, a, mean in zip((first, second), anchors, means, strict=True)
        ]
        out[block] = (parts[0] * parts[1]).sum(dim=1).clamp(0, 1).to(out.dtype)
    return out


def _cosines(rows: Tensor, anchors: Tensor) -> Tensor:
    return functional.normalize(rows.float(), dim=1) @ anchors.T
