"""The dense teacher on the dev scenes: what the settings of all other tables were chosen on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.record import ResultRecord, record, table
from benchmarks.tables.scenes import DENSE, LabelledScene, ensure_worlds, names_of, scene_names
from benchmarks.tables.scoring import Asker, Measured, classes, stacked
from lifting.visibility import visible_points
from xmodal.datasets import open_scene
from xmodal.edges import op_class
from xmodal.evaluate import confusion
from xmodal.runs.query import pixel_taps

_LIFTS: Mapping[str, Mapping[str, Any]] = {
    "lifted": {},
    "+ smoothed over 2 cm": {"smooth_m": 0.02},
    "+ shared in super-points": {"smooth_m": 0.02, "segment_share": 0.9},
}
_SIZES = (640, 960, 1280, 1600)


def make(work: Path, workers: int) -> ResultRecord:
    """Every size of image in both spaces."""
    ensure_worlds(work)
    settings = [
        {"op": "imagenet_dense", "space": space, "image_size": size}
        for size in _SIZES
        for space in ("simplex", "unit")
    ]
    jobs = [Job(f"teacher/{s['space']}-{s['image_size']}", measure, s) for s in settings]
    results = run_jobs(jobs, work, workers)
    rows: list[list[str | float]] = []
    for job in jobs:
        found = results[job.name]
        arms = {arm: Measured([stacked(t, "dev")]).mean for arm, t in found["tables"].items()}
        space, size = job.settings["space"], job.settings["image_size"]
        mine = "**" if (space, size) == (DENSE["space"], DENSE["image_size"]) else ""
        rows.append([f"{mine}{space}, {size}{mine}", found["seconds_a_view"], *arms.values()])
    columns = ("space, longer side in pixels", "s a view", "per view", *_LIFTS)
    title = "The dense teacher on the dev scenes: mIoU over the 14 objects of the seen split"
    return record(
        "teacher",
        [table(title, columns, rows)],
        results,
        sizes={"dev scenes": len(scene_names("dev")), "views each": 8},
        notes=["Bold: what all other tables use. `test` and `novel` scenes had no say in it."],
    )


def measure(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: one teacher on the dev scenes; settings are those of its op."""
    asker, names, seconds = Asker(settings), names_of("dev"), list[float]()
    tables: dict[str, dict[str, Any]] = {arm: {} for arm in ("per view", *_LIFTS)}
    for name in scene_names("dev"):
        labelled = LabelledScene(work, name)
        scene, ids = open_scene(labelled.folder), labelled.ids(names)
        maps: list[Any] = []
        total = np.zeros((len(names) + 1, len(names) + 1), dtype=np.int64)
        for index in range(len(scene.images)):
            began = time.process_time()
            view = asker.teacher.encode(scene.images[index])
            seconds.append(time.process_time() - began)
            maps.append(view)
            depth = scene.depth(index)
            assert depth is not None
            seen = visible_points(
                labelled.cloud.xyz, view.camera, depth_m=depth.depth_m, depth_camera=depth.camera
            )
            scores = torch.from_numpy(asker.scores(view.rows, names))
            found = classes(pixel_taps(view, seen.uv).apply(scores).numpy(), len(names))
            total += confusion(found, ids[seen.index.numpy()], len(names))
        tables["per view"][name] = total.tolist()
        for arm, lift in _LIFTS.items():
            op: Any = replace(op_class("lift", "points")(), **lift)
            lifted = op(maps, scene.depths, labelled.cloud)
            found = classes(asker.scores(lifted.rows, names), len(names), lifted.valid.numpy())
            tables[arm][name] = confusion(found, ids, len(names)).tolist()
    # The first view pays for loading the network.
    return {"tables": tables, "seconds_a_view": round(float(np.median(seconds[1:])), 3)}
