"""Motion: an inertial sensor learns what a skeleton network sees; every subject is held out once.

UTD-MHAD: 27 actions. A student sees the inertial sensor alone; skeletons are there while training.
Settings were chosen on subjects 1 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.record import ResultRecord, record, table
from benchmarks.tables.recorded import (
    ALL,
    Course,
    Rated,
    chosen_labels,
    course_job,
    folder_of,
    probed,
    rated,
    run_file,
)
from xmodal.recordings.opening import open_recordings
from xmodal.recordings.recording import Recordings

DATA = "utd_mhad_s1to6"
SUBJECTS = (1, 2, 3, 4, 5, 6)
# Settings of every arm were chosen on these.
DEV = (1, 3)
SEEDS = (0, 1, 2)
STEPS = 400
# Labels of each class that may be seen.
FEW = (1, 5)
BUDGETS = (*FEW, ALL)
# Of the penalty of every linear probe on rows.
STRENGTH = 0.03
# What was learnt without labels is kept by smaller steps.
FINE_LR = 1e-3
_PARTS = 8
_TOGETHER = "motion and skeleton teach each other (InfoNCE)"
BASE = "labels"
GOES_ON = "without labels, then labels"

# Arm -> the run file, what is changed in it, and whether it starts from `_TOGETHER`.
_FROZEN: Mapping[str, Mapping[str, Any]] = {
    "frozen skeleton network, queue (COMODO)": {},
    "frozen skeleton network, InfoNCE": {
        "graph/distill/pose -> pupil": {"op": "info_nce", "temperature": 0.1}
    },
    "frozen skeleton network, mse": {
        "graph/distill/pose -> pupil": {"op": "mse", "standardise": "channel"}
    },
}
# The system as it stands: a skeleton network that learns by itself, from two variations.
COMODO = "skeleton network by itself, then queue (comodo.yaml)"
_COMODO_STAGES = (("pose", "slow -> pose"), ("motion", "pose -> motion"))
_LABELLED: Mapping[str, tuple[str, Mapping[str, Any], bool]] = {
    BASE: ("motion_labels", {}, False),
    "labels, twice the steps": ("motion_labels", {"optimiser/steps": 2 * STEPS}, False),
    "labels and skeleton": ("motion_taught", {}, False),
    GOES_ON: ("motion_labels", {"optimiser/lr": FINE_LR}, True),
    "without labels, then labels and skeleton": (
        "motion_taught", {"optimiser/lr": FINE_LR}, True,
    ),
}  # fmt: skip


def make(work: Path, workers: int) -> ResultRecord:
    """Train every arm without every subject, by three seeds."""
    scene = str(folder_of(DATA).resolve())
    first, second = jobs(scene)
    told = {"scene": scene, "budgets": BUDGETS}
    statistics = Job("motion/statistics", measure_statistics, told)
    results = run_jobs([statistics, *first.values()], work, workers)
    results |= run_jobs(list(second.values()), work, workers)
    few = few_jobs(scene)
    results |= run_jobs([job for runs in few.values() for job in runs.values()], work, workers)
    found = {
        name: [[results[every[name, s, seed].name] for s in SUBJECTS] for seed in SEEDS]
        for every in (first, second)
        for name in dict.fromkeys(arm for arm, _, _ in every)
    }
    simple = [[part] for part in results["motion/statistics"]["seeds"]]
    labels = rated(found[BASE], "motion.truth head", by="groups")
    rows = [
        _row(
            "inertial statistics, linear",
            "probe",
            rated(simple, f"imu probe {ALL}", by="groups"),
            None,
            "-",
        ),
        _row(
            "skeleton statistics, linear",
            "probe",
            rated(simple, f"body probe {ALL}", by="groups"),
            None,
            "-",
        ),
    ]
    for name, keys in SHOWN.items():
        for shown, key in keys.items():
            mine = rated(found[name], key, by="groups")
            base = None if (name, shown) == (BASE, "motion") else labels
            rows.append(_row(name, shown, mine, base, _seconds(found[name])))
    columns = ("learnt from", "judged", "accuracy (95 %)", "minus labels", "CPU s a training")
    weights = results[first[BASE, 1, 0].name]["weights"]["motion"]
    title = "UTD-MHAD, subjects that no training saw: share of actions told right"
    return record(
        "motion",
        [table(title, columns, rows), _with_few(found, results, few, simple), _by_subject(found)],
        results,
        seeds=SEEDS,
        sizes={
            "recordings": sum(len(r["names"]) for r in found[BASE][0]),
            "subjects": len(SUBJECTS),
            "classes": 27,
            "steps": STEPS,
            "weights of the student": weights,
        },
        notes=[
            "`motion` and `pupil` see the inertial sensor alone, `pose` the skeleton. A probe is a "
            "linear classifier on what a network that saw no label has before its head; the others "
            "answer by their own last layer. All students have the same network, batch and random "
            "changes. Rows `without labels, then ...` go on from the first row without labels, so "
            "that their steps are those of `labels, twice the steps`. Intervals draw subjects and "
            f"seeds anew. Settings were chosen on subjects {DEV[0]} and {DEV[1]}.",
        ],
    )


# Arm -> what is shown -> which answers.
SHOWN: Mapping[str, Mapping[str, str]] = {
    BASE: {"motion": "motion.truth head"},
    "labels, twice the steps": {"motion": "motion.truth head"},
    _TOGETHER: {
        "pose, probe": f"pose.trunk probe {ALL}",
        "motion, probe": f"motion.trunk probe {ALL}",
    },
    **{name: {"pupil, probe": f"pupil.trunk probe {ALL}"} for name in _FROZEN},
    COMODO: {
        "pose, probe": f"pose.trunk probe {ALL}",
        "motion, probe": f"motion.trunk probe {ALL}",
    },
    "labels and skeleton": {"pose": "pose.truth head", "motion": "motion.truth head"},
    GOES_ON: {"motion": "motion.truth head"},
    "without labels, then labels and skeleton": {"motion": "motion.truth head"},
}


def jobs(scene: str) -> tuple[dict[tuple[str, int, int], Job], dict[tuple[str, int, int], Job]]:
    """Trainings by arm, subject and seed: those that start afresh, and those that go on.

    Args:
        scene: Folder of the recordings.
    """
    first: dict[tuple[str, int, int], Job] = {}
    second: dict[tuple[str, int, int], Job] = {}
    for subject in SUBJECTS:
        for seed in SEEDS:
            together = course("motion_together", scene, subject, seed)
            judge = {"probes": {"motion.trunk": [*BUDGETS], "pose.trunk": [ALL]}}
            first[_TOGETHER, subject, seed] = _job(_TOGETHER, together, judge, subject)
            comodo = course("comodo", scene, subject, seed, _comodo())
            judge = {"probes": {"motion.trunk": [ALL], "pose.trunk": [ALL]}}
            first[COMODO, subject, seed] = _job(COMODO, comodo, judge, subject)
            for name, changes in _FROZEN.items():
                made = course("motion_frozen", scene, subject, seed, changes, together)
                judge = {"probes": {"pupil.trunk": [*BUDGETS]}}
                second[name, subject, seed] = _job(name, made, judge, subject)
            for name, (run, changes, goes_on) in _LABELLED.items():
                start = together if goes_on else None
                made = course(run, scene, subject, seed, changes, start)
                heads = ["motion.truth", *(["pose.truth"] if run == "motion_taught" else [])]
                into = second if goes_on else first
                into[name, subject, seed] = _job(name, made, {"heads": heads}, subject)
    return first, second


def few_jobs(scene: str) -> dict[tuple[str, int], dict[tuple[int, int], Job]]:
    """Trainings that see few labels, by arm and budget, subject and seed.

    Args:
        scene: Folder of the recordings.
    """
    found: dict[tuple[str, int], dict[tuple[int, int], Job]] = {}
    for k in FEW:
        for subject in SUBJECTS:
            for seed in SEEDS:
                # The labels that the probe sees, too.
                few = {"op": "one_hot", "labels_per_class": k, "seed": seed}
                changes = {"graph/lift/classes -> truth": few}
                judge = {"heads": ["motion.truth"]}
                made = course("motion_labels", scene, subject, seed, changes)
                job = _job(f"{BASE} {k}", made, judge, subject)
                found.setdefault((BASE, k), {})[subject, seed] = job
                start = course("motion_together", scene, subject, seed)
                changes = {**changes, "optimiser/lr": FINE_LR}
                made = course("motion_labels", scene, subject, seed, changes, start)
                job = _job(f"{GOES_ON} {k}", made, judge, subject)
                found.setdefault((GOES_ON, k), {})[subject, seed] = job
    return found


def course(
    run: str,
    scene: str,
    subject: int,
    seed: int,
    changes: Mapping[str, Any] | None = None,
    start: Course | None = None,
) -> Course:
    """One training without a subject.

    Args:
        run: The run file.
        scene: Folder of the recordings.
        subject: Who is held out.
        seed: Of the run.
        changes: What else is changed in the file.
        start: Where its first weights come from.
    """
    set_ = {"optimiser/steps": STEPS, **(changes or {})}
    if run == "motion_frozen":
        # Its first stage is the training that it starts from.
        pupil = {"edges": ["pose -> pupil"], "train": ["pupil"], "name": "pupil", "steps": STEPS}
        set_["stages"] = [pupil]
    return Course(
        run=run, scene=scene, test=f"*_s{subject}_*", seed=seed, changes=set_, start=start
    )


def _comodo() -> dict[str, Any]:
    """The networks and the optimiser of the other arms."""
    given = run_file("motion_together")
    encode, optimiser = given["graph"]["encode"], given["optimiser"]
    stages = [
        {"name": name, "steps": STEPS, "train": [name], "edges": [edge]}
        for name, edge in _COMODO_STAGES
    ]
    return {
        "graph/encode/body -> pose": encode["body -> pose"],
        "graph/encode/imu -> motion": encode["imu -> motion"],
        "optimiser": optimiser,
        "stages": stages,
    }


def _job(name: str, made: Course, judge: Mapping[str, Any], subject: int) -> Job:
    slug = name.replace(" ", "-").replace(",", "").replace("(", "").replace(")", "")
    told = {"seed": made.seed, "strength": STRENGTH, **judge}
    return course_job(f"motion/{slug}/s{subject}/{made.seed}", made, told)


def _row(name: str, shown: str, mine: Rated, base: Rated | None, seconds: str) -> list[str]:
    return [name, shown, mine.text(), "-" if base is None else mine.minus(base), seconds]


def _seconds(results: list[list[dict[str, Any]]]) -> str:
    return f"{np.mean([part['cpu_seconds'][0] for seed in results for part in seed]):.0f}"


def _with_few(
    found: Mapping[str, list[list[dict[str, Any]]]],
    results: Mapping[str, Any],
    few: Mapping[tuple[str, int], Mapping[tuple[int, int], Job]],
    simple: list[list[dict[str, Any]]],
) -> Any:
    """Rows of what needs few labels, or none, before it is told the names of the actions."""

    def learnt(name: str, k: int) -> Rated:
        if k == ALL:
            return rated(found[name], "motion.truth head", by="groups")
        parts = [[results[few[name, k][s, seed].name] for s in SUBJECTS] for seed in SEEDS]
        return rated(parts, "motion.truth head", by="groups")

    def probed_rows(name: str, source: str) -> dict[int, Rated]:
        return {k: rated(found[name], f"{source} probe {k}", by="groups") for k in BUDGETS}

    labels = {k: learnt(BASE, k) for k in BUDGETS}
    arms = {
        "inertial statistics, linear": {
            k: rated(simple, f"imu probe {k}", by="groups") for k in BUDGETS
        },
        BASE: labels,
        f"{_TOGETHER}, probe": probed_rows(_TOGETHER, "motion.trunk"),
        **{f"{name}, probe": probed_rows(name, "pupil.trunk") for name in _FROZEN},
        GOES_ON: {k: learnt(GOES_ON, k) for k in BUDGETS},
    }
    rows: list[list[str]] = []
    for name, mine in arms.items():
        gains = ["-" if name == BASE else mine[k].minus(labels[k]) for k in BUDGETS]
        cells = [mine[k].text() for k in BUDGETS]
        rows.append([name, *(cell for pair in zip(cells, gains, strict=True) for cell in pair)])
    heads = [f"{'all' if k == ALL else k} a class" for k in BUDGETS]
    columns = ("learnt from", *(text for head in heads for text in (head, "minus labels")))
    return table("The inertial sensor alone, by labels of each action that are seen", columns, rows)


def _by_subject(found: Mapping[str, list[list[dict[str, Any]]]]) -> Any:
    rows = [
        [f"{name}: {shown}", *(f"{value:.3f}" for value in one.values.mean(axis=1))]
        for name, keys in SHOWN.items()
        for shown, key in keys.items()
        for one in (rated(found[name], key, by="groups"),)
    ]
    columns = ("learnt from", *(f"subject {s}" for s in SUBJECTS))
    made = table("By subject, mean over seeds", columns, rows)
    return made.model_copy(update={"folded": True})


# ---- the simple baseline -----------------------------------------------------------------------


def measure_statistics(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: a linear classifier on statistics of readings, and of joints, without each subject."""
    del work
    recordings = open_recordings(Path(settings["scene"]), "utd_mhad")
    groups = np.array([item.group for item in recordings.items])
    rows = {key: _statistics(recordings, kind) for key, kind in _SENSED.items()}
    return {"seeds": [_told_apart(recordings, groups, rows, seed) for seed in SEEDS]}


_SENSED = {"imu": "imu", "body": "skeleton"}


def _told_apart(
    recordings: Recordings,
    groups: NDArray[np.str_],
    rows: Mapping[str, torch.Tensor],
    seed: int,
) -> dict[str, Any]:
    """Which actions are told right, by every budget of labels that one seed draws."""
    truth, places = recordings.labels, np.arange(len(groups))
    order = np.concatenate([places[groups == f"s{subject}"] for subject in SUBJECTS])
    right: dict[str, list[int]] = {f"{key} probe {k}": [] for key in rows for k in BUDGETS}
    for subject in SUBJECTS:
        test = groups == f"s{subject}"
        for k in BUDGETS:
            labelled = chosen_labels(truth, places[~test].tolist(), k, seed)
            for key, mine in rows.items():
                found = probed(mine, truth, labelled, STRENGTH)
                right[f"{key} probe {k}"] += (found == truth.ids.numpy())[test].astype(int).tolist()
    return {
        "names": [recordings.names[i] for i in order],
        "groups": groups[order].tolist(),
        "right": right,
    }


def _statistics(recordings: Any, kind: str) -> torch.Tensor:
    """Mean, spread, extremes, spread of steps, and means of eighths, of every channel."""
    rows: list[torch.Tensor] = []
    for item in recordings.items:
        value = item.read(kind)
        if kind == "imu":
            x = torch.cat([value.accel_mps2, value.gyro_radps], dim=1)
        else:
            joints = torch.nan_to_num(value.joints_m)
            # From where the hip began: people stand at different places.
            x = (joints - joints[:1, :1]).flatten(1)
        parts = torch.stack([part.mean(dim=0) for part in x.tensor_split(_PARTS)])
        steps = x.diff(dim=0).std(dim=0)
        columns = [x.mean(0), x.std(0), x.amax(0), x.amin(0), steps, parts.flatten()]
        rows.append(torch.cat(columns))
    return torch.stack(rows)
