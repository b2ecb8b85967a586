"""Measures: 3D IoU over named objects, localisation of texts in frames, intervals, tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xmodal.atomic import write_text

Box = tuple[float, float, float, float]
OTHER = -1
UNKNOWN = -2

_RESAMPLES = 2000


# ---- segmentation ------------------------------------------------------------------------------


def confusion(
    predicted: npt.NDArray[np.int64], truth: npt.NDArray[np.int64], num_classes: int
) -> npt.NDArray[np.int64]:
    """Confusion matrix `[K + 1, K + 1]` (truth x prediction); the last index is "other".

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


def iou_per_class(table: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Intersection over union of each named class, NaN where it neither occurs nor is predicted."""
    hit = np.diag(table).astype(np.float64)
    union = table.sum(0) + table.sum(1) - hit
    return np.where(union > 0, hit / np.maximum(union, 1), np.nan)[:-1]


def accuracy_per_class(table: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Recall of each named class, NaN where it does not occur."""
    total = table.sum(1).astype(np.float64)
    return np.where(total > 0, np.diag(table) / np.maximum(total, 1), np.nan)[:-1]


def assign(
    scores: npt.NDArray[np.float32], other: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """Arg-max over the named classes plus "other"; a point that was not observed is "other".

    Args:
        scores: Relevancy `[N, K]`, NaN where not observed.
        other: Relevancy `[N]` of everything that is not named.
    """
    seen = np.isfinite(scores).all(1)
    filled = np.where(seen[:, None], scores, 0)
    best = filled.argmax(1)
    wins = seen & (filled[np.arange(len(filled)), best] > np.nan_to_num(other))
    return np.where(wins, best, OTHER)


# ---- localisation ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Hit:
    """Whether the pixel of highest relevancy lies where it should.

    Attributes:
        plain: It is inside one of the query's boxes.
        strict: And not inside a smaller box of another labelled object.
    """

    plain: bool
    strict: bool


def localise(
    peak: tuple[float, float] | None, text: str, boxes: Mapping[str, Sequence[Box]]
) -> Hit:
    """Judge one frame-query pair.

    Args:
        peak: Pixel (u, v) of highest relevancy, None when nothing was observed.
        text: The query.
        boxes: Boxes x0, y0, x1, y1 of every labelled text of the frame, pixels.

    Source:
        Kerr et al., LERF, ICCV 2023, section 4.2 (localisation accuracy).
    """
    if peak is None:
        return Hit(plain=False, strict=False)
    inside = [_area(box) for box in boxes[text] if _contains(box, peak)]
    if not inside:
        return Hit(plain=False, strict=False)
    covered = any(
        _contains(box, peak) and _area(box) < min(inside)
        for other, others in boxes.items()
        if other != text
        for box in others
    )
    return Hit(plain=True, strict=not covered)


def _contains(box: Box, point: tuple[float, float]) -> bool:
    return box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


# ---- intervals ---------------------------------------------------------------------------------


def bootstrap(
    values: npt.NDArray[np.float64], *, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean and its percentile bootstrap interval over the rows; NaN entries do not count."""
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return float("nan"), float("nan"), float("nan")
    draw = np.random.default_rng(seed).integers(0, len(known), (_RESAMPLES, len(known)))
    means = known[draw].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(known.mean()), float(low), float(high)


# ---- tables ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A small table that prints, and writes itself as csv and markdown."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int, ...], ...]

    def text(self) -> str:
        """Aligned plain text."""
        cells = [list(self.columns), *[[_cell(value) for value in row] for row in self.rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([self.title, *("  " + line for line in lines)])

    def markdown(self) -> str:
        """A markdown table under its title."""
        head = "| " + " | ".join(self.columns) + " |"
        rule = "|" + "|".join(["---", *["---:"] * (len(self.columns) - 1)]) + "|"
        body = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in self.rows]
        return "\n".join([f"**{self.title}**", "", head, rule, *body]) + "\n"

    def csv(self) -> str:
        """Comma-separated text with a header."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([[_cell(value, digits=6) for value in row] for row in self.rows])
        return out.getvalue()

    def write(self, folder: Path, name: str) -> None:
        """Write NAME.csv and NAME.md."""
        write_text(folder / f"{name}.csv", self.csv())
        write_text(folder / f"{name}.md", self.markdown())


def _cell(value: str | float | int, digits: int = 3) -> str:
    if isinstance(value, float):
        return "-" if np.isnan(value) else f"{value:.{digits}f}"
    return str(value)
