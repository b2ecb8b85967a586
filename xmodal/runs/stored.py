"""Stored features as values of the graph, read from their files when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from xmodal.store import Features, LazyRows
from xmodal.values import Points


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredPoints(Points):
    """Points whose rows lie in a store and are decoded where a tensor of numbers indexes them."""

    # Training reads a few thousand rows a step and nothing else of them.
    rows: LazyRows  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]


def stored_points(features: Features, cloud: Points) -> Points:
    """A cloud with stored rows; they stay in their file until they are read.

    Args:
        features: The store; `fp16` rows are a tensor over the mapped file, those of other codecs
            are decoded row by row.
        cloud: The points that they belong to.
    """
    known = replace(
        cloud,
        valid=torch.from_numpy(np.array(features.valid)),
        weight=torch.from_numpy(np.array(features.weight)),
        num_views=torch.from_numpy(np.array(features.num_views)).long(),
        disagreement=torch.from_numpy(np.array(features.disagreement)),
        segments=None
        if features.segments is None
        else torch.from_numpy(np.array(features.segments)).long(),
    )
    if features.info.codec == "fp16":
        return replace(known, rows=features.tensor())
    given = {f.name: getattr(known, f.name) for f in fields(Points) if f.name != "rows"}
    return StoredPoints(**given, rows=features.lazy())
