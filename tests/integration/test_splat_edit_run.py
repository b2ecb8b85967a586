"""A generated world as splats: asked by click and by box, and edited, from the command line's side.

The teacher says what the label maps say, so that what should be found is known.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lifting.cameras import project
from lifting.gaussians.edits import base_colours
from lifting.gaussians.splats import Splats
from xmodal.errors import UsageError
from xmodal.runs.edit import EditRequest, edit_run
from xmodal.runs.frozen import silent
from xmodal.runs.lift import LiftRequest, lift_run
from xmodal.runs.opened import OpenedRun, open_run
from xmodal.runs.prompts import Prompt, QueryOutputs
from xmodal.runs.query import query_run
from xmodal.runs.selections import select
from xmodal.splats.files import read_splats
from xmodal.world import WorldOptions, make_world

BALL = Prompt(text="soccer ball")
OBJECTS = ("soccer ball", "coffee mug", "banana")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "room"
    options = WorldOptions(seed=3, objects=OBJECTS, num_views=3, hw=(96, 128), spacing_m=0.02)
    make_world(folder, options)
    names = json.loads((folder / "classes.json").read_text())
    (folder / "label" / "classes.json").write_text(json.dumps(["unlabelled", *names]))
    return folder


def lift(world: Path, out: Path, **options: str) -> Path:
    teacher = f"precomputed:{world / 'label'}"
    request = LiftRequest(source=world, out=out, teacher=teacher, cache=out.parent / "cache")
    lift_run(replace(request, **options), silent)  # pyright: ignore[reportArgumentType]
    return out


@pytest.fixture(scope="module")
def opened(world: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenedRun:
    return open_run(lift(world, tmp_path_factory.mktemp("runs") / "run", to="gaussians"))


@pytest.fixture(scope="module")
def over_points(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lift(world, tmp_path_factory.mktemp("runs") / "points")


@pytest.fixture(scope="module")
def ball(opened: OpenedRun) -> torch.Tensor:
    """Numbers of the ball's splats."""
    return select(opened, BALL, ["lifted"], top=1)[0].ids


def splats_of(opened: OpenedRun) -> Splats:
    assert opened.splats is not None
    return opened.splats


def ball_uv(opened: OpenedRun, ball: torch.Tensor) -> torch.Tensor:
    """Where the ball's splats lie in the first frame."""
    return project(splats_of(opened).means[ball], opened.scene.images[0].camera).uv


def click_on_ball(opened: OpenedRun, ball: torch.Tensor) -> Prompt:
    u, v = ball_uv(opened, ball).median(0).values.tolist()
    return Prompt(click=f"{opened.scene.images[0].name},{u},{v}")


def box_around_ball(opened: OpenedRun, ball: torch.Tensor) -> Prompt:
    uv = ball_uv(opened, ball)
    low, high = (uv.amin(0) - 1).tolist(), (uv.amax(0) + 1).tolist()
    return Prompt(box=",".join([opened.scene.images[0].name, *map(str, (*low, *high))]))


def edit(opened: OpenedRun, out: Path, **options: object) -> str:
    request = EditRequest(run=opened.run.path, prompt=BALL, out=out)
    return edit_run(replace(request, **options))  # pyright: ignore[reportArgumentType]


def test_what_is_kept_and_what_is_left_make_the_scene(
    opened: OpenedRun, ball: torch.Tensor, tmp_path: Path
) -> None:
    told = edit(opened, tmp_path / "ball.ply", keep=True)
    edit(opened, tmp_path / "without.ply", delete=True)
    kept, left = read_splats(tmp_path / "ball.ply"), read_splats(tmp_path / "without.ply")
    whole = splats_of(opened)
    assert torch.allclose(kept.means, whole.means[ball])
    assert len(kept) + len(left) == len(whole)
    assert f"kept {len(kept)} of {len(whole)} splats" in told
    assert "'soccer ball': 1 place(s), source: lifted" in told
    assert not opened.run.verify()


def test_a_colour_is_given_to_what_was_selected_alone(
    opened: OpenedRun, ball: torch.Tensor, tmp_path: Path
) -> None:
    told = edit(opened, tmp_path / "blue.ply", colour="20,40,240")
    old, new = splats_of(opened).sh, read_splats(tmp_path / "blue.ply").sh
    assert old is not None and new is not None
    same = (old - new).abs().amax((1, 2)) < 1e-5
    assert not same[ball].all()
    same[ball] = True
    assert same.all()
    red, _, blue = base_colours(new[ball]).mean(0)
    assert blue > 2 * red
    assert "the colour 20,40,240" in told


def test_hues_are_turned_in_a_file_for_browsers(opened: OpenedRun, tmp_path: Path) -> None:
    told = edit(opened, tmp_path / "turned.splat", hue_deg=120.0)
    assert (tmp_path / "turned.splat").stat().st_size == 32 * len(splats_of(opened))
    assert "by 120 degrees" in told


def test_several_selections_are_edited_together(
    opened: OpenedRun, ball: torch.Tensor, tmp_path: Path
) -> None:
    edit(opened, tmp_path / "one.ply", keep=True, prompt=Prompt(text="table"))
    edit(opened, tmp_path / "more.ply", keep=True, prompt=Prompt(text="table"), top=5)
    assert len(read_splats(tmp_path / "more.ply")) >= len(read_splats(tmp_path / "one.ply"))


def test_several_sources_answer_together(opened: OpenedRun, ball: torch.Tensor) -> None:
    for prompt in (BALL, click_on_ball(opened, ball)):
        (alone,) = select(opened, prompt, ["lifted"], top=1)
        (both,) = select(opened, prompt, ["lifted", "lifted"], top=1)
        assert torch.equal(alone.ids, both.ids)


def test_a_higher_threshold_selects_less(opened: OpenedRun, ball: torch.Tensor) -> None:
    (strict,) = select(opened, BALL, ["lifted"], top=1, threshold=0.999)
    assert 0 < len(strict.ids) < len(ball)


def test_a_click_selects_what_was_clicked_on(
    opened: OpenedRun, ball: torch.Tensor, tmp_path: Path
) -> None:
    edit(opened, tmp_path / "ball.ply", keep=True, prompt=click_on_ball(opened, ball))
    found = read_splats(tmp_path / "ball.ply").means
    away = (found - splats_of(opened).means[ball].mean(0)).norm(dim=1)
    assert len(found) > 0.5 * len(ball)
    assert away.median() < 0.2


def test_a_box_selects_what_it_shows(opened: OpenedRun, ball: torch.Tensor, tmp_path: Path) -> None:
    prompt = box_around_ball(opened, ball)
    outputs = QueryOutputs(
        json=tmp_path / "q.json", scores=tmp_path / "q.npy", png=tmp_path / "q.png"
    )
    told = query_run(opened.run.path, prompt, None, outputs)
    assert "confidence" in told
    scores = np.load(tmp_path / "q.npy")
    assert len(scores) == len(splats_of(opened))
    assert np.nanmax(scores) <= 1.0001
    assert np.nanmean(scores[ball.numpy()]) > np.nanmean(scores)
    answer = json.loads((tmp_path / "q.json").read_text())
    assert set(answer) == {"text", "frame", "source", "objects"}
    assert answer["text"] == prompt.box
    best = answer["objects"][0]
    assert set(best) == {"score", "centre_m", "size_m", "num_points", "coverage"}
    centre = splats_of(opened).means[ball].mean(0).numpy()
    assert np.linalg.norm(np.array(best["centre_m"]) - centre) < 0.2
    assert (tmp_path / "q.png").stat().st_size > 1000


def test_a_text_lists_selections_of_splats(
    opened: OpenedRun, ball: torch.Tensor, tmp_path: Path
) -> None:
    told = query_run(opened.run.path, BALL, None, QueryOutputs(json=tmp_path / "q.json"))
    best = json.loads((tmp_path / "q.json").read_text())["objects"][0]
    assert best["num_points"] == len(ball)
    assert f"{len(ball)} splats" in told


def test_a_run_over_points_has_no_boxes_and_no_edits(
    over_points: Path, opened: OpenedRun, tmp_path: Path
) -> None:
    name = opened.scene.images[0].name
    with pytest.raises(UsageError, match="lift the scene to gaussians"):
        query_run(over_points, Prompt(box=f"{name},1,1,9,9"), None, QueryOutputs())
    with pytest.raises(UsageError, match="lift the scene to gaussians"):
        edit_run(EditRequest(run=over_points, prompt=BALL, out=tmp_path / "a.ply", keep=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prompt": Prompt(text="zebra")}, "zebra"),
        (
            {"prompt": Prompt(text="soccer ball", negatives=("soccer ball",))},
            "nothing observed is relevant",
        ),
        ({"prompt": Prompt(click="nowhere,3,3")}, "one of the run's 3 frames"),
        ({"prompt": Prompt(click="FRAME,500,3")}, "128 x 96 pixels"),
        ({"prompt": Prompt(box="FRAME,200,3,210,9")}, "128 x 96 pixels"),
        ({"source": "student"}, "this run has: lifted"),
        ({"out": Path("RUN/gaussians.ply")}, "a file of the run itself"),
    ],
)
def test_edits_that_do_not_fit_the_run_write_nothing(
    opened: OpenedRun, tmp_path: Path, options: dict[str, object], told: str
) -> None:
    given = {"out": tmp_path / "a.ply", "delete": True, "prompt": BALL} | options
    prompt, name = given["prompt"], opened.scene.images[0].name
    assert isinstance(prompt, Prompt)
    click, box = (part and part.replace("FRAME", name) for part in (prompt.click, prompt.box))
    given["prompt"] = replace(prompt, click=click, box=box)
    if "out" in options:
        given["out"] = opened.run.gaussians
    with pytest.raises(UsageError, match=told):
        edit(opened, **given)
    assert list(tmp_path.iterdir()) == []
    assert not opened.run.verify()
