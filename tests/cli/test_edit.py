"""What `xmodal edit` and box queries refuse before they look for a run, and how pixels are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lifting.cameras import Camera, project
from lifting.gaussians.teacher_views import drawing_camera
from xmodal.errors import UsageError
from xmodal.runs.edit import EditRequest, edit_run, parse_colour
from xmodal.runs.prompts import Prompt, parse_box
from xmodal.runs.selections import drawn_pixels

REQUEST = EditRequest(
    run=Path("nowhere"), prompt=Prompt(text="mug"), out=Path("out.ply"), keep=True
)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"keep": False}, "none of them"),
        ({"delete": True}, "--keep and --delete"),
        ({"colour": "1,2,3", "hue_deg": 3.0}, "--keep and --colour and --hue"),
        ({"keep": False, "hue_deg": float("nan")}, "number of degrees"),
        ({"keep": False, "colour": "blue"}, "whole numbers from 0 to 255"),
        ({"out": Path("out.obj")}, r"\.ply or \.splat"),
        ({"out": Path("out")}, "no ending"),
        ({"top": 0}, "1 or more"),
        ({"threshold": 1.5}, "at most 1"),
        ({"threshold": float("nan")}, "at most 1"),
        ({"threshold": 0.5, "prompt": Prompt(box="a,1,1,2,2")}, "a query by box"),
        ({"prompt": Prompt()}, "--box FRAME"),
        ({"prompt": Prompt(text="mug", box="a,1,1,2,2")}, "text and box"),
        ({"prompt": Prompt(click="a,1")}, "FRAME,U,V"),
        ({"prompt": Prompt(box="a,1,1,2,2", negatives=("cup",))}, "a query by box"),
    ],
)
def test_wrong_requests_are_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        edit_run(replace(REQUEST, **changes))  # pyright: ignore[reportArgumentType]
    assert caught.value.exit_code == 2


def test_a_hue_of_zero_counts_as_an_edit() -> None:
    replace(REQUEST, keep=False, hue_deg=0.0).check()
    with pytest.raises(UsageError, match="--keep and --hue"):
        replace(REQUEST, hue_deg=0.0).check()


def test_colours_are_read() -> None:
    assert parse_colour("255, 0,51") == (1.0, 0.0, 0.2)
    assert parse_colour("0,0,0") == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "text", ["1,0,0", "0.2,0.4,0.9", "256,0,0", "-1,0,0", "1,2", "", "9,9,9,9"]
)
def test_other_colours_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="three whole numbers"):
        parse_colour(text)


def test_boxes_are_read() -> None:
    assert parse_box("a,b,1,2.5,30,40") == ("a,b", (1.0, 2.5, 30.0, 40.0))


@pytest.mark.parametrize(
    "text",
    ["", "a", "a,1,2,3", "a,1,2,x,4", "a,3,2,1,4", "a,1,2,3,2", "a,1,nan,3,4", "a,1,2,inf,4"],
)
def test_other_boxes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="left, top, right, bottom"):
        parse_box(text)


def camera(distortion: list[float] | None) -> Camera:
    return Camera(
        K=torch.tensor([[200.0, 0, 160], [0, 200.0, 120], [0, 0, 1]]),
        T_world_cam=torch.eye(4),
        hw=(240, 320),
        distortion=None if distortion is None else torch.tensor(distortion),
    )


@pytest.mark.parametrize("distortion", [None, [-0.2, 0.05, 0.001, -0.002]])
@pytest.mark.parametrize("side", [None, 160])
def test_a_point_lies_in_the_drawing_where_its_pixel_of_the_photo_does(
    distortion: list[float] | None, side: int | None
) -> None:
    taken = camera(distortion)
    drawn = drawing_camera(taken, side)
    xyz = torch.tensor([[0.0, 0, 2], [0.9, -0.5, 2], [-1.0, 0.8, 2.5]])
    found = drawn_pixels(project(xyz, taken).uv, taken, drawn)
    # A hundredth of a pixel: what inverting the lens in single precision gives.
    assert torch.allclose(found, project(xyz, drawn).uv, atol=1e-2)


def test_a_pixel_that_the_lens_does_not_know_lies_nowhere() -> None:
    taken = camera([-0.6, 0.0, 0.0, 0.0])
    found = drawn_pixels(torch.tensor([[0.5, 0.5], [160.0, 120.0]]), taken, drawing_camera(taken))
    assert found[0].isnan().all()
    assert found[1].isfinite().all()
