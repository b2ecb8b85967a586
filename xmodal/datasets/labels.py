"""Per-point labels: `labels.npy` and `classes.json`, a `label` column, or ScanNet's labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray

from xmodal.datasets.s3dis import S3DIS, is_room
from xmodal.datasets.scannet import TABLE, read_segments, read_things, scannet_files, thing_labels
from xmodal.datasets.scannet_classes import SCANNET20, SCANNET20_IDS, SCANNET200
from xmodal.datasets.settings import LabelSet, SceneSettings, read_json
from xmodal.errors import DataError
from xmodal.ply import PlyCloud, read_points
from xmodal.values import Labels

NYU40 = [
    "wall",
    "floor",
    "cabinet",
    "bed",
    "chair",
    "sofa",
    "table",
    "door",
    "window",
    "bookshelf",
    "picture",
    "counter",
    "blinds",
    "desk",
    "shelves",
    "curtain",
    "dresser",
    "pillow",
    "mirror",
    "floor mat",
    "clothes",
    "ceiling",
    "books",
    "refrigerator",
    "television",
    "paper",
    "towel",
    "shower curtain",
    "box",
    "whiteboard",
    "person",
    "nightstand",
    "toilet",
    "sink",
    "lamp",
    "bathtub",
    "bag",
    "otherstructure",
    "otherfurniture",
    "otherprop",
]
"""Names of the labels 1 to 40 in ScanNet's `*.labels.ply`; 0 is unannotated."""


LABEL_SETS: Mapping[LabelSet, tuple[str, ...]] = {
    "scannet20": SCANNET20,
    "scannet200": SCANNET200,
    "s3dis": S3DIS,
}
"""Classes by the name of their label set."""


def read_labels(
    root: Path, settings: SceneSettings, cloud: PlyCloud, label_set: LabelSet | None = None
) -> Labels | None:
    """Read the labels of the given points, in their order after bad points were dropped.

    Args:
        root: The scene folder.
        settings: `label_ids` names the ids when there is no `classes.json`.
        cloud: The given points; labels without given points have nothing to refer to.
        label_set: Classes to tell apart, `settings.label_set` if None. Points of other classes
            count as unknown. ScanNet's come from its own ids, any other by name.

    Returns:
        The labels, or None when the scene has none.

    Raises:
        DataError: If their number is not that of the points, an id has no name, or none of the
            scene's classes is in the label set.
    """
    chosen = label_set or settings.label_set
    if chosen is None:
        return _as_stored(root, settings, cloud)
    classes = LABEL_SETS[chosen]
    if chosen != "s3dis" and not _has_own(root, cloud):
        ids = _scannet_set(root, cloud, chosen)
        return None if ids is None else _labels(ids, classes)
    found = _as_stored(root, settings, cloud)
    return None if found is None else _chosen(found, classes, root, chosen)


def read_instances(root: Path, cloud: PlyCloud) -> Int64[NDArray[np.int64], " N"] | None:
    """Number of every given point's thing, -1 for none; None when the scene does not say.

    They stand in `instances.npy`, in the column `instance` of the points, or in ScanNet's files.

    Raises:
        DataError: If they do not fit the points.
    """
    kept = cloud.kept.numpy()
    path = root / "instances.npy"
    if path.exists():
        return np.maximum(_one_per_point(_read_npy(path), kept, path), -1)
    if "instance" in cloud.scalars:
        return np.maximum(_whole(cloud.scalars["instance"], root / "points.ply"), -1)
    files = scannet_files(root)
    if files.aggregation is None or files.segments is None or (root / "points.ply").exists():
        return None
    things = read_things(files.aggregation, read_segments(files.segments, len(kept)))
    return things.ids[kept]


def _has_own(root: Path, cloud: PlyCloud) -> bool:
    return (root / "labels.npy").exists() or "label" in cloud.scalars


def _scannet_set(
    root: Path, cloud: PlyCloud, label_set: LabelSet
) -> Int64[NDArray[np.int64], " N"] | None:
    """Indices into ScanNet's 20 or 200 classes; None in a scan without labels."""
    kept = cloud.kept.numpy()
    meshes = _labelled_meshes(root)
    if label_set == "scannet20" and meshes:
        position = np.full(41, -1, dtype=np.int64)
        position[list(SCANNET20_IDS)] = np.arange(len(SCANNET20_IDS))
        ids = _one_per_point(_scannet_ids(meshes[0]), kept, meshes[0])
        return position[np.where((ids >= 1) & (ids <= 40), ids, 0)]
    files = scannet_files(root)
    if files.aggregation is None and not meshes:
        return None
    if files.aggregation is None or files.segments is None or files.table is None:
        wanted = f"*.aggregation.json, *.segs.json and {TABLE}, for the classes of {label_set}"
        found = (files.aggregation, files.segments, files.table)
        raise _wrong(root, wanted, ", ".join(p.name for p in found if p is not None) or "none")
    if (root / "points.ply").exists():
        raise _wrong(root, "the mesh *_vh_clean_2.ply as the points", "points.ply")
    things = read_things(files.aggregation, read_segments(files.segments, len(kept)))
    return thing_labels(things, files.table, label_set)[kept]


def _chosen(found: Labels, classes: tuple[str, ...], root: Path, label_set: str) -> Labels:
    """Labels restricted to the classes of a label set, by their names."""
    position = [classes.index(name) if name in classes else -1 for name in found.classes]
    if max(position, default=-1) < 0:
        wanted = f"labels with some of the classes of {label_set}"
        raise _wrong(root, wanted, ", ".join(found.classes)[:80] or "no class")
    # The last entry answers for -1, unknown.
    return _labels(np.array([*position, -1])[found.ids.numpy()], classes)


def _labels(ids: Int64[NDArray[np.int64], " N"], classes: tuple[str, ...]) -> Labels:
    return Labels(ids=torch.from_numpy(ids.astype(np.int32)), classes=classes)


def _labelled_meshes(root: Path) -> list[Path]:
    return sorted(p for p in root.glob("*.labels.ply") if not p.name.startswith("."))


def _as_stored(root: Path, settings: SceneSettings, cloud: PlyCloud) -> Labels | None:
    kept = cloud.kept.numpy()
    scannet = _labelled_meshes(root)
    if (root / "labels.npy").exists():
        source = root / "labels.npy"
        ids = _one_per_point(_read_npy(source), kept, source)
    elif "label" in cloud.scalars:
        source = root / "points.ply"
        ids = _whole(cloud.scalars["label"], source)
        if not source.exists() and is_room(root):
            return _labels(ids, S3DIS)
    elif scannet:
        source = scannet[0]
        ids = _one_per_point(_scannet_ids(source), kept, source)
    else:
        return None
    names = _names(root, settings)
    if names is None and source in scannet:
        # ScanNet counts from 1; ids beyond the 40 do not occur in released files.
        names, ids = dict(enumerate(NYU40)), np.where((ids >= 1) & (ids <= 40), ids - 1, -1)
    if names is None:
        raise _wrong(root / "classes.json", "the names of the label ids", "no such file")
    return _named(ids, names, source)


def _named(ids: NDArray[np.int64], names: Mapping[int, str], source: Path) -> Labels:
    unnamed = sorted(set(np.unique(ids[ids >= 0]).tolist()) - set(names))
    if unnamed:
        shown = ", ".join(str(i) for i in unnamed[:5])
        raise _wrong(source, "ids that classes.json names", f"the id {shown}, without a name")
    size = max(names, default=-1) + 1
    classes = tuple(names.get(i, f"class {i}") for i in range(size))
    return Labels(ids=torch.from_numpy(np.maximum(ids, -1).astype(np.int32)), classes=classes)


def _names(root: Path, settings: SceneSettings) -> dict[int, str] | None:
    path = root / "classes.json"
    if not path.exists():
        return dict(settings.label_ids) or None
    data = read_json(path)
    data = data.get("classes", data) if isinstance(data, dict) else data
    items = list(enumerate(data)) if isinstance(data, list) else _items(data)
    # An id is below 10,000 in every label set of the field; more is a file of another kind.
    if not items or any(not isinstance(n, str) or not 0 <= i < 10_000 for i, n in items):
        raise _wrong(path, 'a list of names, or a mapping {"0": name}', repr(data)[:60])
    return dict(items)


def _items(data: Any) -> list[tuple[int, Any]]:
    if not isinstance(data, dict) or not all(str(key).isdecimal() for key in data):
        return []
    return [(int(key), name) for key, name in data.items()]


def _read_npy(path: Path) -> NDArray[np.int64]:
    try:
        # Mapped first: the header is checked against the file's size before memory is taken.
        return _whole(np.load(path, mmap_mode="r", allow_pickle=False), path)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise _wrong(path, "a readable .npy array", f"{type(error).__name__}: {error}") from error


def _whole(values: NDArray[Any], path: Path) -> NDArray[np.int64]:
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise _wrong(path, "one integer per point", f"{values.dtype} of shape {values.shape}")
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        raise _wrong(path, "whole numbers", "fractions or NaN")
    return np.asarray(values).astype(np.int64)


def _scannet_ids(path: Path) -> NDArray[np.int64]:
    mesh = read_points(path)
    if "label" not in mesh.scalars:
        raise _wrong(path, "a vertex property `label`", ", ".join(mesh.scalars) or "none")
    ids = np.zeros(mesh.kept.shape[0], dtype=np.int64)
    ids[mesh.kept.numpy()] = _whole(mesh.scalars["label"], path)
    return ids


def _one_per_point(
    ids: NDArray[np.int64], kept: NDArray[np.bool_], path: Path
) -> NDArray[np.int64]:
    if len(ids) != len(kept):
        raise _wrong(path, f"{len(kept)} labels, one per point of the cloud", f"{len(ids)} labels")
    return ids[kept]


def _wrong(path: Path, wanted: str, got: str) -> DataError:
    fix = "labels, classes and points must come from the same export"
    return DataError(str(path), wanted=wanted, got=got, fix=fix)
