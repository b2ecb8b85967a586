"""Average precision: of points by their scores, and of whole instances by their masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from numpy.typing import NDArray

from xmodal.evaluate.segmentation import UNKNOWN, Ids, Reals


def average_precision(
    scores: Float[NDArray[np.floating[Any]], " N"], positive: Bool[NDArray[np.bool_], " N"]
) -> float:
    """Area under the precision-recall steps; equal scores count as one step.

    Points without a score (NaN) come last: what was not observed was not found. NaN when nothing
    is positive.

    Source:
        Manning et al., Introduction to Information Retrieval, 2008, section 8.4.
    """
    total = int(positive.sum())
    if total == 0:
        return float("nan")
    value = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-value, kind="stable")
    ranked, hit = value[order], positive[order]
    found = np.cumsum(hit)
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    recall = found[ends] / total
    precision = found[ends] / (ends + 1)
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def average_precision_per_class(
    scores: Float[NDArray[np.floating[Any]], "N K"], truth: Int64[Ids, " N"]
) -> Float64[Reals, " K"]:
    """Point-wise average precision of each named class against all other points that count."""
    known = truth != UNKNOWN
    ranked, wanted = scores[known], truth[known]
    return np.array(
        [average_precision(ranked[:, k], wanted == k) for k in range(scores.shape[1])],
        dtype=np.float64,
    )


@dataclass(frozen=True, eq=False)
class InstanceHits:
    """Predicted instances of one class in one scene, judged.

    Attributes:
        scores: Score of each prediction.
        hit: Whether it is the best match of a true instance that no better prediction took.
        num_truth: True instances.
    """

    scores: Float64[Reals, " P"]
    hit: Bool[NDArray[np.bool_], " P"]
    num_truth: int


def instance_hits(
    masks: Bool[NDArray[np.bool_], "P N"],
    scores: Float64[Reals, " P"],
    truth: Bool[NDArray[np.bool_], "T N"],
    *,
    iou: float,
) -> InstanceHits:
    """Match predicted masks to true ones, best score first; each true one is taken at most once.

    Args:
        masks: Points of every predicted instance of one class.
        scores: Its scores.
        truth: Points of every true instance of that class.
        iou: Least overlap of a match, for instance 0.25 or 0.5.

    Source:
        Everingham et al., PASCAL VOC, IJCV 2010, section 4.2, on points instead of boxes; the
        thresholds are those of Dai et al., ScanNet, CVPR 2017.
    """
    shared = masks.astype(np.float64) @ truth.astype(np.float64).T
    union = masks.sum(1)[:, None] + truth.sum(1)[None] - shared
    overlap = np.where(union > 0, shared / np.maximum(union, 1), 0.0)
    hit = np.zeros(len(masks), dtype=np.bool_)
    for index in np.argsort(-scores, kind="stable"):
        if not overlap.shape[1]:
            break
        best = int(overlap[index].argmax())
        if overlap[index, best] >= iou:
            hit[index] = True
            overlap[:, best] = -1.0
    return InstanceHits(scores, hit, len(truth))


def instance_average_precision(parts: Sequence[InstanceHits]) -> float:
    """Average precision of one class over scenes, precision made monotone; NaN without truth.

    Source:
        Everingham et al., PASCAL VOC, IJCV 2010, section 4.2 (area under the envelope).
    """
    total = sum(part.num_truth for part in parts)
    if total == 0:
        return float("nan")
    scores = np.concatenate([part.scores for part in parts])
    hit = np.concatenate([part.hit for part in parts])[np.argsort(-scores, kind="stable")]
    if not len(hit):
        return 0.0
    found = np.cumsum(hit)
    precision = found / np.arange(1, len(hit) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((hit * envelope).sum() / total)
