"""ScanNet beside its frames: things, super-points, categories, alignment and splits.

A scan's folder `sceneXXXX_XX/` holds, next to the recording and the mesh: `*.aggregation.json`
(which segments make which thing, with its raw category), `*_vh_clean_2.0.010000.segs.json` (the
segment of every vertex) and `sceneXXXX_XX.txt` (`axisAlignment`). The table of categories,
`scannetv2-labels.combined.tsv`, and the lists of the splits lie in the data set's root.

Source:
    Dai et al., ScanNet, CVPR 2017; Rozenberszki et al., Language-Grounded Indoor 3D Semantic
    Segmentation in the Wild (ScanNet200), ECCV 2022.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from xmodal.datasets.calibration import Matrix4, to_pose
from xmodal.datasets.scannet_classes import SCANNET20_IDS, SCANNET200_IDS
from xmodal.datasets.settings import read_json
from xmodal.errors import DataError

Ids = Int64[NDArray[np.int64], " N"]

TABLE = "scannetv2-labels.combined.tsv"
# A list of half a million segment ids of up to seven digits takes a few megabytes.
_MAX_BYTES = 200_000_000
_MAX_TEXT_BYTES = 10_000_000
# The table lies in the data set's root; scans lie one or two folders below it.
_LEVELS = 4


@dataclass(frozen=True, kw_only=True)
class ScannetFiles:
    """What a scan's folder has beside mesh and frames; None for what is not there."""

    aggregation: Path | None
    segments: Path | None
    info: Path | None
    table: Path | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Things:
    """Things of a scan: the number of each vertex's thing, -1 for none, and their categories."""

    ids: Ids
    categories: tuple[str, ...]


def scannet_files(root: Path) -> ScannetFiles:
    """Find the files of a scan's folder; most scenes of other kinds have none of them."""
    name = root.name
    # `_vh_clean.aggregation.json` numbers the segments of the finer mesh.
    aggregations = [p for p in root.glob("*.aggregation.json") if "_vh_clean" not in p.name]
    segments = root.glob("*_vh_clean_2.*.segs.json")
    info = root / f"{name}.txt"
    tables = (folder / TABLE for folder in [root, *root.parents][:_LEVELS])
    return ScannetFiles(
        aggregation=min(aggregations, default=None),
        segments=min(segments, default=None),
        info=info if info.is_file() else None,
        table=next((path for path in tables if path.is_file()), None),
    )


def axis_alignment(info: Path) -> Matrix4 | None:
    """The `axisAlignment` of `sceneXXXX_XX.txt`: gravity along z, walls along x and y.

    Raises:
        DataError: If it is not a rigid transform.
    """
    for line in _text(info).splitlines():
        key, _, value = line.partition("=")
        if key.strip() != "axisAlignment":
            continue
        try:
            numbers = np.array([float(word) for word in value.split()])
        except ValueError:
            numbers = np.empty(0)
        if numbers.size != 16:
            raise _wrong(info, "axisAlignment of 16 numbers", repr(value.strip()[:60]))
        found = to_pose(numbers.reshape(4, 4), f"{info}, axisAlignment").T_world_cam
        if found is None:
            raise _wrong(info, "a finite axisAlignment", repr(value.strip()[:60]))
        return found
    return None


def read_segments(path: Path, num_vertices: int) -> Ids:
    """The segment (super-point) of every vertex of the mesh.

    Args:
        path: `*.segs.json`.
        num_vertices: Vertices of the mesh.

    Raises:
        DataError: If the file is damaged or belongs to another mesh.
    """
    ids = _integers(_mapping(path).get("segIndices"), path, "segIndices")
    if len(ids) != num_vertices:
        raise _wrong(path, f"{num_vertices} segIndices, one per vertex", f"{len(ids)}")
    return ids


def read_things(path: Path, segments: Ids) -> Things:
    """The thing of every vertex, from the segments that each thing is made of.

    Args:
        path: `*.aggregation.json`.
        segments: As from `read_segments`.

    Raises:
        DataError: If the file is damaged or names segments that do not exist.
    """
    groups = _mapping(path).get("segGroups")
    if not isinstance(groups, list):
        raise _wrong(path, "`segGroups`, a list of things", type(groups).__name__)
    size = int(segments.max()) + 1 if len(segments) else 0
    known = np.zeros(size, dtype=bool)
    known[segments] = True
    owner = np.full(size, -1, dtype=np.int64)
    categories: list[str] = []
    for index, group in enumerate(groups):
        where = f"segGroups[{index}]"
        if not isinstance(group, dict) or not isinstance(group.get("label"), str):
            raise _wrong(path, f"a thing with a `label` in {where}", f"{group!r:.60}")
        members = _integers(group.get("segments"), path, f"{where}.segments")
        outside = members[members >= size]
        strange = outside if len(outside) else members[~known[members]]
        if len(strange):
            raise _wrong(path, "segments of *.segs.json", f"{int(strange[0])} in {where}")
        # A segment in two things belongs to the first, as in ScanNet's own tools.
        free = members[owner[members] < 0]
        owner[free] = index
        categories.append(cast("str", group["label"]))
    return Things(ids=owner[segments], categories=tuple(categories))


def category_ids(table: Path, column: Literal["id", "nyu40id"]) -> dict[str, int]:
    """Ids of the raw categories: their own (ScanNet200 is a choice of these), or NYU40's.

    Raises:
        DataError: If the table lacks a column or an id is no number.
    """
    reader = csv.DictReader(_text(table).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    missing = {"raw_category", column} - set(reader.fieldnames or ())
    if missing:
        got = ", ".join(reader.fieldnames or ())[:60] or "no column"
        raise _wrong(table, f"the columns raw_category and {column}", got)
    found: dict[str, int] = {}
    for row in reader:
        try:
            found[row["raw_category"]] = int(row[column])
        except (TypeError, ValueError) as error:
            where = f"{table}:{reader.line_num}"
            raise _wrong(where, f"a whole number as {column}", repr(row[column])) from error
    return found


def thing_labels(things: Things, table: Path, label_set: str) -> Ids:
    """Class of every vertex in `scannet20` or `scannet200`, through its thing's raw category.

    Args:
        things: As from `read_things`.
        table: `scannetv2-labels.combined.tsv`.
        label_set: `scannet20` or `scannet200`.

    Returns:
        Indices into the classes of the label set; -1 for other categories and for no thing.

    Raises:
        DataError: If a category is not in the table.
    """
    wide = label_set == "scannet200"
    ids = category_ids(table, "id" if wide else "nyu40id")
    unknown = sorted({name for name in things.categories if name not in ids})
    if unknown:
        raise _wrong(table, "all categories of the scan", f"none called {', '.join(unknown[:5])}")
    chosen = SCANNET200_IDS if wide else SCANNET20_IDS
    position = {number: index for index, number in enumerate(chosen)}
    # The last entry answers for -1, no thing.
    classes = [position.get(ids[name], -1) for name in things.categories]
    return np.array([*classes, -1], dtype=np.int64)[things.ids]


def scannet_split(root: str | Path, split: Literal["train", "val", "test"]) -> tuple[Path, ...]:
    """The scan folders of an official split, in the order of its list.

    Args:
        root: The data set's root, with `scannetv2_SPLIT.txt` (also in `Tasks/Benchmark/` or
            `splits/`) and the scans in `scans/`, `scans_test/`, a folder of the split's name, or
            the root itself.
        split: Which one.

    Raises:
        DataError: If the list is not there, or scans that it names are missing.
    """
    root = Path(root).expanduser()
    places = [
        root / place / f"scannetv2_{split}.txt" for place in (".", "Tasks/Benchmark", "splits")
    ]
    listed = next((path for path in places if path.is_file()), None)
    if listed is None:
        raise _wrong(places[0], "the list of the split, one scan a line", "no such file")
    folders = [root / name for name in ("scans", "scans_test", split, ".")]
    names = [line.strip() for line in _text(listed).splitlines() if line.strip()]
    if any(Path(name).name != name for name in names):
        raise _wrong(listed, "names of scans", "a path")
    found = {name: next((f / name for f in folders if (f / name).is_dir()), None) for name in names}
    missing = [name for name, folder in found.items() if folder is None]
    if missing or not names:
        got = f"{len(missing)} missing: {', '.join(missing[:5])}" if names else "an empty list"
        raise _wrong(listed, f"the folders of {len(names)} scans in {root}/scans", got)
    return tuple(folder for folder in found.values() if folder is not None)


def _mapping(path: Path) -> dict[str, Any]:
    data = read_json(path, max_bytes=_MAX_BYTES)
    if not isinstance(data, dict):
        raise _wrong(path, "a JSON object", type(data).__name__)
    return cast("dict[str, Any]", data)


def _integers(values: object, path: Path, key: str) -> Ids:
    # JSON's true is a number to Python, and neither is it a segment.
    whole = isinstance(values, list) and all(type(v) is int and 0 <= v < 2**31 for v in values)
    if not whole:
        raise _wrong(path, f"`{key}`, whole numbers from 0", f"{values!r:.60}")
    return np.array(values, dtype=np.int64)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_TEXT_BYTES:
            raise _wrong(path, f"at most {_MAX_TEXT_BYTES} bytes", f"{path.stat().st_size}")
        return path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise _wrong(path, "a readable text file", str(error)) from error


def _wrong(where: Path | str, wanted: str, got: str) -> DataError:
    fix = "all files of a scan must come from the same download; get this one again"
    return DataError(str(where), wanted=wanted, got=got, fix=fix)
