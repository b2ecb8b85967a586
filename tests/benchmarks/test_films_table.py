"""The table of films: what is put in and held out, and how its rows are made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.tables import films
from benchmarks.tables.recorded import RESAMPLES
from xmodal.config.reader import write_yaml
from xmodal.config.runfile import load_run
from xmodal.errors import DataError
from xmodal.recordings.alignment import FilmTurn
from xmodal.values import Audio

WINDOWS = [f"{film}@{k / 4:.2f}" for film in ("a", "b@c") for k in range(37)]


def lag(kind: str, lag_s: float, error_s: float, strength: float = 0.95) -> dict[str, Any]:
    return {"kind": kind, "lag_s": lag_s, "found_s": lag_s + error_s, "strength": strength}


def test_windows_that_are_judged_lie_behind_those_that_taught() -> None:
    told = films.splits_of(WINDOWS)
    starts = {name: films.film_and_start(name)[1] for name in WINDOWS}
    taught = [n for n in WINDOWS if n not in (*told["val"], *told["test"])]
    assert told["shared_groups"]
    assert max(starts[n] for n in taught) == 5.0  # ends at 6 of 10 s
    assert min(starts[n] for n in told["test"]) == 7.0
    assert {starts[n] % 0.5 for n in told["test"]} == {0.0}
    assert {films.film_of(n) for n in told["test"]} == {"a", "b@c"}
    assert len(told["test"]) == 2 * 5
    with pytest.raises(ValueError, match="could not convert"):
        films.splits_of(["a film"])


def test_the_trainings_are_sound_run_files(tmp_path: Path) -> None:
    for run in ("imagebind", "soundnet"):
        (job, *_) = films.training_jobs(run, ["data/films", "data/more"])
        made = films.course(job.settings, films.splits_of(WINDOWS)).plain()
        path = tmp_path / f"{run}.yaml"
        path.write_text(write_yaml(made, block_levels=3))
        spec = load_run(path)
        assert (spec.data.cut_s, spec.data.align_within_s) == (1.0, 1.0)
        assert spec.splits.shared_groups
    wrong = {**job.settings, "run": "sound_labels"}
    with pytest.raises(KeyError):
        films.course(wrong, {}).plain()["graph"]["encode"]["imu -> motion"]


def test_errors_are_of_lags_that_are_believed() -> None:
    turns = [lag("turn", s * ms, 0.01) for ms in films.LAGS_S for s in (1, -1)]
    turns += [lag("rest", 0.1, 0.05), lag("stopped", 0.8, 0.9, 0.5), lag("straight", 0.1, 1.0, 0.2)]
    sounds = [lag(kind, ms, 1e-5, 0.4) for kind in ("noise", "echo") for ms in films.LAGS_S]
    sounds.append(lag("noise", 0.05, 1.0, 0.1))
    found = {"turns": turns, "sounds": sounds, "frames_s": {"a": 1 / 30, "b": 0.05}}
    made = films.lag_table(found)
    by_name = {(row[0], row[1]): row[2:] for row in made.rows}
    assert len(made.rows) == 3 * 5 + 3
    assert by_name[films.KINDS["turn"][0], "50"] == (
        "2", "2", "10.00", "10.00", "33.3", "2 of 2", "0.950",
    )  # fmt: skip
    assert by_name[films.KINDS["noise"][0], "50"][:4] == ("2", "1", "0.01", "0.01")
    assert by_name[films.FAILING["rest"][0], "50 to 800"][5] == "0 of 1"
    assert by_name[films.FAILING["straight"][0], "50 to 800"][1:4] == ("0", "-", "-")


def test_what_does_not_work_is_told() -> None:
    found = {
        "onsets": {"a": {"found_s": -0.5, "strength": 0.15}},
        "foreign_turns": [0.2, 0.3],
        "foreign_sounds": [0.01],
    }
    rows = films.foreign_table(found).rows
    assert rows[0] == ("onsets of the sound and motion in a", "-500", "0.150")
    assert rows[1] == ("a film and the gyroscope of another, strongest of 2", "-", "0.300")


def test_retrieval_is_shown_beside_chance() -> None:
    names = ["a@0.0", "a@1.0", "b@0.0", "b@1.0"]
    seeds = [{"ranks": {"sound -> frames": dict(zip(names, ranks, strict=True))}} for ranks in
             ([1, 2, 3, 4], [1, 1, 3, 4], [1, 2, 3, 4])]  # fmt: skip
    (row,) = films.retrieval_table({"soundnet": seeds}).rows
    assert row[:3] == ("soundnet", "sound -> frames", "4")
    assert str(row[3]).startswith("0.333 (")
    assert row[4:6] == ("0.250", "0.500")
    assert str(row[6]).startswith("1.000 (")
    with pytest.raises(DataError, match="wanted: results"):
        films.retrieval_table({"soundnet": []})
    assert RESAMPLES > 100


def test_a_target_of_its_own_is_found() -> None:
    rows = torch.eye(3)
    assert films.ranked(rows, rows) == [1, 1, 1]
    assert films.ranked(rows, rows.roll(1, 0)) == [3, 3, 3]


def test_lags_are_put_in_and_found(synthetic: ModuleType) -> None:
    """A gyroscope that turns all the time, and a film that turns as it does."""
    time_s = torch.arange(2100, dtype=torch.float64) / 200
    rate = torch.stack([torch.sin(w * time_s + w) for w in (2.0, 5.1, 8.3)], 1)
    imu = synthetic.motion(0, 0)
    imu = replace(
        imu,
        accel_mps2=torch.zeros(2100, 3),
        gyro_radps=rate.float(),
        time_s=time_s,
        offsets=torch.tensor([0, 2100]),
    )
    turn = FilmTurn(rate[::7].float(), time_s[::7])
    found = films.turn_lags(turn, imu)
    assert {one["kind"] for one in found} == {"turn", *films.FAILING}
    errors = [abs(one["found_s"] - one["lag_s"]) for one in found if one["kind"] == "turn"]
    assert len(errors) == 20
    assert max(errors) < 0.01
    sound = Audio(
        amplitudes=0.1 * torch.randn(1, 120_000, generator=torch.Generator().manual_seed(0)),
        rate_hz=16_000.0,
        offsets=torch.tensor([0, 120_000]),
    )
    heard = films.sound_lags("a", sound)
    assert max(abs(one["found_s"] - one["lag_s"]) for one in heard) < 1e-4
    assert np.isclose(films.parts_of(7.5), [(0, 7.5), (0, 6)]).all()
