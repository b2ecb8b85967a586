"""The named systems: each one's run file on the generated world, against plain lifting."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.record import ResultRecord, record, table
from benchmarks.tables.scenes import (
    DENSE_PLAIN,
    ensure_worlds,
    names_of,
    scene_names,
    split_of,
)
from benchmarks.tables.scoring import Measured, judge_lifted, stacked
from benchmarks.tables.world import SPLITS, lift_jobs
from xmodal.atomic import write_text
from xmodal.config.runfile import RunFile, load_run
from xmodal.runs.evaluate import EvalRequest
from xmodal.runs.evaluate.clusters import cluster_tables
from xmodal.runs.evaluate.segmentation import segmentation
from xmodal.runs.evaluate.subject import collect
from xmodal.runs.frozen import silent
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.runs.train import TrainRequest, train_run
from xmodal.store import Run

RUNS = Path(__file__).resolve().parents[2] / "configs" / "runs"
# System -> the arms of `xmodal eval` that answer for it.
SYSTEMS: Mapping[str, str] = {
    "openscene": "ensemble",
    "openmask3d": "lifted",
    "pointdc": "student",
    "xmask3d": "student",
    "pla": "student",
    "recon": "student",
    "act": "student",
    "partdistill": "student",
    "distillation_with_contrast": "student",
}
# Its features know no words: clusters of them are matched to classes.
_WORDLESS = "pointdc"


def make(work: Path, workers: int) -> ResultRecord:
    """Lift and train every system as its run file says, and ask `xmodal eval`."""
    ensure_worlds(work)
    run_jobs(lift_jobs(masks=False), work, workers)
    plain = Job("lifted/plain", judge_lifted, {"lift": DENSE_PLAIN.name,
                                               "scenes": scene_names(*SPLITS)})  # fmt: skip
    jobs = [Job(f"systems/{name}", run_system, {"system": name}) for name in SYSTEMS]
    results = run_jobs([plain, *jobs], work, workers)
    base = {s: Measured([stacked(results[plain.name]["lifted"], s)]) for s in SPLITS}
    rows: list[list[str | float]] = [
        ["plain lifting, dense teacher", "lifted", *_columns(base, base), float("nan")]
    ]
    clusters: list[list[str | float]] = []
    for name, arm in SYSTEMS.items():
        found = results[f"systems/{name}"]
        for source in dict.fromkeys((arm, "student", "lifted")):
            if source not in found["tables"]:
                continue
            tables = found["tables"][source]
            mine = {s: Measured([stacked(tables, s)]) for s in SPLITS}
            rows.append([name, source, *_columns(mine, base), found["steps"]])
        clusters += [[name, source, value] for source, value in found["clusters"].items()]
    columns = (
        "system", "answers", "mIoU unseen layouts (95 %)", "minus plain lifting",
        "mIoU unseen objects (95 %)", "minus plain lifting ", "steps",
    )  # fmt: skip
    return record(
        "systems",
        [
            table("The named systems on the generated world", columns, rows),
            table(
                "Clusters matched to classes (k-means of super-points, Hungarian), test scenes",
                ("system", "features", "mIoU"),
                clusters,
            ),
        ],
        results,
        seeds=(0,),
        sizes={
            "test scenes": len(scene_names("test")),
            "novel scenes": len(scene_names("novel")),
            "views each": 8,
        },
        notes=[
            "Systems differ in teacher (dense classifier, masks, DINO) as their run files in "
            "`configs/runs` say; the difference is to plain lifting with the dense teacher, over "
            "the same scenes and questions."
        ],
    )


def _columns(mine: Mapping[str, Measured], base: Mapping[str, Measured]) -> list[str]:
    cells: list[str] = []
    for split in SPLITS:
        cells += [mine[split].text(), "-" if mine is base else mine[split].minus(base[split])]
    return cells


def run_system(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: one system from its run file to its answers.

    Settings: `system`; `scenes` (folders, instead of the run file's) and `steps` for a trial.
    """
    name = settings["system"]
    out, runfile = work / "systems" / name, work / "systems" / f"{name}.yaml"
    runfile.parent.mkdir(parents=True, exist_ok=True)
    spec = load_run(RUNS / f"{name}.yaml")
    scenes = settings.get("scenes") or [p.name for p in _here(spec, work).data.scenes]
    folders = tuple(str(work / "worlds" / scene) for scene in scenes)
    spec = replace(spec, data=replace(spec.data, scene=folders))
    if "steps" in settings:
        steps = settings["steps"]
        spec = replace(
            spec,
            optimiser=replace(spec.optimiser, steps=steps),
            stages=tuple(replace(stage, steps=steps) for stage in spec.stages),
        )
    write_text(runfile, spec.to_yaml())
    trained = bool(spec.graph.students())
    if trained:
        train_run(TrainRequest(runfile=runfile, out=out, again=True, overwrite=True), silent)
    else:
        lift_run(LiftRequest(source=runfile, out=out, overwrite=True), silent)
    result: dict[str, Any] = {"tables": {}, "clusters": {}, "steps": spec.steps * trained}
    judge = _judge_clusters if name == _WORDLESS else _judge_words
    judge(out, trained, result)
    manifest = Run(out).manifest()
    result["run"] = {k: manifest.get(k) for k in ("train_seconds", "train_peak_mb")}
    shutil.rmtree(out)
    return result


def _here(spec: RunFile, work: Path) -> RunFile:
    """The run over the scenes of the work folder; scenes kept for choices are nobody's."""
    given = spec.data.scene
    patterns = (given,) if isinstance(given, str) else given
    moved = [pattern.replace("data/world/", f"{work / 'worlds'}/") for pattern in patterns]
    found = replace(spec, data=replace(spec.data, scene=tuple(moved))).data.scenes
    kept = tuple(str(path) for path in found if split_of(path.name) != "dev")
    return replace(spec, data=replace(spec.data, scene=kept))


def _judge_words(out: Path, trained: bool, result: dict[str, Any]) -> None:
    for split in SPLITS:
        request = EvalRequest(run=out, out=out, split="test" if trained else None)
        subjects = [s for s in collect(request, silent) if split_of(s.name) == split]
        known = {name for subject in subjects for name in subject.classes}
        names = tuple(name for name in names_of(split) if name in known)
        found = segmentation(subjects, replace(request, names=names), silent).results["3d"]
        places = [*(names_of(split).index(name) for name in names), len(names_of(split))]
        for arm, tallies in found.tallies.items():
            tables = result["tables"].setdefault(arm, {})
            for subject, one in zip(subjects, tallies, strict=True):
                whole = np.zeros((len(names_of(split)) + 1,) * 2, dtype=np.int64)
                whole[np.ix_(places, places)] = one.confusion
                tables[subject.name] = whole.tolist()


def _judge_clusters(out: Path, trained: bool, result: dict[str, Any]) -> None:
    request = EvalRequest(run=out, out=out, split="test" if trained else None)
    subjects = [s for s in collect(request, silent) if split_of(s.name) == "test"]
    shown = cluster_tables(subjects, request)["clusters"]
    row = next(row for row in shown.rows if row[0] == "mean IoU")
    result["clusters"] = dict(zip(shown.columns[1:], map(float, row[1:]), strict=True))
