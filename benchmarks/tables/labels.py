"""How many labels does distillation save? From scratch, linear probe, and fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.record import ResultRecord, record, table
from benchmarks.tables.scenes import ensure_worlds, scene_names
from benchmarks.tables.scoring import Measured, stacked
from benchmarks.tables.student import LABELS, Arm
from benchmarks.tables.world import SEEDS, arm_with_seed, lift_jobs

# As shown -> labelled scenes and share of the points of each.
BUDGETS: Mapping[str, tuple[int, float]] = {
    "40 scenes, 1 % of points": (40, 0.01),
    "40 scenes, 10 % of points": (40, 0.1),
    "40 scenes, all points": (40, 1.0),
    "1 scene, all points": (1, 1.0),
}
_TEACHER = Arm()
# A fifth of the steps of pre-training, for all routes alike.
_LABELS = Arm(target="truth", losses=(LABELS,), judged=("test",), steps=200)
# Fine-tuning takes the usual quarter of the rate, so that it keeps what was learnt.
_ROUTES: Mapping[str, Mapping[str, Any]] = {
    "from scratch": {},
    "linear probe": {"trained": "last"},
    "fine-tuned": {"lr": 1e-3},
}


def make(work: Path, workers: int) -> ResultRecord:
    """Pre-train on lifted rows without labels, then learn from a few."""
    ensure_worlds(work)
    run_jobs(lift_jobs(masks=False), work, workers)
    students = {seed: arm_with_seed(_TEACHER, seed) for seed in SEEDS}
    before = [arm.job(f"student/colour/{seed}") for seed, arm in students.items()]
    results = run_jobs(before, work, workers)
    jobs = label_jobs({seed: arm.key() for seed, arm in students.items()})
    results |= run_jobs([*jobs.values(), *long_jobs().values()], work, workers)
    rows: list[list[str]] = []
    for budget in BUDGETS:
        found = {route: _measured(results, budget, route) for route in _ROUTES}
        scratch = found["from scratch"]
        long = Measured([stacked(results[_long_name(budget)]["student"], "test")])
        texts = [*(one.text() for one in found.values()), long.text()]
        gains = [found[route].minus(scratch) for route in ("linear probe", "fine-tuned")]
        rows.append([budget, *texts, *gains])
    columns = (
        "labels", *_ROUTES, f"from scratch, {_TEACHER.steps} steps",
        "probe - scratch", "fine-tuned - scratch",
    )  # fmt: skip
    title = "Label efficiency on unseen layouts: mIoU over 14 objects (95 % over scenes)"
    return record(
        "labels",
        [table(title, columns, rows)],
        results,
        seeds=SEEDS,
        sizes={
            "scenes without labels for pre-training": _TEACHER.scenes,
            "test scenes": len(scene_names("test")),
            "steps": _LABELS.steps,
            "points a step": _LABELS.crop_points,
        },
        notes=[
            "The probe trains the last layer alone; fine-tuning trains all weights at a quarter "
            "of the rate. These take the same number of steps, and pre-training comes on top: "
            "beside them, at one seed, what labels alone give in as many steps as pre-training."
        ],
    )


def label_jobs(starts: Mapping[int, str], base: Arm = _LABELS) -> dict[tuple[str, str, int], Job]:
    """Every budget by every route and seed; `starts` are the keys of the pre-trained students."""
    jobs: dict[tuple[str, str, int], Job] = {}
    for budget, (scenes, share) in BUDGETS.items():
        for route, changes in _ROUTES.items():
            for seed, key in starts.items():
                start = None if route == "from scratch" else key
                arm = replace(
                    base, scenes=scenes, share=share, start=start, seed=seed, **dict(changes)
                )
                jobs[budget, route, seed] = arm.job(_name(budget, route, seed))
    return jobs


def long_jobs() -> dict[str, Job]:
    """From scratch for as many steps as pre-training has, at one seed."""
    jobs: dict[str, Job] = {}
    for budget, (scenes, share) in BUDGETS.items():
        arm = replace(_LABELS, scenes=scenes, share=share, steps=_TEACHER.steps, seed=SEEDS[0])
        jobs[budget] = arm.job(_long_name(budget))
    return jobs


def _long_name(budget: str) -> str:
    scenes, share = BUDGETS[budget]
    return f"labels/{scenes}x{share:g}/long"


def _name(budget: str, route: str, seed: int) -> str:
    scenes, share = BUDGETS[budget]
    return f"labels/{scenes}x{share:g}/{route.replace(' ', '-')}/{seed}"


def _measured(results: Mapping[str, Any], budget: str, route: str) -> Measured:
    return Measured(
        [stacked(results[_name(budget, route, seed)]["student"], "test") for seed in SEEDS]
    )
