"""ImageBind and SoundNet on films that are cut into pieces: trained, judged on what comes later."""

from __future__ import annotations

import csv
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from xmodal.config import configs_folder
from xmodal.errors import ConfigError, DataError
from xmodal.runs.evaluate import eval_run
from xmodal.runs.evaluate.request import EvalRequest
from xmodal.runs.frozen import silent
from xmodal.runs.train import TrainRequest, train_run
from xmodal.store import Run


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, media: ModuleType) -> Path:
    """Two films of three seconds, one of them with readings."""
    folder = tmp_path_factory.mktemp("films")
    for name in ("walk", "ride"):
        media.write_film(folder / f"{name}.mp4", num=30)
    media.write_table(folder / "walk_imu.csv", *media.readings(160))
    return folder


def short(name: str, scene: Path, file: Path, **more: Any) -> TrainRequest:
    """A run file of `configs/runs` with two steps, on other films."""
    source = configs_folder() / "runs" / f"{name}.yaml"
    run: dict[str, Any] = yaml.safe_load(source.read_text())
    run["graph"] = str((source.parent / run["graph"]).resolve())
    run["data"] |= {"scene": str(scene), "cut_s": 0.5, "max_side_px": 64, **more}
    run["splits"] = {"val": ["*@1.5"], "test": ["*@2.*"], "shared_groups": True}
    run["optimiser"] |= {"steps": 2, "batch": 4}
    file.write_text(yaml.safe_dump(run, sort_keys=False))
    return TrainRequest(runfile=file, out=file.with_suffix(""))


@pytest.mark.slow
@pytest.mark.usefixtures("packaged_weights")
@pytest.mark.parametrize("name", ["imagebind", "soundnet"])
def test_pieces_of_films_teach_and_are_judged(name: str, films: Path, tmp_path: Path) -> None:
    request = short(name, films, tmp_path / "run.yaml")
    train_run(request, silent)
    run = Run(request.out)
    assert run.verify() == []
    with (run.path / "recordings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows][:2] == ["ride@0.0", "ride@0.5"]
    assert {row["split"] for row in rows if "@2" in row["name"]} == {"test"}
    text = eval_run(EvalRequest(run=run.path, out=tmp_path / "out"))
    assert "sound -> seen" in text
    # The same cut for other films.
    text = eval_run(EvalRequest(run=run.path, out=tmp_path / "other", data=films))
    assert "sound -> seen" in text


def test_films_without_what_a_graph_needs_are_refused(
    tmp_path: Path, media: ModuleType, films: Path
) -> None:
    mute = tmp_path / "mute"
    mute.mkdir()
    media.write_film(mute / "walk.mp4", num=30, sound=False)
    with pytest.raises(DataError, match="at least one recording with audio"):
        train_run(short("soundnet", mute, tmp_path / "a.yaml"), silent)
    with pytest.raises(ConfigError, match="matches none"):
        train_run(short("soundnet", films, tmp_path / "b.yaml", cut_s=2.5), silent)
