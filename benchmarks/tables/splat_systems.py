"""Systems over splats in a real room: localisation, against plain lifting to points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.kitchen import scene_folder
from benchmarks.tables.record import ResultRecord, record, table
from benchmarks.tables.systems import RUNS
from benchmarks.tables.systems_kitchen import STEPS as POINT_STEPS
from benchmarks.tables.systems_kitchen import compared, run_system
from xmodal.config.runfile import load_run

# System -> the arms that it shows, and the system over points with plain lifting of its teacher.
SYSTEMS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "backprojection": (("lifted",), "openscene"),
    "even_views": (("lifted",), "openscene"),
    "tikhonov": (("lifted",), "openscene"),
    "feature_3dgs": (("field.seen",), "openscene"),
    "m3": (("field.seen",), "openscene"),
    "langsplat": (("lifted", "small.parts", "middle.things", "large.groups"), "xmask3d"),
    "gaussiangrasper": (("field.pixels",), "xmask3d"),
    "gaussiancross": (("drawn",), "openscene"),
    "gp_nerf": (("scene",), "openscene"),
}
# The two protocols: relevancy of splats is drawn, or rows are drawn and then asked.
_PROTOCOLS = {"": "3D", ", rendered": "2D"}


def make(work: Path, workers: int) -> ResultRecord:
    """Lift and train every system in the room, and ask for what stands in it."""
    scene_folder()
    points = sorted({points for _, points in SYSTEMS.values()})
    jobs = [_job(name, _steps(name)) for name in SYSTEMS] + [
        _job(name, POINT_STEPS) for name in points
    ]
    results = run_jobs(jobs, work, workers)
    rows: list[list[str | float]] = []
    for name in points:
        found = results[f"systems_kitchen/{name}"]["hits"]
        for arm in ("single view", "lifted"):
            shown = f"{arm}, {'masks' if name == 'xmask3d' else 'dense'}"
            cells = compared(found[arm], found["lifted"])
            rows.append(["points", shown, "-" if arm == "single view" else "3D", *cells, "-", "-"])
    for name, (arms, points_name) in SYSTEMS.items():
        found, plain = results[f"systems_kitchen/{name}"], results[f"systems_kitchen/{points_name}"]
        for arm in arms:
            for ending, protocol in _PROTOCOLS.items():
                cells = compared(found["hits"][arm + ending], plain["hits"]["lifted"])
                rows.append([name, arm, protocol, *cells, *_seconds(found["run"])])
    columns = (
        "system", "arm", "protocol", "hits", "strict hits", "strict - points (95 %)",
        "s to lift", "s to learn",
    )  # fmt: skip
    first = results["systems_kitchen/backprojection"]
    return record(
        "splat_systems",
        [table("Systems over splats in the red kitchen: localisation by text", columns, rows)],
        results,
        seeds=(0,),
        sizes={"frames": first["frames"], "splats": first["points"]},
        notes=[
            "The difference is to plain lifting of the same teacher to points, which averages over "
            "visible points with depth maps; splats hide each other by themselves. Splats are the "
            "points of the room as flat discs, without any fit; those of gaussiancross and "
            "gp_nerf, which learn their splats, start from points 4 cm apart. `s to lift` is "
            "geometry, lift and, for fields, the sets of all patches; teacher maps come from the "
            "cache. Seconds are of the clock, of tikhonov, langsplat and gaussiangrasper beside "
            "other work. Protocols: 3D draws the relevancy of every splat, 2D draws rows and asks "
            "each pixel. `half_px` of even_views was chosen on other frames of the room."
        ],
    )


def _steps(name: str) -> int:
    """Those of its own run file: splats have no other scene to share a budget with."""
    return load_run(RUNS / f"{name}.yaml").steps


def _job(name: str, steps: int) -> Job:
    return Job(f"systems_kitchen/{name}", run_system, {"system": name, "steps": steps})


def _seconds(run: Mapping[str, Any]) -> list[str]:
    lift, train = run.get("lift_seconds"), run.get("train_seconds")
    return [
        "-" if lift is None else f"{lift:.0f}",
        "-" if train is None else f"{train:.0f}",
    ]
