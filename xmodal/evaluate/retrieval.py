"""Retrieval: is something right among the first K answers?"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray

from xmodal.evaluate.segmentation import Ids


def first_hit_rank(
    scores: Float[NDArray[np.floating[Any]], "Q G"], relevant: Bool[NDArray[np.bool_], "Q G"]
) -> Int64[Ids, " Q"]:
    """Rank, from 1, of the first right answer to each query; 0 for queries without one.

    Wrong answers come first among equal scores, so a constant score finds nothing. Answers without
    a score (NaN) come last.
    """
    value = np.where(np.isnan(scores), -np.inf, scores.astype(np.float64))
    best = np.where(relevant, value, -np.inf).max(1, initial=-np.inf)
    ahead = (~relevant & (value >= best[:, None])).sum(1)
    return np.where(relevant.any(1), ahead + 1, 0).astype(np.int64)


def recall_at(ranks: Int64[Ids, " Q"], k: int) -> float:
    """Share of the queries that have a right answer and find one among the first `k` (R@K).

    Raises:
        ValueError: If `k` is not positive.

    Source:
        Radford et al., CLIP, ICML 2021, section 3.1.2 (zero-shot retrieval, R@1 and R@5).
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    asked = ranks > 0
    return float((ranks[asked] <= k).mean()) if asked.any() else float("nan")
