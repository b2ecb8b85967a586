"""Answers and their counts: what one system says of points or pixels, against what is true."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy.typing import NDArray

from xmodal.evaluate.calibration import BINS, Reliability, class_reliability, reliability
from xmodal.evaluate.ranking import average_precision_per_class
from xmodal.evaluate.segmentation import OTHER, Ids, Reals, assign, confusion

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a system says of points or pixels.

    Attributes:
        ids: Index into the named classes, `OTHER` for none of them or not observed.
        scores: Score of every named class, NaN where not observed; None when only `ids` are given.
        other: Score of everything else.
    """

    ids: Int64[Ids, " N"]
    scores: Float32[Floats, "N K"] | None = None
    other: Float32[Floats, " N"] | None = None

    def at(self, index: Int64[Ids, " M"]) -> Answer:
        """The answers of chosen points; an index of -1 is a place where nothing was observed."""
        if not len(self.ids):
            return Answer(np.full(len(index), OTHER, dtype=np.int64))
        place, seen = np.maximum(index, 0), index >= 0
        ids = np.where(seen, self.ids[place], OTHER)
        if self.scores is None or self.other is None:
            return Answer(ids)
        scores = np.where(seen[:, None], self.scores[place], np.float32(np.nan))
        return Answer(ids, scores, np.where(seen, self.other[place], np.float32(np.nan)))


def answer(scores: Float32[Floats, "N T"], num_names: int, *, floor: float = 0.0) -> Answer:
    """Answers from scores of the named classes, followed by those of what stands for "other".

    Args:
        scores: NaN in rows that were not observed.
        num_names: Columns of named classes.
        floor: A class must score more than this to be chosen.
    """
    named, rest = scores[:, :num_names], scores[:, num_names:]
    other = rest.max(1, initial=floor).astype(np.float32)
    return Answer(assign(named, other), named, other)


def most_confident(first: Answer, second: Answer) -> Answer:
    """For every point the answer of whichever of the two has the higher best score.

    Source:
        Peng et al., OpenScene, CVPR 2023, section 3.3 (2D-3D ensemble).
    """
    a, b = _confidence(first), _confidence(second)
    take = np.nan_to_num(b, nan=-np.inf) > np.nan_to_num(a, nan=-np.inf)
    assert first.scores is not None and first.other is not None
    assert second.scores is not None and second.other is not None
    return Answer(
        np.where(take, second.ids, first.ids),
        np.where(take[:, None], second.scores, first.scores),
        np.where(take, second.other, first.other),
    )


def _confidence(given: Answer) -> Floats:
    """Score of the answer that was chosen; NaN where nothing was observed."""
    assert given.scores is not None and given.other is not None
    return np.maximum(given.scores.max(1, initial=-np.inf), given.other)


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts of one system in one scene; counts of several views or scenes add up.

    Attributes:
        confusion: Truth x answer, "other" last.
        reliability: Answers by the score of what was answered.
        by_class: All points by their score for each class.
        precision: Average precision of each class within the scene; NaN where undefined.
    """

    confusion: Int64[Ids, "K1 K1"]
    reliability: Reliability
    by_class: Reliability
    precision: Float64[Reals, " K"]

    def __add__(self, other: Tally) -> Tally:
        return replace(
            self,
            confusion=self.confusion + other.confusion,
            reliability=self.reliability + other.reliability,
            by_class=self.by_class + other.by_class,
            precision=np.full_like(self.precision, np.nan),
        )


def no_tally(num_classes: int) -> Tally:
    """A tally of nothing."""
    size = num_classes + 1
    none = np.zeros(BINS)
    per = np.zeros((num_classes, BINS))
    return Tally(
        np.zeros((size, size), dtype=np.int64),
        Reliability(none, none, none),
        Reliability(per, per, per),
        np.full(num_classes, np.nan),
    )


def tally(
    given: Answer, truth: Int64[Ids, " N"], num_classes: int, *, ranked: bool = True
) -> Tally:
    """Count answers against the truth.

    Args:
        given: The answers.
        truth: Index into the named classes, `OTHER`, or `UNKNOWN` for what does not count.
        num_classes: Named classes.
        ranked: Whether to compute average precision, which costs a sort for each class.
    """
    made = replace(no_tally(num_classes), confusion=confusion(given.ids, truth, num_classes))
    if given.scores is None or not num_classes:
        return made
    if ranked:
        made = replace(made, precision=average_precision_per_class(given.scores, truth))
    known = given.scores[np.isfinite(given.scores)]
    if len(known) and (known.min() < 0 or known.max() > 1 + 1e-6):
        return made  # cosines or logits: no probabilities, so nothing to calibrate
    counts = truth >= OTHER
    sure = np.where(counts, _confidence(given), np.nan)
    return replace(
        made,
        reliability=reliability(sure, given.ids == truth),
        by_class=class_reliability(given.scores, truth),
    )
