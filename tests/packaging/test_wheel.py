"""The wheel: what is in it, and that it works in a clean environment from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def test_wheel_holds_the_three_packages_and_the_configs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"xmodal", "lifting", "detectors"}
    assert "xmodal/configs/graphs/kitchen.yaml" in names
    assert not any(name.endswith((".npy", ".pt", ".onnx", ".ply")) for name in names)


def test_wheel_carries_its_licence(wheel: Path) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_clean_environment_runs_doctor_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    subprocess.run([*install, "torch", "numpy"], check=True, cwd=tmp_path)
    subprocess.run([*install, wheel], check=True, cwd=tmp_path)
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [home / "bin" / "xmodal", "doctor"],
        cwd=elsewhere,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "[embedded]" in done.stdout
    assert "pip install" in done.stdout
    listed = subprocess.run(
        [home / "bin" / "xmodal", "lift", "nowhere", "--out", "run"],
        cwd=elsewhere,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert listed.returncode == 3, listed.stderr


def test_configs_are_found_in_a_source_tree() -> None:
    from xmodal.config import configs_folder

    assert (configs_folder() / "graphs" / "kitchen.yaml").is_file()
