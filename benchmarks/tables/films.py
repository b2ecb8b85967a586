"""Films with sound and inertial readings: lags that were put in, and what frames teach.

Three films, 42 s together. The first part in time of each is trained on, the rest is judged. No
setting was chosen on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.tables.jobs import Job, run_jobs
from benchmarks.tables.record import ResultRecord, TableRecord, record, table
from benchmarks.tables.recorded import Course, Rated, folder_of, run_folder, train
from xmodal.config.run_parts import Data
from xmodal.errors import DataError
from xmodal.evaluate.retrieval import first_hit_rank
from xmodal.recordings.alignment import FilmTurn, film_imu_lag, film_turn, sound_film_lag, sound_lag
from xmodal.recordings.audio_files import read_audio
from xmodal.recordings.clocks import LEAST_STRENGTH
from xmodal.recordings.cutting import within
from xmodal.recordings.imu_files import read_imu
from xmodal.recordings.video_files import read_video
from xmodal.runs.recorded.judged import open_recorded
from xmodal.runs.recorded.material import open_data
from xmodal.values import Audio, Imu

FILMS = ("gopro_video_audio_imu", "audio_video_clips")
ACTION = "max-heromode"
LAGS_S = (0.05, 0.1, 0.2, 0.4, 0.8)
# Parts of a film that are aligned by themselves, seconds; the whole film comes first.
PART_S = 6.0
SEEDS = (0, 1, 2)
STEPS = 200
CUT_S, HOP_S = 1.0, 0.25
# Up to this share of a film is trained on; so much time behind it is left out.
TRAIN_SHARE, GAP_S = 0.6, 1.0
# Windows that are judged do not overlap by more than half.
JUDGED_HOP_S = 0.5
_SOUND_HZ = 16_000.0
_SIDE = 160
_KS = (1, 5)

_Lag = dict[str, Any]


def make(work: Path, workers: int) -> ResultRecord:
    """Put lags in and find them; train both graphs by three seeds."""
    folders = [str(folder_of(name).resolve()) for name in FILMS]
    lags = Job("films/lags", measure_lags, {"folders": folders})
    runs = {name: training_jobs(name, folders) for name in ("imagebind", "soundnet")}
    first = [lags, *(job for each in runs.values() for job in each)]
    results = run_jobs(first, work, workers)
    found = results["films/lags"]
    retrieved = {name: [results[job.name] for job in each] for name, each in runs.items()}
    one = retrieved["imagebind"][0]
    return record(
        "films",
        [lag_table(found), foreign_table(found), retrieval_table(retrieved)],
        results,
        seeds=SEEDS,
        sizes={
            "films": len(one["of_film"]),
            "windows to train on": one["trained_on"],
            "windows judged": len(one["names"]),
            "steps": STEPS,
            "weights of the student of sound": one["weights"]["sound"],
            "weights of the student of motion": one["weights"]["motion"],
            "CPU s a training": round(
                float(np.mean([r["cpu_seconds"][0] for each in retrieved.values() for r in each]))
            ),
        },
        notes=[
            "Lags: the true lag is what was put in, on the clocks that the files have, of both "
            "signs. What starts late lacks its beginning, as if its device had been switched on "
            "later; of the first rows also as another clock alone. Sounds: the whole of each film, "
            "and parts of 6 s every 2 s. Errors are of lags that are believed: "
            "those with a strength of "
            f"{LEAST_STRENGTH['imu']:g} (gyroscope) and {LEAST_STRENGTH['audio']:g} (sound). The "
            "one film with a gyroscope is stabilised and turns once, in its last second: nothing "
            "else in it tells a lag.",
            "Retrieval: windows of 1 s, trained on the first 60 % of each film, judged on what "
            "comes a second later, every half second. Intervals draw windows and seeds anew. "
            "`knows the film` is chance for somebody who tells the films apart and nothing else.",
        ],
    )


# ---- lags --------------------------------------------------------------------------------------


def measure_lags(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: every lag, put into every part of every film, and what foreign streams give."""
    del work
    films = sorted(path for f in settings["folders"] for path in Path(f).glob("*.mp4"))
    turns, frames_s, onsets, sounds = {}, {}, {}, {}
    for path in films:
        film = read_video(path, max_side=_SIDE)
        turns[path.stem] = film_turn(film)
        frames_s[path.stem] = float(film.time_s.diff().median())
        sounds[path.stem] = read_audio(path, rate_hz=_SOUND_HZ, mics=1)
        lag = sound_film_lag(read_audio(path, mics=1), film)
        onsets[path.stem] = {"found_s": lag.seconds, "strength": lag.strength}
    action = next(path for path in films if path.stem == ACTION)
    imu = read_imu(action.with_name(f"{ACTION}_imu.npz"))
    foreign_turns = [film_imu_lag(turns[n], imu).strength for n in turns if n != ACTION]
    pairs = [(a, b) for a in sounds for b in sounds if a < b]
    return {
        "frames_s": frames_s,
        "turns": turn_lags(turns[ACTION], imu),
        "sounds": [one for name, sound in sounds.items() for one in sound_lags(name, sound)],
        "onsets": onsets,
        "foreign_turns": foreign_turns,
        "foreign_sounds": [sound_lag(sounds[a], sounds[b]).strength for a, b in pairs],
    }


def parts_of(seconds: float) -> list[tuple[float, float]]:
    """The whole of a film and its parts, start and end."""
    starts = np.arange(0.0, seconds - PART_S, 2.0)
    return [(0.0, seconds), *((float(s), float(s) + PART_S) for s in starts)]


def turn_lags(turn: FilmTurn, imu: Imu) -> list[_Lag]:
    """A film's turn against its readings, of which one starts later than the other.

    Args:
        turn: Of the film; it turns in its last second.
        imu: Its own readings.
    """
    end_s = float(turn.time_s[-1])
    found: list[_Lag] = []
    for lag_s in (sign * lag for lag in LAGS_S for sign in (1, -1)):
        found.append(_turned("turn", turn, imu, (0.0, end_s, -lag_s, np.inf), lag_s))
        for start_s in (0.0, 2.0, 4.0, 6.0):
            # Who starts late has smaller time stamps for the same moment.
            part = (start_s + max(lag_s, 0.0), end_s, start_s + max(-lag_s, 0.0), np.inf)
            found.append(_turned("rest" if start_s else "turn", turn, imu, part, lag_s))
        if lag_s > 0:
            part = (0.0, end_s, -lag_s, end_s - lag_s)
            found.append(_turned("stopped", turn, imu, part, lag_s))
        for start_s in (0.0, 2.0, 3.0):
            part = (start_s, start_s + PART_S, start_s - lag_s, start_s - lag_s + PART_S)
            found.append(_turned("straight", turn, imu, part, lag_s))
    return found


def _turned(
    kind: str, turn: FilmTurn, imu: Imu, part: tuple[float, float, float, float], lag_s: float
) -> _Lag:
    """The lag of a part of a film and a part of its readings, each with a clock of its own."""
    film_s, film_end_s, imu_s, imu_end_s = part
    seen = (turn.time_s >= film_s) & (turn.time_s <= film_end_s)
    film = FilmTurn(turn.rate_radps[seen], turn.time_s[seen] - film_s)
    mine = within(imu, (imu_s, imu_end_s))
    assert isinstance(mine, Imu)
    lag = film_imu_lag(film, replace(mine, time_s=mine.time_s - imu_s))
    return _one(kind, lag_s, lag.seconds, lag.strength)


def sound_lags(name: str, sound: Audio) -> list[_Lag]:
    """A film's sound against a late copy, in noise as loud as it, and through an echo.

    Args:
        name: Of the film; another film has another noise.
        sound: Its sound.
    """
    chance = torch.Generator().manual_seed(sum(map(ord, name)))
    level = sound.amplitudes.std()
    noisy = sound.amplitudes + level * torch.randn(sound.amplitudes.shape, generator=chance)
    copies = {
        "noise": replace(sound, amplitudes=noisy),
        "echo": replace(sound, amplitudes=echoed(sound.amplitudes, chance)),
    }
    found: list[_Lag] = []
    for start_s, end_s in parts_of(sound.amplitudes.shape[1] / _SOUND_HZ):
        first = _zeroed(sound, start_s, end_s)
        for lag_s in (sign * lag for lag in LAGS_S for sign in (1, -1)):
            for kind, copy in copies.items():
                second = _zeroed(copy, start_s - lag_s, end_s - lag_s)
                lag = sound_lag(first, second, whiten=kind == "echo")
                found.append(_one(kind, lag_s, lag.seconds, lag.strength))
    return found


def echoed(amplitudes: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """A sound in a room: what comes straight, and an echo of the same energy that dies away.

    Args:
        amplitudes: One microphone.
        chance: Of the echo.
    """
    num = int(0.4 * _SOUND_HZ)
    time_s = torch.arange(num) / _SOUND_HZ
    tail = torch.randn(num, generator=chance) * torch.exp(-time_s / 0.1) * (time_s > 0.005)
    response = tail / tail.norm()
    response[0] = 1.0
    padded = functional.pad(amplitudes[None], (num - 1, 0))
    return functional.conv1d(padded, response.flip(0)[None, None])[0]


def _zeroed(sound: Audio, start_s: float, end_s: float) -> Audio:
    """A part whose clock starts where its device does, even before there is any sound."""
    part = within(sound, (start_s, end_s))
    assert isinstance(part, Audio)
    assert part.start_s is not None
    return replace(part, start_s=part.start_s - start_s)


def _one(kind: str, lag_s: float, found_s: float, strength: float) -> _Lag:
    return {"kind": kind, "lag_s": lag_s, "found_s": found_s, "strength": strength}


# What is compared, and the least strength from which `align_within_s` believes a lag.
KINDS = {
    "turn": ("how a film turns and its gyroscope, all of both", LEAST_STRENGTH["imu"]),
    "noise": ("sounds, one in noise as loud as it", LEAST_STRENGTH["audio"]),
    "echo": ("sounds, one with an echo as loud as it, whitened", LEAST_STRENGTH["audio"]),
}
FAILING = {
    "rest": ("how a film turns and its gyroscope, from 2, 4 or 6 s on", "turn"),
    "stopped": ("how a film turns and its gyroscope, which stops so much early", "turn"),
    "straight": ("how a film turns and its gyroscope, 6 s in which it hardly turns", "turn"),
}


def lag_table(found: Mapping[str, Any]) -> TableRecord:
    """Errors by what was compared, how much of it, and the lag.

    Args:
        found: Result of `measure_lags`.
    """
    every = [*found["turns"], *found["sounds"]]
    frame_ms = 1000 * min(found["frames_s"].values())
    rows: list[list[str]] = []
    for kind, (text, least) in KINDS.items():
        for lag_s in LAGS_S:
            these = [o for o in every if o["kind"] == kind and abs(o["lag_s"]) == lag_s]
            rows.append([text, f"{1000 * lag_s:.0f}", *_errors(these, least, frame_ms)])
    for kind, (text, like) in FAILING.items():
        these = [o for o in every if o["kind"] == kind]
        rows.append([text, "50 to 800", *_errors(these, KINDS[like][1], frame_ms)])
    columns = (
        "compared", "lag", "trials", "believed", "mean error", "worst error", "one frame",
        "below a frame", "least strength",
    )  # fmt: skip
    return table("A lag that was put in, and the one that was found; ms", columns, rows)


def _errors(these: Sequence[_Lag], least: float, frame_ms: float) -> list[str]:
    """Errors of the lags that are believed."""
    believed = [one for one in these if one["strength"] >= least]
    errors = np.array([1000 * abs(one["found_s"] - one["lag_s"]) for one in believed])
    return [
        str(len(these)),
        str(len(believed)),
        f"{errors.mean():.2f}" if len(errors) else "-",
        f"{errors.max():.2f}" if len(errors) else "-",
        f"{frame_ms:.1f}",
        f"{(errors < frame_ms).sum()} of {len(errors)}",
        f"{min(one['strength'] for one in these):.3f}",
    ]


def foreign_table(found: Mapping[str, Any]) -> TableRecord:
    """What streams give that do not belong together, or do not show the same.

    Args:
        found: Result of `measure_lags`.
    """
    rows = [
        [f"onsets of the sound and motion in {name}", f"{1000 * one['found_s']:.0f}",
         f"{one['strength']:.3f}"]
        for name, one in found["onsets"].items()
    ]  # fmt: skip
    for what, key in (
        ("a film and the gyroscope of another", "foreign_turns"),
        ("sounds of two films", "foreign_sounds"),
    ):
        strongest = max(found[key])
        rows.append([f"{what}, strongest of {len(found[key])}", "-", f"{strongest:.3f}"])
    title = "What does not work: streams without a lag (the true one is 0 for sounds of films)"
    return table(title, ("compared", "lag found, ms", "strength"), rows)


# ---- retrieval ---------------------------------------------------------------------------------


def training_jobs(name: str, folders: Sequence[str]) -> list[Job]:
    """The trainings of one graph, by seed.

    Args:
        name: Run file.
        folders: Of the films.
    """
    return [
        Job(
            f"films/{name}/{seed}",
            train_films,
            {"run": name, "folders": list(folders), "seed": seed, "steps": STEPS},
        )
        for seed in SEEDS
    ]


def course(settings: Mapping[str, Any], splits: Mapping[str, Any]) -> Course:
    """One training on the beginnings of films.

    Args:
        settings: Of a job of `training_jobs`.
        splits: Names of windows that are left out and judged.
    """
    changes: dict[str, Any] = {
        "data/scene": settings["folders"],
        "data/max_side_px": 320,
        "data/cut_s": CUT_S,
        "data/hop_s": HOP_S,
        "data/align_within_s": 1.0,
        "splits": splits,
        "optimiser/steps": settings["steps"],
        "optimiser/batch": 32,
        "graph/encode/mic -> sound": {"op": "audio_cnn", "size": "micro", "window_s": CUT_S},
    }
    if settings["run"] == "imagebind":
        motion = {"op": "imu_tcn", "size": "micro", "window_s": CUT_S, "rate_hz": 100.0}
        changes["graph/encode/imu -> motion"] = motion
    return Course(
        run=settings["run"],
        scene=settings["folders"][0],
        test="*",
        seed=settings["seed"],
        changes=changes,
    )


def splits_of(names: Sequence[str]) -> dict[str, Any]:
    """Windows that are left out (`val`, which is not looked at) and judged, by their names.

    Args:
        names: Of windows, `film@seconds`.
    """
    ends: dict[str, float] = {}
    for name in names:
        film, start_s = film_and_start(name)
        ends[film] = max(ends.get(film, 0.0), start_s + CUT_S)
    val: list[str] = []
    test: list[str] = []
    for name in names:
        film, start_s = film_and_start(name)
        border_s = TRAIN_SHARE * ends[film]
        if start_s + CUT_S <= border_s:
            continue
        whole = abs(start_s / JUDGED_HOP_S - round(start_s / JUDGED_HOP_S)) < 1e-6
        (test if start_s >= border_s + GAP_S and whole else val).append(name)
    return {"val": val, "test": test, "shared_groups": True}


def film_and_start(name: str) -> tuple[str, float]:
    """The film of a window, and where in it the window begins."""
    film, _, start = name.rpartition("@")
    return film, float(start)


def train_films(work: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Job: train on the beginnings, rank the windows of the ends."""
    data = Data(scene=tuple(settings["folders"]), format="clips", cut_s=CUT_S, hop_s=HOP_S)
    made = course(settings, splits_of(open_data(data).names)).settings()
    found = train(work, {"course": made, "judge": {"seed": 0, "strength": 1.0}})
    opened = open_recorded(run_folder(work, made))
    ranks: dict[str, dict[str, int]] = {}
    for student in sorted(set(opened.spec.graph.students())):
        mine, theirs = opened.rows(student), opened.rows("seen")
        there = torch.zeros(len(mine.valid), dtype=torch.bool)
        there[opened.places("test")] = True
        places = (there & mine.valid & theirs.valid).nonzero().squeeze(1)
        names = [opened.table[i].name for i in places.tolist()]
        for text, a, b in (
            (f"{student} -> frames", mine, theirs),
            (f"frames -> {student}", theirs, mine),
        ):
            ranks[text] = dict(zip(names, ranked(a.rows[places], b.rows[places]), strict=True))
    films = [film_and_start(name)[0] for name in found["names"]]
    return {
        **found,
        "trained_on": len(opened.places("train")),
        "of_film": {film: films.count(film) for film in sorted(set(films))},
        "ranks": ranks,
    }


def ranked(queries: torch.Tensor, targets: torch.Tensor) -> list[int]:
    """Rank of each query's own target, by cosine."""
    a, b = (functional.normalize(rows.double(), dim=1) for rows in (queries, targets))
    near = (a @ b.T).numpy()
    return first_hit_rank(near, np.eye(len(near), dtype=np.bool_)).tolist()


def retrieval_table(retrieved: Mapping[str, Sequence[Mapping[str, Any]]]) -> TableRecord:
    """Shares of windows whose own answer is among the first, against chance.

    Args:
        retrieved: Results of `train_films` by graph, one for each seed.

    Raises:
        DataError: If there are none.
    """
    rows: list[list[str]] = []
    for name, seeds in retrieved.items():
        if not seeds:
            raise DataError(f"films, {name}", wanted="results", got="none", fix="run its jobs")
        for text in seeds[0]["ranks"]:
            ranks = [seed["ranks"][text] for seed in seeds]
            windows = sorted(ranks[0])
            cells: list[str] = []
            for k in _KS:
                hits = [[float(seed[window] <= k) for seed in ranks] for window in windows]
                among = [sum(film_of(w) == film_of(v) for v in windows) for w in windows]
                guess = float(np.mean([min(1.0, k / n) for n in among]))
                cells += [
                    Rated(np.array(hits)).text(),
                    f"{min(1.0, k / len(windows)):.3f}",
                    f"{guess:.3f}",
                ]
            rows.append([name, text, str(len(windows)), *cells])
    columns = [f"R@{k}{more}" for k in _KS for more in ("", ", chance", ", knows the film")]
    title = "From one second of a film to what its frames show, and back"
    return table(title, ("graph", "asked", "windows", *columns), rows)


def film_of(window: str) -> str:
    """The film of a window."""
    return film_and_start(window)[0]
