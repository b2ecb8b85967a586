"""Calibration: is a confidence of 0.8 right eight times out of ten?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from numpy.typing import NDArray

from xmodal.evaluate.segmentation import UNKNOWN, Ids, Reals

BINS = 15


@dataclass(frozen=True, eq=False)
class Reliability:
    """Answers by confidence, in bins of equal width over [0, 1]; those of several scenes add up.

    Attributes:
        count: Answers in each bin.
        confidence: Sum of their confidences.
        hits: How many of them were right.
    """

    count: Float64[Reals, "*K B"]
    confidence: Float64[Reals, "*K B"]
    hits: Float64[Reals, "*K B"]

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(
            self.count + other.count, self.confidence + other.confidence, self.hits + other.hits
        )

    @property
    def error(self) -> Float64[Reals, "*K"]:
        """Expected calibration error: mean gap of confidence and accuracy, NaN without answers.

        Source:
            Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2.
        """
        total = self.count.sum(-1)
        gap = np.abs(self.confidence - self.hits).sum(-1)
        return np.asarray(np.where(total > 0, gap / np.maximum(total, 1), np.nan))


def reliability(
    confidence: Float[NDArray[np.floating[Any]], " N"],
    correct: Bool[NDArray[np.bool_], " N"],
    bins: int = BINS,
) -> Reliability:
    """Sort answers into bins by confidence; NaN confidences are no answers and do not count.

    Raises:
        ValueError: If a confidence lies outside [0, 1].
    """
    known = ~np.isnan(confidence)
    value, hit = confidence[known].astype(np.float64), correct[known].astype(np.float64)
    # Rounding of a soft-max may exceed one by a little.
    if len(value) and (value.min() < -1e-6 or value.max() > 1 + 1e-6):
        raise ValueError(
            f"confidences must lie in [0, 1], got {value.min():.3g} to {value.max():.3g}"
        )
    which = np.clip((value * bins).astype(np.int64), 0, bins - 1)
    sums = [np.bincount(which, w, minlength=bins) for w in (np.ones(len(value)), value, hit)]
    return Reliability(*(part.astype(np.float64) for part in sums))


def class_reliability(
    scores: Float[NDArray[np.floating[Any]], "N K"], truth: Int64[Ids, " N"], bins: int = BINS
) -> Reliability:
    """For each class, all points by their score for that class, against whether they belong to it.

    The mean of `error` over classes is the class-wise calibration error.

    Source:
        Kull et al., Beyond temperature scaling, NeurIPS 2019, section 2.
    """
    known = truth != UNKNOWN
    parts = [reliability(scores[known, k], truth[known] == k, bins) for k in range(scores.shape[1])]
    return Reliability(
        *(
            np.array([getattr(part, name) for part in parts]).reshape(-1, bins)
            for name in ("count", "confidence", "hits")
        )
    )
