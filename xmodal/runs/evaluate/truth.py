"""What is true of every point and pixel, and which classes are told apart."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from scipy.spatial import KDTree

from xmodal.datasets import Labels, Scene
from xmodal.errors import DataError, UsageError
from xmodal.evaluate.segmentation import OTHER, UNKNOWN, Ids
from xmodal.render import point_spacing
from xmodal.runs.opened import OpenedRun

# Not objects to be told apart unless `evaluation.names` lists them.
SURFACES = ("floor", "wall", "ceiling", "table")


def object_names(labels: Labels) -> tuple[str, ...]:
    """Classes that occur in the scene, without the surfaces that carry the objects."""
    occurring = np.unique(labels.ids.numpy())
    names = [labels.classes[i] for i in occurring if i >= 0]
    return tuple(dict.fromkeys(name for name in names if name not in SURFACES))


def transfer(
    xyz: Float32[NDArray[np.float32], "N 3"],
    labelled: Float32[NDArray[np.float32], "M 3"],
    labels: Labels,
) -> Int64[Ids, " N"]:
    """Label of every point from the nearest labelled point; UNKNOWN if none is near.

    Near is twice the coarser of the two spacings. Equal clouds keep their labels point by point.
    """
    ids = labels.ids.numpy().astype(np.int64)
    if len(labelled) == len(xyz) and np.allclose(labelled, xyz, atol=1e-5):
        return ids
    reach = 2 * max(point_spacing(labelled), point_spacing(xyz))
    distance, index = KDTree(labelled).query(xyz, distance_upper_bound=reach)
    near = np.isfinite(distance)
    return np.where(near, ids[np.where(near, index, 0)], UNKNOWN).astype(np.int64)


def truth_on(opened: OpenedRun, scene: Scene, labels: Labels) -> Int64[Ids, " N"]:
    """Label of every point of a run, from a scene's labelled points."""
    return transfer(opened.xyz, scene.cloud().xyz.numpy(), labels)


def named_truth(
    truth: Int64[Ids, "*shape"], classes: Sequence[str], names: Sequence[str]
) -> Int64[Ids, "*shape"]:
    """Class ids as indices into `names`: OTHER for classes not named, UNKNOWN for no class."""
    position = {name: i for i, name in enumerate(names)}
    table = np.array([position.get(name, OTHER) for name in classes], dtype=np.int64)
    ids = np.full(truth.shape, UNKNOWN, dtype=np.int64)
    known = truth >= 0
    ids[known] = table[truth[known]]
    return ids


def named_pixels(
    ids: Int64[Ids, "*shape"], label_names: Mapping[int, str], names: Sequence[str]
) -> Int64[Ids, "*shape"]:
    """Pixels of a label map as indices into `names`; ids without a name are UNKNOWN."""
    classes = [label_names.get(i) for i in range(max(label_names, default=-1) + 1)]
    inside = np.where((ids >= 0) & (ids < len(classes)), ids, -1)
    known = np.array([name is not None for name in classes] + [False])
    shown = [name or "" for name in classes]
    return named_truth(np.where(known[inside], inside, -1), shown, names)


def check_names(names: Sequence[str], known: Sequence[str], option: str) -> None:
    """Refuse names that no scene knows.

    Raises:
        UsageError: Naming them, with the nearest known one.
    """
    unknown = [name for name in names if name not in known]
    if not unknown:
        return
    near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.5)
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    raise UsageError(
        option,
        wanted=f"names among: {shown}",
        got=", ".join(repr(name) for name in unknown[:5]),
        fix=f"did you mean {near[0]!r}?" if near else "write a name as classes.json has it",
    )


def checked(labels: Labels, where: str) -> Labels:
    """The labels, if at least one point has one.

    Raises:
        DataError: If all points are unknown.
    """
    if not bool((labels.ids >= 0).any()):
        raise DataError(
            f"{where}: labels",
            wanted="at least one labelled point",
            got=f"{len(labels.ids)} points, every one -1 (unknown)",
            fix="export the labels again, in the order of the points",
        )
    return labels


def unlabelled(where: str) -> DataError:
    """The error of a scene without point labels."""
    return DataError(
        where,
        wanted="point labels: labels.npy with classes.json, or *.labels.ply",
        got="none",
        fix="add them beside points.ply, or give a labelled scene with --data",
    )
