"""What a trained run says of recordings of others: other classes, streams, orders and sources."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from xmodal.errors import DataError, UsageError
from xmodal.recordings.disturbing import Disturbance
from xmodal.runs.evaluate import EvalRequest, eval_run
from xmodal.runs.frozen import silent
from xmodal.runs.recorded.judged import open_recorded, other_recordings
from xmodal.runs.train import TrainRequest, train_run
from xmodal.store import Run
from xmodal.store.recordings import read_samples


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, synthetic: ModuleType) -> Path:
    """A trained run, its data, and other data beside it."""
    home = tmp_path_factory.mktemp("motions")
    synthetic.write_motions(home / "data", groups=3, each=2)
    synthetic.write_motions(home / "other", groups=2, each=2)
    file = synthetic.write_run(home / "run.yaml", home / "data", steps=20)
    train_run(TrainRequest(runfile=file, out=home / "run"), silent)
    return home


def relabelled(made: Path, folder: Path, names: dict[str, str | None]) -> Path:
    """The other data with other labels; None drops the recordings of a class."""
    shutil.copytree(made / "other", folder)
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["name", "label", "group"])
        writer.writeheader()
        for row in rows:
            label = names.get(row["label"], row["label"])
            if label is None:
                (folder / f"{row['name']}_imu.npz").unlink()
            else:
                writer.writerow({**row, "label": label})
    return folder


def lines_of(folder: Path, task: str) -> dict[str, dict[str, str]]:
    with (folder / f"{task}.csv").open(newline="", encoding="utf-8") as file:
        return {row["source"]: row for row in csv.DictReader(file)}


def ask(made: Path, out: Path, **options: object) -> str:
    return eval_run(EvalRequest(run=made / "run", out=out, **options))  # pyright: ignore[reportArgumentType]


def test_the_trunk_is_kept_and_probed_beside_the_rows(made: Path, tmp_path: Path) -> None:
    run = Run(made / "run")
    info, rows = run.info("motion.trunk"), read_samples(run, "motion.trunk")
    assert (info.teacher, info.space, info.classes) == ("motion", "raw", ())
    assert rows.rows.shape[1] != read_samples(run, "motion").rows.shape[1]
    ask(made, tmp_path, task="probe")
    assert list(lines_of(tmp_path, "probe")) == ["motion", "motion.trunk"]


def test_the_trunk_of_a_recording_is_the_mean_over_its_windows(made: Path) -> None:
    opened = open_recorded(made / "run")
    anew = other_recordings(opened, None, "all", Disturbance(), silent).rows["motion.trunk"]
    kept = opened.rows("motion.trunk")
    torch.testing.assert_close(anew.rows, kept.rows, rtol=2e-3, atol=1e-3)  # kept as fp16
    assert open_recorded(made / "run").teacher_of("motion.trunk") is None


def test_sources_are_chosen(made: Path, tmp_path: Path) -> None:
    for source in ("motion", "motion.trunk"):
        ask(made, tmp_path, task="probe", source=(source,), data=made / "other")
        assert list(lines_of(tmp_path, "probe")) == [source]
    ask(made, tmp_path, task="robustness", source=("motion.trunk",))
    assert set(lines_of(tmp_path, "robustness")) == {"motion.trunk"}


def test_a_folder_of_few_classes_is_judged_by_those_of_the_run(made: Path, tmp_path: Path) -> None:
    ask(made, tmp_path / "all", data=made / "other")
    ask(made, tmp_path / "few", data=relabelled(made, tmp_path / "data", {"nod": None}))
    few = lines_of(tmp_path / "few", "classification")["motion.truth"]
    assert few["recordings"] == "8"
    with (tmp_path / "few" / "classification_confusion_motion.truth.csv").open() as file:
        answers = list(csv.DictReader(file))
    with (tmp_path / "all" / "classification_confusion_motion.truth.csv").open() as file:
        assert answers[1:] == list(csv.DictReader(file))[1:]  # the others are answered as before
    assert list(answers[0]) == ["truth", "nod", "rest", "shake", "no answer"]


def test_recordings_that_cannot_be_judged_are_told(
    made: Path, tmp_path: Path, synthetic: ModuleType
) -> None:
    data = relabelled(made, tmp_path / "data", {"nod": "wave", "rest": ""})
    name = "shake_g1_t1"
    synthetic.write_tone(data / f"{name}.wav", 0, 0)
    (data / f"{name}_imu.npz").unlink()  # it has sound alone, and no answer
    text = ask(made, tmp_path / "out", data=data)
    assert "not judged: 4 of wave, 4 without a label" in text
    assert "without an answer: 1 of motion, 1 of motion.trunk" in text
    assert lines_of(tmp_path / "out", "probe")["motion"]["recordings"] == "4"


def test_recordings_that_moved_are_found_by_name(made: Path, tmp_path: Path) -> None:
    """One more in the folder, in front of all others, does not shift the splits."""
    home = tmp_path / "home"
    shutil.copytree(made, home)
    text = (home / "run" / "run.yaml").read_text().replace(str(made), str(home))
    (home / "run" / "run.yaml").write_text(text)
    first = sorted((home / "data").glob("*_imu.npz"))[0]
    shutil.copy(first, first.with_name("aa_imu.npz"))
    opened = open_recorded(home / "run")
    judged = other_recordings(opened, None, None, Disturbance(), silent)
    assert judged.names == tuple(opened.table[i].name for i in opened.places(None))
    (home / "data" / f"{judged.names[0]}_imu.npz").unlink()
    (home / "data" / "labels.csv").unlink()
    with pytest.raises(DataError, match=f"1 missing: {judged.names[0]}"):
        other_recordings(opened, None, None, Disturbance(), silent)


def test_a_run_without_its_data_judges_other_recordings(made: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(made, home)
    shutil.rmtree(home / "data")
    text = (home / "run" / "run.yaml").read_text().replace(str(made), str(home))
    (home / "run" / "run.yaml").write_text(text)
    for task in ("classification", "probe", "robustness"):
        ask(home, tmp_path / "out", task=task, data=home / "other")
    rows = (tmp_path / "out" / "robustness.csv").read_text()
    assert "imu with noise 0.5,probe,motion.trunk,12" in rows


# ---- what cannot be ---------------------------------------------------------------------------


def test_recordings_that_students_cannot_see_are_refused(
    made: Path, tmp_path: Path, synthetic: ModuleType
) -> None:
    for number, name in enumerate(synthetic.CLASSES):
        synthetic.write_tone(tmp_path / "data" / f"{name}.wav", number, 0)
    (tmp_path / "data" / "labels.csv").write_text("name,label\nnod,nod\nshake,shake\nrest,rest\n")
    with pytest.raises(DataError, match="give recordings with imu, which motion looks at"):
        ask(made, tmp_path / "out", data=tmp_path / "data")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"source": ("emotion",)}, "--source emotion"),
        ({"source": ("motion",), "task": "retrieval"}, "--source"),
        ({"names": ("nod",), "task": "probe"}, "--names"),
        ({"split": "test", "data": Path("x")}, "--split"),
        ({"source": ("motion.truth",), "task": "probe"}, "rows of motion.truth"),
        ({"source": ("motion",), "task": "classification"}, "taught classes"),
    ],
)
def test_options_without_effect_are_refused(
    made: Path, tmp_path: Path, options: dict[str, object], match: str
) -> None:
    with pytest.raises((UsageError, DataError), match=match):
        ask(made, tmp_path, **options)


def test_an_empty_folder_is_refused(made: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="files such as"):
        ask(made, tmp_path / "out", data=tmp_path / "data")


def test_a_lone_recording_has_no_other_to_swap_with(made: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    found = sorted((made / "other").glob("nod*_imu.npz"))[0]
    shutil.copy(found, tmp_path / "data")
    name = found.name.removesuffix("_imu.npz")
    (tmp_path / "data" / "labels.csv").write_text(f"name,label\n{name},nod\n")
    with pytest.raises(UsageError, match="two recordings"):
        ask(made, tmp_path / "out", data=tmp_path / "data", swapped=("imu",))
    ask(made, tmp_path / "out", data=tmp_path / "data", task="robustness")
    rows = np.loadtxt(tmp_path / "out" / "robustness.csv", dtype=str, delimiter=",")
    assert "imu of another recording" not in rows[:, 0]
