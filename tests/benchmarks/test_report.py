"""The results page is what the records give, and a damaged record is told, not shown."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from benchmarks import report
from benchmarks.__main__ import NAMES
from benchmarks.records import (
    COMMANDS,
    RESULTS,
    FigureName,
    JobName,
    TableRecord,
    figures_of_today,
    machine,
    read_figures,
    read_job,
    shown,
    write_figures,
)
from benchmarks.report import BEGIN, END, README, insert, section
from xmodal.errors import DataError
from xmodal.evaluate import Table

TABLE = Table("A table", ("view", "iou"), (("a", 0.5), ("b", math.nan)))

JOB: dict[str, Any] = {
    "name": "kitchen",
    "date": "2026-01-02",
    "command": "python -m benchmarks.main_job kitchen",
    "machine": "2 CPU cores",
    "seed": 0,
    "versions": {"torch": "2.13.0"},
    "teacher": "embedded",
    "frames": 63,
    "points": 123456,
    "student_cosine": 0.9,
    "cost": {"lift": {"seconds": 600.0, "peak_mb": 2048}},
    "tables": {
        "localisation": [["arm", "hits", "accuracy"], ["lifted", "17/22", "0.772727"]],
        "localisation_pairs": [["frame", "text", "lifted"], ["000100", "coffee mug", "hit"]],
    },
}
SPEED: dict[str, str | int | float] = {
    "name": "fusion",
    "ours_s": 0.5,
    "peer_s": 40.0,
    "ratio": 80.0,
    "ours_peak_mb": 10.0,
    "peer_peak_mb": 800.0,
    "peak_fraction": 0.0125,
    "error": 1e-7,
    "mean_cosine": 0.9999999,
    "border_points": 3,
    "unexplained_points": 0,
}


def save(folder: Path, record: dict[str, Any]) -> Path:
    path = folder / f"{record['name']}.json"
    path.write_text(json.dumps(record))
    return path


def test_the_readme_is_what_the_records_give() -> None:
    page = README.read_text(encoding="utf-8")
    assert insert(page, section()) == page, "run: python -m benchmarks.report"


def test_every_committed_record_can_be_read() -> None:
    jobs, figures = get_args(JobName), get_args(FigureName)
    assert {path.stem for path in RESULTS.glob("*.json")} <= {*jobs, *figures}
    found = [*(read_job(name) for name in jobs), *(read_figures(name) for name in figures)]
    for record in filter(None, found):
        assert record.command == COMMANDS[record.name]
        assert record.machine and record.versions


def test_missing_records_are_left_out_with_their_command(tmp_path: Path) -> None:
    text = section(tmp_path)
    for command in COMMANDS.values():
        assert f"`{command}`" in text
    assert "|" not in text


def test_a_job_is_shown_with_its_cost_and_where_it_comes_from(tmp_path: Path) -> None:
    save(tmp_path, JOB)
    text = section(tmp_path)
    assert "| lifted | 17/22 | 0.773 |" in text
    assert "<details><summary>Every pair</summary>" in text
    assert "63 frames" in text and "123,456 points" in text
    assert "`lift` | 10.0 min | 2.0 GB | 2 CPU cores" in text
    assert "2026-01-02, 2 CPU cores, torch 2.13.0, seed 0" in text


def test_a_world_shows_its_means_and_folds_its_objects(tmp_path: Path) -> None:
    rows = [["object", "single view", "lifted"], ["mug", "0.2", "-"], ["mean IoU", "0.2", "0.5"]]
    save(tmp_path, JOB | {"name": "world", "tables": {"metrics": rows}})
    shown_part, folded = section(tmp_path).split("<details>")[:2]
    assert "| mean IoU | 0.200 | 0.500 |" in shown_part
    assert "| mug |" not in shown_part
    assert "| mug | 0.200 | - |" in folded


def test_speed_is_shown_as_ratios_and_what_is_absent_is_named(tmp_path: Path) -> None:
    growth = {
        "name": "slopes", "slope_points": 1.01, "slope_views": 1.0, "slope_channels": 0.98,
        "memory_span_mb": 3.0, "memory_per_view_mb": 0.5,
    }  # fmt: skip
    write_figures("speed", seed=0, figures=[SPEED, growth], folder=tmp_path)
    text = section(tmp_path)
    assert "| 500 ms | 40.00 s | **80x** | 10 / 800 MB |" in text
    assert "1.01 in points" in text
    assert "mean cosine of 1.000000; 3 points" in text
    absent = sorted(set(NAMES) - {SPEED["name"], growth["name"]})
    assert f"Not measured: {', '.join(absent)}" in text


def test_a_table_survives_its_record(tmp_path: Path) -> None:
    write_figures("apc_fusion", seed=0, tables=[shown(TABLE, folded=True)], folder=tmp_path)
    record = read_figures("apc_fusion", tmp_path)
    assert record is not None
    assert record.tables[0].table().markdown() == TABLE.markdown()
    assert record.machine == machine() and record.versions["torch"]
    assert "<details><summary>A table</summary>" in section(tmp_path)


def test_only_what_lies_between_the_markers_changes() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = insert(page, "new")
    assert once == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert insert(once, "new") == once


@pytest.mark.parametrize(
    "page",
    ["no markers", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"],
    ids=["none", "no end", "turned round", "twice"],
)
def test_a_page_without_its_markers_is_refused(
    page: str, four_parts: Callable[[BaseException, int], None]
) -> None:
    with pytest.raises(DataError) as caught:
        insert(page, "new")
    four_parts(caught.value, 3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": "x"}, "seed"),
        ({"cost": {"lift": {"seconds": 1.0}}}, "cost.lift.peak_mb"),
        ({"surprise": 1}, "surprise"),
        ({"date": "yesterday"}, "date"),
    ],
    ids=["type", "absent", "unknown", "date"],
)
def test_a_damaged_record_is_told_with_its_place(
    tmp_path: Path,
    change: dict[str, Any],
    told: str,
    four_parts: Callable[[BaseException, int], None],
) -> None:
    save(tmp_path, JOB | change)
    with pytest.raises(DataError) as caught:
        section(tmp_path)
    four_parts(caught.value, 3)
    assert told in caught.value.got
    assert COMMANDS["kitchen"] in caught.value.fix


def test_the_record_of_something_else_is_refused(tmp_path: Path) -> None:
    save(tmp_path, JOB).rename(tmp_path / "world.json")
    with pytest.raises(DataError, match="'kitchen'"):
        read_job("world", tmp_path)


def test_a_ragged_table_is_refused() -> None:
    with pytest.raises(ValidationError, match="1 cells under 2 columns"):
        TableRecord(title="t", columns=("a", "b"), rows=(("x",),))


def test_check_notices_a_page_that_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"{BEGIN}\nold\n{END}\n")
    monkeypatch.setattr(report, "README", page)
    assert report.main(["--check"]) == 1
    assert "old" in page.read_text()
    assert report.main([]) == 0
    assert report.main(["--check"]) == 0


def test_figures_of_the_same_day_stay_when_others_are_measured_anew(tmp_path: Path) -> None:
    figures = [{"name": "fusion", "ratio": 2.0}, {"name": "loss", "ratio": 3.0}]
    path = write_figures("speed", seed=0, figures=figures, folder=tmp_path)
    assert figures_of_today("speed", tmp_path)["fusion"]["ratio"] == 2.0
    path.write_text(re.sub(r'"date": "[^"]*"', '"date": "2020-01-01"', path.read_text()))
    assert figures_of_today("speed", tmp_path) == {}
    assert figures_of_today("speed", tmp_path / "none") == {}
