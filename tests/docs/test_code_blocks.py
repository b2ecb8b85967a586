"""Every code block of README and docs runs; long commands on 4 frames, few rooms and steps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from xmodal.graph import load_graph

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
RUNNABLE = {"bash", "python", "yaml"}
# Shown output, file trees and file contents that are no graph.
SHOWN = {"text", "toml", "json"}


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(page.read_text()) if name == language]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_names_a_language_that_is_run_or_shown(page: Path) -> None:
    text = page.read_text()
    opened = re.findall(r"^```(.*)$", text, re.M)[::2]
    assert len(re.findall(r"^```", text, re.M)) % 2 == 0
    assert set(opened) <= RUNNABLE | SHOWN


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_yaml_blocks_are_graphs_that_check(page: Path, tmp_path: Path) -> None:
    for index, code in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{index}.yaml"
        file.write_text(code)
        assert load_graph(file).to_yaml()


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_python_blocks_run(page: Path, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(page, "python")))
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


# `make` targets are steps of .ci/run itself; a page may not name one that is not.
CI_TARGETS = {"demo", "test", "lint", "docs", "test-slow", "bench"}


def quick(line: str) -> str:
    """The same command on 4 frames, few rooms and few steps."""
    if line.startswith("xmodal lift") and "--max-frames" not in line:
        return line + " --max-frames 4"
    if line.startswith("xmodal train"):
        return line + " optimiser.steps=5"
    if line.startswith("xmodal rooms"):
        return re.sub(r"--(num|test) \d+", r"--\1 2", line)
    if line.startswith("xmodal demo"):
        return line + " --max-frames 4 --steps 5"
    return line


def commands(page: Path) -> list[str]:
    lines: list[str] = []
    for code in blocks(page, "bash"):
        joined = re.sub(r"\\\n\s*", " ", code)
        for raw in joined.splitlines():
            line = raw.split("  #")[0].strip()
            if line and not line.startswith("#"):
                lines.append(line)
    return lines


def test_make_targets_in_pages_are_run_by_ci() -> None:
    for page in PAGES:
        for line in commands(page):
            if line.startswith("make "):
                assert line.split()[1] in CI_TARGETS, f"{name(page)}: {line}"


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash")], ids=name)
def test_bash_blocks_run(page: Path, tmp_path: Path) -> None:
    if "XMODAL_DATA" not in os.environ:
        pytest.skip("set XMODAL_DATA to the folder of real data")
    lines = [
        quick(line) for line in commands(page) if not line.startswith(("make ", "git clone", "cd "))
    ]
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
