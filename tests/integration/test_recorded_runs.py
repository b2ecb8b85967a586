"""Runs over recordings through the functions behind the command line, on small made motions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from xmodal.config.runfile import check_file, load_run
from xmodal.errors import ConfigError, DataError, UsageError
from xmodal.runs.evaluate import EvalRequest, eval_run
from xmodal.runs.frozen import silent
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.runs.prompts import Prompt, QueryOutputs
from xmodal.runs.query import query_run
from xmodal.runs.train import TrainRequest, apply_run, train_run
from xmodal.store import Run
from xmodal.store.recordings import read_samples


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, synthetic: ModuleType) -> Path:
    """A trained run, with its data beside it."""
    home = tmp_path_factory.mktemp("motions")
    synthetic.write_motions(home / "data", groups=4, each=3)
    file = synthetic.write_run(home / "run.yaml", home / "data", steps=40)
    train_run(TrainRequest(runfile=file, out=home / "run"), silent)
    return home


def accuracy(folder: Path, task: str = "classification") -> float:
    head, *lines = (folder / f"{task}.csv").read_text().splitlines()
    return float(lines[0].split(",")[head.split(",").index("accuracy")])


def test_a_run_keeps_what_it_is_about(made: Path) -> None:
    run = Run(made / "run")
    lines = (run.path / "recordings.csv").read_text().splitlines()
    assert lines[0] == "name,group,label,split,duration_s"
    assert "nod_g0_t0,g0,nod,test,1.580" in lines
    assert run.verify() == []
    assert run.sources() == ["motion", "motion.trunk", "motion.truth", "truth"]
    truth = read_samples(run, "truth")
    held = ["_g0_" in line for line in lines[1:]]
    assert truth.valid.tolist() == [not out for out in held]  # labels to test on were not seen


def test_a_student_is_measured_on_those_held_out(made: Path, tmp_path: Path) -> None:
    text = eval_run(EvalRequest(run=made / "run", out=tmp_path))
    assert "classification: 9 recordings" in text
    assert "probe: 9 recordings" in text
    assert accuracy(tmp_path) > 0.8
    assert (tmp_path / "classification_confusion_motion.truth.csv").is_file()
    assert (made / "run" / "probes" / "motion.safetensors").is_file()
    assert Run(made / "run").verify() == []
    again = eval_run(EvalRequest(run=made / "run", out=tmp_path))
    assert again == text


def test_other_recordings_are_measured(made: Path, tmp_path: Path, synthetic: ModuleType) -> None:
    synthetic.write_motions(tmp_path / "other", groups=2, each=4)
    request = EvalRequest(run=made / "run", out=tmp_path / "out", data=tmp_path / "other")
    text = eval_run(request)
    assert "classification: 24 recordings" in text
    assert accuracy(tmp_path / "out") > 0.7


def test_the_run_s_own_recordings_looked_at_anew_give_the_same(made: Path, tmp_path: Path) -> None:
    eval_run(EvalRequest(run=made / "run", out=tmp_path / "kept", split="all"))
    eval_run(EvalRequest(run=made / "run", out=tmp_path / "anew", data=made / "data"))
    assert accuracy(tmp_path / "kept") == accuracy(tmp_path / "anew")


def test_noise_and_swaps_cost(made: Path, tmp_path: Path) -> None:
    base = EvalRequest(run=made / "run", out=tmp_path / "clean", split="all", task="probe")
    eval_run(base)
    text = eval_run(replace(base, out=tmp_path / "swapped", swapped=("imu",)))
    assert "imu of another recording" in text
    eval_run(replace(base, out=tmp_path / "noisy", noise=("imu=3",)))
    clean = accuracy(tmp_path / "clean", "probe")
    assert accuracy(tmp_path / "swapped", "probe") < clean
    assert accuracy(tmp_path / "noisy", "probe") <= clean


def test_robustness_tries_every_stream(made: Path, tmp_path: Path) -> None:
    eval_run(EvalRequest(run=made / "run", out=tmp_path, task="robustness"))
    lines = (tmp_path / "robustness.csv").read_text().splitlines()[1:]
    assert {line.split(",")[0] for line in lines} == {
        "as recorded", "imu with noise 0.5", "imu with noise 1", "imu of another recording",
    }  # fmt: skip
    assert {line.split(",")[1] for line in lines} == {"classification", "probe"}


def test_recordings_to_train_on_may_lack_a_stream(tmp_path: Path, synthetic: ModuleType) -> None:
    synthetic.write_motions(tmp_path / "data", groups=2, each=2)
    for path in sorted((tmp_path / "data").glob("*_imu.npz")):
        synthetic.write_tone(path.with_name(path.name.replace("_imu.npz", ".wav")), 0, 0)
    file = synthetic.write_run(tmp_path / "run.yaml", tmp_path / "data", steps=2)
    text = file.read_text()
    file.write_text(text.replace("format: clips", "format: clips, lacking: {imu: 0.5}"))
    train_run(TrainRequest(runfile=file, out=tmp_path / "run"), silent)
    table = (tmp_path / "run" / "recordings.csv").read_text().splitlines()
    names = [line.split(",")[0] for line in table][1:]
    valid = read_samples(Run(tmp_path / "run"), "motion").valid.tolist()
    has = dict(zip(names, valid, strict=True))
    assert all(has[name] for name in names if "_g0_" in name)
    assert sum(has[name] for name in names if "_g1_" in name) == 3
    file.write_text(text.replace("format: clips", "format: clips, lacking: {depth: 0.5}"))
    with pytest.raises(ConfigError):
        load_run(file)


def test_students_look_at_other_recordings(
    made: Path, tmp_path: Path, synthetic: ModuleType
) -> None:
    synthetic.write_motions(tmp_path / "other", groups=1, each=1)
    text = apply_run(
        made / "run", tmp_path / "other", tmp_path / "run", voxel_m=0.02, overwrite=False,
        report=silent,
    )  # fmt: skip
    assert text.startswith("  3 recordings")
    run = Run(tmp_path / "run")
    assert run.sources() == ["motion", "motion.trunk", "motion.truth"]
    assert run.verify() == []
    assert len(read_samples(run, "motion").rows) == 3


def test_frozen_nodes_are_lifted_alone(made: Path, tmp_path: Path) -> None:
    found = lift_run(LiftRequest(source=made / "run.yaml", out=tmp_path / "run"), silent)
    assert "truth: 3 channels of one_hot for 27 of 36 rows" in found.summary()
    assert Run(tmp_path / "run").sources() == ["truth"]


def test_training_goes_on_in_the_same_run_only_when_told(made: Path) -> None:
    request = TrainRequest(runfile=made / "run.yaml", out=made / "run")
    with pytest.raises(UsageError, match="--resume"):
        train_run(request, silent)
    done = train_run(replace(request, resume=True), silent)
    assert done.steps == 40


def test_a_student_starts_from_another_run(made: Path, tmp_path: Path) -> None:
    request = TrainRequest(
        runfile=made / "run.yaml",
        out=tmp_path / "run",
        overrides=("optimiser.steps=1", "optimiser.lr=1e-9"),
        start=made / "run",
    )
    train_run(request, silent)
    first, second = (read_samples(Run(p), "motion").rows for p in (made / "run", tmp_path / "run"))
    assert np.allclose(first.numpy(), second.numpy(), atol=0.1)  # running means move in a step


def test_few_labels_are_those_of_the_training(made: Path, tmp_path: Path) -> None:
    text = (made / "run.yaml").read_text()
    file = tmp_path / "few.yaml"
    file.write_text(text.replace("{op: one_hot}", "{op: one_hot, labels_per_class: 2}"))
    lift_run(LiftRequest(source=file, out=tmp_path / "run"), silent)
    kept = read_samples(Run(tmp_path / "run"), "truth")
    assert kept.rows[kept.valid].sum(dim=0).tolist() == [2, 2, 2]


def test_checks_read_run_files_of_recordings(made: Path) -> None:
    assert "clips" in str(check_file(made / "run.yaml"))


# ---- what cannot be ---------------------------------------------------------------------------


def edited(made: Path, tmp_path: Path, old: str, new: str) -> Path:
    text = (made / "run.yaml").read_text()
    assert old in text
    file = tmp_path / "edited.yaml"
    file.write_text(text.replace(old, new))
    return file


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('test: ["*_g0_*"]', 'test: ["*_g9_*"]', "matches none"),
        ('test: ["*_g0_*"]', 'test: ["*"]', "at least one recording to train on"),
        ('test: ["*_g0_*"]', 'test: ["*_t0"]', "several"),
        ("batch: 8", "batch: 8, crops: 2", "no effect on recordings"),
        ("format: clips}", "format: clips, voxel_m: 0.5}", "no effect on recordings"),
        ("[classification, probe]", "[segmentation]", "segmentation"),
        ("format: clips}", "format: utd_mhad}", "UTD-MHAD"),
        ("imu: {kind: imu}", "imu: {kind: audio}", "audio"),
        ("truth: {kind: embedding, channels: 3}", "truth: {kind: embedding, channels: 4}", "4"),
    ],
)
def test_run_files_that_do_not_fit_are_refused(
    made: Path, tmp_path: Path, old: str, new: str, match: str
) -> None:
    file = edited(made, tmp_path, old, new)
    with pytest.raises((ConfigError, DataError), match=match):
        train_run(TrainRequest(runfile=file, out=tmp_path / "run"), silent)


def test_groups_may_be_torn_when_the_user_says_so(made: Path, tmp_path: Path) -> None:
    file = edited(made, tmp_path, 'test: ["*_g0_*"]', 'test: ["*_t0"], shared_groups: true')
    lift_run(LiftRequest(source=file, out=tmp_path / "run"), silent)


def test_batches_of_recordings_have_no_effect_on_scenes(tmp_path: Path) -> None:
    text = Path("configs/runs/kitchen.yaml").read_text()
    assert "optimiser:" in text
    with pytest.raises(ConfigError, match="no effect on scenes"):
        load_run(Path("configs/runs/kitchen.yaml"), ["optimiser.batch=8"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"task": "segmentation"}, "--task segmentation"),
        ({"task": "zero_shot"}, "understands words"),
        ({"task": "retrieval"}, "rows like those of its teacher"),
        ({"names": ("a",)}, "--names"),
        ({"task": "robustness", "missing": ("imu",)}, "tries them all"),
        ({"missing": ("imu",)}, "nothing else"),
        ({"missing": ("smell",)}, "one of audio"),
        ({"noise": ("imu",)}, "KIND=SHARE"),
        ({"noise": ("imu=-1",)}, "KIND=SHARE"),
        ({"split": "val"}, "split val"),
    ],
)
def test_evaluations_that_mean_nothing_are_refused(
    made: Path, tmp_path: Path, change: dict[str, object], match: str
) -> None:
    request = EvalRequest(run=made / "run", out=tmp_path, **change)  # pyright: ignore[reportArgumentType]
    with pytest.raises((UsageError, DataError), match=match):
        eval_run(request)


def test_unlabelled_recordings_cannot_be_measured(
    made: Path, tmp_path: Path, synthetic: ModuleType
) -> None:
    synthetic.write_motions(tmp_path / "other", groups=1, each=1)
    (tmp_path / "other" / "labels.csv").unlink()
    with pytest.raises(DataError, match="they have no labels"):
        eval_run(EvalRequest(run=made / "run", out=tmp_path / "o", data=tmp_path / "other"))


def test_texts_are_asked_of_rows_that_understand_them(made: Path) -> None:
    with pytest.raises(UsageError, match="askable: none"):
        query_run(made / "run", Prompt(text="nodding"), None, QueryOutputs())
    with pytest.raises(UsageError, match="--click"):
        query_run(made / "run", Prompt(click="000000,1,1"), None, QueryOutputs())


def test_a_table_that_was_cut_is_refused(made: Path, tmp_path: Path) -> None:
    done = json.loads((made / "run" / "manifest.json").read_text())
    assert "recordings.csv" in done["files"]
    broken = tmp_path / "run"
    broken.mkdir()
    for name in ("manifest.json", "run.yaml"):
        (broken / name).write_text((made / "run" / name).read_text())
    (broken / "recordings.csv").write_text("name,group\na,b\n")
    with pytest.raises(DataError, match=r"recordings\.csv"):
        eval_run(EvalRequest(run=broken, out=tmp_path))
