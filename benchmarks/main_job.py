"""The main job on real and generated scenes, timed: lift, train, eval, each in its own process.

    python -m benchmarks.main_job kitchen          text queries with the embedded teacher
    python -m benchmarks.main_job kitchen_dino     click queries with the dino teacher
    python -m benchmarks.main_job world            3D IoU on a generated world

Writes benchmarks/results/NAME.json: tables as `xmodal eval` makes them, seconds and peak memory of
every verb as the operating system accounts them, versions, date, seed and command.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xmodal.errors import DataError
from xmodal.store import Run

RESULTS = Path(__file__).parent / "results"
# Worlds that choices were made on have seeds below 100.
WORLD_SEED = 101


@dataclass(frozen=True)
class Job:
    """A scene, a teacher, and the tables that `eval` writes for it."""

    teacher: str
    tables: tuple[str, ...]
    scene: str | None = None
    options: tuple[str, ...] = field(default=())


JOBS = {
    "kitchen": Job("embedded", ("localisation", "localisation_pairs"), "7scenes_redkitchen"),
    "kitchen_dino": Job("dino", ("localisation", "localisation_pairs"), "7scenes_redkitchen"),
    "world": Job("embedded", ("metrics",)),
}


def main() -> int:
    """Run one job and write its record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.main_job")
    parser.add_argument("name", choices=sorted(JOBS))
    parser.add_argument("--out", type=Path, help="RUN folder; a temporary one if none")
    parser.add_argument("--of", type=Path, help="record this finished RUN instead of making one")
    options = parser.parse_args()
    job = JOBS[options.name]
    with tempfile.TemporaryDirectory() as scratch:
        if options.of is not None:
            record = describe(job, options.of, cost_in_manifest(options.of))
        else:
            out = options.out or Path(scratch) / "run"
            record = measure(job, scene_of(job, Path(scratch)), out)
    record["name"] = options.name
    record["command"] = f"python -m benchmarks.main_job {options.name}"
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{options.name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}")
    return 0


def scene_of(job: Job, scratch: Path) -> Path:
    """The scene of a job: real data, or a world made now."""
    if job.scene is None:
        from xmodal.world import WorldOptions, make_world

        return make_world(scratch / "world", WorldOptions(seed=WORLD_SEED, num_views=20))
    root = os.environ.get("XMODAL_DATA")
    if root is None:
        raise DataError(
            "XMODAL_DATA",
            wanted=f"the folder that holds {job.scene}",
            got="the variable is not set",
            fix="export XMODAL_DATA=/path/to/data",
        )
    return Path(root) / job.scene


def measure(job: Job, scene: Path, out: Path) -> dict[str, Any]:
    """Run the three verbs and collect what they cost and say."""
    lift = verb("lift", scene, "--teacher", job.teacher, "--out", out, *job.options)
    train = verb("train", out / "run.yaml", "--out", out)
    scored = verb("eval", out)
    return describe(job, out, {"lift": lift, "train": train, "eval": scored})


def cost_in_manifest(out: Path) -> dict[str, dict[str, float]]:
    """What a finished run says that it cost; its lift may have found teacher output cached."""
    manifest = Run(out).manifest()
    return {
        name: {"seconds": manifest[f"{verb}_seconds"], "peak_mb": manifest[f"{verb}_peak_mb"]}
        for verb, name in (("lift", "lift, teacher output cached"), ("train", "train"))
    }


def describe(job: Job, out: Path, cost: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The record of a run that was lifted, trained and evaluated."""
    manifest = Run(out).manifest()
    return {
        "date": datetime.now(tz=UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, no GPU",
        "seed": 0,
        "versions": manifest["versions"],
        "teacher": job.teacher,
        "frames": manifest["frames"],
        "points": Run(out).features("lifted").info.num_points,
        "student_cosine": manifest["student_cosine"],
        "cost": cost,
        "tables": {name: read_table(out / f"{name}.csv") for name in job.tables},
    }


def verb(*words: object) -> dict[str, float]:
    """Run `xmodal ...` and account for it: wall seconds and peak memory in MB."""
    tool = Path(sys.executable).with_name("xmodal")
    began = time.monotonic()
    process = os.posix_spawn(tool, [str(tool), *map(str, words)], dict(os.environ))
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"xmodal {' '.join(map(str, words))} failed")
    seconds = round(time.monotonic() - began, 1)
    return {"seconds": seconds, "peak_mb": round(usage.ru_maxrss / 1024)}


def read_table(path: Path) -> list[list[str]]:
    """A csv file as rows, the header first."""
    with path.open(newline="") as file:
        return list(csv.reader(file))


if __name__ == "__main__":
    raise SystemExit(main())
