"""The command line: help is quick, errors are one message with an exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

VERBS = [
    "demo", "world", "rooms", "check", "lift", "train", "apply", "query", "edit", "figure", "eval",
    "verify", "export", "doctor",
]  # fmt: skip


def xmodal(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    tool = Path(sys.executable).with_name("xmodal")
    return subprocess.run(
        [tool, *args], capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )


def test_help_does_not_import_torch() -> None:
    code = "import sys, xmodal.cli; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_names_every_verb() -> None:
    text = xmodal("--help").stdout
    assert all(verb in text for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_two_examples(verb: str) -> None:
    text = xmodal(verb, "--help").stdout
    assert text.count(f"xmodal {verb} ") + text.count(f"xmodal {verb}\n") >= 2


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["lift", "nowhere", "--out", "run"], 3),
        (["check", "nowhere.yaml"], 4),
        (["check"], 2),
        (["train", "nowhere.yaml", "--out", "run"], 4),
        (["query", "nowhere", "mug"], 3),
        (["query", "nowhere"], 2),
        (["query", "nowhere", "--box", "000000,9,9,3,3"], 2),
        (["edit", "nowhere", "mug", "--keep", "--out", "a.ply"], 3),
        (["edit", "nowhere", "mug", "--out", "a.ply"], 2),
        (["edit", "nowhere", "mug", "--keep"], 2),
        (["edit", "nowhere", "mug", "--keep", "--top", "0", "--out", "a.ply"], 2),
        (["verify", "nowhere"], 3),
        (["eval", "nowhere"], 3),
        (["frobnicate"], 2),
        (["lift"], 2),
    ],
)
def test_errors_have_an_exit_code_and_no_traceback(
    args: list[str], code: int, tmp_path: Path
) -> None:
    done = xmodal(*args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [["lift", "nowhere", "--out", "run"], ["verify", "nowhere"]])
def test_errors_have_four_parts(args: list[str], tmp_path: Path) -> None:
    text = xmodal(*args, cwd=tmp_path).stderr
    assert "nowhere" in text
    assert all(part in text for part in ("wanted:", "got:", "fix:"))


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in xmodal("verify", "nowhere", "--debug", cwd=tmp_path).stderr
