"""Unsupervised classes: k-means on features of super-points, matched to the true classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.superpoints import superpoints
from xmodal.errors import DataError
from xmodal.evaluate.intervals import bootstrap
from xmodal.evaluate.matching import (
    cluster_overlap,
    k_means,
    match_clusters,
    nearest,
    principal_axes,
)
from xmodal.evaluate.segmentation import (
    OTHER,
    UNKNOWN,
    Ids,
    accuracy_per_class,
    confusion,
    iou_per_class,
    mean_known,
    overall_accuracy,
)
from xmodal.evaluate.tables import Table
from xmodal.runs.evaluate.arms import stored_arms
from xmodal.runs.evaluate.request import EvalRequest
from xmodal.runs.evaluate.subject import Subject
from xmodal.runs.evaluate.truth import check_names, named_truth
from xmodal.store import Features
from xmodal.values import Points

# Enough directions to tell some fifty classes apart; distances in a thousand are slow and noisy.
_WIDTH = 64


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Super-points of one scene: mean feature, number of points, and which each point is in."""

    rows: Float[Tensor, "M C"]
    count: Float[Tensor, " M"]
    of_point: Int64[Ids, " N"]


def cluster_tables(subjects: Sequence[Subject], request: EvalRequest) -> dict[str, Table]:
    """Hungarian-matched IoU of as many clusters as there are classes, for every stored source.

    All classes that occur count, floor and walls too, unless `--names` chooses. Clusters are made
    over all scenes together, each point with its super-point.

    Raises:
        DataError: If nothing is labelled or observed.

    Source:
        Chen et al., PointDC, ICCV 2023, section 4 (super-voxel clusters, Hungarian matching).
    """
    names = _classes(subjects, request)
    arms = stored_arms(subjects)
    truth = [named_truth(s.truth, s.classes, names) for s in subjects]
    wanted = np.concatenate(truth)
    wanted[wanted == OTHER] = UNKNOWN
    segments = [_segments(subject.cloud) for subject in subjects]
    tables = {
        arm: _matched([_pieces(s, arm, g) for s, g in zip(subjects, segments, strict=True)],
                      wanted, len(names))
        for arm in arms
    }  # fmt: skip
    rows: list[tuple[str | float, ...]] = [
        (name, *(float(iou_per_class(table)[i]) for table in tables.values()))
        for i, name in enumerate(names)
    ]
    means = [bootstrap(iou_per_class(table)) for table in tables.values()]
    for title, place in (("mean IoU", 0), ("95 % from", 1), ("95 % to", 2)):
        rows.append((title, *(mean[place] for mean in means)))
    found = list(tables.values())
    rows.append(("mean accuracy", *(mean_known(accuracy_per_class(table)) for table in found)))
    rows.append(("overall accuracy", *(overall_accuracy(table) for table in found)))
    title = f"Clusters matched to {len(names)} classes (k-means of super-points, Hungarian)"
    return {"clusters": Table(title, ("class", *arms), tuple(rows))}


def _classes(subjects: Sequence[Subject], request: EvalRequest) -> tuple[str, ...]:
    known = tuple(dict.fromkeys(name for s in subjects for name in s.classes))
    if request.names:
        check_names(request.names, known, "--names")
        return request.names
    occurring = {s.classes[i] for s in subjects for i in np.unique(s.truth) if i >= 0}
    return tuple(name for name in known if name in occurring)


def _segments(cloud: Points) -> Int64[Tensor, " N"]:
    return superpoints(cloud.xyz, cloud.normals, cloud.rgb)


def _pieces(subject: Subject, arm: str, segments: Int64[Tensor, " N"]) -> _Pieces:
    assert subject.opened is not None
    features = subject.opened.features(arm)
    seen = torch.from_numpy(np.array(features.valid))
    pooled = _pooled(features, segments)
    count = torch.zeros(len(pooled)).index_add_(0, segments, seen.float())
    kept = count > 0
    place = torch.full((len(count),), -1, dtype=torch.int64)
    place[kept] = torch.arange(int(kept.sum()))
    return _Pieces(pooled[kept], count[kept], place[segments].numpy())


def _pooled(features: Features, segments: Int64[Tensor, " N"]) -> Float[Tensor, "M C"]:
    """Mean of the unit-length observed rows of every super-point."""
    size = int(segments.max()) + 1 if len(segments) else 0
    total: Tensor | None = None
    for part, rows in features.blocks():
        unit = torch.nn.functional.normalize(torch.from_numpy(rows).float(), dim=1)
        unit[~torch.from_numpy(np.array(features.valid[part]))] = 0
        if total is None:
            total = torch.zeros(size, unit.shape[1])
        total.index_add_(0, segments[part], unit)
    if total is None:
        return torch.zeros(0, 1)
    return torch.nn.functional.normalize(total, dim=1)


def _matched(
    pieces: Sequence[_Pieces], wanted: Int64[Ids, " N"], num_classes: int
) -> Int64[Ids, "K1 K1"]:
    rows = torch.cat([part.rows for part in pieces])
    if not len(rows):
        raise DataError(
            "clusters",
            wanted="observed points",
            got="features of no point",
            fix="lift a scene whose frames see its points",
        )
    rows = rows @ principal_axes(rows, _WIDTH)
    centres = k_means(rows, num_classes, weight=torch.cat([part.count for part in pieces]))
    labels = nearest(rows, centres).numpy()
    clusters: list[Ids] = []
    start = 0
    for part in pieces:
        own = labels[start : start + len(part.rows)]
        start += len(part.rows)
        inside = part.of_point >= 0
        of_point = np.full(len(part.of_point), -1, dtype=np.int64)
        of_point[inside] = own[part.of_point[inside]]
        clusters.append(of_point)
    given = np.concatenate(clusters)
    classes = match_clusters(cluster_overlap(given, wanted, num_classes, num_classes))
    predicted = np.where(given >= 0, classes[np.maximum(given, 0)], OTHER)
    return confusion(predicted, wanted, num_classes)
