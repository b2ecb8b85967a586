"""Sheets of pictures: sizes, words, legends, and what is not finite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xmodal.errors import UsageError
from xmodal.panels import ColourBar, Panel, colour_picture, depth_picture, sheet, write_sheet
from xmodal.render import UNSEEN_GREY, overlay

RED, GREY = [255, 0, 0], [UNSEEN_GREY] * 3


def panel(h: int = 30, w: int = 40, caption: str = "") -> Panel:
    return Panel(picture=np.full((h, w, 3), RED, dtype=np.uint8), caption=caption)


def is_red(made: np.ndarray) -> np.ndarray:
    return (made == RED).all(-1)


def is_dark(made: np.ndarray) -> np.ndarray:
    return (made < 120).all(-1)


def test_panels_stand_in_rows_and_columns_of_the_given_width() -> None:
    made = sheet([[panel(), panel()], [panel(), panel()]], width_px=80)
    red = is_red(made)
    # Two pictures of 80 px across, two of 60 px down.
    assert set(red.sum(1).tolist()) == {0, 160}
    assert set(red.sum(0).tolist()) == {0, 120}
    assert (made[0] == 255).all() and (made[:, 0] == 255).all() and (made[:, -1] == 255).all()


def test_words_never_touch_pictures_and_long_ones_are_broken() -> None:
    long = "a caption that is much longer than the picture is wide, anotherverylongwordinit"
    plain = sheet([[panel(), panel()]], width_px=120)
    made = sheet(
        [[panel(caption=long), panel()]], heads=["head " * 9, "b"], labels=["l " * 90],
        title="t " * 200, width_px=120,
    )  # fmt: skip
    assert is_red(made).sum() == is_red(plain).sum() == 2 * 120 * 90
    assert made.shape[0] > plain.shape[0] and made.shape[1] > plain.shape[1]
    # Words of the left column end before the right one begins.
    right = np.flatnonzero(is_red(made).any(0))[120]
    rows = np.flatnonzero(is_red(made).any(1))
    assert not is_dark(made)[rows[-1] + 1 :, right - 9 :].any()
    assert is_dark(made)[rows[-1] + 1 :, :right].any()


def test_every_line_is_as_high_whatever_its_letters() -> None:
    heights = {sheet([[panel()]], heads=[text]).shape for text in ("f", "gg", "aaa", '"')}
    assert len(heights) == 1


def test_the_colour_bar_says_what_dark_bright_and_grey_mean() -> None:
    bare = sheet([[panel()]], width_px=60)
    made = sheet([[panel()]], width_px=60, bar=ColourBar(low="no", high="yes", unseen="not seen"))
    added = made[bare.shape[0] - 20 :]  # below the picture
    assert made.shape[1] > bare.shape[1]  # the sheet is as wide as its bar needs
    assert (added == GREY).all(-1).sum() >= 18 * 18
    assert (added == [252, 254, 164]).all(-1).any()  # the bright end of the colour map
    without = sheet([[panel()]], width_px=60, bar=ColourBar(low="no", high="yes"))
    assert (without == GREY).all(-1).sum() < 18


def test_depth_near_is_bright_and_nothing_is_grey() -> None:
    depth = np.array([[1.0, 2.0, np.nan]], dtype=np.float32)
    picture, words = depth_picture(depth)
    assert picture[0, 0].sum() > picture[0, 1].sum()
    assert picture[0, 2].tolist() == GREY
    assert words == "1 (bright) to 2 m"
    assert depth_picture(depth, "units")[1].endswith("units")


def test_constant_and_empty_maps_are_drawn() -> None:
    flat, words = depth_picture(np.full((2, 2), 3.0, dtype=np.float32))
    assert (flat == flat[0, 0]).all() and words == "3 (bright) to 3 m"
    empty, words = depth_picture(np.full((2, 2), np.nan, dtype=np.float32))
    assert (empty == UNSEEN_GREY).all() and words == "nothing seen"
    rgb = np.full((4, 4, 3), 100, dtype=np.uint8)
    for value in (0.0, np.nan):
        over = overlay(rgb, np.full((4, 4), value, dtype=np.float32))
        assert (over == over[0, 0]).all()


def test_colours_are_cut_and_nan_is_grey() -> None:
    colours = np.array([[[0.0, 0.5, 2.0], [0.1, np.nan, 0.1]]], dtype=np.float32)
    assert colour_picture(colours)[0].tolist() == [[0, 128, 255], GREY]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "PNG"])
def test_the_name_says_the_format(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    made = sheet([[panel()]])
    write_sheet(path, made)
    with Image.open(path) as read:
        assert read.size == (made.shape[1], made.shape[0])


@pytest.mark.parametrize("name", ["a.gif", "a"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.png, \.jpg"):
        write_sheet(tmp_path / name, np.zeros((2, 2, 3), dtype=np.uint8))
    assert not list(tmp_path.iterdir())


def test_what_makes_no_sheet_is_refused() -> None:
    with pytest.raises(ValueError, match="same number"):
        sheet([[panel()], [panel(), panel()]])
    with pytest.raises(ValueError, match="same number"):
        sheet([])
    with pytest.raises(ValueError, match="so many heads"):
        sheet([[panel()]], heads=["a", "b"])
    with pytest.raises(ValueError, match="so many labels"):
        sheet([[panel()]], labels=["a", "b"])
    with pytest.raises(ValueError, match="picture"):
        Panel(picture=np.zeros((0, 4, 3), dtype=np.uint8))


def test_a_legend_shows_each_colour_and_breaks_its_lines() -> None:
    panel = Panel(picture=np.zeros((20, 40, 3), np.uint8))
    plain = sheet([[panel]], width_px=200)
    one = sheet([[panel]], width_px=200, legend={"wall": (250, 1, 2)})
    many = sheet([[panel]], width_px=200, legend={f"number {i}": (i, 200, 9) for i in range(9)})
    assert plain.shape[1] == one.shape[1] == many.shape[1]
    assert plain.shape[0] < one.shape[0] < many.shape[0]
    assert (one == (250, 1, 2)).all(axis=2).sum() == 18 * 18
    assert all((many == (i, 200, 9)).all(axis=2).any() for i in range(9))
