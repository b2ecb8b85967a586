"""The named systems on a real room: localisation in the kitchen, against plain lifting."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.kitchen import VOXEL_M, scene_folder
from benchmarks.tables.record import ResultRecord, record, table
from benchmarks.tables.systems import RUNS, SYSTEMS
from xmodal.atomic import write_text
from xmodal.config.run_parts import Splits
from xmodal.config.runfile import RunFile, load_run
from xmodal.evaluate import bootstrap
from xmodal.runs.frozen import silent
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.runs.localise import ask, localisation_pairs
from xmodal.runs.opened import open_run
from xmodal.runs.train import TrainRequest, train_run
from xmodal.store import Run

# Half of what a student of this room gets elsewhere: eight systems are trained here.
STEPS = 400
# The room's y axis points down.
_UP = "-y"
_ARMS = ("single view", "lifted", "student", "ensemble")


def make(work: Path, workers: int) -> ResultRecord:
    """Lift and train every system in the room, and ask for what stands in it."""
    scene_folder()
    jobs = [Job(f"systems_kitchen/{n}", run_system, {"system": n, "steps": STEPS}) for n in SYSTEMS]
    results = run_jobs(jobs, work, workers)
    rows: list[list[str | float]] = []
    for name, answers in SYSTEMS.items():
        found = results[f"systems_kitchen/{name}"]
        for arm in _ARMS:
            if arm not in found["hits"]:
                continue
            shown = f"**{arm}**" if arm == answers else arm
            cells = compared(found["hits"][arm], found["hits"]["lifted"])
            cells = [*cells[:2], "-" if arm == "lifted" else cells[2]]
            rows.append([name, shown, found["asked_by"], *cells])
    columns = (
        "system", "answers", "asked by", "hits", "strict hits", "strict - lifted (95 %)"
    )  # fmt: skip
    first = results["systems_kitchen/openscene"]
    return record(
        "systems_kitchen",
        [table("The named systems in the red kitchen: localisation", columns, rows)],
        results,
        seeds=(0,),
        sizes={"frames": first["frames"], "points": first["points"], "steps": STEPS},
        notes=[
            "`lifted` is plain lifting of the system's own teacher: the dense classifier for "
            "openscene, recon, act and distillation_with_contrast, masks for xmask3d and "
            "partdistill, DINO (asked by clicks) for pointdc, crops of 3D things for openmask3d. "
            "Bold: what answers for the system. Students see colour, levelness and height."
        ],
    )


def compared(hits: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """Hits, strict hits, and the difference of these to another arm's on the same questions."""
    strict = np.array(hits["strict"], dtype=float)
    mean, low, high = bootstrap(strict - np.array(others["strict"], dtype=float))
    return [
        f"{sum(hits['plain'])}/{len(strict)}",
        f"{int(strict.sum())}/{len(strict)}",
        f"{mean:+.2f} ({low:+.2f}..{high:+.2f})",
    ]


def run_system(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: one system in the room; settings `system` and `steps`."""
    name = settings["system"]
    folder = work / "systems_kitchen"
    out, runfile = folder / name, folder / f"{name}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    spec = in_room(load_run(RUNS / f"{name}.yaml"), settings["steps"])
    text = spec.to_yaml().replace("up: z", f"up: {_UP}").replace("grid: 12", "grid: 16")
    write_text(runfile, text)
    if spec.graph.students():
        train_run(TrainRequest(runfile=runfile, out=out, again=True, overwrite=True), silent)
    else:
        lift_run(LiftRequest(source=runfile, out=out, overwrite=True), silent)
    opened = open_run(out)
    questions = ask(opened, opened.scene)
    pairs = localisation_pairs(opened, opened.scene, questions)
    hits = {
        arm: {
            kind: [bool(getattr(pair.hits[arm], kind)) for pair in pairs]
            for kind in ("plain", "strict")
        }
        for arm in pairs[0].hits
    }
    manifest = Run(out).manifest()
    frames, points = len(opened.scene.images), len(opened.xyz)
    shutil.rmtree(out)
    return {
        "hits": hits,
        "asked_by": questions.kind,
        "frames": frames,
        "points": points,
        "run": {k: manifest.get(k) for k in ("train_seconds", "train_peak_mb", "lift_seconds")},
    }


def in_room(spec: RunFile, steps: int) -> RunFile:
    """The system in the kitchen instead of the generated world; stages keep their shares."""
    whole = spec.steps
    stages = tuple(
        replace(stage, steps=max(1, stage.steps * steps // whole)) for stage in spec.stages
    )
    # Systems that render all points of a view at every step say so by larger voxels of their own.
    voxel_m = max(VOXEL_M, spec.data.voxel_m)
    data = replace(spec.data, scene=str(scene_folder()), voxel_m=voxel_m, max_frames=None)
    optimiser = replace(spec.optimiser, steps=steps)
    return replace(
        spec, data=data, splits=Splits(), optimiser=optimiser, stages=stages,
        evaluation=replace(spec.evaluation, tasks=("localisation",)),
    )  # fmt: skip
