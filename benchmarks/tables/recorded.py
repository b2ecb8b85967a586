"""Jobs on recordings: a student is trained by a run file of configs/runs, and judged held out."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.tables.jobs import Job
from xmodal.atomic import write_text
from xmodal.config.reader import write_yaml
from xmodal.config.runfile import load_run
from xmodal.edges.lift.one_hot import OneHot
from xmodal.errors import DataError
from xmodal.evaluate import interval
from xmodal.evaluate.probe import fit_probe
from xmodal.recordings.disturbing import Disturbance
from xmodal.runs.frozen import silent
from xmodal.runs.recorded.judged import (
    Judged,
    OpenedRecorded,
    open_recorded,
    other_recordings,
)
from xmodal.runs.recorded.learners import load_clip_learners
from xmodal.runs.recorded.material import open_data
from xmodal.runs.train import TrainRequest, train_run
from xmodal.values import Labels

Ids = NDArray[np.int64]
RUNS = Path(__file__).resolve().parents[2] / "configs" / "runs"
RESAMPLES = 2000
# Labels of each class that a probe or a student may see; 0 for all.
ALL = 0


@dataclass(frozen=True, kw_only=True)
class Course:
    """A training by a run file, with what a table needs otherwise.

    Attributes:
        run: File of configs/runs, without its ending.
        scene: Folder of the recordings.
        test: Pattern of the recordings that are held out.
        seed: Of the run.
        changes: What is set in the file: keys joined by `/`, and the value.
        start: A training whose networks are the first weights of those of the same name.
    """

    run: str
    scene: str
    test: str
    seed: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    start: Course | None = None

    def settings(self) -> dict[str, Any]:
        """As JSON values, with the run file as it stands: another file is another training."""
        start = None if self.start is None else self.start.settings()
        return {"run": self.plain(), "start": start}

    def plain(self) -> dict[str, Any]:
        """The run file as data."""
        plain = run_file(self.run)
        changes = {
            "seed": self.seed,
            "data/scene": self.scene,
            "splits": {"test": [self.test]},
            "evaluation": {},
            **self.changes,
        }
        for path, value in changes.items():
            *parents, last = path.split("/")
            inner: Any = plain
            for key in parents:
                inner = inner[key]
            inner[last] = value
        # The loss is all that is looked at along the way.
        plain["optimiser"]["checkpoint_every"] = 1_000_000
        return plain


def run_file(name: str) -> dict[str, Any]:
    """A run file of configs/runs as data, every setting written out."""
    return copy.deepcopy(_plain(name))


@cache
def _plain(name: str) -> dict[str, Any]:
    return load_run(RUNS / f"{name}.yaml").plain()


def course_job(name: str, course: Course, judge: Mapping[str, Any]) -> Job:
    """The job that trains a course and judges it; see `judged`."""
    return Job(name, train, {"course": course.settings(), "judge": dict(judge)})


def train(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: train one course and judge it; settings `course` and `judge`."""
    course, began = settings["course"], time.process_time()
    out, start = run_folder(work, course), course["start"]
    runfile = out.with_suffix(".yaml")
    runfile.parent.mkdir(parents=True, exist_ok=True)
    write_text(runfile, write_yaml(course["run"], block_levels=3))
    request = TrainRequest(
        runfile=runfile,
        out=out,
        overwrite=True,
        start=None if start is None else run_folder(work, start),
    )
    steps = train_run(request, silent).steps
    trained = time.process_time() - began
    found = judged(open_recorded(out), settings["judge"])
    total = time.process_time() - began
    return {"steps": steps, "cpu_seconds": [round(trained, 1), round(total, 1)], **found}


def run_folder(work: Path, course: Mapping[str, Any]) -> Path:
    """The RUN folder of a course's settings."""
    key = hashlib.sha256(json.dumps(course, sort_keys=True).encode()).hexdigest()[:12]
    return work / "recorded" / f"{course['run']['name']}-{key}"


# ---- judging -----------------------------------------------------------------------------------


def judged(opened: OpenedRecorded, judge: Mapping[str, Any]) -> dict[str, Any]:
    """Which held-out recordings are answered right.

    Args:
        opened: A trained run.
        judge: `probes`: sources (`STUDENT.trunk` for what a student has before its head, which
            contrast spends on what it contrasts), and for each the numbers of labels of a class
            that a linear probe sees; `heads`: sources that give classes; `zero_shot`: sources that
            are asked by the names of the classes; `strength` of the probes' penalty; `seed` of what
            is labelled; `cases`: by name, what is done to the streams of those held out before the
            heads are asked again (the fields of a `Disturbance`).
    """
    recordings = open_data(opened.spec.data)
    truth, train_places = recordings.labels, opened.places("train")
    right: dict[str, list[int]] = {}
    for source, budgets in judge.get("probes", {}).items():
        rows = opened.rows(source).rows
        for budget in budgets:
            labelled = chosen_labels(truth, train_places, budget, judge["seed"])
            found = probed(rows, truth, labelled, judge["strength"])
            right[f"{source} probe {budget}"] = _right(found, truth.ids, opened)
    for source in judge.get("heads", ()):
        found = opened.rows(source).rows.argmax(1).numpy()
        right[f"{source} head"] = _right(found, truth.ids, opened)
    for source in judge.get("zero_shot", ()):
        right[f"{source} zero-shot"] = _right(_asked(opened, source, truth), truth.ids, opened)
    for case, given in judge.get("cases", {}).items():
        seen = other_recordings(opened, None, "test", Disturbance(**given), silent)
        for source in judge["heads"]:
            right[f"{source} {case}"] = _right_anew(seen, source, truth.classes)
    held_out = opened.places("test")
    return {
        "names": [opened.table[i].name for i in held_out],
        "groups": [opened.table[i].group for i in held_out],
        "right": right,
        "weights": _weights(opened),
    }


def chosen_labels(truth: Labels, train_places: Sequence[int], budget: int, seed: int) -> list[int]:
    """Training recordings whose labels may be seen, as the op `one_hot` chooses them.

    Args:
        truth: Class of every recording.
        train_places: Those to train on.
        budget: Labels of each class; `ALL` for all.
        seed: Of the choice.
    """
    known = torch.full_like(truth.ids, -1)
    known[list(train_places)] = truth.ids[list(train_places)]
    op = OneHot(labels_per_class=budget or None, seed=seed)
    kept = op(Labels(ids=known, classes=truth.classes)).valid
    assert kept is not None, "an embedding says which rows are valid"
    return kept.nonzero().squeeze(1).tolist()


def probed(rows: torch.Tensor, truth: Labels, labelled: Sequence[int], strength: float) -> Ids:
    """Class of every row by a linear probe that saw the labels of some."""
    ids = truth.ids.numpy()
    # One penalty for all, chosen beforehand: with one label of each class none can be left out.
    probe = fit_probe(
        rows[list(labelled)],
        ids[list(labelled)],
        [str(i) for i in labelled],
        len(truth.classes),
        strengths=(strength,),
    )
    return probe.scores(rows).argmax(1)


def _asked(opened: OpenedRecorded, source: str, truth: Labels) -> Ids:
    asked = opened.teacher_of(source)
    assert asked is not None, "only sources in a teacher's space are asked"
    scores = asked[1].teacher().relevancy(opened.rows(source).rows, list(truth.classes), [])
    return scores.argmax(1).numpy()


def _right(found: Ids, ids: torch.Tensor, opened: OpenedRecorded) -> list[int]:
    held_out = opened.places("test")
    return (found == ids.numpy())[held_out].astype(int).tolist()


def _right_anew(seen: Judged, source: str, classes: Sequence[str]) -> list[int]:
    """Of recordings that were looked at anew; where nothing is left to see, nothing is right."""
    if (given := seen.rows.get(source)) is None:
        return [0] * len(seen)
    told = zip(given.rows.argmax(1).tolist(), given.valid.tolist(), seen.labels, strict=True)
    return [int(valid and classes[best] == label) for best, valid, label in told]


def _weights(opened: OpenedRecorded) -> dict[str, int]:
    """Trained numbers of every student."""
    learners = load_clip_learners(opened.run, opened.spec)
    return {
        name: sum(p.numel() for p in student.net.parameters())
        for name, student in learners.students.items()
    }


# ---- from answers to numbers -------------------------------------------------------------------


class Rated:
    """Share of right answers of one arm; units (subjects, clips) and seeds are drawn anew.

    Args:
        values: Share that is right, units by seeds.
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        self.values = values
        rng = np.random.default_rng(0)
        units, seeds = values.shape
        some = rng.integers(0, units, (RESAMPLES, units, 1))
        # What has no chance in it has one seed, which is drawn every time.
        runs = rng.integers(0, _SEEDS_DRAWN, (RESAMPLES, 1, _SEEDS_DRAWN)) % seeds
        self.samples = values[some, runs].mean(axis=(1, 2))

    @property
    def mean(self) -> float:
        """Over units and seeds."""
        return float(self.values.mean())

    def text(self) -> str:
        """Mean and interval in words."""
        low, high = _ends(self.samples)
        return f"{self.mean:.3f} ({low:.3f}..{high:.3f})"

    def minus(self, other: Rated) -> str:
        """Paired difference and its interval: the same units and seeds drawn for both."""
        low, high = _ends(self.samples - other.samples)
        return f"{self.mean - other.mean:+.3f} ({low:+.3f}..{high:+.3f})"


# Seeds of every table; draws of arms without a seed must be as many.
_SEEDS_DRAWN = 3


def _ends(samples: NDArray[np.float64]) -> tuple[float, float]:
    low, high = interval(samples[:, None])
    return float(low[0]), float(high[0])


def rated(results: Sequence[Sequence[Mapping[str, Any]]], key: str, *, by: str) -> Rated:
    """The answers `key` of jobs.

    Args:
        results: For each seed, the results of all held-out parts.
        key: Which answers.
        by: Unit: `groups` (a subject's share of right answers counts as one) or `names`.
    """
    columns: list[dict[str, float]] = []
    for seed in results:
        found: dict[str, list[int]] = {}
        for part in seed:
            for unit, right in zip(part[by], part["right"][key], strict=True):
                found.setdefault(unit, []).append(right)
        columns.append({unit: float(np.mean(found[unit])) for unit in sorted(found)})
    return Rated(np.array([list(column.values()) for column in columns]).T)


# ---- data --------------------------------------------------------------------------------------


def folder_of(name: str) -> Path:
    """A folder of recordings under `$XMODAL_DATA`.

    Raises:
        DataError: If it is not there.
    """
    root = os.environ.get("XMODAL_DATA")
    folder = Path(root or "") / name
    if root is None or not folder.is_dir():
        raise DataError(
            "XMODAL_DATA",
            wanted=f"a folder with {name}",
            got="not set" if root is None else f"{root} without it",
            fix="export XMODAL_DATA=/path/to/data",
        )
    return folder
