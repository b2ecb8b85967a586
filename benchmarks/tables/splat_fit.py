"""New views of real photos: PSNR and SSIM against the number of splats, and seconds.

The fox: 50 photos with poses and without points. Every eighth by name is held out and had no say
in any setting; those were chosen on every eighth of the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.record import ResultRecord, record, table
from lifting.gaussians.densify import Densify
from lifting.gaussians.fit import ViewScore, evaluate_views, fit_splats
from lifting.gaussians.fit_options import SHORT_FIT, FitOptions
from lifting.gaussians.initialise import splats_at_random, splats_from_points
from lifting.gaussians.mcmc import Mcmc
from lifting.gaussians.photos import Photo
from lifting.gaussians.plane_sweep import swept_points
from lifting.gaussians.splats import Splats
from lifting.gaussians.strategies import Strategy
from xmodal.datasets import open_scene
from xmodal.datasets.photos import held_out
from xmodal.edges.lift.fit_splats import photo_of
from xmodal.errors import DataError

SEED = 0
MAX_SIDE_PX = 160
STEPS = 1500
COUNTS = (2500, 5000, 10_000)
# Photos of the training part that settings were chosen on.
_EVERY = 8
# As shown -> where splats start and what changes their number.
_ARMS: Mapping[str, tuple[str, str]] = {
    "random, densify": ("random", "densify"),
    "random, MCMC": ("random", "mcmc"),
    "plane sweep, densify": ("sweep", "densify"),
    "plane sweep, MCMC": ("sweep", "mcmc"),
    "plane sweep, number fixed": ("sweep", "none"),
}
# Splats drawn along rays reach their neighbours; at this share of the size a pixel has tens of
# them, not hundreds.
_RANDOM_SIZE = 0.5
# Opacity at the start. Splats at random find their places from half; those of a sweep are seen
# through at first, as those of `xmodal lift` are.
_OPACITY: Mapping[str, float] = {"random": 0.5, "sweep": 0.1}


def make(work: Path, workers: int) -> ResultRecord:
    """Fit every arm at every number of splats."""
    jobs = {
        (arm, count): Job(
            f"splat_fit/{arm.replace(', ', '-').replace(' ', '-')}/{count}",
            measure,
            settings_of(start, strategy, count),
        )
        for arm, (start, strategy) in _ARMS.items()
        for count in COUNTS
    }
    results = run_jobs(list(jobs.values()), work, workers)
    rows = [_row(arm, count, results[job.name]) for (arm, count), job in jobs.items()]
    once = results[next(iter(jobs.values())).name]
    columns = ("start, strategy", "Gaussians", "PSNR", "SSIM", "worst view", "CPU s", "ms a step")
    title = "Fox, views that no fit saw: PSNR in dB and SSIM, means over the photos held out"
    return record(
        "splat_fit",
        [table(title, columns, rows)],
        results,
        seeds=(SEED,),
        sizes={
            "photos to fit": once["photos"],
            "held out": len(once["test"]),
            "px": "x".join(map(str, once["hw"])),
            "steps": STEPS,
        },
        notes=[
            "`random` starts grey where the cameras look, `plane sweep` at places where photos "
            "agree, found from the photos to fit alone. `densify` starts with half of the splats, "
            "the others with all. Seconds are of one thread, the start included.",
        ],
    )


def settings_of(start: str, strategy: str, count: int, *, dev: bool = False) -> dict[str, Any]:
    """Settings of a job; `dev` judges on photos of the training part instead."""
    return {
        "start": start,
        "opacity": _OPACITY[start],
        "strategy": strategy,
        "count": count,
        "steps": STEPS,
        "max_side_px": MAX_SIDE_PX,
        "seed": SEED,
        "dev": dev,
        # What else decides a result: a change of these is another job.
        "rates": asdict(SHORT_FIT),
    }


def measure(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: one fit, judged on photos that it did not see."""
    del work
    fit, test = photos_of(settings["max_side_px"], dev=settings["dev"])
    began = time.process_time()
    start = _start(fit, settings)
    started = time.process_time() - began
    options = FitOptions(
        steps=settings["steps"],
        strategy=_strategy(settings["strategy"], settings["count"]),
        sh_degree=1,
        sh_every=settings["steps"] // 3,
        seed=settings["seed"],
    )
    fitted = fit_splats(fit, start, options)
    seconds = time.process_time() - began
    return {
        "photos": len(fit),
        "hw": list(fit[0].camera.hw),
        "num_splats": len(fitted.splats),
        "start_seconds": round(started, 2),
        "cpu_seconds": round(seconds, 1),
        "ms_a_step": round(1e3 * (seconds - started) / settings["steps"], 1),
        "test": [_shown(score) for score in evaluate_views(fitted.splats, test)],
        "train": [_shown(score) for score in evaluate_views(fitted.splats, fit[::_EVERY])],
    }


def photos_of(max_side_px: int, *, dev: bool = False) -> tuple[list[Photo], list[Photo]]:
    """Photos to fit and photos to judge by, without the bend of the lens.

    Args:
        max_side_px: Longest side.
        dev: Leave the test photos alone: judge by some of the training part.

    Raises:
        DataError: If the data are not there.
    """
    scene = open_scene(scene_folder(), need=("views",))
    photos = [photo_of(scene.images[i], None, max_side_px) for i in range(len(scene.images))]
    fit, test = _split(photos)
    return _split(fit) if dev else (fit, test)


def scene_folder() -> Path:
    """The fox.

    Raises:
        DataError: If the data are not there.
    """
    root = os.environ.get("XMODAL_DATA")
    folder = Path(root or "") / "fox_half"
    if root is None or not folder.is_dir():
        raise DataError(
            "XMODAL_DATA",
            wanted="a folder with fox_half, photos with poses",
            got="not set" if root is None else f"{root} without it",
            fix="export XMODAL_DATA=/path/to/data",
        )
    return folder


def _split(photos: Sequence[Photo]) -> tuple[list[Photo], list[Photo]]:
    fit, test = held_out([photo.name for photo in photos], _EVERY)
    return [photos[i] for i in fit], [photos[i] for i in test]


def _start(photos: Sequence[Photo], settings: Mapping[str, Any]) -> Splats:
    # Only `densify` is about growth; the others use all splats from the first step on.
    count = settings["count"] // (2 if settings["strategy"] == "densify" else 1)
    if settings["start"] == "random":
        cameras = [photo.camera for photo in photos]
        splats = splats_at_random(cameras, count, settings["seed"], opacity=settings["opacity"])
        return replace(splats, scales=splats.scales * _RANDOM_SIZE)
    xyz, rgb = swept_points(photos)
    chance = torch.Generator().manual_seed(settings["seed"])
    index = torch.randperm(len(xyz), generator=chance)[:count]
    return splats_from_points(xyz[index], rgb[index], opacity=settings["opacity"])


def _strategy(name: str, count: int) -> Strategy | None:
    if name == "none":
        return None
    if name == "mcmc":
        return Mcmc(max_splats=count)
    return Densify(max_splats=count)


def _shown(score: ViewScore) -> dict[str, Any]:
    return {"name": score.name, "psnr": round(score.psnr_db, 3), "ssim": round(score.ssim, 4)}


def _row(arm: str, count: int, result: Mapping[str, Any]) -> list[str | float]:
    psnr = [view["psnr"] for view in result["test"]]
    ssim = [view["ssim"] for view in result["test"]]
    del count  # the number that was reached is shown
    return [
        arm,
        result["num_splats"],
        f"{sum(psnr) / len(psnr):.2f}",
        f"{sum(ssim) / len(ssim):.3f}",
        f"{min(psnr):.2f}",
        f"{result['cpu_seconds']:.0f}",
        f"{result['ms_a_step']:.0f}",
    ]
