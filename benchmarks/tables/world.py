"""Does distillation help? Teachers, lifts and students on unseen layouts and unseen objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import TableRecord
from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.record import ResultRecord, record, table
from benchmarks.tables.scenes import (
    CLASSES_PLAIN,
    DENSE_PLAIN,
    DENSE_SHARED,
    MASKS_SHARED,
    ensure_worlds,
    lift_scenes,
    names_of,
    scene_names,
)
from benchmarks.tables.scoring import Measured, judge_lifted, judge_views, stacked
from benchmarks.tables.student import LABELS, SHAPE, Arm

SEEDS = (0, 1, 2)
SPLITS = ("test", "novel")
_JUDGED = scene_names(*SPLITS)
_STUDENTS: Mapping[str, Arm] = {
    "colour": Arm(),
    "shape": Arm(inputs=SHAPE),
    "labels": Arm(target="truth", losses=(LABELS,)),
}
# Arm as shown -> (job, source in its result); `{}` stands for the seed.
_ARMS: Mapping[str, tuple[str, str]] = {
    "2D teacher, each view alone": ("views/dense", "views"),
    "2D teacher as class probabilities": ("views/classes", "views"),
    "lifted": ("lifted/plain", "lifted"),
    "lifted, shared in super-points": ("lifted/shared", "lifted"),
    "2D mask teacher, each view alone": ("views/masks", "views"),
    "lifted mask teacher": ("lifted/masks", "lifted"),
    "student: shape and colour": ("student/colour/{}", "student"),
    "student: shape alone": ("student/shape/{}", "student"),
    "student from all labels": ("student/labels/{}", "student"),
    "ensemble: lifted, student": ("student/colour/{}", "ensemble_dense_plain"),
    "ensemble: shared, student": ("student/colour/{}", "ensemble_dense_shared"),
}
_REFERENCE = "lifted"


def lift_jobs(*, masks: bool = True) -> list[Job]:
    """Everything that has to be lifted, in the order that it is needed."""
    lifts = {
        DENSE_SHARED.name: scene_names("dev", "train", *SPLITS),
        DENSE_PLAIN.name: scene_names("dev", *SPLITS),
    }
    if masks:
        lifts[MASKS_SHARED.name] = _JUDGED
    return [
        Job(f"lift/{name}", lift_scenes, {"lift": name, "scenes": scenes})
        for name, scenes in lifts.items()
    ]


def make(work: Path, workers: int) -> ResultRecord:
    """Lift, train, judge."""
    ensure_worlds(work)
    run_jobs(lift_jobs(masks=False), work, workers)
    students = [
        arm_with_seed(arm, seed).job(f"student/{name}/{seed}")
        for seed in SEEDS
        for name, arm in _STUDENTS.items()
    ]
    # Masks come last: they cost the most and nothing else needs them.
    last = [job for job in judging_jobs() if job.name.endswith("/masks")]
    first = [job for job in judging_jobs() if job not in last]
    results = run_jobs([*first, *students], work, workers)
    run_jobs(lift_jobs(), work, workers)
    results |= run_jobs(last, work, workers)
    arms = {
        split: {arm: measured(results, *where, split) for arm, where in _ARMS.items()}
        for split in SPLITS
    }
    one = results["student/colour/0"]
    return record(
        "world",
        [_summary(arms), *(_objects(arms[split], split) for split in SPLITS), _students(results)],
        results,
        seeds=SEEDS,
        sizes={
            "training scenes": _STUDENTS["colour"].scenes,
            "training points": one["points"],
            "test scenes": len(scene_names("test")),
            "novel scenes": len(scene_names("novel")),
            "views each": 8,
            "steps": _STUDENTS["colour"].steps,
            "points a step": _STUDENTS["colour"].crop_points,
        },
        notes=_notes(arms),
    )


def judging_jobs() -> list[Job]:
    """Jobs for all arms without a student."""
    lifts = {"dense": DENSE_PLAIN, "classes": CLASSES_PLAIN, "masks": MASKS_SHARED}
    views = [
        Job(f"views/{name}", judge_views, {"lift": lift.name, "scenes": _JUDGED})
        for name, lift in lifts.items()
    ]
    lifts = {"plain": DENSE_PLAIN, "shared": DENSE_SHARED, "masks": MASKS_SHARED}
    return views + [
        Job(f"lifted/{name}", judge_lifted, {"lift": lift.name, "scenes": _JUDGED})
        for name, lift in lifts.items()
    ]


def arm_with_seed(arm: Arm, seed: int) -> Arm:
    """The same student from another seed."""
    return replace(arm, seed=seed)


def measured(results: Mapping[str, Any], job: str, source: str, split: str) -> Measured:
    """One arm on one split, over all its seeds."""
    names = [job.format(seed) for seed in SEEDS] if "{}" in job else [job]
    return Measured([stacked(results[name][source], split) for name in names])


def _summary(arms: Mapping[str, Mapping[str, Measured]]) -> TableRecord:
    rows: list[list[str]] = []
    for arm in _ARMS:
        row = [arm]
        for split in SPLITS:
            # A student from labels has no word for an object that it never saw.
            if arm == "student from all labels" and split == "novel":
                row += ["cannot name them", "-"]
                continue
            found, lifted = arms[split][arm], arms[split][_REFERENCE]
            row += [found.text(), "-" if arm == _REFERENCE else found.minus(lifted)]
        rows.append(row)
    columns = ("", "unseen layouts", "minus lifted", "unseen objects", "minus lifted ")
    title = "Generated world: mIoU (95 % over scenes), and the paired difference to lifting"
    return table(title, columns, rows)


def _objects(arms: Mapping[str, Measured], split: str) -> TableRecord:
    shown = [
        arm
        for arm in (
            "2D teacher, each view alone", "lifted", "lifted, shared in super-points",
            "student: shape and colour", "student: shape alone", "student from all labels",
        )
        if not (split == "novel" and arm == "student from all labels")
    ]  # fmt: skip
    values = np.stack([arms[arm].per_class() for arm in shown])
    rows = [[name, *map(float, values[:, i])] for i, name in enumerate(names_of(split))]
    entry = table(f"IoU of every object, {split} scenes", ("object", *shown), rows)
    return entry.model_copy(update={"folded": True})


def _students(results: Mapping[str, Any]) -> TableRecord:
    rows: list[list[str | float]] = []
    for name in _STUDENTS:
        mine = [results[f"student/{name}/{seed}"] for seed in SEEDS]
        cosine = [c for r in mine for c in r["cosine"].values()]
        rows.append(
            [
                name,
                float(np.mean(cosine)) if cosine else float("nan"),
                float(np.mean([r["cpu_seconds_a_step"] for r in mine])),
                float(np.mean([r["train_seconds"] for r in mine])),
                max(r["train_peak_mb"] for r in mine),
            ]
        )
    columns = ("student", "cosine to lifted, judged scenes", "s a step", "s in all", "peak MB")
    entry = table("What the students cost", columns, rows)
    return entry.model_copy(update={"folded": True})


def _notes(arms: Mapping[str, Mapping[str, Measured]]) -> list[str]:
    """Where the student is better than what it learnt from, and where it is not."""
    notes: list[str] = []
    for split in SPLITS:
        gain = (
            arms[split]["student: shape and colour"].per_class()
            - arms[split]["lifted, shared in super-points"].per_class()
        )
        names = names_of(split)
        order = np.argsort(-np.nan_to_num(gain))
        best = [f"{names[i]} {gain[i]:+.2f}" for i in order[:3] if gain[i] > 0]
        worst = [f"{names[i]} {gain[i]:+.2f}" for i in order[::-1][:3] if gain[i] < 0]
        notes.append(
            f"{split} scenes, student against the rows that it learnt: better on "
            f"{', '.join(best) or 'no object'}; worse on {', '.join(worst) or 'no object'} (IoU)."
        )
    return notes
