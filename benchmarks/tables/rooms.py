"""Rooms: sound learns depths, classes, a floor plan and voxels, with and without what is seen.

Rooms are made here. Some of those to train on have maps, as if somebody had measured them; all are
heard and seen. Networks over panoramas learn the maps and answer for all rooms, and sound learns
their answers. Rooms that are judged were neither heard nor seen by any training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from benchmarks.tables import recorded
from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.record import ResultRecord, TableRecord, record, table
from benchmarks.tables.recorded import Course, run_file, run_folder
from xmodal.evaluate import interval
from xmodal.evaluate.dense import class_tables, mean_iou
from xmodal.evaluate.intervals import resampled, scene_draws
from xmodal.recordings.opening import open_recordings
from xmodal.recordings.ragged import join
from xmodal.rooms import RoomSet, make_rooms
from xmodal.runs.recorded.judged import OpenedRecorded, open_recorded
from xmodal.values import Grids

Reals = NDArray[np.float64]
Runs = list[dict[str, Any]]

FEW = RoomSet(num=60, test=20, mapped=15, places=4, seed=0)
ALL = replace(FEW, mapped=None)
SEEDS = (0, 1, 2)
SEEING_STEPS, HEARING_STEPS = 300, 400
# The maps that teach, and what is measured of each.
MAPS = ("far", "things", "plan", "space")
MEASURES = (
    "depth RMSE (m)",
    "within 1.25",
    "classes: mean IoU",
    "plan: IoU of occupied",
    "voxels: IoU of occupied",
)
_BASE = "sound, from the maps alone"
_TAUGHT = "sound, from what is seen in all rooms"
_MATCHED = "the same, inner maps matched (DAPS)"
_CEILING = "sound, if all rooms had maps"
_CONSTANT = "the mean map, the most frequent class"
_SEEN = "the networks that see"


def make(work: Path, workers: int) -> ResultRecord:
    """Make the rooms, train those that see, then those that hear, by three seeds."""
    few, all_ = folders(work)
    make_rooms(few, FEW)
    make_rooms(all_, ALL)
    first, second = jobs(str(few), str(all_))
    results = run_jobs(list(first.values()), work, workers)
    results |= run_jobs(list(second.values()), work, workers)
    every = {**first, **second}
    found = {
        arm: [results[job.name] for (name, _), job in every.items() if name == arm]
        for arm in dict.fromkeys(arm for arm, _ in every)
    }
    one = results[first[_BASE, 0].name]
    return record(
        "rooms",
        tables_of(found),
        results,
        seeds=SEEDS,
        sizes={
            "rooms to train on": FEW.num,
            "with maps": FEW.mapped or FEW.num,
            "other rooms": FEW.test,
            "places in each": FEW.places,
            "steps of hearing": HEARING_STEPS,
            "steps of seeing": SEEING_STEPS,
            "weights that hear": sum(one["weights"].values()),
        },
        notes=[
            f"Maps of {FEW.mapped} rooms are known; all {FEW.num} are heard and seen. The rows of "
            "sound differ in their teachers alone: the same networks, steps, batch and sounds, "
            "judged in rooms that nobody trained on. `matched` also brings inner maps of the "
            "networks that hear to those of the networks that see, by learnt embeddings of places. "
            "Depths and classes are panoramas of 16 x 32 cells, the plan has 32 x 32 cells of "
            f"{FEW.cell_m} m around the listener, voxels are {FEW.voxel_cells} x "
            f"{FEW.voxel_cells} x {FEW.slices} of {FEW.voxel_m} m. "
            "Intervals draw rooms and seeds anew, for paired differences the same ones. No room of "
            "this set was used to choose a setting.",
        ],
    )


def folders(work: Path) -> tuple[Path, Path]:
    """Where the rooms lie: with few maps, and with all."""
    return work / "rooms" / "few", work / "rooms" / "all"


def matched(work: Path) -> Mapping[str, Any]:
    """The course of the first run that learnt by all that there is, for a picture."""
    few, all_ = folders(work)
    return jobs(str(few), str(all_))[1][_MATCHED, SEEDS[0]].settings["course"]


def jobs(few: str, all_: str) -> tuple[dict[tuple[str, int], Job], dict[tuple[str, int], Job]]:
    """Trainings by arm and seed: those that start afresh, and those taught by networks that see.

    Args:
        few: Rooms of which some have maps.
        all_: The same rooms, all with maps.
    """
    settings = {"scene": few, "run": run_file("daps_alone")}
    first = {(_CONSTANT, 0): Job("rooms/constant", measure_constant, settings)}
    second: dict[tuple[str, int], Job] = {}
    for seed in SEEDS:
        seen = _course("daps", few, seed, "seeing", SEEING_STEPS)
        first[_SEEN, seed] = _job("seeing", seen, {name: f"seen_{name}" for name in MAPS})
        alone = {"far": "heard.far", "things": "heard.things"}
        alone |= {"plan": "heard_plan", "space": "heard_space"}
        for arm, slug, scene in ((_BASE, "alone", few), (_CEILING, "all-maps", all_)):
            first[arm, seed] = _job(slug, _course("daps_alone", scene, seed), alone)
        taught = {**alone, "far": "heard.seen_far", "things": "heard.seen_things"}
        for arm, run in ((_TAUGHT, "daps_plain"), (_MATCHED, "daps")):
            made = _course(run, few, seed, "hearing", HEARING_STEPS, seen)
            second[arm, seed] = _job(run, made, taught)
    return first, second


def _course(
    run: str,
    scene: str,
    seed: int,
    stage: str = "",
    steps: int = HEARING_STEPS,
    start: Course | None = None,
) -> Course:
    """One training, of a stage alone where the run file has several."""
    changes: dict[str, Any] = {"optimiser/steps": steps}
    if stage:
        stages = [one for one in run_file(run)["stages"] if one["name"] == stage]
        changes = {"stages": [{**one, "steps": steps} for one in stages]}
    return Course(run=run, scene=scene, test="test-*", seed=seed, changes=changes, start=start)


def _job(slug: str, made: Course, answers: Mapping[str, str]) -> Job:
    told = {"course": made.settings(), "answers": dict(answers)}
    return Job(f"rooms/{slug}/{made.seed}", train, told)


# ---- jobs --------------------------------------------------------------------------------------


def train(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: train a course and judge its maps; `answers` says which source answers which map."""
    course = settings["course"]
    found = recorded.train(work, {"course": course, "judge": {}})
    opened = open_recorded(run_folder(work, course))
    places = opened.places("test")
    groups = [opened.table[i].group for i in places]
    parts = {
        name: counted(_maps(opened, source)[places], _maps(opened, name)[places], groups)
        for name, source in settings["answers"].items()
    }
    kept = {name: found[name] for name in ("steps", "cpu_seconds", "weights")}
    return {**kept, "rooms": sorted(set(groups)), "counts": parts}


def measure_constant(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: the same answer everywhere, the mean of the maps that are known, cell by cell."""
    del work
    recordings = open_recordings(Path(settings["scene"]), "daps")
    items = recordings.items
    test = [i for i, item in enumerate(items) if item.group.startswith("test-")]
    known = [i for i, item in enumerate(items) if item.maps and i not in set(test)]
    parts: dict[str, list[list[float]]] = {}
    for key, op in settings["run"]["graph"]["lift"].items():
        source, _, name = (part.strip() for part in key.partition("->"))
        rows = _cells(op, [items[i].read("grids", source) for i in (*known, *test)])
        # A mean of one-hot rows has its peak at the most frequent class.
        mean = np.nanmean(rows[: len(known)], axis=0, keepdims=True)
        truth = rows[len(known) :]
        same = np.broadcast_to(mean, truth.shape)
        parts[name] = counted(same, truth, [items[i].group for i in test])
    return {"rooms": sorted({items[i].group for i in test}), "counts": parts}


def _cells(op: Mapping[str, Any], values: Sequence[Any]) -> Float64[Reals, "S N C"]:
    """Maps as the op `cells` makes them of recorded ones."""
    from xmodal.edges.lift.cells import MapCells

    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in op.items()}
    return _array(join([MapCells(**settings)(value) for value in values], "maps"))


def _maps(opened: OpenedRecorded, source: str) -> Float64[Reals, "S N C"]:
    """Maps of all recordings of a run; NaN where nothing is known."""
    value = opened.rows(source)
    assert isinstance(value, Grids), "rooms are judged by maps"
    return _array(value)


def _array(value: Any) -> Float64[Reals, "S N C"]:
    rows = value.rows.double().numpy().copy()
    rows[~(value.valid & (value.weight > 0)).numpy()] = np.nan
    return rows.reshape(len(value.offsets) - 1, -1, rows.shape[1])


def counted(
    given: Float64[Reals, "S N C"], truth: Float64[Reals, "S N C"], groups: Sequence[str]
) -> list[list[float]]:
    """What measures are made of, room by room, flat, so that rooms can be drawn anew.

    Args:
        given: Maps as answered.
        truth: Maps of the same places; NaN where a cell is not known.
        groups: Room of each place.

    Returns:
        Of depths: squared errors, cells within a factor of 1.25, cells. Of classes: cells by class
        (rows) and answer.
    """
    known = np.isfinite(truth).all(axis=2)
    if truth.shape[2] == 1:
        real, told = np.where(known, truth[..., 0], 1.0), np.where(known, given[..., 0], 1.0)
        ratio = np.maximum(told, 1e-6) / real
        near = known & (np.maximum(ratio, 1 / ratio) < 1.25)
        parts = np.stack([((told - real) ** 2).sum(1), near.sum(1), known.sum(1)], axis=1)
    else:
        told, real = (np.nan_to_num(one).argmax(axis=2) for one in (given, truth))
        parts = class_tables(told, real, known, truth.shape[2]).reshape(len(truth), -1)
    rooms = sorted(set(groups))
    total = np.zeros((len(rooms), parts.shape[1]))
    np.add.at(total, [rooms.index(group) for group in groups], parts)
    return total.tolist()


# ---- from counts to numbers --------------------------------------------------------------------


class Measured:
    """The measures of one arm; rooms and seeds are drawn anew.

    Args:
        seeds: Results of its jobs, one a seed.
    """

    def __init__(self, seeds: Runs) -> None:
        draws = scene_draws(len(seeds[0]["rooms"]))
        values: list[Reals] = []
        samples: list[Reals] = []
        for one in seeds:
            parts = [(np.array(one["counts"][name]), _OF[name]) for name in MAPS]
            values.append(np.concatenate([of(part.sum(0)[None])[0] for part, of in parts]))
            drawn = [resampled(part, of, draws) for part, of in parts]
            samples.append(np.concatenate(drawn, axis=1))
        self.values: Reals = np.mean(values, axis=0)
        # What has no chance in it has one seed, which is drawn every time.
        runs = np.random.default_rng(0).integers(0, len(SEEDS), (len(draws), len(SEEDS)))
        every = np.stack(samples, axis=1)
        self.samples: Reals = every[np.arange(len(draws))[:, None], runs % len(seeds)].mean(axis=1)

    def texts(self) -> list[str]:
        """Every measure and its interval."""
        low, high = interval(self.samples)
        return [
            f"{value:.3f} ({a:.3f}..{b:.3f})"
            for value, a, b in zip(self.values, low, high, strict=True)
        ]

    def minus(self, other: Measured) -> list[str]:
        """Paired differences: the same rooms and seeds drawn for both."""
        low, high = interval(self.samples - other.samples)
        return [
            f"{value:+.3f} ({a:+.3f}..{b:+.3f})"
            for value, a, b in zip(self.values - other.values, low, high, strict=True)
        ]


def _of_depths(total: NDArray[Any]) -> Float64[Reals, "r 2"]:
    count = np.maximum(total[:, 2], 1)
    return np.stack([np.sqrt(total[:, 0] / count), total[:, 1] / count], axis=1)


def _of_classes(total: NDArray[Any]) -> Float64[Reals, "r 1"]:
    return mean_iou(_square(total))[:, None]


def _of_occupied(total: NDArray[Any]) -> Float64[Reals, "r 1"]:
    cells = _square(total)
    union = cells[:, 1].sum(1) + cells[:, 0, 1]
    return (cells[:, 1, 1] / np.maximum(union, 1))[:, None]


def _square(total: NDArray[Any]) -> NDArray[Any]:
    """Tables of K classes by K answers and none, from their K (K + 1) numbers."""
    num = math.isqrt(total.shape[1])
    return total.reshape(len(total), num, num + 1)


_OF: Mapping[str, Callable[[NDArray[Any]], Reals]] = {
    "far": _of_depths,
    "things": _of_classes,
    "plan": _of_occupied,
    "space": _of_occupied,
}


def tables_of(found: Mapping[str, Runs]) -> list[TableRecord]:
    """What is shown: all arms, and differences to sound that learnt from maps alone."""
    arms = (_CONSTANT, _SEEN, _BASE, _TAUGHT, _MATCHED, _CEILING)
    made = {arm: Measured(found[arm]) for arm in arms}
    rows = [[arm, *made[arm].texts(), _seconds(found[arm])] for arm in arms]
    title = "Rooms that no training heard or saw: what their sound tells"
    pairs = [(arm, _BASE) for arm in (_TAUGHT, _MATCHED, _CEILING)] + [(_MATCHED, _TAUGHT)]
    minus = [[arm, base, *made[arm].minus(made[base])] for arm, base in pairs]
    return [
        table(title, ("answers", *MEASURES, "CPU s a training"), rows),
        table("Paired differences", ("answers", "minus", *MEASURES), minus),
    ]


def _seconds(results: Runs) -> str:
    """Of a training; those that are taught also need one of the networks that see."""
    found = [one["cpu_seconds"][0] for one in results if "cpu_seconds" in one]
    return f"{np.mean(found):.0f}" if found else "-"
