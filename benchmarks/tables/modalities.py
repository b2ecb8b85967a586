"""Several streams: what is left when one is missing, noisy, or of another recording.

UTD-MHAD: 27 actions, every subject held out once; a skeleton and an inertial sensor. Generated
rooms: classes of what is around in 16 x 32 directions; four microphones and a picture. What
was chosen was chosen on UTD-MHAD's subject 1, and on rooms of another seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.record import ResultRecord, record, table
from benchmarks.tables.recorded import (
    RESAMPLES,
    Course,
    Rated,
    course_job,
    folder_of,
    rated,
    run_file,
    run_folder,
    train,
)
from xmodal.evaluate.dense import class_tables, mean_iou
from xmodal.recordings.disturbing import Disturbance
from xmodal.rooms import RoomSet, make_rooms
from xmodal.runs.frozen import silent
from xmodal.runs.recorded.judged import open_recorded, other_recordings
from xmodal.values import Grids

DATA = "utd_mhad_s1to6"
SUBJECTS = (1, 2, 3, 4, 5, 6)
DEV = 1
STEPS = 300
ROOMS = RoomSet(num=60, test=20, places=4, seed=0)

Case = Mapping[str, Any]
# What is done to the streams of recordings that are held out.
MOTION_CASES: Mapping[str, Mapping[str, Case]] = {
    "missing": {
        "no skeleton": {"missing": {"skeleton": 1.0}},
        "no motion": {"missing": {"imu": 1.0}},
        "another's skeleton": {"swapped": ("skeleton",)},
        "another's motion": {"swapped": ("imu",)},
    },
    "noisy": {
        "skeleton 0.1": {"noise": {"skeleton": 0.1}},
        "skeleton 0.5": {"noise": {"skeleton": 0.5}},
        "motion 0.5": {"noise": {"imu": 0.5}},
        "motion 1.0": {"noise": {"imu": 1.0}},
    },
}
ROOM_CASES: Mapping[str, Mapping[str, Case]] = {
    "missing": {
        "no picture": {"missing": {"video": 1.0}},
        "no sound": {"missing": {"audio": 1.0}},
        "another's picture": {"swapped": ("video",)},
        "another's sound": {"swapped": ("audio",)},
    },
    "noisy": {
        "picture 0.5": {"noise": {"video": 0.5}},
        "picture 1.0": {"noise": {"video": 1.0}},
        "sound 0.5": {"noise": {"audio": 0.5}},
        "sound 1.0": {"noise": {"audio": 1.0}},
    },
}
WHOLE = "all there"
_PLAIN = "plain fusion"
_LACKING = {"imu": 0.3, "skeleton": 0.3}
_NOISY = {"imu": 0.5, "skeleton": 0.1}

# Training -> its run file and what is changed in it.
MOTION: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "plain": ("both_labels", {}),
    "plain-lacking": ("both_labels", {"data/lacking": _LACKING}),
    "plain-noisy": ("both_labels", {"data/noisy": _NOISY}),
    "qmf": ("qmf", {}),
    "qmf-lacking": ("qmf", {"data/lacking": _LACKING}),
    "any2seg": ("any2seg", {}),
    "any2seg-lacking": ("any2seg", {"data/lacking": _LACKING}),
    "umt": ("umt", {}),
    "mst": ("mst_distill", {}),
}
ROOM: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "plain": ("rooms_labels", {}),
    "plain-lacking": ("rooms_labels", {"data/lacking": {"audio": 0.3, "video": 0.3}}),
    "qmf": ("rooms_qmf", {}),
    "any2seg": ("rooms_any2seg", {}),
    "umt": ("rooms_umt", {}),
    "mst": ("rooms_mst_distill", {}),
}
# What answers and what its training had -> the training, and its source.
Rows = Mapping[tuple[str, str], tuple[str, str]]
_ALL, _SOME, _NOISE = "all", "30 % lack each", "noise"
BASE = (_PLAIN, _ALL)
MOTION_ROWS: Rows = {
    ("skeleton alone", _ALL): ("umt", "pose_alone.classes"),
    ("motion alone", _ALL): ("umt", "motion_alone.classes"),
    BASE: ("plain", "both.classes"),
    (_PLAIN, _SOME): ("plain-lacking", "both.classes"),
    (_PLAIN, _NOISE): ("plain-noisy", "both.classes"),
    ("UMT", _ALL): ("umt", "both.classes"),
    ("QMF", _ALL): ("qmf", "both"),
    ("QMF", _SOME): ("qmf-lacking", "both"),
    ("Any2Seg", _ALL): ("any2seg", "both.classes"),
    ("Any2Seg", _SOME): ("any2seg-lacking", "both.classes"),
    ("MST-Distill, motion", _ALL): ("mst", "motion.classes"),
}
ROOM_ROWS: Rows = {
    ("picture alone", _ALL): ("umt", "seen_alone.things"),
    ("sound alone", _ALL): ("umt", "heard_alone.things"),
    BASE: ("plain", "both"),
    (_PLAIN, _SOME): ("plain-lacking", "both"),
    ("UMT", _ALL): ("umt", "both"),
    ("QMF", _ALL): ("qmf", "both"),
    ("Any2Seg", _ALL): ("any2seg", "both.things"),
    ("MST-Distill, sound", _ALL): ("mst", "heard"),
}


def make(work: Path, workers: int) -> ResultRecord:
    """Train every arm without every subject, and on the rooms, and disturb what was held out."""
    moved = motion_jobs(str(folder_of(DATA).resolve()))
    placed = room_jobs(str(rooms_folder(work)))
    results = run_jobs([*moved.values(), *placed.values()], work, workers)
    found = {arm: [[results[moved[arm, subject].name] for subject in SUBJECTS]] for arm in MOTION}
    accuracy = {
        row: {
            case: rated(found[arm], f"{source} {case}", by="groups") for case in flat(MOTION_CASES)
        }
        for row, (arm, source) in MOTION_ROWS.items()
    }
    iou = {
        row: {
            case: MeanIou(np.array(results[placed[arm].name]["tables"][f"{source} {case}"]))
            for case in flat(ROOM_CASES)
        }
        for row, (arm, source) in ROOM_ROWS.items()
    }
    one = results[moved["plain", SUBJECTS[0]].name]
    return record(
        "modalities",
        [
            *shown("UTD-MHAD, unseen subjects, share told right", MOTION_CASES, accuracy),
            *shown("Unseen rooms, mean IoU of classes", ROOM_CASES, iou),
        ],
        results,
        seeds=(0,),
        sizes={
            "recordings": sum(len(part["names"]) for part in found["plain"][0]),
            "subjects": len(SUBJECTS),
            "rooms to train on, held out": f"{ROOMS.num}, {ROOMS.test}",
            "places in a room": ROOMS.places,
            "steps of a stage": STEPS,
            "weights of pose, motion": f"{one['weights']['pose']}, {one['weights']['motion']}",
            "CPU s of all trainings": round(sum(r["cpu_seconds"][1] for r in results.values())),
        },
        notes=[NOTE],
    )


NOTE = (
    "Noise is in units of the stream's own spread. Another's stream is that of another recording "
    "of the same held-out subject, or of another place. Where nothing is left to see there is no "
    "answer, which is wrong. `plain fusion` is the same networks and gate, from labels alone. "
    "MST-Distill's student sees one stream at the end and has no answer without it; its router "
    "sees the student on UTD-MHAD and the teachers in the rooms. QMF is without its rank loss. "
    "Any2Seg's teacher is MiniLM on sentences of class names; in the rooms the names alone. "
    "Single streams are the teachers of UMT. Noise while training: "
    f"{', '.join(f'{k} {v}' for k, v in _NOISY.items())}. Intervals (95 %) draw subjects, or "
    "rooms, anew; differences draw the same for both. One seed. What was chosen "
    f"was chosen on subject {DEV}, and on rooms of another seed."
)


def flat(cases: Mapping[str, Mapping[str, Case]]) -> dict[str, Case]:
    """All cases, those that are as recorded first."""
    return {WHOLE: {}, **{name: given for part in cases.values() for name, given in part.items()}}


# ---- trainings ---------------------------------------------------------------------------------


def motion_jobs(scene: str) -> dict[tuple[str, int], Job]:
    """Trainings on UTD-MHAD by arm and subject that is held out.

    Args:
        scene: Folder of the recordings.
    """
    found: dict[tuple[str, int], Job] = {}
    for arm, (run, changes) in MOTION.items():
        heads = sorted({source for one, source in MOTION_ROWS.values() if one == arm})
        judge = {"heads": heads, "cases": flat(MOTION_CASES)}
        for subject in SUBJECTS:
            made = Course(
                run=run, scene=scene, test=f"*_s{subject}_*", changes={**steps_of(run), **changes}
            )
            found[arm, subject] = course_job(f"modalities/{arm}/s{subject}", made, judge)
    return found


def room_jobs(scene: str) -> dict[str, Job]:
    """Trainings on rooms by arm.

    Args:
        scene: Folder of the rooms.
    """
    found: dict[str, Job] = {}
    for arm, (run, changes) in ROOM.items():
        sources = sorted({source for one, source in ROOM_ROWS.values() if one == arm})
        made = Course(run=run, scene=scene, test="test-*", changes={**steps_of(run), **changes})
        settings = {
            "course": made.settings(),
            "judge": {"sources": sources, "truth": "things", "cases": flat(ROOM_CASES)},
        }
        found[arm] = Job(f"modalities/rooms-{arm}", train_maps, settings)
    return found


def steps_of(run: str) -> dict[str, Any]:
    """What sets the steps of every stage of a run file."""
    if not (stages := run_file(run).get("stages")):
        return {"optimiser/steps": STEPS}
    return {"stages": [{**stage, "steps": STEPS} for stage in stages]}


def rooms_folder(work: Path) -> Path:
    """The rooms of the table, made where they are not there yet."""
    return make_rooms(work / "modalities" / "rooms", ROOMS)


def train_maps(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: train one course of maps; classes by answers of each held-out room, by case."""
    course, judge = settings["course"], settings["judge"]
    trained = train(work, {"course": course, "judge": {}})
    opened = open_recorded(run_folder(work, course))
    tables: dict[str, list[Any]] = {}
    for case, given in judge["cases"].items():
        seen = other_recordings(opened, None, "test", Disturbance(**given), silent)
        wanted = seen.rows[judge["truth"]]
        assert isinstance(wanted, Grids), "the truth is a recorded map"
        shape = (len(seen), -1)
        known = (wanted.valid & (wanted.weight > 0)).reshape(shape).numpy()
        truth = wanted.rows.argmax(1).reshape(shape).numpy()
        for source in judge["sources"]:
            rows = seen.rows.get(source)
            answer = np.full_like(truth, -1)
            if rows is not None:
                valid, best = rows.valid.reshape(shape).numpy(), rows.rows.argmax(1).reshape(shape)
                answer = np.where(valid, best.numpy(), -1)
            each = class_tables(answer, truth, known, wanted.rows.shape[1])
            tables[f"{source} {case}"] = _by_room(each, seen.groups).astype(int).tolist()
    return {**trained, "tables": tables}


def _by_room(tables: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
    return np.array(
        [tables[[g == group for g in groups]].sum(axis=0) for group in sorted(set(groups))]
    )


# ---- from answers to tables --------------------------------------------------------------------


class MeanIou(Rated):
    """Mean IoU of one arm; rooms are drawn anew.

    Args:
        tables: Classes by answers of every room, as `class_tables` gives them.
    """

    def __init__(self, tables: NDArray[np.integer[Any]]) -> None:
        rooms = len(tables)
        super().__init__(mean_iou(tables.sum(axis=0)[None].astype(np.float64))[:, None])
        drawn = np.random.default_rng(0).integers(0, rooms, (RESAMPLES, rooms))
        counts = np.stack([np.bincount(row, minlength=rooms) for row in drawn])
        totals = (counts @ tables.reshape(rooms, -1)).reshape(RESAMPLES, *tables.shape[1:])
        self.samples = mean_iou(totals.astype(np.float64))


def shown(
    title: str,
    cases: Mapping[str, Mapping[str, Case]],
    found: Mapping[tuple[str, str], Mapping[str, Rated]],
) -> list[Any]:
    """Tables of missing and of noisy streams, and of what is gained over the plain fusion.

    Args:
        title: What is measured of whom.
        cases: What was done to streams, by table.
        found: What answers and what its training had -> case -> rating.
    """
    tables: list[Any] = []
    for part, some in cases.items():
        names = [*([WHOLE] if part == "missing" else []), *some]
        columns = ("answers", "trained with", *names)
        texts = [[*row, *(of[case].text() for case in names)] for row, of in found.items()]
        tables.append(table(f"{title}: streams {part}", columns, texts))
        gains = [
            [*row, *(of[case].minus(found[BASE][case]) for case in names)]
            for row, of in found.items()
            if row != BASE
        ]
        tables.append(table(f"{title}, minus the plain fusion: streams {part}", columns, gains))
    return tables
