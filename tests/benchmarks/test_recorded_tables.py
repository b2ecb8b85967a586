"""Tables over recordings: what is trained and held out, what is labelled, how answers are rated."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from benchmarks.tables import motion, sound
from benchmarks.tables.jobs import Job
from benchmarks.tables.recorded import (
    ALL,
    Course,
    Rated,
    chosen_labels,
    folder_of,
    rated,
    run_folder,
    train,
)
from xmodal.config.reader import write_yaml
from xmodal.config.runfile import load_run
from xmodal.errors import ConfigError, DataError
from xmodal.values import Labels

JUDGE = {"seed": 0, "strength": 0.1}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, synthetic: ModuleType) -> Path:
    """Two people, three actions, two trials, in the layout of UTD-MHAD."""
    folder = tmp_path_factory.mktemp("utd")
    for inner in ("Inertial", "Skeleton"):
        (folder / inner).mkdir()
    for subject in (1, 2):
        for action in (1, 2, 3):
            for trial in (1, 2):
                name, seed = f"a{action}_s{subject}_t{trial}", 10 * subject + trial
                imu = synthetic.motion(action - 1, seed)
                both = np.concatenate([imu.accel_mps2 / 9.81, np.rad2deg(imu.gyro_radps)], axis=1)
                savemat(folder / "Inertial" / f"{name}_inertial.mat", {"d_iner": both})
                joints = synthetic.body(action - 1, seed).joints_m.permute(1, 2, 0).numpy()
                savemat(folder / "Skeleton" / f"{name}_skeleton.mat", {"d_skel": joints})
    return folder


def short(run: str, scene: Path, **more: Any) -> Course:
    changes = {"optimiser/steps": 2, "optimiser/batch": 4, **more.pop("changes", {})}
    return Course(run=run, scene=str(scene), test="*_s1_*", changes=changes, **more)


# ---- trainings ---------------------------------------------------------------------------------


def test_every_training_of_the_tables_is_a_sound_run_file(tmp_path: Path) -> None:
    first, second = motion.jobs("data/utd")
    taught, alone, tuned = sound.jobs("data/esc")
    every = [job for (_, s, seed), job in [*first.items(), *second.items()] if (s, seed) == (1, 0)]
    every += [runs[1, 0] for runs in (taught, *alone.values(), *tuned.values())]
    assert len(every) == len(motion.SHOWN) + 1 + 2 * len(sound.BUDGETS)
    for index, job in enumerate(every):
        path = tmp_path / f"{index}.yaml"
        path.write_text(write_yaml(job.settings["course"]["run"], block_levels=3))
        spec = load_run(path)
        assert spec.splits.test in (("*_s1_*",), ("1-*",))


def test_who_is_held_out_is_held_out_where_a_training_began_too() -> None:
    first, second = motion.jobs("data/utd")
    begun = {run_folder(Path(), job.settings["course"]) for job in first.values()}
    assert len(begun) == len(first)
    for (_, subject, seed), job in second.items():
        start = job.settings["course"]["start"]
        assert run_folder(Path(), start) in begun
        assert start["run"]["splits"]["test"] == [f"*_s{subject}_*"]
        assert start["run"]["seed"] == seed


def test_students_see_no_label_before_they_are_tuned() -> None:
    taught, _, tuned = sound.jobs("data/esc")
    for job in taught.values():
        kinds = {node["kind"] for node in job.settings["course"]["run"]["graph"]["nodes"].values()}
        assert "labels" not in kinds
    begun = motion.few_jobs("data/utd")[motion.GOES_ON, 1]
    assert all(job.settings["course"]["start"] for job in begun.values())
    for job in begun.values():
        start = job.settings["course"]["start"]["run"]["graph"]
        assert "labels" not in {node["kind"] for node in start["nodes"].values()}
        assert job.settings["course"]["run"]["graph"]["lift"]["classes -> truth"][
            "labels_per_class"
        ]
    graphs = [job.settings["course"]["run"]["graph"] for job in tuned[1].values()]
    seeds = {graph["lift"]["classes -> truth"]["seed"] for graph in graphs}
    assert seeds == set(sound.SEEDS)


def test_a_course_is_trained_and_judged_and_another_goes_on(tmp_path: Path, people: Path) -> None:
    together = short("motion_together", people)
    judge = {**JUDGE, "probes": {"motion.trunk": [ALL], "pose": [1]}}
    found = train(tmp_path, {"course": together.settings(), "judge": judge})
    assert found["names"] == [f"a{a}_s1_t{t}" for a in (1, 2, 3) for t in (1, 2)]
    assert set(found["groups"]) == {"s1"}
    assert {key: len(right) for key, right in found["right"].items()} == {
        "motion.trunk probe 0": 6,
        "pose probe 1": 6,
    }
    tuned = short("motion_labels", people, start=together)
    judge = {**JUDGE, "heads": ["motion.truth"]}
    found = train(tmp_path, {"course": tuned.settings(), "judge": judge})
    assert set(found["right"]) == {"motion.truth head"}
    assert found["weights"]["motion"] < 200_000
    assert found["steps"] == 2


def test_a_course_without_its_beginning_is_refused(tmp_path: Path, people: Path) -> None:
    tuned = short("motion_labels", people, start=short("motion_together", people))
    with pytest.raises(ConfigError, match="no such file"):
        train(tmp_path, {"course": tuned.settings(), "judge": JUDGE})


def test_changes_that_mean_nothing_are_refused(tmp_path: Path, people: Path) -> None:
    wrong = short("motion_labels", people, changes={"optimiser/stepps": 3})
    with pytest.raises(ConfigError, match="stepps"):
        train(tmp_path, {"course": wrong.settings(), "judge": JUDGE})
    with pytest.raises(KeyError):
        short("motion_labels", people, changes={"optimizer/steps": 3}).plain()


# ---- labels ------------------------------------------------------------------------------------


def labels() -> Labels:
    return Labels(ids=torch.arange(24) % 3, classes=("a", "b", "c"))


def test_labels_are_drawn_from_each_class_of_the_training_part() -> None:
    part = list(range(12))
    few = chosen_labels(labels(), part, 2, seed=0)
    assert len(few) == 6
    assert set(few) <= set(part)
    assert sorted(i % 3 for i in few) == [0, 0, 1, 1, 2, 2]
    assert few == chosen_labels(labels(), part, 2, seed=0)
    assert any(few != chosen_labels(labels(), part, 2, seed=s) for s in (1, 2))
    assert chosen_labels(labels(), part, ALL, seed=0) == part


# ---- numbers -----------------------------------------------------------------------------------


def part(names: str, right: list[int], group: str) -> dict[str, object]:
    return {"names": list(names), "groups": [group] * len(names), "right": {"x": right}}


def test_each_subject_counts_as_one() -> None:
    results = [[part("ab", [1, 1], "s1"), part("cdef", [0, 0, 0, 0], "s2")]]
    assert rated(results, "x", by="groups").mean == pytest.approx(0.5)
    assert rated(results, "x", by="names").mean == pytest.approx(2 / 6)


def test_an_arm_is_no_better_than_itself() -> None:
    rng = np.random.default_rng(0)
    one = Rated(rng.random((6, 3)))
    assert one.minus(one) == "+0.000 (+0.000..+0.000)"
    better = Rated(one.values + 0.1)
    assert better.minus(one) == "+0.100 (+0.100..+0.100)"


def test_arms_without_a_seed_are_paired_with_those_that_have_three() -> None:
    fixed = Rated(np.full((4, 1), 0.25))
    assert fixed.text() == "0.250 (0.250..0.250)"
    assert Rated(np.full((4, 3), 0.5)).minus(fixed) == "+0.250 (+0.250..+0.250)"


def answered(jobs: list[Job], work: Path, workers: int) -> dict[str, dict[str, object]]:
    """Results as jobs leave them, with answers drawn by chance: trainings take an hour."""
    del work, workers
    found: dict[str, dict[str, object]] = {}
    for number, job in enumerate(jobs):
        rng, judge = np.random.default_rng(number), job.settings.get("judge", {})
        asked = [f"{s} probe {k}" for s, ks in judge.get("probes", {}).items() for k in ks]
        asked += [f"{s} head" for s in judge.get("heads", ())]
        asked += [f"{s} zero-shot" for s in judge.get("zero_shot", ())]
        held_out = job.settings.get("course", {}).get("run", {}).get("splits", {}).get("test", "*")
        if not judge:
            found[job.name] = simple(rng)
            continue
        found[job.name] = {
            "names": [f"{held_out} {i}" for i in range(5)],
            "groups": [str(held_out)] * 5,
            "right": {key: rng.integers(0, 2, 5).tolist() for key in asked},
            "weights": dict.fromkeys(("motion", "pupil", "sound"), 1000),
            "cpu_seconds": [40.0, 41.0],
            "seconds": 50.0,
        }
    return found


def simple(rng: np.random.Generator) -> dict[str, object]:
    names = [f"['{fold}-*'] {i}" for fold in sound.FOLDS for i in range(5)]
    groups = [f"['*_s{subject}_*']" for subject in motion.SUBJECTS for _ in range(3)][:15]
    sources = ("statistics", "imu", "body")
    budgets = [f"{source} probe {k}" for source in sources for k in motion.BUDGETS]
    seeds = [
        {
            "names": names,
            "groups": groups,
            "right": {key: rng.integers(0, 2, 15).tolist() for key in budgets},
        }
        for _ in sound.SEEDS
    ]
    return {"seeds": seeds, "seconds": 1.0}


@pytest.mark.parametrize("module", [motion, sound], ids=["motion", "sound"])
def test_a_table_shows_every_arm(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / module.DATA).mkdir()
    monkeypatch.setenv("XMODAL_DATA", str(tmp_path))
    monkeypatch.setattr(module, "run_jobs", answered)
    made = module.make(tmp_path, 1)
    assert made.command == f"make results TABLE={made.name}"
    assert made.seeds == (0, 1, 2)
    if module is motion:
        few = made.tables[1].table()
        assert {motion.BASE, motion.GOES_ON} < {row[0] for row in few.rows}
        assert len(few.rows[0]) == 1 + 2 * len(motion.BUDGETS)
    rows = made.tables[0].table().rows
    arms = {row[0] for row in rows}
    wanted = {*motion.SHOWN} if module is motion else {"student from labels"}
    assert wanted < arms
    assert len(rows) == len({(row[0], row[1]) for row in rows})
    assert "chosen on" in made.markdown()


def test_answers_that_were_not_asked_for_are_not_found() -> None:
    with pytest.raises(KeyError):
        rated([[part("a", [1], "s1")]], "y", by="names")


def test_data_that_are_not_there_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    with pytest.raises(DataError, match="not set"):
        folder_of(motion.DATA)
    monkeypatch.setenv("XMODAL_DATA", "/nowhere")
    with pytest.raises(DataError, match=sound.DATA):
        folder_of(sound.DATA)
