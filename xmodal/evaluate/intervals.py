"""Bootstrap intervals: over objects or pairs of one scene, and over whole scenes.

Points of one scene are not independent, so with several scenes whole scenes are drawn, their
confusion matrices are added up, and every measure is computed again from the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, Shaped
from numpy.typing import NDArray

from xmodal.evaluate.segmentation import Ids, Reals

RESAMPLES = 2000
LEVEL = 0.95
# Confusion matrices of 200 classes: 20 MB of totals at a time.
_AT_ONCE = 64


def bootstrap(
    values: Float64[Reals, " M"], *, seed: int = 0, level: float = LEVEL
) -> tuple[float, float, float]:
    """Mean and its percentile bootstrap interval over the rows; NaN entries do not count."""
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return float("nan"), float("nan"), float("nan")
    draw = np.random.default_rng(seed).integers(0, len(known), (RESAMPLES, len(known)))
    low, high = interval(known[draw].mean(1)[:, None], level=level)
    return float(known.mean()), float(low[0]), float(high[0])


def scene_draws(num_scenes: int, *, seed: int = 0, resamples: int = RESAMPLES) -> Int64[Ids, "R S"]:
    """How often each scene is in each resample of as many scenes, drawn with replacement."""
    draw = np.random.default_rng(seed).integers(0, num_scenes, (resamples, num_scenes))
    counts = [np.bincount(row, minlength=num_scenes) for row in draw]
    return np.array(counts, dtype=np.int64).reshape(resamples, num_scenes)


def resampled(
    tables: Shaped[NDArray[Any], "S ..."],
    measure: Callable[[NDArray[Any]], Float64[Reals, "r V"]],
    draws: Int64[Ids, "R S"],
) -> Float64[Reals, "R V"]:
    """A measure of the total of each resample's scenes.

    Args:
        tables: What is added up, one entry a scene: confusion matrices, or counts.
        measure: From some totals, one entry a resample, to any number of values of each.
        draws: From `scene_draws`; the same draws for two systems make their difference a paired
            one: `resampled(a) - resampled(b)`.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13.
    """
    blocks = range(0, len(draws), _AT_ONCE)
    totals = (np.tensordot(draws[i : i + _AT_ONCE], tables, axes=1) for i in blocks)
    return np.concatenate([measure(total) for total in totals])


def interval(
    samples: Float64[Reals, "R V"], *, level: float = LEVEL
) -> tuple[Float64[Reals, " V"], Float64[Reals, " V"]]:
    """Percentile interval of every column; NaN samples do not count, NaN where all are."""
    ends = np.full((2, samples.shape[1]), np.nan)
    for column in range(samples.shape[1]):
        known = samples[np.isfinite(samples[:, column]), column]
        if len(known):
            ends[:, column] = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return ends[0], ends[1]
