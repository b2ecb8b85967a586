"""Classification of whole samples: accuracy, average precision, calibration, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from xmodal.evaluate.calibration import reliability
from xmodal.evaluate.intervals import interval, resampled, scene_draws
from xmodal.evaluate.ranking import average_precision_per_class

Reals = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Classified:
    """How well samples were told apart.

    Attributes:
        accuracy: Share that is right, with its interval.
        balanced: Mean over the classes that occur of the share of each that is right, with its
            interval.
        mean_ap: Mean over the classes that occur of the average precision.
        calibration_error: Gap of confidence and accuracy (15 bins); NaN where scores are no
            probabilities.
        confusion: Rows are the truth, columns the answers; the last one is no answer.
        ap: Average precision of each class, NaN for classes that do not occur.
        unit: What the intervals are resampled over.
    """

    accuracy: tuple[float, float, float]
    balanced: tuple[float, float, float]
    mean_ap: float
    calibration_error: float
    confusion: Int64[Ids, "K K1"]
    ap: Float64[Reals, " K"]
    unit: str

    @property
    def recall(self) -> Float64[Reals, " K"]:
        """Share of each class that is right; NaN for classes that do not occur."""
        total = self.confusion.sum(1)
        return np.where(total > 0, self.confusion.diagonal() / np.maximum(total, 1), np.nan)

    @property
    def precision(self) -> Float64[Reals, " K"]:
        """Share of the answers of each class that is right; NaN where it is never answered."""
        total = self.confusion.sum(0)[:-1]
        return np.where(total > 0, self.confusion.diagonal() / np.maximum(total, 1), np.nan)


def classify(
    scores: Float64[Reals, "N K"],
    truth: Int64[Ids, " N"],
    groups: Sequence[str],
    *,
    probabilities: bool = True,
    seed: int = 0,
) -> Classified:
    """Judge scores of samples.

    Intervals come from resampling groups (subjects, folds); of one group alone its samples are
    resampled, which says nothing of other groups.

    Args:
        scores: One column for each class; the largest is the answer. A row of NaN (nothing was
            observed) is wrong.
        truth: Class of each sample.
        groups: What a sample shares with others.
        probabilities: Whether scores are probabilities, so that calibration means something.
        seed: Of the resampling.

    Raises:
        ValueError: If there are no samples.
    """
    num, num_classes = scores.shape
    if num == 0:
        raise ValueError("classification needs at least one sample")
    known = np.isfinite(scores).all(1)
    # What is not observed is answered with a column of its own, so that it is wrong.
    answer = np.where(known, np.where(known[:, None], scores, 0.0).argmax(1), num_classes)
    units = sorted(set(groups))
    unit_of = [units.index(group) for group in groups] if len(units) > 1 else range(num)
    tables = np.zeros((max(len(units) if len(units) > 1 else num, 1), num_classes, num_classes + 1))
    np.add.at(tables, (np.array(list(unit_of)), truth, answer), 1.0)
    draws = resampled(tables, _measures, scene_draws(len(tables), seed=seed))
    low, high = interval(draws)
    whole = _measures(tables.sum(0)[None])[0]
    ap = average_precision_per_class(scores, truth)
    occurs = np.bincount(truth, minlength=num_classes) > 0
    found = reliability(
        np.where(known, scores.max(1), np.nan) if probabilities else np.full(num, np.nan),
        answer == truth,
    )
    return Classified(
        accuracy=(float(whole[0]), float(low[0]), float(high[0])),
        balanced=(float(whole[1]), float(low[1]), float(high[1])),
        mean_ap=float(ap[occurs].mean()),
        calibration_error=float(found.error),
        confusion=tables.sum(0).astype(np.int64),
        ap=np.where(occurs, ap, np.nan),
        unit="groups" if len(units) > 1 else "recordings",
    )


def _measures(totals: NDArray[Any]) -> Float64[Reals, "r 2"]:
    """Accuracy and balanced accuracy of totals of confusion tables."""
    diagonal = np.diagonal(totals[:, :, : totals.shape[1]], axis1=1, axis2=2)
    of_class = totals.sum(2)
    accuracy = diagonal.sum(1) / np.maximum(of_class.sum(1), 1)
    recall = np.where(of_class > 0, diagonal / np.maximum(of_class, 1), np.nan)
    return np.stack([accuracy, np.nanmean(recall, axis=1)], axis=1)
