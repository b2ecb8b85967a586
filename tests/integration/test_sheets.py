"""Pictures of runs: frames with their features, answers of several runs, edits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks.pictures import main
from xmodal.cli import app
from xmodal.errors import UsageError
from xmodal.panels import RgbImage
from xmodal.runs.frozen import silent
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.runs.opened import OpenedRun, open_run
from xmodal.runs.sheets import Frames, edits_sheet, features_sheet, query_sheet
from xmodal.splats.edits import delete_splats
from xmodal.world import WorldOptions, make_world

pytestmark = pytest.mark.usefixtures("packaged_weights")
WIDTH = 100


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OpenedRun]:
    folder = tmp_path_factory.mktemp("sheets")
    objects = ("soccer ball", "banana")
    options = WorldOptions(seed=3, objects=objects, num_views=3, hw=(96, 128), spacing_m=0.02)
    scene = make_world(folder / "room", options)
    made: dict[str, OpenedRun] = {}
    for to in ("points", "gaussians"):
        request = LiftRequest(source=scene, out=folder / to, teacher="imagenet_dense", to=to)
        made[to] = open_run(lift_run(request, silent).run.path)
    return made


def columns(made: RgbImage, top: int) -> int:
    """How many pictures stand beside each other: runs of columns that are not all white."""
    filled = (made[top : top + 20] < 250).any((0, 2)).astype(np.int8)
    return int((np.diff(filled) == 1).sum())


def test_a_row_for_each_frame_with_the_same_colours(runs: dict[str, OpenedRun]) -> None:
    opened = runs["gaussians"]
    one = features_sheet(opened, ["000001"], teacher=True, width_px=WIDTH)
    two = features_sheet(opened, ["000001", "000001"], teacher=True, width_px=WIDTH)
    assert columns(one, 100) == 5  # photo, rendered, depth, teacher, lifted
    assert two.shape[0] > 1.7 * one.shape[0] - 60
    top = 100  # below the heads
    height = one.shape[0] - two.shape[0]
    assert height < 0
    first = two[top : top + 60, -WIDTH:]
    second = two[top - height : top - height + 60, -WIDTH:]
    assert (first == second).all() and (first < 250).any()
    assert (one[top : top + 60, -WIDTH:] == first).all()


def test_points_have_no_colour_of_their_own(runs: dict[str, OpenedRun]) -> None:
    assert columns(features_sheet(runs["points"], width_px=WIDTH), 70) == 2


def test_without_names_the_frame_in_the_middle_is_drawn(runs: dict[str, OpenedRun]) -> None:
    frames = Frames(runs["gaussians"])
    assert frames.chosen(()) == [1] and frames.tested == []
    assert frames.chosen(["000002", "000000"]) == [2, 0]
    with pytest.raises(UsageError, match="frame 7"):
        frames.chosen(["7"])


def test_answers_of_points_and_splats_stand_beside_each_other(runs: dict[str, OpenedRun]) -> None:
    asked = [("soccer ball", "000001"), ("banana", "000002")]
    made = query_sheet(runs, asked, width_px=260)
    assert columns(made[:, -3 * 270 - 14 :], 60) == 3
    with pytest.raises(UsageError, match="frame 9"):
        query_sheet(runs, [("banana", "9")])


def test_an_edit_is_shown_where_it_was_made(runs: dict[str, OpenedRun]) -> None:
    opened = runs["gaussians"]
    splats = opened.splats
    assert splats is not None
    gone = delete_splats(splats, torch.arange(0, len(splats), 2)).splats
    edits = [("all", "same", splats), ("every other", "--delete", gone)]
    made = edits_sheet(opened, "000001", edits, width_px=WIDTH)
    before, same, half = (made[45:110, 14 + i * 110 : 114 + i * 110] for i in range(3))
    assert (before == same).all()
    assert (before != half).any()
    with pytest.raises(UsageError, match="run over splats"):
        edits_sheet(runs["points"], "000001", edits)


def test_figure_writes_a_file_or_says_why_not(runs: dict[str, OpenedRun], tmp_path: Path) -> None:
    folder = str(runs["gaussians"].run.path)
    out = tmp_path / "f.jpg"
    done = CliRunner().invoke(app, ["figure", folder, "--frame", "000000", "--out", str(out)])
    assert done.exit_code == 0 and f"wrote {out}" in done.stdout
    with Image.open(out) as picture:
        assert picture.format == "JPEG" and picture.width > 4 * 260
    wrong = CliRunner().invoke(app, ["figure", folder, "--out", str(tmp_path / "f.gif")])
    assert isinstance(wrong.exception, UsageError)
    nobody = CliRunner().invoke(app, ["figure", folder, "--source", "student", "--out", str(out)])
    assert isinstance(nobody.exception, UsageError)


def test_pictures_of_real_scenes_need_their_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    work = ["--work", str(tmp_path / "work")]
    assert main(["--only", "kitchen_queries", *work, "--out", str(tmp_path / "out")]) == 3
    assert "XMODAL_DATA" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--only", "no such picture"])
