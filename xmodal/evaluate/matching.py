"""Unsupervised segmentation: k-means clusters, and which class each of them is taken for."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from xmodal.evaluate.segmentation import OTHER, Ids

_ITERATIONS = 50


def match_clusters(overlap: Int64[Ids, "K C"]) -> Int64[Ids, " K"]:
    """Class of each cluster so that most points agree; each class is given to one cluster.

    Args:
        overlap: Points that each cluster shares with each class.

    Returns:
        The class of every cluster, `OTHER` for clusters that are left over.

    Source:
        Kuhn, The Hungarian method, 1955; as in Cho et al., PiCIE, CVPR 2021, section 4.1.
    """
    cluster, label = linear_sum_assignment(overlap, maximize=True)
    out = np.full(overlap.shape[0], OTHER, dtype=np.int64)
    out[cluster] = label
    return out


def cluster_overlap(
    clusters: Int64[Ids, " N"], truth: Int64[Ids, " N"], num_clusters: int, num_classes: int
) -> Int64[Ids, "K C"]:
    """Points that each cluster shares with each class; negative entries do not count."""
    both = (clusters >= 0) & (truth >= 0)
    code = clusters[both] * num_classes + truth[both]
    return np.bincount(code, minlength=num_clusters * num_classes).reshape(
        num_clusters, num_classes
    )


def k_means(
    rows: Float[Tensor, "M C"], k: int, *, weight: Float[Tensor, " M"] | None = None, seed: int = 0
) -> Float[Tensor, "k C"]:
    """Centres of k-means with k-means++ starts; a centre that loses all its rows stays in place.

    Args:
        rows: What to cluster, at least one row.
        k: Number of clusters; at most the number of rows is made.
        weight: How much each row counts; all the same when None.
        seed: Of the starts.

    Raises:
        ValueError: If there is no row, or `k` is not positive.

    Source:
        Arthur and Vassilvitskii, k-means++, SODA 2007.
    """
    if k < 1 or not len(rows):
        raise ValueError(f"k-means needs k >= 1 and a row, got k = {k} and {len(rows)} rows")
    mass = torch.ones(len(rows)) if weight is None else weight.float()
    generator = torch.Generator().manual_seed(seed)
    rows = rows.float()
    centres = _starts(rows, mass, min(k, len(rows)), generator)
    labels = nearest(rows, centres)
    for _ in range(_ITERATIONS):
        total = torch.zeros_like(centres).index_add_(0, labels, rows * mass[:, None])
        count = torch.zeros(len(centres)).index_add_(0, labels, mass)
        centres = torch.where(count[:, None] > 0, total / count.clamp(min=1e-12)[:, None], centres)
        moved = nearest(rows, centres)
        if torch.equal(moved, labels):
            break
        labels = moved
    return centres


def nearest(rows: Float[Tensor, "M C"], centres: Float[Tensor, "k C"]) -> Int64[Tensor, " M"]:
    """Index of the nearest centre of every row."""
    # |x - c|^2 without |x|^2, which is the same for all centres.
    return ((centres**2).sum(1) - 2 * rows.float() @ centres.T).argmin(1)


def _starts(rows: Tensor, mass: Tensor, k: int, generator: torch.Generator) -> Float[Tensor, "k C"]:
    chosen = [int(torch.multinomial(mass, 1, generator=generator))]
    distance = ((rows - rows[chosen[0]]) ** 2).sum(1)
    while len(chosen) < k:
        odds = distance * mass
        if not bool(odds.sum() > 0):  # fewer distinct rows than clusters
            break
        chosen.append(int(torch.multinomial(odds, 1, generator=generator)))
        distance = torch.minimum(distance, ((rows - rows[chosen[-1]]) ** 2).sum(1))
    return rows[chosen].clone()


def principal_axes(rows: Float[Tensor, "M C"], width: int) -> Float[Tensor, "C D"]:
    """The directions of largest variance, at most `width`, so that clustering is quick."""
    centred = rows.double() - rows.double().mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return vectors[:, -min(width, rows.shape[1]) :].float()


def as_ids(labels: Int64[Tensor, " M"]) -> Int64[NDArray[np.int64], " M"]:
    """A tensor of labels as numpy."""
    return labels.numpy().astype(np.int64)
