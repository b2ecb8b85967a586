"""Rooms end to end: made, heard by students of maps, measured on rooms that were never heard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from xmodal.config import configs_folder
from xmodal.config.problems import ConfigReportError
from xmodal.config.runfile import load_run
from xmodal.errors import DataError, UsageError
from xmodal.rooms import RoomSet, make_rooms
from xmodal.runs.evaluate import EvalRequest, eval_run
from xmodal.runs.frozen import silent
from xmodal.runs.sheets import figure_run
from xmodal.runs.train import TrainRequest, train_run
from xmodal.store import Run
from xmodal.store.recordings import read_samples
from xmodal.values import Grids


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rooms(
        tmp_path_factory.mktemp("rooms") / "rooms",
        RoomSet(num=2, test=1, mapped=1, places=2, late_order=6),
    )


def short(name: str, data: Path, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A run file of `configs/runs` with two steps, and its graph, on other data."""
    file = configs_folder() / "runs" / f"{name}.yaml"
    run: dict[str, Any] = yaml.safe_load(file.read_text())
    graph: dict[str, Any] = yaml.safe_load((file.parent / run["graph"]).read_text())
    for op in graph["encode"].values():
        op |= {"size": "micro"}
    run |= {"graph": graph}
    run["data"]["scene"] = str(data)
    run["optimiser"] |= {"batch": 2, "warmup_steps": 1}
    if "stages" in run:
        run["stages"] = [{**stage, "steps": 2} for stage in run["stages"]]
    else:
        run["optimiser"]["steps"] = 2
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(run))
    return path, run


@pytest.mark.parametrize("name", ["daps", "daps_plain", "daps_alone"])
def test_rooms_train_and_are_measured(rooms: Path, tmp_path: Path, name: str) -> None:
    file, _ = short(name, rooms, tmp_path)
    out = tmp_path / "run"
    train_run(TrainRequest(runfile=file, out=out), silent)
    run, seen = Run(out), "" if name == "daps_alone" else "seen_"
    for node, hw, channels in (
        (f"heard.{seen}far", (16, 32), 1),
        (f"heard.{seen}things", (16, 32), 10),
        ("heard_plan", (32, 32), 2),
        ("heard_space", (112, 16), 2),
    ):
        value = read_samples(run, node)
        assert isinstance(value, Grids)
        assert value.grid_hw == hw
        # Rooms that nobody measured are answered for, too.
        assert value.rows.shape == (6 * hw[0] * hw[1], channels)
        assert bool(value.rows.isfinite().all())
    text = eval_run(EvalRequest(run=out, out=tmp_path / "eval"))
    assert "RMSE m" in text
    assert "mean IoU" in text
    told = [line.split()[0].strip("|") for line in text.splitlines() if "heard" in line]
    assert len(told) == 4
    assert ("seen_far" in text) == (name != "daps_alone")
    assert "wrote" in figure_run(out, tmp_path / "maps.png", ["test-0000_1"])
    with Image.open(tmp_path / "maps.png") as picture:
        rows = 2 if name == "daps_alone" else 3
        assert picture.width > 5 * 320
        assert rows * 160 < picture.height < rows * 160 + 400
    with pytest.raises(UsageError, match="held out"):
        figure_run(out, tmp_path / "maps.png", ["train-0000_1"])
    with pytest.raises(UsageError, match="no --source"):
        figure_run(out, tmp_path / "maps.png", source="heard")


def test_a_node_with_another_name_than_a_map_is_told(rooms: Path, tmp_path: Path) -> None:
    file, run = short("daps_alone", rooms, tmp_path)
    graph = run["graph"]
    graph["nodes"]["height"] = graph["nodes"].pop("depth")
    graph["lift"]["height -> far"] = graph["lift"].pop("depth -> far")
    file.write_text(yaml.safe_dump(run))
    with pytest.raises(DataError, match="depth, semantics, occupancy"):
        train_run(TrainRequest(runfile=file, out=tmp_path / "run"), silent)


def test_two_microphone_nodes_are_still_an_error(rooms: Path, tmp_path: Path) -> None:
    file, run = short("daps_plain", rooms, tmp_path)
    graph = run["graph"]
    graph["nodes"]["ear"] = {"kind": "audio"}
    key = next(k for k in graph["encode"] if k.endswith("heard_plan"))
    graph["encode"]["ear -> heard_plan"] = graph["encode"].pop(key)
    file.write_text(yaml.safe_dump(run))
    with pytest.raises(ConfigReportError, match="one audio sensor"):
        load_run(file)
