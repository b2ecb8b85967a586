"""Segmentation: a confusion matrix of named classes and "other", and what follows from it.

What is undefined is NaN, never 0: a class that neither occurs nor is predicted has no IoU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from numpy.typing import NDArray

OTHER = -1
UNKNOWN = -2

Ids = NDArray[np.int64]
Reals = NDArray[np.float64]


def confusion(
    predicted: Int64[Ids, " N"], truth: Int64[Ids, " N"], num_classes: int
) -> Int64[Ids, "K1 K1"]:
    """Confusion matrix (truth x prediction); the last index is "other".

    Args:
        predicted: Class of each point, `OTHER` for none of them.
        truth: True class, `OTHER` for none of them, `UNKNOWN` for points that do not count.
        num_classes: K, the number of named classes.
    """
    known = truth != UNKNOWN
    last = num_classes
    wanted = np.where(truth[known] == OTHER, last, truth[known])
    given = np.where(predicted[known] == OTHER, last, predicted[known])
    size = num_classes + 1
    return np.bincount(wanted * size + given, minlength=size * size).reshape(size, size)


def iou_per_class(table: Int64[Ids, "*B K1 K1"]) -> Float64[Reals, "*B K"]:
    """Intersection over union of each named class, NaN where it neither occurs nor is predicted."""
    hit = np.diagonal(table, axis1=-2, axis2=-1).astype(np.float64)
    union = table.sum(-2) + table.sum(-1) - hit
    return np.where(union > 0, hit / np.maximum(union, 1), np.nan)[..., :-1]


def iou_of_occurring(table: Int64[Ids, "*B K1 K1"]) -> Float64[Reals, "*B K"]:
    """IoU of the classes that occur, NaN for the others: what a mean IoU is the mean of.

    A class that is answered where it does not occur costs the classes that do, and would else make
    the mean depend on how many names are asked for.

    Source:
        Peng et al., OpenScene, CVPR 2023, whose evaluation leaves out classes without a true point.
    """
    return np.where(table.sum(-1)[..., :-1] > 0, iou_per_class(table), np.nan)


def accuracy_per_class(table: Int64[Ids, "K1 K1"]) -> Float64[Reals, " K"]:
    """Recall of each named class, NaN where it does not occur."""
    total = table.sum(1).astype(np.float64)
    return np.where(total > 0, np.diag(table) / np.maximum(total, 1), np.nan)[:-1]


def mean_known(values: Float64[Reals, " K"]) -> float:
    """Mean of the entries that are defined; NaN if none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def overall_accuracy(table: Int64[Ids, "K1 K1"]) -> float:
    """Share of points with the right answer, "other" being one of the answers."""
    total = int(table.sum())
    return float(np.trace(table)) / total if total else float("nan")


def frequency_weighted_iou(table: Int64[Ids, "K1 K1"]) -> float:
    """IoU of the named classes, each weighted by the number of its true points.

    Source:
        Long et al., Fully Convolutional Networks, CVPR 2015, section 5.
    """
    count = table.sum(1)[:-1].astype(np.float64)
    if count.sum() == 0:
        return float("nan")
    return float((count * np.nan_to_num(iou_per_class(table))).sum() / count.sum())


def harmonic_iou(
    table: Int64[Ids, "K1 K1"], base: Bool[NDArray[np.bool_], " K"]
) -> tuple[float, float, float]:
    """Mean IoU of base classes, of novel classes, and the harmonic mean of the two (hIoU).

    Args:
        table: Confusion matrix.
        base: Which named classes were seen in training; the others are novel.

    Source:
        Ding et al., PLA, CVPR 2023, section 4.1 (after Xian et al., CVPR 2019).
    """
    iou = iou_of_occurring(table)
    seen, novel = mean_known(iou[base]), mean_known(iou[~base])
    if np.isnan(seen) or np.isnan(novel):
        return seen, novel, float("nan")
    both = seen + novel
    return seen, novel, 2 * seen * novel / both if both > 0 else 0.0


def silent_classes(table: Int64[Ids, "K1 K1"], names: Sequence[str]) -> tuple[str, ...]:
    """Names of the classes that occur and of which not one point was found."""
    occurs, hit = table.sum(1)[:-1] > 0, np.diag(table)[:-1]
    return tuple(names[int(i)] for i in np.flatnonzero(occurs & (hit == 0)))


def assign(
    scores: Float32[NDArray[np.float32], "N K"], other: Float32[NDArray[np.float32], " N"]
) -> Int64[Ids, " N"]:
    """Arg-max over the named classes plus "other"; a point that was not observed is "other".

    Args:
        scores: Relevancy, NaN where not observed.
        other: Relevancy of everything that is not named.
    """
    if scores.shape[1] == 0:
        return np.full(len(scores), OTHER, dtype=np.int64)
    seen = np.isfinite(scores).all(1)
    filled = np.where(seen[:, None], scores, 0)
    best = filled.argmax(1)
    wins = seen & (filled[np.arange(len(filled)), best] > np.nan_to_num(other, neginf=-np.inf))
    return np.where(wins, best, OTHER).astype(np.int64)
