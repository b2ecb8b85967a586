"""A real room: trained on one half of the kitchen, tested on the other."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.tables.jobs import Job, peak_mb, run_jobs
from benchmarks.tables.record import ResultRecord, record, table
from benchmarks.tables.scenes import Ids
from benchmarks.tables.student import key_of
from xmodal.datasets import open_scene
from xmodal.edges import op_class
from xmodal.errors import DataError
from xmodal.evaluate import bootstrap, localise
from xmodal.ply import read_points
from xmodal.render import PointRenderer, peak_pixel
from xmodal.runs.frozen import LIFTED, silent
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.store import Run
from xmodal.teachers.embedded import EmbeddedTeacher
from xmodal.train.loop import Distill, Student, TrainOptions, fit, predict
from xmodal.values import Points

SEEDS = (0,)
HALVES = (0, 1)
# Chosen so that no voxel of the coarsest level sees both halves.
GAP_M = 0.5
VOXEL_M = 0.02
STEPS = 400
CROP_POINTS, CROPS = 16384, 4
_INPUTS: Mapping[str, tuple[str, ...]] = {
    "student: colour, normals, height": ("rgb", "normals", "height"),
    "student: colour alone": ("rgb",),
    "student: normals, height": ("normals", "height"),
}
_MEAN, _LIFTED = "mean of the training half", "lifted"


def make(work: Path, workers: int) -> ResultRecord:
    """Lift the room once, then learn either half and judge on the other."""
    lift = Job("kitchen/lift", lift_kitchen, {"voxel_m": VOXEL_M})
    results = run_jobs([lift], work, 1)
    jobs = {
        (arm, half, seed): Job(
            f"kitchen/{arm.replace(' ', '-')}/{half}/{seed}",
            learn_half,
            {"inputs": list(inputs), "half": half, "seed": seed, "steps": STEPS},
        )
        for arm, inputs in _INPUTS.items()
        for half in HALVES
        for seed in SEEDS
    }
    results |= run_jobs(list(jobs.values()), work, workers)
    rows = [_row(arm, [results[jobs[arm, h, s].name] for h in HALVES for s in SEEDS])
            for arm in _INPUTS]  # fmt: skip
    once = [results[jobs[next(iter(_INPUTS)), h, SEEDS[0]].name] for h in HALVES]
    rows += [_row(arm, once, baseline=arm) for arm in (_MEAN, _LIFTED)]
    columns = ("", "cosine to lifted", "hits", "accuracy (95 %)", "strict hits")
    title = "Red kitchen, the half that was not trained on: cosine, and localisation by text"
    first = once[0]
    return record(
        "kitchen",
        [table(title, columns, rows)],
        results,
        seeds=SEEDS,
        sizes={
            "points to train on": "/".join(str(r["train_points"]) for r in once),
            "points to test on": "/".join(str(r["test_points"]) for r in once),
            "m between the halves": GAP_M,
            "steps": STEPS,
            "points a step": CROP_POINTS,
            "s a step": first["cpu_seconds_a_step"],
        },
        notes=[
            "Either half is trained on and the other tested. Only points of the tested half are "
            "shown to the localiser, in all arms, and a frame-query pair counts where most of the "
            "box shows that half. The mean has no highest point: its hits are those of chance."
        ],
    )


def lift_kitchen(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: lift the room with the default lift."""
    request = LiftRequest(
        source=scene_folder(), out=work / "kitchen", voxel_m=settings["voxel_m"], overwrite=True
    )
    found = lift_run(request, silent)
    return {"points": found.info.num_points, "observed": found.info.num_valid}


def scene_folder() -> Path:
    """The room.

    Raises:
        DataError: If the data are not there.
    """
    root = os.environ.get("XMODAL_DATA")
    folder = Path(root or "") / "7scenes_redkitchen"
    if root is None or not folder.is_dir():
        raise DataError(
            "XMODAL_DATA",
            wanted="a folder that holds 7scenes_redkitchen",
            got=root or "the variable is not set",
            fix="export XMODAL_DATA=/path/to/data; see data/seven_scenes.md",
        )
    return folder


class Kitchen:
    """The lifted room and its two halves."""

    def __init__(self, work: Path) -> None:
        self.run = Run(work / "kitchen")
        self.scene = open_scene(scene_folder(), voxel_m=VOXEL_M)

    @cached_property
    def lifted(self) -> Points:
        """All points with lifted rows."""
        cloud, features = read_points(self.run.points).points, self.run.features(LIFTED)
        return replace(
            cloud,
            rows=features.tensor(),
            valid=torch.from_numpy(np.array(features.valid)),
            weight=torch.from_numpy(np.array(features.weight)),
        )

    def half(self, index: int) -> Ids:
        """Points of a half, the gap left out; cut across the longer level axis at the median.

        The room's y axis points down, so x and z are level.
        """
        xyz = self.lifted.xyz.numpy()
        spread = np.quantile(xyz, 0.95, axis=0) - np.quantile(xyz, 0.05, axis=0)
        axis = 0 if spread[0] > spread[2] else 2
        middle = float(np.median(xyz[:, axis]))
        beyond = (xyz[:, axis] - middle) * (1 if index else -1)
        return np.flatnonzero(beyond > GAP_M / 2)

    def part(self, rows: Ids) -> Points:
        """Some of the points, as a cloud of one sample."""
        take, whole = torch.from_numpy(rows), self.lifted
        fields = {
            name: None if (value := getattr(whole, name)) is None else value[take]
            for name in ("xyz", "rgb", "normals", "rows", "valid", "weight")
        }
        return Points(offsets=torch.tensor([0, len(rows)]), **fields)


def learn_half(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: train on one half, judge on the other; settings `inputs`, `half`, `seed`, `steps`."""
    kitchen = Kitchen(work)
    own, other = kitchen.half(settings["half"]), kitchen.half(1 - settings["half"])
    mine, held = kitchen.part(own), kitchen.part(other)
    torch.manual_seed(settings["seed"])
    op: Any = op_class("encode", "sparse_unet")(
        voxel_m=0.03, inputs=tuple(settings["inputs"]), up="-y"
    )
    net = op.build(channels=1000, space="simplex")
    loss: Any = op_class("distill", "kl")()
    edge = Distill(loss, LIFTED, "student")
    options = TrainOptions(
        steps=settings["steps"], crop_points=CROP_POINTS, crops=CROPS, seed=settings["seed"],
        checkpoint_every=100, keep_checkpoints=1,
    )  # fmt: skip
    out = work / "students" / f"kitchen-{key_of(settings)}"
    cpu = time.process_time()
    fit({"student": Student(op, net)}, [edge], [{"cloud": mine, LIFTED: mine}], options, out,
        resume="auto")  # fmt: skip
    cpu = time.process_time() - cpu
    shutil.rmtree(out, ignore_errors=True)
    peak = peak_mb()
    rows = predict(op, net, held).rows
    assert rows is not None
    assert mine.rows is not None
    assert mine.valid is not None
    mean = mine.rows[mine.valid].float().mean(dim=0).expand(len(other), -1)
    assert held.rows is not None
    arms = {"student": rows, _MEAN: mean, _LIFTED: held.rows.float()}
    return {
        "arms": {n: judge(kitchen, other, held, given, n == _MEAN) for n, given in arms.items()},
        "train_points": len(own),
        "test_points": len(other),
        "cpu_seconds_a_step": round(cpu / settings["steps"], 4),
        "train_peak_mb": peak,
    }


def judge(
    kitchen: Kitchen, index: Ids, held: Points, rows: torch.Tensor, constant: bool
) -> dict[str, Any]:
    """Cosine to the lifted rows, and each frame-query pair that shows the tested half."""
    assert held.rows is not None
    assert held.valid is not None
    cosine = torch.cosine_similarity(held.rows[held.valid].float(), rows[held.valid], dim=1)
    scene, teacher = kitchen.scene, EmbeddedTeacher()
    texts = sorted({text for boxes in scene.boxes.values() for text in boxes})
    scores = np.full((len(kitchen.lifted.xyz), len(texts)), np.nan, dtype=np.float32)
    valid = held.valid.numpy()
    scores[index[valid]] = teacher.relevancy(rows[held.valid], texts, []).numpy()
    renderer = PointRenderer.of(kitchen.lifted.xyz.numpy())
    pairs: list[list[Any]] = []
    for frame, boxes in scene.boxes.items():
        position = scene.images.names.index(frame)
        image = scene.images[position]
        shown = renderer.pixel_points(image.camera, scene.depth(position))
        picture = scores[np.maximum(shown, 0)]
        picture[shown < 0] = np.nan
        for text in boxes:
            inside = _inside(boxes[text], shown.shape, image.camera.hw)
            here = np.isfinite(picture[..., 0])
            if (inside & here).sum() < 0.5 * max(1, (inside & (shown >= 0)).sum()):
                continue
            if constant:
                chance = float((inside & here).sum() / here.sum())
                pairs.append([frame, text, chance, chance])
                continue
            peak = peak_pixel(picture[..., texts.index(text)], image.camera.hw)
            hit = localise(peak, text, boxes)
            pairs.append([frame, text, float(hit.plain), float(hit.strict)])
    return {"cosine": float(cosine.mean()), "pairs": pairs}


def _inside(boxes: Any, shape: tuple[int, ...], hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Which rendered pixels lie in a box."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    u, v = (cols + 0.5) * hw[1] / shape[1], (rows + 0.5) * hw[0] / shape[0]
    found = np.zeros(shape, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        found |= (u >= x0) & (u < x1) & (v >= y0) & (v < y1)
    return found


def _row(name: str, results: list[dict[str, Any]], baseline: str = "student") -> list[str | float]:
    arms = [r["arms"][baseline] for r in results]
    plain = np.array([pair[2] for arm in arms for pair in arm["pairs"]])
    strict = sum(pair[3] for arm in arms for pair in arm["pairs"])
    mean, low, high = bootstrap(plain)
    hits = f"{plain.sum():.0f}/{len(plain)}"
    return [
        name,
        float(np.mean([arm["cosine"] for arm in arms])),
        hits,
        f"{mean:.2f} ({low:.2f}..{high:.2f})",
        f"{strict:.0f}/{len(plain)}",
    ]
