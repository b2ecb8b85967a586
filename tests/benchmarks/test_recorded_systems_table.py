"""The table of systems over recordings: what is trained, held out and compared with what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.tables import modalities, motion, recorded_systems, sound
from benchmarks.tables.jobs import Job
from xmodal.config.reader import write_yaml
from xmodal.config.runfile import load_run
from xmodal.errors import DataError


def answered(jobs: Sequence[Job], work: Path, workers: int) -> dict[str, dict[str, Any]]:
    """Results as jobs leave them: answers drawn by chance, to what the job is asked alone."""
    del work, workers
    found: dict[str, dict[str, Any]] = {}
    for number, job in enumerate(jobs):
        rng, judge = np.random.default_rng(number), job.settings["judge"]
        run = job.settings["course"]["run"]
        asked = [f"{s} probe {k}" for s, ks in judge.get("probes", {}).items() for k in ks]
        asked += [f"{s} head" for s in judge.get("heads", ())]
        asked += [f"{s} {case}" for s in judge.get("heads", ()) for case in judge.get("cases", ())]
        asked += [f"{s} zero-shot" for s in judge.get("zero_shot", ())]
        (part,) = run["splits"]["test"]
        found[job.name] = {
            "names": [f"{part} {i}" for i in range(6)],
            "groups": [part] * 6,
            "right": {key: rng.integers(0, 2, 6).tolist() for key in asked},
            "weights": {arrow.split("-> ")[1]: 1000 for arrow in run["graph"]["encode"]},
            "cpu_seconds": [40.0, 41.0],
            "seconds": 50.0,
        }
    return found


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (motion.DATA, sound.DATA):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("XMODAL_DATA", str(tmp_path))
    return tmp_path


def test_every_system_is_shown_beside_what_does_without(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorded_systems, "run_jobs", answered)
    made = recorded_systems.make(data, 1)
    assert made.name == "recorded_systems"
    rows = made.tables[0].table().rows
    assert len(rows) == len(recorded_systems.ROWS)
    assert {row[0] for row in rows} >= {"COMODO", "AGM", "OGM", "UMT", "QMF", "tinyCLAP", "CWCL"}
    chance = next(row for row in rows if row[6] == "chance")
    assert chance[7] == "0.100"
    fused = next(row for row in rows if row[0] == "AGM")
    assert fused[2] == "both, 3,000"
    assert "`films`" in made.markdown()
    assert "subjects 1 and 3" in made.markdown()
    assert len(made.tables[1].table().rows) == 3


def test_every_training_is_a_sound_run_file_with_nobody_of_the_choices(tmp_path: Path) -> None:
    arms = recorded_systems.jobs("data/utd", "data/esc")
    chosen_on = {*(f"*_s{s}_*" for s in motion.DEV), f"{sound.DEV}-*"}
    folders: set[str] = set()
    for arm, jobs in arms.items():
        held_out = [job.settings["course"]["run"]["splits"]["test"][0] for job in jobs]
        assert len(set(held_out)) == len(jobs)
        assert not chosen_on & set(held_out)
        assert {job.settings["course"]["run"]["seed"] for job in jobs} == {0}, arm
        path = tmp_path / "run.yaml"
        path.write_text(write_yaml(jobs[0].settings["course"]["run"], block_levels=3))
        load_run(path)
        folders |= {str(job.path(tmp_path)) for job in jobs}
    assert len(folders) == sum(map(len, arms.values()))


def test_what_other_tables_train_is_not_trained_again() -> None:
    arms = recorded_systems.jobs("data/utd", "data/esc")
    first, _ = motion.jobs("data/utd")
    theirs = [*first.values(), *modalities.motion_jobs("data/utd").values()]
    paths = {job.path(Path()) for job in theirs}
    for arm in ("labels", "labels 2x", "comodo", "plain", "umt", "qmf", "any2seg", "mst"):
        assert {job.path(Path()) for job in arms[arm]} <= paths
    assert not {job.path(Path()) for job in arms["agm"]} & paths


def test_what_is_compared_took_as_many_steps() -> None:
    arms = recorded_systems.jobs("data/utd", "data/esc")

    def run(arm: str) -> dict[str, Any]:
        return arms[arm][0].settings["course"]["run"]

    assert run("agm")["graph"]["encode"] == run("plain")["graph"]["encode"]
    for arm, base in (("agm", "plain"), ("ogm", "ogm none"), ("harmonise", "ogm none")):
        mine, other = dict(run(arm)["optimiser"]), dict(run(base)["optimiser"])
        assert mine.pop("balance") != other.pop("balance") == "none"
        assert mine == other
    student = run("kd")["stages"][1]["steps"]
    assert student == run("labels")["optimiser"]["steps"]
    ego = sum(stage["steps"] for stage in run("exo")["stages"] if "ego" in stage["train"])
    assert ego == run("labels 2x")["optimiser"]["steps"]


def test_no_label_of_motion_is_seen_from_outside() -> None:
    arms = recorded_systems.jobs("data/utd", "data/esc")
    graph = arms["exo"][0].settings["course"]["run"]["graph"]
    taught = {arrow.split(" -> ")[1] for arrow in graph["distill"] if arrow.startswith("classes")}
    assert taught == {"exo_says"}


def test_data_that_are_not_there_are_said(data: Path) -> None:
    (data / sound.DATA).rmdir()
    with pytest.raises(DataError, match=sound.DATA):
        recorded_systems.make(data, 1)
