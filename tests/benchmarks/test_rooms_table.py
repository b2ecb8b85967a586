"""The table of rooms: what is trained, what is counted of maps, how arms are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.tables import rooms
from benchmarks.tables.recorded import run_folder
from xmodal.config.reader import write_yaml
from xmodal.config.runfile import load_run
from xmodal.rooms import RoomSet, make_rooms


def result(far: list[list[float]], things: list[list[float]]) -> dict[str, Any]:
    """Of two rooms."""
    plan = [[3.0, 1.0, 0.0, 2.0, 4.0, 0.0], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]]
    space = [[5.0, 0.0, 0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 2.0, 0.0]]
    counts = {"far": far, "things": things, "plan": plan, "space": space}
    return {"rooms": ["a", "b"], "counts": counts, "cpu_seconds": [100.0, 110.0]}


GOOD = result([[4.0, 8.0, 10.0], [5.0, 8.0, 10.0]], [[5.0, 0.0, 0.0, 0.0, 5.0, 0.0]] * 2)
BAD = result([[16.0, 4.0, 10.0], [20.0, 4.0, 10.0]], [[5.0, 5.0, 0.0, 0.0, 0.0, 0.0]] * 2)


def test_every_training_is_a_sound_run_file_and_starts_where_one_ended(tmp_path: Path) -> None:
    first, second = rooms.jobs("few", "all")
    assert len(first) == 1 + 3 * len(rooms.SEEDS)
    assert len(second) == 2 * len(rooms.SEEDS)
    begun = {
        run_folder(Path(), job.settings["course"]) for (_, seed), job in first.items()
        if "course" in job.settings
    }  # fmt: skip
    assert len(begun) == len(first) - 1
    for index, ((_, seed), job) in enumerate([*first.items(), *second.items()]):
        if "course" not in job.settings or seed:
            continue
        path = tmp_path / f"{index}.yaml"
        path.write_text(write_yaml(job.settings["course"]["run"], block_levels=3))
        assert load_run(path).splits.test == ("test-*",)
    for (_, seed), job in second.items():
        start = job.settings["course"]["start"]
        assert run_folder(Path(), start) in begun
        assert start["run"]["seed"] == seed
        assert [one["name"] for one in job.settings["course"]["run"]["stages"]] == ["hearing"]


def test_depths_are_counted_by_hand() -> None:
    truth = np.array([[[2.0], [4.0], [np.nan]], [[1.0], [1.0], [1.0]], [[3.0], [3.0], [3.0]]])
    given = np.array([[[2.0], [6.0], [9.0]], [[1.2], [1.0], [0.0]], [[3.0], [3.0], [4.0]]])
    found = np.array(rooms.counted(given, truth, ["a", "a", "b"]))
    np.testing.assert_allclose(found, [[4.0 + 0.04 + 1.0, 3, 5], [1.0, 2, 3]])


def test_classes_are_counted_by_hand() -> None:
    truth = np.eye(2)[[[0, 1, 1]]].astype(np.float64)
    truth[0, 2] = np.nan
    given = np.array([[[0.6, 0.4], [0.9, 0.1], [0.0, 1.0]]])
    assert rooms.counted(given, truth, ["a"]) == [[1.0, 0.0, 0.0, 1.0, 0.0, 0.0]]


def test_measures_by_hand() -> None:
    made = rooms.Measured([GOOD])
    np.testing.assert_allclose(made.values, [np.sqrt(9 / 20), 0.8, 1.0, 5 / 8, 3 / 4])
    assert made.samples.shape == (2000, 5)
    two = rooms.Measured([GOOD, BAD, BAD])
    np.testing.assert_allclose(two.values[1], (0.8 + 0.4 + 0.4) / 3)


def test_a_difference_is_paired() -> None:
    good, bad = rooms.Measured([GOOD] * 3), rooms.Measured([BAD] * 3)
    texts = good.minus(bad)
    assert texts[1] == "+0.400 (+0.400..+0.400)"
    assert texts[3].startswith("+0.000 (+0.000..+0.000)")
    assert good.minus(good)[0] == "+0.000 (+0.000..+0.000)"
    assert "0.800 (0.800..0.800)" in good.texts()


def test_every_arm_is_a_row() -> None:
    first, second = rooms.jobs("few", "all")
    arms = {arm for arm, _ in {**first, **second}}
    whole, minus = rooms.tables_of({arm: [GOOD] * 3 for arm in arms})
    assert len(whole.rows) == len(arms)
    assert all(row[-1] == "100" for row in whole.rows)
    assert len(minus.rows) == 4


def test_an_arm_that_was_not_trained_is_an_error() -> None:
    with pytest.raises(KeyError):
        rooms.tables_of({})


def test_the_constant_answer_is_the_mean_of_measured_rooms(tmp_path: Path) -> None:
    options = RoomSet(num=2, test=2, mapped=1, places=1, late_order=4, duration_s=0.1)
    scene = make_rooms(tmp_path / "rooms", options)
    first, _ = rooms.jobs(str(scene), "all")
    job = next(job for (_, _), job in first.items() if "course" not in job.settings)
    found = rooms.measure_constant(tmp_path, job.settings)
    assert found["rooms"] == ["test-0000", "test-0001"]
    far, things, plan, space = (np.array(found["counts"][name]) for name in rooms.MAPS)
    assert far.shape == (2, 3)
    assert things.sum(axis=1).tolist() == [512, 512]
    assert plan.sum(axis=1).tolist() == [1024, 1024]
    assert space.sum(axis=1).tolist() == [7 * 256, 7 * 256]
    assert (far[:, 0] > 0).all()
