"""Dense maps of samples: depths and classes of cells, with intervals over groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray

from xmodal.evaluate.intervals import interval, resampled, scene_draws

Reals = NDArray[np.float64]
Ids = NDArray[np.int64]
Interval = tuple[float, float, float]

# A depth is near enough within this factor.
_FACTOR = 1.25


def depth_errors(
    given: Float64[Reals, "S N"],
    truth: Float64[Reals, "S N"],
    known: Bool[NDArray[np.bool_], "S N"],
    groups: Sequence[str],
) -> tuple[Interval, Interval, Interval]:
    """Root mean square error, mean relative error, and share within a factor of 1.25.

    Args:
        given: Depths as answered, metres; what is not above 0 is within no factor.
        truth: Depths, metres.
        known: Cells that count; others may hold anything.
        groups: Group of each sample; intervals are over groups, or samples of one alone.

    Source:
        Eigen, Puhrsch and Fergus, Depth Map Prediction from a Single Image, NeurIPS 2014.
    """
    known = known & (truth > 0)
    safe = np.where(known, truth, 1.0)
    answer = np.where(known, given, 1.0)
    ratio = np.maximum(answer, 1e-12) / safe
    near = (np.maximum(ratio, 1 / ratio) < _FACTOR) & known
    parts = np.stack(
        [
            np.where(known, (answer - safe) ** 2, 0.0).sum(1),
            np.where(known, np.abs(answer - safe) / safe, 0.0).sum(1),
            near.sum(1).astype(np.float64),
            known.sum(1).astype(np.float64),
        ],
        axis=1,
    )

    def measures(total: NDArray[Any]) -> Float64[Reals, "r 3"]:
        count = np.where(total[:, 3] > 0, total[:, 3], np.nan)
        return np.stack([np.sqrt(total[:, 0] / count), *(total[:, 1:3] / count[:, None]).T], axis=1)

    first, second, third = _with_intervals(_by_group(parts, groups), measures)
    return first, second, third


def cell_classes(
    given: Int64[Ids, "S N"],
    truth: Int64[Ids, "S N"],
    known: Bool[NDArray[np.bool_], "S N"],
    groups: Sequence[str],
    num_classes: int,
) -> tuple[Interval, Interval, Float64[Reals, " K"]]:
    """Accuracy and mean IoU over the classes that occur, and the IoU of each.

    Args:
        given: Class of each cell as answered; below 0 for no answer, which is wrong.
        truth: Class of each cell.
        known: Cells that count.
        groups: Group of each sample.
        num_classes: Number of classes.
    """
    tables = class_tables(given, truth, known, num_classes)

    def measures(total: NDArray[Any]) -> Float64[Reals, "r 2"]:
        hit = np.diagonal(total, axis1=1, axis2=2)
        return np.stack([hit.sum(1) / np.maximum(total.sum((1, 2)), 1), mean_iou(total)], axis=1)

    accuracy, mean = _with_intervals(_by_group(tables, groups), measures)
    return accuracy, mean, _iou(tables.sum(0)[None])[0]


def class_tables(
    given: Int64[Ids, "S N"],
    truth: Int64[Ids, "S N"],
    known: Bool[NDArray[np.bool_], "S N"],
    num_classes: int,
) -> Float64[Reals, "S K K1"]:
    """Cells of each sample by class (rows) and answer (columns); the last column is no answer.

    Arguments are those of `cell_classes`.
    """
    tables = np.zeros((len(given), num_classes, num_classes + 1))
    sample = np.broadcast_to(np.arange(len(given))[:, None], given.shape)
    answer = np.where(given < 0, num_classes, given)
    np.add.at(tables, (sample[known], truth[known], answer[known]), 1.0)
    return tables


def mean_iou(tables: Float64[Reals, "R K K1"]) -> Float64[Reals, " R"]:
    """Mean over the classes that occur, of each table as `class_tables` makes them; else NaN."""
    return _mean(_iou(tables))


def _iou(total: NDArray[Any]) -> NDArray[Any]:
    """IoU of each class, NaN for those that do not occur."""
    hit = np.diagonal(total, axis1=1, axis2=2)
    union = total[:, :, :-1].sum(1) + total.sum(2) - hit
    return np.where(total.sum(2) > 0, hit / np.maximum(union, 1), np.nan)


def _mean(values: NDArray[Any]) -> NDArray[Any]:
    known = np.isfinite(values)
    count = known.sum(1)
    return np.where(count > 0, np.where(known, values, 0.0).sum(1) / np.maximum(count, 1), np.nan)


def _by_group(parts: NDArray[Any], groups: Sequence[str]) -> NDArray[Any]:
    names = sorted(set(groups))
    if len(names) < 2:
        return parts
    found = np.zeros((len(names), *parts.shape[1:]))
    np.add.at(found, np.array([names.index(group) for group in groups]), parts)
    return found


def _with_intervals(tables: NDArray[Any], measures: Any) -> list[Interval]:
    whole = measures(tables.sum(0)[None])[0]
    low, high = interval(resampled(tables, measures, scene_draws(len(tables))))
    return [(float(a), float(b), float(c)) for a, b, c in zip(whole, low, high, strict=True)]
