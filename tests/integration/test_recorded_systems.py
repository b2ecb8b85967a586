"""Systems over recordings: each run file of the field's methods trains and is measured, end to end.

On a few made recordings in the layouts of the real data sets, for a few steps.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.io import savemat

from xmodal.config import configs_folder
from xmodal.runs.evaluate import EvalRequest, eval_run
from xmodal.runs.frozen import silent
from xmodal.runs.train import TrainRequest, train_run
from xmodal.store import Run

# Run file -> nodes and heads that it must have rows of.
MOTIONS = {
    "comodo": {"pose", "motion"},
    "umt": {"pose_alone", "motion_alone", "pose", "motion", "both", "both.classes"},
    "agm": {"pose", "motion", "both.classes"},
    "egocentric_kd": {"pose", "felt", "motion"},
    "exo_to_ego": {"exo", "ego", "exo_says", "ego_says"},
    "ogm": {"pose.classes", "motion.classes", "both.classes"},
    "gradient_harmonisation": {"pose.classes", "motion.classes", "both.classes"},
    "qmf": {"pose", "motion", "both"},
    "mst_distill": {"pose", "both", "motion", "motion.classes"},
    "any2seg": {"pose", "motion", "both", "both.classes"},
    "both_labels": {"pose", "motion", "both.classes"},
}


@pytest.fixture(scope="module")
def utd(tmp_path_factory: pytest.TempPathFactory, synthetic: ModuleType) -> Path:
    """Three actions of two subjects, as UTD-MHAD lays them out."""
    home = tmp_path_factory.mktemp("utd")
    for inner in ("Inertial", "Skeleton"):
        (home / inner).mkdir()
    for subject in (1, 6):
        for trial in (1, 2):
            for kind in range(3):
                name = f"a{kind + 1}_s{subject}_t{trial}"
                seed = 10 * subject + trial
                imu = synthetic.motion(kind, seed)
                readings = [imu.accel_mps2.numpy() / 9.80665, np.degrees(imu.gyro_radps.numpy())]
                savemat(home / "Inertial" / f"{name}_inertial.mat", {"d_iner": np.hstack(readings)})
                joints = synthetic.body(kind, seed).joints_m.numpy().transpose(1, 2, 0)
                savemat(home / "Skeleton" / f"{name}_skeleton.mat", {"d_skel": joints})
    return home


def short(name: str, data: Path, folder: Path) -> Path:
    """A run file of `configs/runs` with a few steps, on other data."""
    file = configs_folder() / "runs" / f"{name}.yaml"
    run: dict[str, Any] = yaml.safe_load(file.read_text())
    run["graph"] = str((file.parent / run["graph"]).resolve())
    run["data"]["scene"] = str(data)
    run["optimiser"] |= {"batch": 6, "warmup_steps": 1}
    if "stages" in run:
        run["stages"] = [{**stage, "steps": 2} for stage in run["stages"]]
    else:
        run["optimiser"]["steps"] = 2
    written = folder / f"{name}.yaml"
    written.write_text(yaml.safe_dump(run, sort_keys=False))
    return written


@pytest.mark.slow
@pytest.mark.parametrize("name", MOTIONS)
@pytest.mark.usefixtures("packaged_weights")
def test_systems_of_motion(name: str, utd: Path, tmp_path: Path) -> None:
    train_run(TrainRequest(runfile=short(name, utd, tmp_path), out=tmp_path / "run"), silent)
    run = Run(tmp_path / "run")
    assert set(run.sources()) >= MOTIONS[name]
    assert run.verify() == []
    text = eval_run(EvalRequest(run=run.path, out=tmp_path / "out"))
    assert "6 recordings" in text
