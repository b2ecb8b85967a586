"""Do closed-form lifts recover features of splats that are known? Against views, noise and ridge.

A ball of random splats with known features of length 1: each its own, or one for each of a dozen
objects. What the teacher saw is the exact picture of those features, with noise, at pixels or at
patches. Splats overlap little or much. Nothing was chosen on the seeds that are shown: ridge and
prior are those of `Tikhonov`, chosen on `DEV_SEEDS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.records import TableRecord
from benchmarks.splat_lift import ball, ring
from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.record import ResultRecord, record, table
from lifting.cameras import pixel_centres
from lifting.gaussians.closed_form import LiftedSplats, SplatView, Tikhonov, lift_splats
from lifting.gaussians.compositing import compositing_operator
from lifting.gaussians.projection import project_splats
from lifting.operator import LiftOperator
from lifting.sampling import patch_taps

Found = Mapping[str, list[float]]
SEEDS, DEV_SEEDS = (0, 1, 2), (100, 101)
NUM_SPLATS, CHANNELS, HW = 400, 8, (24, 32)
# Standard deviation of a splat, metres, in a ball of radius 1 m, and the most opacity.
OVERLAPS: Mapping[str, tuple[float, float]] = {"little": (0.05, 1.0), "much": (0.14, 0.4)}
# What the splats' features are: each its own, or the same all over an object.
KINDS = ("own", "objects")
_NUM_OBJECTS = 12
# Length of the noise on each feature that the teacher gives, beside features of length 1.
NOISES = (0.0, 0.1, 0.5)
WRONG = "2 of 10 views wrong"
_MID = 10
# Views and noise.
CASES = ((3, 0.1), (_MID, 0.0), (_MID, 0.1), (_MID, 0.5), (30, 0.1), (_MID, WRONG))
RIDGES = (0.01, 0.1, 1.0, 10.0)
PATCHES: Mapping[str, tuple[int, int] | None] = {
    "each pixel": None, "patches of 2 x 2": (12, 16), "patches of 4 x 4": (6, 8),
}  # fmt: skip
_COARSE = "patches of 4 x 4"


def make(work: Path, workers: int) -> ResultRecord:
    """Lift, compare with what is known."""
    jobs = [
        Job(f"splat_recovery/{seed}", measure, {"seed": seed, "dev": seed in DEV_SEEDS})
        for seed in (*SEEDS, *DEV_SEEDS)
    ]
    results = run_jobs(jobs, work, workers)
    shown = [results[f"splat_recovery/{seed}"]["found"] for seed in SEEDS]
    dev = [results[f"splat_recovery/{seed}"]["found"] for seed in DEV_SEEDS]
    chosen = Tikhonov()
    pixels = [float(np.mean([one[f"own/{name}/splats"][0] for one in shown])) for name in OVERLAPS]
    return record(
        "splat_recovery",
        [_methods(shown), _patches(shown), _ridges(shown), _choice(dev)],
        results,
        seeds=SEEDS,
        sizes={"splats": NUM_SPLATS, "channels": CHANNELS, "pixels a view": HW[0] * HW[1]},
        notes=[
            f"Error is |found - true| / |true| over all observed splats, in brackets the mean "
            f"cosine; means of {len(SEEDS)} seeds. Features are each splat's own, or the same all "
            f"over one of {_NUM_OBJECTS} objects. Where splats overlap little, {pixels[0]:.1f} "
            f"splats make up a covered pixel, where they overlap much, {pixels[1]:.1f} "
            "(inverse of the sum of squared shares). Noise is the length of a random vector added "
            "to each feature that the teacher gives. `solve beats mean` is about the error, and "
            "undecided where the seeds differ.",
            f"Ridge {chosen.ridge:g} and the prior `{chosen.prior}` are the defaults. They were "
            f"chosen on the seeds {', '.join(map(str, DEV_SEEDS))}, which are shown in the last "
            "table only, by the mean error over features, overlaps, noises of 0.1 and 0.5, pixels "
            f"and {_COARSE}.",
            _uncertainties(shown),
        ],
    )


def measure(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Errors, cosines and rank correlations of one seed, by what was varied."""
    seed, found = int(settings["seed"]), dict[str, list[float]]()
    for kind, overlap in product(KINDS, OVERLAPS):
        world = World(overlap, kind, seed)
        part = _dev(world) if settings["dev"] else _shown(world)
        found |= {f"{kind}/{overlap}/{key}": value for key, value in part.items()}
    return {"found": found}


def _dev(world: World) -> dict[str, list[float]]:
    """What ridge and prior are chosen on."""
    found: dict[str, list[float]] = {}
    for noise, patches in product(NOISES[1:], ("each pixel", _COARSE)):
        seen = world.views(_MID, noise=noise, grid=PATCHES[patches])
        for ridge, prior in product(RIDGES, ("mean", "zero")):
            solve = Tikhonov(ridge=ridge, prior=prior)
            lifted = lift_splats(seen, NUM_SPLATS, how="solve", solve=solve)
            found[f"{noise}/{patches}/{ridge:g}/{prior}"] = world.judge(lifted)
    return found


def _shown(world: World) -> dict[str, list[float]]:
    """What the tables show."""
    found = {"splats": [world.splats_a_pixel()]}
    for views, noise in CASES:
        seen = world.views(views, noise=noise)
        for how in ("mean", "robust", "solve"):
            found[f"{views}/{noise}/{how}"] = world.judge(lift_splats(seen, NUM_SPLATS, how=how))
    for noise in NOISES[1:]:
        seen = world.views(_MID, noise=noise)
        for ridge in RIDGES:
            solve = Tikhonov(ridge=ridge)
            lifted = lift_splats(seen, NUM_SPLATS, how="solve", solve=solve)
            found[f"{noise}/ridge {ridge:g}"] = world.judge(lifted)
    for patches, noise in product(PATCHES, NOISES):
        seen = world.views(_MID, noise=noise, grid=PATCHES[patches])
        for how in ("mean", "solve"):
            found[f"{patches}/{noise}/{how}"] = world.judge(lift_splats(seen, NUM_SPLATS, how=how))
    return found


class World:
    """Splats with known features, and what a teacher sees of them."""

    def __init__(self, overlap: str, kind: str, seed: int) -> None:
        scale_m, opacity = OVERLAPS[overlap]
        splats = ball(NUM_SPLATS, scale_m=scale_m, seed=seed)
        self.splats = replace(splats, opacities=splats.opacities * opacity)
        self.generator = torch.Generator().manual_seed(1000 + seed)
        self.truth = functional.normalize(self._normal(NUM_SPLATS, CHANNELS), dim=1)
        if kind == "objects":
            # Each splat has the feature of the nearest of a few splats.
            nearest = torch.cdist(splats.means, splats.means[:_NUM_OBJECTS]).argmin(1)
            self.truth = self.truth[nearest]
        self._weights: dict[int, list[LiftOperator]] = {}

    def weights(self, num_views: int) -> list[LiftOperator]:
        """Compositing weights of views around the ball."""
        if num_views not in self._weights:
            self._weights[num_views] = [
                compositing_operator(project_splats(self.splats, c), self.splats.opacities, HW)
                for c in ring(num_views, HW)
            ]
        return self._weights[num_views]

    def views(
        self, num_views: int, *, noise: float | str, grid: tuple[int, int] | None = None
    ) -> list[SplatView]:
        """Pictures of the true features, read at patches if a grid is given, with noise."""
        wrong = {0, 5} if noise == WRONG else set[int]()
        length = 0.0 if isinstance(noise, str) else noise
        taps = grid and patch_taps(pixel_centres(HW), image_hw=HW, grid_hw=grid)
        seen: list[SplatView] = []
        for k, weights in enumerate(self.weights(num_views)):
            # A view that is wrong shows the features of other splats.
            order = torch.randperm(NUM_SPLATS, generator=self.generator)
            rows = weights.apply(self.truth[order] if k in wrong else self.truth)
            if grid is not None:
                picture = rows.T.reshape(1, CHANNELS, *HW)
                rows = functional.adaptive_avg_pool2d(picture, grid).flatten(2)[0].T.contiguous()
            rows = rows + length / math.sqrt(CHANNELS) * self._normal(*rows.shape)
            seen.append(SplatView(weights=weights, rows=rows, taps=taps, name=str(k)))
        return seen

    def judge(self, lifted: LiftedSplats) -> list[float]:
        """Relative error, mean cosine, and how the uncertainty ranks the errors."""
        rows, truth = lifted.rows[lifted.valid], self.truth[lifted.valid]
        off = (rows - truth).norm(dim=1)
        cosine = functional.cosine_similarity(rows, truth, dim=1).mean()
        ranks = _rank_correlation(lifted.uncertainty[lifted.valid], off)
        return [float(off.square().mean().sqrt()), float(cosine), ranks]

    def splats_a_pixel(self) -> float:
        """How many equal splats would make up a covered pixel; mean over pixels."""
        total: list[Tensor] = []
        for weights in self.weights(_MID):
            share, square = weights.row_sum(), weights.with_weight(weights.weight**2).row_sum()
            total.append((share**2 / square)[share > 0.5])
        return float(torch.cat(total).mean())

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


def _methods(shown: Sequence[Found]) -> TableRecord:
    rows: list[list[str | int]] = []
    for kind, overlap, (views, noise) in product(KINDS, OVERLAPS, CASES):
        keys = [f"{kind}/{overlap}/{views}/{noise}/{how}" for how in ("mean", "robust", "solve")]
        gains = [one[keys[0]][0] - one[keys[2]][0] for one in shown]
        pays = "yes" if min(gains) > 0 else "no" if max(gains) < 0 else "undecided"
        cells = (_cell(shown, key) for key in keys)
        rows.append([kind, overlap, views, str(noise), *cells, pays])
    columns = (
        "features", "overlap", "views", "noise", "mean", "robust", "solve", "solve beats mean",
    )  # fmt: skip
    return table("Known features of splats: error (cosine)", columns, rows)


def _patches(shown: Sequence[Found]) -> TableRecord:
    rows: list[list[str]] = []
    for kind, patches, noise in product(KINDS, PATCHES, NOISES):
        row = [kind, patches, str(noise)]
        for overlap, how in product(OVERLAPS, ("mean", "solve")):
            row.append(_cell(shown, f"{kind}/{overlap}/{patches}/{noise}/{how}"))
        rows.append(row)
    columns = (
        "features", "teacher's map", "noise",
        *(f"{name} overlap: {how}" for name, how in product(OVERLAPS, ("mean", "solve"))),
    )  # fmt: skip
    return table(f"What the teacher's resolution costs, {_MID} views", columns, rows)


def _ridges(shown: Sequence[Found]) -> TableRecord:
    rows: list[list[str]] = []
    for kind, ridge in product(KINDS, RIDGES):
        row = [kind, f"{ridge:g}"]
        for overlap, noise in product(OVERLAPS, NOISES[1:]):
            row.append(_cell(shown, f"{kind}/{overlap}/{noise}/ridge {ridge:g}"))
        rows.append(row)
    names = (f"{name} overlap, noise {n}" for name, n in product(OVERLAPS, NOISES[1:]))
    return table(f"The solve by its ridge, {_MID} views", ("features", "ridge", *names), rows)


def _choice(dev: Sequence[Found]) -> TableRecord:
    """Mean errors on the seeds that ridge and prior were chosen on."""
    rows: list[list[str | float]] = []
    for ridge in RIDGES:
        row: list[str | float] = [f"{ridge:g}"]
        for prior, kind in product(("mean", "zero"), KINDS):
            ending = f"/{ridge:g}/{prior}"
            errors = [
                value[0]
                for one in dev
                for key, value in one.items()
                if key.startswith(kind) and key.endswith(ending)
            ]
            row.append(float(np.mean(errors)))
        rows.append(row)
    names = (f"prior {prior}, {kind}" for prior, kind in product(("mean", "zero"), KINDS))
    entry = table("Chosen on other seeds: mean error", ("ridge", *names), rows)
    return entry.model_copy(update={"folded": True})


def _uncertainties(shown: Sequence[Found]) -> str:
    def ranks(how: str) -> float:
        cases = [f"{views}/{noise}/{how}" for views, noise in CASES if noise != WRONG]
        keys = [f"{kind}/{overlap}/{c}" for kind, overlap, c in product(KINDS, OVERLAPS, cases)]
        return float(np.mean([one[key][2] for one in shown for key in keys]))

    return (
        "Rank correlation of the uncertainty that comes with each splat and its error, over all "
        f"rows of the first table without wrong views: mean lift {ranks('mean'):.2f}, solve "
        f"{ranks('solve'):.2f}."
    )


def _cell(shown: Sequence[Found], key: str) -> str:
    error, cosine, _ = np.mean([one[key] for one in shown], axis=0)
    return f"{error:.3f} ({cosine:.3f})"


def _rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's; 0 where either is constant."""
    if len(a) < 2 or not float(a.std()) or not float(b.std()):
        return 0.0
    ranks = torch.stack([x.argsort().argsort().double() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])
