"""From counts to tables: values, intervals over scenes or objects, differences of arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.typing import NDArray

from xmodal.evaluate.intervals import bootstrap, interval, resampled, scene_draws
from xmodal.evaluate.segmentation import (
    Ids,
    Reals,
    accuracy_per_class,
    frequency_weighted_iou,
    harmonic_iou,
    iou_of_occurring,
    iou_per_class,
    mean_known,
    overall_accuracy,
    silent_classes,
)
from xmodal.evaluate.tables import Table
from xmodal.runs.evaluate.tally import Tally

Row = tuple[str | float | int, ...]


@dataclass(frozen=True, eq=False)
class Results:
    """Counts of every arm in every scene, under one protocol.

    Attributes:
        protocol: `3d` (arg-max on points) or `2d` (rendered, arg-max on pixels).
        names: The named classes.
        scenes: Names of the scenes.
        base: Which names were seen in training; None when that is not asked.
        tallies: By arm, one entry a scene.
    """

    protocol: str
    names: tuple[str, ...]
    scenes: Sequence[str]
    base: Bool[NDArray[np.bool_], " K"] | None
    tallies: dict[str, list[Tally]]
    _samples: dict[str, Reals] = field(default_factory=dict[str, Reals], init=False, repr=False)

    def total(self, arm: str) -> Tally:
        """Counts over all scenes."""
        return reduce(lambda a, b: a + b, self.tallies[arm])

    def confusions(self, arm: str) -> Int64[Ids, "S K1 K1"]:
        """Confusion matrices of all scenes."""
        return np.stack([part.confusion for part in self.tallies[arm]])

    def samples(self, arm: str) -> Float64[Reals, "R V"]:
        """IoU per class, then the mean IoU, of resampled scenes; the same draws for every arm."""
        if arm not in self._samples:
            draws = scene_draws(len(self.scenes))
            self._samples[arm] = resampled(self.confusions(arm), _ious, draws)
        return self._samples[arm]

    def mean_iou(self, arm: str) -> tuple[float, float, float]:
        """Mean IoU and its interval, over scenes or, with one scene, over classes."""
        iou = iou_of_occurring(self.total(arm).confusion)
        if len(self.scenes) == 1:
            return bootstrap(iou)
        low, high = interval(self.samples(arm)[:, -1:])
        return mean_known(iou), float(low[0]), float(high[0])

    def class_intervals(self, arm: str) -> tuple[Reals, Reals]:
        """Interval of the IoU of every class; NaN with one scene, which cannot tell."""
        if len(self.scenes) == 1:
            none = np.full(len(self.names), np.nan)
            return none, none
        low, high = interval(self.samples(arm)[:, :-1])
        return low, high

    def precision(self, arm: str) -> Float64[Reals, " K"]:
        """Average precision of each class, the mean over the scenes where it is defined."""
        parts = np.stack([part.precision for part in self.tallies[arm]])
        return np.array([mean_known(column) for column in parts.T], dtype=np.float64)


def _ious(tables: Int64[Ids, "r K1 K1"]) -> Float64[Reals, "r V"]:
    """IoU per class, and the mean of those that are defined."""
    iou = iou_of_occurring(tables)
    known = np.isfinite(iou)
    count = known.sum(1, keepdims=True)
    mean = np.where(known, iou, 0).sum(1, keepdims=True) / np.maximum(count, 1)
    return np.concatenate([iou, np.where(count > 0, mean, np.nan)], axis=1)


def metrics_table(results: Results) -> Table:
    """Every class and the measures over all of them, a column for each arm."""
    arms = list(results.tallies)
    totals = {arm: results.total(arm) for arm in arms}
    iou = {arm: iou_per_class(totals[arm].confusion) for arm in arms}
    rows: list[Row] = [
        (name, *(float(iou[arm][i]) for arm in arms)) for i, name in enumerate(results.names)
    ]
    means = [results.mean_iou(arm) for arm in arms]
    for title, place in (("mean IoU", 0), ("95 % from", 1), ("95 % to", 2)):
        rows.append((title, *(mean[place] for mean in means)))
    tables = [totals[arm].confusion for arm in arms]
    rows.append(("mean accuracy", *(mean_known(accuracy_per_class(t)) for t in tables)))
    rows.append(("overall accuracy", *(overall_accuracy(t) for t in tables)))
    rows.append(("frequency-weighted IoU", *(frequency_weighted_iou(t) for t in tables)))
    rows.extend(_base_rows(results, tables))
    rows.append(("mean AP", *(mean_known(results.precision(arm)) for arm in arms)))
    errors = [float(totals[arm].reliability.error) for arm in arms]
    rows.append(("calibration error", *errors))
    by_class = [mean_known(totals[arm].by_class.error) for arm in arms]
    rows.append(("class-wise calibration error", *by_class))
    silent = [len(silent_classes(table, results.names)) for table in tables]
    rows.append(("objects with zero IoU", *silent))
    return Table(_title(results), ("object", *arms), tuple(rows))


def _base_rows(results: Results, tables: Sequence[Int64[Ids, "K1 K1"]]) -> list[Row]:
    if results.base is None:
        return []
    parts = [harmonic_iou(table, results.base) for table in tables]
    titles = ("base IoU", "novel IoU", "harmonic IoU")
    return [(title, *(part[i] for part in parts)) for i, title in enumerate(titles)]


def _title(results: Results) -> str:
    how = {"3d": "3D IoU", "2d": "2D IoU, rendered into labelled frames,"}[results.protocol]
    count = len(results.scenes)
    over = "objects" if count == 1 else f"{count} scenes"
    return (
        f"{how} per object ({len(results.names)} objects, arg-max over the list and 'other'; "
        f"intervals over {over})"
    )


def difference_table(results: Results) -> Table:
    """Mean IoU of each arm minus that of each earlier one, with the interval of the difference."""
    rows: list[Row] = []
    samples = {arm: _paired(results, arm) for arm in results.tallies}
    for first, second in combinations(results.tallies, 2):
        a, b = (
            mean_known(iou_of_occurring(results.total(arm).confusion)) for arm in (first, second)
        )
        low, high = interval(samples[second] - samples[first])
        sure = "yes" if low[0] > 0 or high[0] < 0 else "no"
        rows.append((f"{second} - {first}", b - a, float(low[0]), float(high[0]), sure))
    over = "classes" if len(results.scenes) == 1 else "scenes"
    title = f"Differences of mean IoU, {results.protocol}, paired over {over}"
    return Table(title, ("arms", "difference", "95 % from", "95 % to", "apart"), tuple(rows))


def _paired(results: Results, arm: str) -> Float64[Reals, "R 1"]:
    """Mean IoU of resamples that are the same for every arm."""
    if len(results.scenes) > 1:
        return results.samples(arm)[:, -1:]
    iou = iou_of_occurring(results.total(arm).confusion)
    known = np.isfinite(iou)
    draws = scene_draws(len(iou))
    total = draws @ np.where(known, iou, 0)
    count = draws @ known.astype(np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)[:, None]


def scene_table(results: Results) -> Table:
    """Mean IoU within every scene."""
    rows: list[Row] = []
    for place, name in enumerate(results.scenes):
        tables = [parts[place].confusion for parts in results.tallies.values()]
        rows.append((name, *(mean_known(iou_of_occurring(table)) for table in tables)))
    columns = ("scene", *results.tallies)
    return Table(f"Mean IoU within each scene, {results.protocol}", columns, tuple(rows))


def protocol_table(results: Mapping[str, Results]) -> Table:
    """Mean IoU of both protocols side by side."""
    first = next(iter(results.values()))
    rows: list[Row] = []
    for arm in first.tallies:
        cells: list[str | float] = [arm]
        for part in results.values():
            mean, low, high = part.mean_iou(arm)
            cells += [mean, f"{low:.3f}..{high:.3f}"]
        rows.append(tuple(cells))
    heads = [head for protocol in results for head in (f"{protocol} mean IoU", f"{protocol} 95 %")]
    return Table("Both protocols: on points and rendered", ("arm", *heads), tuple(rows))


def calibration_table(results: Results) -> Table:
    """Reliability: how often answers of each confidence are right. Empty bins are left out."""
    rows: list[Row] = []
    for arm in results.tallies:
        bins = results.total(arm).reliability
        size = len(bins.count)
        for i in np.flatnonzero(bins.count > 0):
            count = bins.count[i]
            span = f"{i / size:.2f}..{(i + 1) / size:.2f}"
            sure, right = float(bins.confidence[i] / count), float(bins.hits[i] / count)
            rows.append((arm, span, int(count), sure, right))
    columns = ("arm", "confidence", "answers", "mean confidence", "accuracy")
    return Table(f"Calibration, {results.protocol}", columns, tuple(rows))
