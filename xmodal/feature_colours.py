"""Features as colours: their first three principal components as red, green and blue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xmodal.render import FloatImage
from xmodal.store import Features

# Rows that the components are found from: more change no colour.
_SAMPLE = 20_000
# Of the rows are darker, or brighter, than a colour can be: a few odd rows would grey all others.
_TAIL = 0.02
_MIDDLE = 0.5
_BLOCK = 16_384


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureColours:
    """One way of colouring features of one width: equal rows have equal colours in every picture.

    Attributes:
        mean: Of the rows that the components were found from.
        components: Red, green and blue: unit directions, the one of largest variance first.
            Where rows vary in two directions, blue is 0; in one, all three are that one.
        low: What is drawn as 0, along each component.
        high: What is drawn as 1. Where it is not above `low`, the colour is a half.
        unit: Rows are compared by direction: their length has no say in the colour.
    """

    mean: Float[Tensor, " C"]
    components: Float[Tensor, "C 3"]
    low: Float[Tensor, " 3"]
    high: Float[Tensor, " 3"]
    unit: bool = False

    def __call__(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "N 3"]:
        """Colours in [0, 1]; NaN for a row with anything that is not finite.

        Raises:
            ValueError: If the rows have another width.
        """
        if rows.shape[1] != len(self.mean):
            raise ValueError(
                f"colours were found for features of {len(self.mean)} channels, got rows of "
                f"{rows.shape[1]}"
            )
        rows = _directions(rows.float()) if self.unit else rows.float()
        known = rows.isfinite().all(1)
        along = (rows.where(known[:, None], self.mean) - self.mean) @ self.components
        width = self.high - self.low
        share = ((along - self.low) / width.where(width > 0, 1.0)).clamp(0.0, 1.0)
        share = share.where(width > 0, _MIDDLE)
        return share.where(known[:, None], torch.nan)


def feature_colours(rows: Float[Tensor, "N C"], *, unit: bool = False) -> FeatureColours:
    """Find colours for features of any width from some of their rows.

    The same rows always give the same colours: of the two directions of a component, the one with
    its largest entry above zero is taken. Where rows vary in one direction alone, as those of a
    single channel do, they are greys.

    Args:
        rows: Features; rows with anything that is not finite are left out.
        unit: Compare rows by direction.

    Raises:
        ValueError: If no row is left.

    Source:
        The usual picture of dense features, as in Oquab et al., DINOv2, 2023, figure 1.
    """
    kept = rows[rows.isfinite().all(1)].double()
    if not len(kept) or not rows.shape[1]:
        raise ValueError(f"colours need at least one finite row, got {list(rows.shape)}")
    kept = kept[:: max(1, len(kept) // _SAMPLE)]
    kept = _directions(kept) if unit else kept
    mean = kept.mean(0)
    centred = kept - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(kept))
    first = min(3, rows.shape[1])
    components = kept.new_zeros(rows.shape[1], 3)
    components[:, :first] = vectors.flip(1)[:, :first]
    largest = components.abs().argmax(0)
    components = components * components[largest, torch.arange(3)].sign()
    # What rounding leaves along a direction in which nothing varies is no colour.
    varies = torch.zeros(3, dtype=torch.bool)
    varies[:first] = values.flip(0)[:first] > 1e-10 * max(float(values[-1]), 1e-30)
    components = components * varies
    if int(varies.sum()) == 1:
        components = components[:, :1].expand(-1, 3)
    along = (centred @ components).sort(0).values
    last = len(along) - 1
    low, high = along[round(_TAIL * last)], along[round((1 - _TAIL) * last)]
    return FeatureColours(
        mean=mean.float(),
        components=components.float().contiguous(),
        low=low.float(),
        high=high.float(),
        unit=unit,
    )


def store_colours(features: Features) -> FeatureColours:
    """Find colours for the features of a store, from rows that were observed.

    Raises:
        ValueError: If none was.
    """
    seen = np.flatnonzero(np.asarray(features.valid))
    chosen = seen[:: max(1, len(seen) // _SAMPLE)]
    rows = torch.from_numpy(features.take(chosen))
    return feature_colours(rows, unit=features.info.space == "unit")


def coloured_store(features: Features, colours: FeatureColours) -> FloatImage:
    """Colours `[N, 3]` of all rows of a store, NaN where nothing was observed."""
    found = np.full((len(features.rows), 3), np.nan, dtype=np.float32)
    for part, rows in features.blocks(_BLOCK):
        found[part] = colours(torch.from_numpy(np.asarray(rows))).numpy()
    found[~np.asarray(features.valid)] = np.nan
    return found


def _directions(rows: Float[Tensor, "N C"]) -> Float[Tensor, "N C"]:
    """Rows of length 1; a row of zeros stays one."""
    return torch.nn.functional.normalize(rows, dim=1)
