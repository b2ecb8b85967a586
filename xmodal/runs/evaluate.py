"""`xmodal eval`: segmentation of points and localisation of texts in frames, arm by arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from lifting.visibility import visible_points
from xmodal.datasets import Labels, Scene, open_scene
from xmodal.errors import DataError, UsageError
from xmodal.evaluate import (
    OTHER,
    UNKNOWN,
    Table,
    accuracy_per_class,
    assign,
    bootstrap,
    confusion,
    iou_per_class,
)
from xmodal.query import Scores
from xmodal.render import point_spacing
from xmodal.runs.localise import SINGLE, localisation_tables
from xmodal.runs.opened import OpenedRun, open_run
from xmodal.runs.query import pixel_taps
from xmodal.store import load_array

Task = Literal["segmentation", "localisation"]
# Not objects to be told apart unless `evaluation.names` lists them.
SURFACES = ("floor", "wall", "ceiling", "table")
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """What to measure; the fields are the options of the command line."""

    run: Path
    out: Path
    data: Path | None = None
    task: Task | None = None
    scores: Path | None = None
    labels: Path | None = None


def eval_run(request: EvalRequest) -> str:
    """Measure a run, write the tables, return them as text.

    Raises:
        DataError: If the scene has nothing to measure against.
        UsageError: If the options do not go together.
    """
    opened = open_run(request.run)
    scene = opened.scene if request.data is None else open_scene(request.data)
    tasks = [request.task] if request.task else available_tasks(scene)
    if not tasks:
        raise DataError(
            str(request.data or scene.name),
            wanted="labels.npy with classes.json, or boxes in localisation.json or scene.json",
            got="neither",
            fix="give a labelled scene with --data",
        )
    if (request.scores or request.labels) and tasks != ["segmentation"]:
        raise UsageError(
            "--scores / --labels",
            wanted="--task segmentation",
            got=f"tasks {', '.join(tasks)}",
            fix="another system's points are scored against point labels",
        )
    request.out.mkdir(parents=True, exist_ok=True)
    texts: list[str] = []
    for task in tasks:
        if task == "segmentation":
            tables = segmentation_tables(opened, scene, request)
        else:
            tables = localisation_tables(opened, scene)
        for name, table in tables.items():
            table.write(request.out, name)
            texts.append(table.text())
    return "\n\n".join([*texts, f"wrote csv and markdown to {request.out}"])


def available_tasks(scene: Scene) -> list[Task]:
    """What a scene has labels for."""
    tasks: list[Task] = []
    if scene.labels() is not None:
        tasks.append("segmentation")
    if scene.boxes:
        tasks.append("localisation")
    return tasks


# ---- segmentation ------------------------------------------------------------------------------


def segmentation_tables(opened: OpenedRun, scene: Scene, request: EvalRequest) -> dict[str, Table]:
    """3D IoU per named object for single views, lifted features and the student."""
    labels = scene.labels()
    if labels is None:
        raise DataError(
            scene.name,
            wanted="labels.npy and classes.json",
            got="none",
            fix="give a labelled scene with --data",
        )
    truth = truth_on(opened, scene, labels)
    names = opened.spec.evaluation.names or object_names(labels)
    ids = named_truth(truth, labels, names)
    tables: dict[str, npt.NDArray[np.int64]] = {}
    if request.scores or request.labels:
        tables["given"] = confusion(_given(request, len(ids), len(names)), ids, len(names))
    else:
        tables[SINGLE] = single_view_confusion(opened, ids, names)
        for source in opened.run.sources():
            predicted = predict(opened, source, names)
            tables[source] = confusion(predicted, ids, len(names))
    return {"metrics": iou_table(tables, names)}


def iou_table(tables: Mapping[str, npt.NDArray[np.int64]], names: Sequence[str]) -> Table:
    """IoU per object and arm, the mean with its interval over objects, and recall."""
    iou = {arm: iou_per_class(table) for arm, table in tables.items()}
    rows: list[tuple[str | float, ...]] = [
        (name, *(float(iou[arm][i]) for arm in tables)) for i, name in enumerate(names)
    ]
    means = {arm: bootstrap(values) for arm, values in iou.items()}
    rows.append(("mean IoU", *(means[arm][0] for arm in tables)))
    rows.append(("95 % from", *(means[arm][1] for arm in tables)))
    rows.append(("95 % to", *(means[arm][2] for arm in tables)))
    recall = [float(np.nanmean(accuracy_per_class(table))) for table in tables.values()]
    rows.append(("mean accuracy", *recall))
    silent = [int((np.nan_to_num(values) == 0).sum()) for values in iou.values()]
    rows.append(("objects with zero IoU", *silent))
    title = f"3D IoU per object ({len(names)} objects, arg-max over the list and 'other')"
    return Table(title, ("object", *tables), tuple(rows))


def object_names(labels: Labels) -> tuple[str, ...]:
    """Classes that occur in the scene, without the surfaces that carry the objects."""
    occurring = np.unique(labels.ids.numpy())
    names = [labels.classes[i] for i in occurring if i >= 0]
    return tuple(name for name in names if name not in SURFACES)


def truth_on(opened: OpenedRun, scene: Scene, labels: Labels) -> Ids:
    """Label of every point of the run, from the nearest labelled point; UNKNOWN if none is near."""
    given = scene.cloud().xyz.numpy()
    if len(given) == len(opened.xyz) and np.allclose(given, opened.xyz, atol=1e-5):
        return labels.ids.numpy().astype(np.int64)
    reach = 2 * max(point_spacing(given), point_spacing(opened.xyz))
    distance, index = KDTree(given).query(opened.xyz, distance_upper_bound=reach)
    near = np.isfinite(distance)
    return np.where(near, labels.ids.numpy()[np.where(near, index, 0)], UNKNOWN).astype(np.int64)


def named_truth(truth: Ids, labels: Labels, names: Sequence[str]) -> Ids:
    """Class ids of the scene as indices into `names`, OTHER for classes that are not named."""
    position = {name: i for i, name in enumerate(names)}
    table = np.array([position.get(name, OTHER) for name in labels.classes], dtype=np.int64)
    ids = np.full(len(truth), UNKNOWN, dtype=np.int64)
    known = truth >= 0
    ids[known] = table[truth[known]]
    return ids


def predict(opened: OpenedRun, source: str, names: Sequence[str]) -> Ids:
    """Class of every point: arg-max over the names and "other"."""
    scores = opened.relevancy(source, [*names, *others(opened, names)])
    return _assign(scores, len(names))


def others(opened: OpenedRun, names: Sequence[str]) -> list[str]:
    """Texts that stand for everything else: those of the run file that are not named objects.

    A teacher with a closed list of classes knows only some of them; the others are left out.
    """
    known: list[str] = []
    for text in opened.spec.evaluation.other:
        try:
            opened.teacher.encode_text([text])
        except UsageError:
            continue
        if text not in names:
            known.append(text)
    return known


def _assign(scores: Scores, num_names: int) -> Ids:
    return assign(scores[:, :num_names], scores[:, num_names:].max(1, initial=0.0))


def single_view_confusion(opened: OpenedRun, ids: Ids, names: Sequence[str]) -> Ids:
    """Every (view, visible point) pair, judged by that view's teacher output alone."""
    texts = [*names, *others(opened, names)]
    xyz = opened.cloud.xyz
    total = np.zeros((len(names) + 1, len(names) + 1), dtype=np.int64)
    for index in range(len(opened.scene.images)):
        view = opened.teacher_view(opened.scene.images[index])
        depth = opened.scene.depth(index)
        seen = visible_points(
            xyz,
            view.camera,
            depth_m=depth.depth_m if depth else None,
            depth_camera=depth.camera if depth else None,
        )
        if not len(seen.index) or not len(view.rows):
            continue
        taps = pixel_taps(view, seen.uv)
        scores = taps.apply(opened.teacher.relevancy(view.rows, texts, [])).numpy()
        scores[taps.row_sum().numpy() == 0] = np.nan
        total += confusion(_assign(scores, len(names)), ids[seen.index.numpy()], len(names))
    return total


def _given(request: EvalRequest, num_points: int, num_names: int) -> Ids:
    path = request.labels or request.scores
    array = np.asarray(load_array(path)) if path else np.zeros(0)
    wanted = (num_points,) if request.labels else (num_points, num_names)
    if array.shape != wanted:
        raise UsageError(
            str(path),
            wanted=f"shape {wanted}, in the row order of points.ply and of the class list",
            got=f"shape {array.shape}",
            fix="write one row per point of points.ply",
        )
    if request.labels:
        return np.where((array >= 0) & (array < num_names), array, OTHER).astype(np.int64)
    scores = array.astype(np.float32)
    return assign(scores, np.zeros(num_points, dtype=np.float32))
