"""From rows to classes, and from confusion matrices of scenes to mIoU with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.tables.scenes import LIFTS, OTHERS, Ids, LabelledScene, names_of, split_of
from lifting.visibility import visible_points
from xmodal.datasets import open_scene
from xmodal.edges import op_class
from xmodal.evaluate import (
    OTHER,
    assign,
    confusion,
    interval,
    iou_per_class,
    resampled,
    scene_draws,
)
from xmodal.runs.query import pixel_taps
from xmodal.teachers.cache import TeacherCache
from xmodal.teachers.weights import user_cache

Scores = NDArray[np.float32]


class Asker:
    """Asks rows of one teacher's space for the objects of a split, and for everything else."""

    def __init__(self, teacher: Mapping[str, Any]) -> None:
        settings = {key: value for key, value in teacher.items() if key != "op"}
        op: Any = op_class("encode", teacher["op"])
        self.teacher = op(**settings).teacher()

    def scores(self, rows: torch.Tensor, names: Sequence[str]) -> Scores:
        """Relevancy `[M, names + others]`."""
        texts = [*names, *(text for text in OTHERS if text not in names)]
        return self.teacher.relevancy(rows.float(), texts, []).numpy()


def classes(scores: Scores, num_names: int, valid: NDArray[np.bool_] | None = None) -> Ids:
    """Arg-max over the names and "other"; unobserved points are "other"."""
    found = assign(scores[:, :num_names], scores[:, num_names:].max(1))
    return found if valid is None else np.where(valid, found, OTHER)


def chosen(lifted: Scores, student: Scores, valid: NDArray[np.bool_]) -> Scores:
    """Per point, the scores of whichever source is surer; the student's where nothing was lifted.

    Source:
        Peng et al., OpenScene, CVPR 2023, section 3.3 (2D-3D ensemble).
    """
    surer = valid & (lifted.max(1) > student.max(1))
    return np.where(surer[:, None], lifted, student)


# ---- jobs on lifted scenes ---------------------------------------------------------------------


def judge_lifted(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: confusion matrix of the lifted rows of each scene; settings `lift`, `scenes`."""
    lift = LIFTS[settings["lift"]]
    asker, tables = Asker(lift.teacher), dict[str, Any]()
    for name in settings["scenes"]:
        scene, names = LabelledScene(work, name), names_of(split_of(name))
        lifted = scene.lifted(lift)
        assert lifted.rows is not None
        assert lifted.valid is not None
        found = classes(asker.scores(lifted.rows, names), len(names), lifted.valid.numpy())
        tables[name] = confusion(found, scene.ids(names), len(names)).tolist()
    return {"lifted": tables}


def judge_views(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: every (view, visible point) pair judged by that view alone; settings as above."""
    lift = LIFTS[settings["lift"]]
    asker, tables = Asker(lift.teacher), dict[str, Any]()
    cache = TeacherCache(user_cache() / "teachers")
    for name in settings["scenes"]:
        labelled, names = LabelledScene(work, name), names_of(split_of(name))
        scene, ids = open_scene(labelled.folder), labelled.ids(names)
        total = np.zeros((len(names) + 1, len(names) + 1), dtype=np.int64)
        for index in range(len(scene.images)):
            view, depth = cache.fetch(asker.teacher, scene.images[index]), scene.depth(index)
            seen = visible_points(
                labelled.cloud.xyz,
                view.camera,
                depth_m=depth.depth_m if depth else None,
                depth_camera=depth.camera if depth else None,
            )
            taps = pixel_taps(view, seen.uv)
            scores = taps.apply(torch.from_numpy(asker.scores(view.rows, names))).numpy()
            found = classes(scores, len(names), taps.row_sum().numpy() > 0)
            total += confusion(found, ids[seen.index.numpy()], len(names))
        tables[name] = total.tolist()
    return {"views": tables}


# ---- from matrices to numbers ------------------------------------------------------------------


def stacked(tables: Mapping[str, Any], split: str) -> NDArray[np.int64]:
    """The matrices of a split's scenes, in order of their names."""
    return np.array([tables[n] for n in sorted(tables) if split_of(n) == split], dtype=np.int64)


def miou(tables: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean IoU `[r, 1]` over the objects that occur, of each confusion matrix `[r, K + 1, K + 1]`.

    NaN where none occurs.
    """
    occurs = tables.sum(2)[:, :-1] > 0
    total = np.where(occurs, iou_per_class(tables), 0.0).sum(1, keepdims=True)
    count = occurs.sum(1, keepdims=True)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


class Measured:
    """mIoU of one arm on one split: seeds are averaged, scenes are drawn anew for the interval."""

    def __init__(self, seeds: Sequence[NDArray[np.int64]]) -> None:
        self.seeds = seeds
        draws = scene_draws(len(seeds[0]))
        self.values = [float(miou(tables.sum(0)[None])[0, 0]) for tables in seeds]
        self.samples = np.mean([resampled(tables, miou, draws) for tables in seeds], axis=0)

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.values))

    @property
    def spread(self) -> float:
        """Standard deviation over seeds, 0 for one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0

    def text(self) -> str:
        """Mean and interval in words."""
        low, high = (float(end[0]) for end in interval(self.samples))
        return f"{self.mean:.3f} ({low:.3f}..{high:.3f})"

    def minus(self, other: Measured) -> str:
        """Paired difference and its interval: the same scenes drawn for both."""
        low, high = (float(end[0]) for end in interval(self.samples - other.samples))
        return f"{self.mean - other.mean:+.3f} ({low:+.3f}..{high:+.3f})"

    def per_class(self) -> NDArray[np.float64]:
        """IoU of every object, seeds averaged."""
        return np.mean([iou_per_class(tables.sum(0)) for tables in self.seeds], axis=0)
