"""Systems for sound and a picture of rooms: each trains, and is measured with a stream missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from xmodal.config import configs_folder
from xmodal.errors import UsageError
from xmodal.rooms import RoomSet, make_rooms
from xmodal.runs.evaluate import EvalRequest, eval_run
from xmodal.runs.frozen import silent
from xmodal.runs.train import TrainRequest, train_run
from xmodal.store import Run

# Run file -> what answers with a map.
SYSTEMS = {
    "rooms_labels": {"both"},
    "rooms_umt": {"both", "seen_alone.things", "heard_alone.things"},
    "rooms_qmf": {"both"},
    "rooms_any2seg": {"both.things"},
    "rooms_mst_distill": {"seen", "fused", "best", "heard"},
}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = RoomSet(num=2, test=1, places=2, late_order=6)
    return make_rooms(tmp_path_factory.mktemp("rooms") / "rooms", options)


def trained(name: str, rooms: Path, folder: Path) -> Run:
    """A system of `configs/runs` after two steps."""
    file = configs_folder() / "runs" / f"{name}.yaml"
    run: dict[str, Any] = yaml.safe_load(file.read_text())
    run["graph"] = str((file.parent / run["graph"]).resolve())
    run["data"]["scene"] = str(rooms)
    run["optimiser"] |= {"batch": 2, "warmup_steps": 1}
    if "stages" in run:
        run["stages"] = [{**stage, "steps": 2} for stage in run["stages"]]
    else:
        run["optimiser"]["steps"] = 2
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    train_run(TrainRequest(runfile=path, out=folder / "run"), silent)
    return Run(folder / "run")


def test_maps_are_measured_with_streams_missing_noisy_and_swapped(
    rooms: Path, tmp_path: Path
) -> None:
    run = trained("rooms_labels", rooms, tmp_path)
    text = eval_run(EvalRequest(run=run.path, out=tmp_path / "out", task="robustness"))
    lines = (tmp_path / "out" / "robustness_maps.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == [
        "as recorded",
        "without audio",
        "without video",
        "audio with noise 0.5",
        "audio with noise 1",
        "video with noise 0.5",
        "video with noise 1",
        "audio of another recording",
        "video of another recording",
    ]
    assert {line.split(",")[1] for line in lines} == {"both"}
    assert {line.split(",")[3] for line in lines} == {"mean IoU"}
    assert "without video" in text
    assert not (tmp_path / "out" / "robustness.csv").exists()  # there are no classes to tell
    with pytest.raises(UsageError, match="not noisy"):
        eval_run(EvalRequest(run=run.path, out=tmp_path / "no", noise=("grids=0.5",)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "rooms_labels"])
def test_systems_of_rooms(name: str, rooms: Path, tmp_path: Path) -> None:
    run = trained(name, rooms, tmp_path)
    assert set(run.sources()) >= SYSTEMS[name]
    text = eval_run(EvalRequest(run=run.path, out=tmp_path / "out", missing=("video",)))
    assert "mean IoU" in text
    # Networks over pictures alone have nothing to say then.
    assert all((source in text) != source.startswith("seen") for source in SYSTEMS[name])
    text = eval_run(EvalRequest(run=run.path, out=tmp_path / "all"))
    assert all(source in text for source in SYSTEMS[name])
