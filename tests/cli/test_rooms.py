"""`xmodal rooms`: a data set appears, and wrong options are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from xmodal.cli import app
from xmodal.errors import UsageError

SMALL = ["--num", "1", "--test", "1", "--places", "1"]


def test_rooms_are_made_and_said(tmp_path: Path) -> None:
    out = tmp_path / "rooms"
    result = CliRunner().invoke(app, ["rooms", "--out", str(out), *SMALL, "--seed", "3"])
    assert result.exit_code == 0, result.output
    assert "2 rooms, 1 places each" in result.output
    told = json.loads((out / "rooms.json").read_text())
    assert list(told["rooms"]) == ["train-0000", "test-0000"]
    assert told["options"]["seed"] == 3
    assert (out / "audio" / "test-0000" / "0.wav").is_file()


def test_another_source_and_sound_are_taken(tmp_path: Path) -> None:
    out = tmp_path / "rooms"
    options = ["--source", "beside", "--sound", "clap"]
    result = CliRunner().invoke(app, ["rooms", "--out", str(out), *SMALL, *options])
    assert result.exit_code == 0, result.output
    told = json.loads((out / "rooms.json").read_text())
    one = told["rooms"]["train-0000"]["listeners"][0]
    assert one["source"] != one["xyz"]


@pytest.mark.parametrize("options", [["--sound", "shout"], ["--source", "nobody"], []])
def test_wrong_options_are_a_matter_of_usage(tmp_path: Path, options: list[str]) -> None:
    out = ["--out", str(tmp_path / "rooms")] if options else []
    result = CliRunner().invoke(app, ["rooms", *out, *options])
    assert result.exit_code == 2
    assert not (tmp_path / "rooms").exists()


def test_no_rooms_at_all_are_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "rooms")
    result = CliRunner().invoke(app, ["rooms", "--out", out, "--num", "0", "--test", "0"])
    assert isinstance(result.exception, UsageError)
