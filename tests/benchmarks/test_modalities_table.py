"""The table of missing, noisy and swapped streams: its trainings, judging, and rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.tables import modalities
from benchmarks.tables.jobs import Job
from benchmarks.tables.modalities import BASE, MeanIou, flat, shown
from benchmarks.tables.recorded import Rated
from xmodal.config.reader import write_yaml
from xmodal.config.runfile import load_run
from xmodal.errors import UsageError
from xmodal.recordings.disturbing import Disturbance
from xmodal.rooms import RoomSet, make_rooms


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rooms of two places, one of them held out."""
    folder = tmp_path_factory.mktemp("made") / "rooms"
    return make_rooms(folder, RoomSet(num=2, test=1, places=2, seed=9))


# ---- trainings ---------------------------------------------------------------------------------


def test_every_training_is_a_sound_run_file_and_gives_what_is_shown(tmp_path: Path) -> None:
    moved, placed = modalities.motion_jobs("data/utd"), modalities.room_jobs("data/rooms")
    first = {arm: job for (arm, subject), job in moved.items() if subject == 1}
    assert len(moved) == len(first) * len(modalities.SUBJECTS)
    for jobs, rows in ((first, modalities.MOTION_ROWS), (placed, modalities.ROOM_ROWS)):
        assert {arm for arm, _ in rows.values()} == set(jobs)
        for arm, job in jobs.items():
            path = tmp_path / f"{arm}.yaml"
            path.write_text(write_yaml(job.settings["course"]["run"], block_levels=3))
            spec = load_run(path)
            assert spec.splits.test in (("*_s1_*",), ("test-*",))
            steps = [stage.steps for stage in spec.stages] or [spec.optimiser.steps]
            assert set(steps) == {modalities.STEPS}
            assert spec.graph is not None
            for source in (s for one, s in rows.values() if one == arm):
                assert set(source.split(".")) <= set(spec.graph.nodes)


def test_cases_are_disturbances_and_the_first_is_none() -> None:
    for cases in (modalities.MOTION_CASES, modalities.ROOM_CASES):
        every = flat(cases)
        assert next(iter(every)) == modalities.WHOLE
        found = [Disturbance(**given) for given in every.values()]
        assert [bool(one) for one in found] == [False, *[True] * (len(found) - 1)]
        assert len({str(one) for one in found}) == len(found)


def test_maps_of_held_out_rooms_are_judged_in_every_case(
    tmp_path: Path, rooms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modalities, "STEPS", 2)
    job = modalities.room_jobs(str(rooms))["plain"]
    found = modalities.train_maps(tmp_path, job.settings)
    assert found["steps"] == 2
    tables = {key: np.array(one) for key, one in found["tables"].items()}
    assert set(tables) == {f"both {case}" for case in flat(modalities.ROOM_CASES)}
    cells = {int(one.sum()) for one in tables.values()}
    assert len(cells) == 1  # a cell counts whatever is missing
    assert all(one.shape == (1, 10, 11) for one in tables.values())
    assert tables["both no picture"][..., -1].sum() == 0  # sound alone answers

    wrong = {**job.settings["judge"], "cases": {"no motion": {"missing": {"imu": 1.0}}}}
    with pytest.raises(UsageError, match="streams among"):
        modalities.train_maps(tmp_path, {**job.settings, "judge": wrong})


# ---- ratings -----------------------------------------------------------------------------------


def test_mean_iou_over_rooms_by_hand() -> None:
    # Two rooms; classes by answers, and in the last column those without one.
    one, two = [[2, 0, 0], [1, 1, 0]], [[0, 0, 2], [0, 2, 0]]
    found = MeanIou(np.array([one, two]))
    # class 0: 2 hit of 5 together; class 1: 3 hit of 4
    assert found.mean == pytest.approx((2 / 5 + 3 / 4) / 2)
    each = {(2 / 3 + 1 / 2) / 2, (0 / 2 + 2 / 2) / 2, found.mean}
    assert {round(float(v), 6) for v in found.samples} == {round(v, 6) for v in each}
    assert found.minus(found) == "+0.000 (+0.000..+0.000)"


def test_tables_show_every_case_and_what_is_gained() -> None:
    right = Rated(np.array([[1.0], [0.5]]))
    other = Rated(np.array([[0.5], [0.5]]))
    cases = {"missing": {"no sound": {"missing": {"audio": 1.0}}}, "noisy": {"loud": {}}}
    names: list[str] = [modalities.WHOLE, "no sound", "loud"]
    of = dict.fromkeys(names, right)
    found: dict[tuple[str, str], dict[str, Rated]] = {BASE: of}
    found["QMF", "all"] = dict.fromkeys(names, other)
    tables = shown("Rooms", cases, found)
    assert [len(one.rows) for one in tables] == [2, 1, 2, 1]
    assert tables[0].columns[2:] == ("all there", "no sound")
    assert tables[2].columns[2:] == ("loud",)
    assert tables[1].rows[0][:3] == ("QMF", "all", "-0.250 (-0.500..+0.000)")
    with pytest.raises(KeyError):
        shown("Rooms", cases, {row: of for row in found if row != BASE})


def test_the_record_shows_all_rows_of_made_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(jobs: Sequence[Job], work: Path, workers: int) -> dict[str, dict[str, Any]]:
        del work, workers
        return {job.name: _result(job) for job in jobs}

    def folder(_: str | Path) -> Path:
        return tmp_path

    monkeypatch.setattr(modalities, "run_jobs", made)
    monkeypatch.setattr(modalities, "folder_of", folder)
    monkeypatch.setattr(modalities, "rooms_folder", folder)
    found = modalities.make(tmp_path, 1)
    assert [len(one.rows) for one in found.tables] == [11, 10, 11, 10, 8, 7, 8, 7]
    assert found.tables[0].rows[2][:3] == ("plain fusion", "all", "1.000 (1.000..1.000)")
    assert found.tables[5].rows[0][2] == "+0.000 (+0.000..+0.000)"


def _result(job: Job) -> dict[str, Any]:
    """What a job might give: all right."""
    judge, common = job.settings["judge"], {"cpu_seconds": [1.0, 2.0], "seconds": 2.0}
    if "truth" in judge:
        table = np.eye(2, 3, dtype=int)[None].repeat(2, axis=0).tolist()
        return {
            **common,
            "tables": {f"{s} {case}": table for s in judge["sources"] for case in judge["cases"]},
        }
    right = {f"{head} {case}": [1, 1] for head in judge["heads"] for case in judge["cases"]}
    subject = job.name.rpartition("/")[2]
    return {
        **common,
        "names": [f"{subject}a", f"{subject}b"],
        "groups": [subject, subject],
        "right": right,
        "weights": {"pose": 1, "motion": 1},
    }
