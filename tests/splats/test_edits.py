"""Edits of splats: what stays, what follows, how colours change, and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lifting.gaussians.edits import base_colours
from lifting.gaussians.rendering import render
from lifting.gaussians.splats import Splats
from tests.splats.splat_scene import HIDDEN, MUG, NUM, UNSEEN, WALL, camera, features, scene
from xmodal.errors import UsageError
from xmodal.splats.edits import (
    Edited,
    delete_splats,
    extract_splats,
    follow_features,
    recolour_splats,
)
from xmodal.store import Run

Check = Callable[[BaseException, int], None]
Edit = Callable[[Splats, torch.Tensor], Edited]
IDS = torch.arange(NUM)[MUG]


@pytest.fixture(scope="module")
def splats() -> Splats:
    return scene()


def test_extract_and_delete_share_the_scene_out(splats: Splats) -> None:
    ids = torch.tensor([7, 3, 3, 90])
    taken, rest = extract_splats(splats, ids), delete_splats(splats, ids)
    assert taken.source.tolist() == [3, 7, 90]
    assert len(taken.splats) == 3 and len(rest.splats) == NUM - 3
    assert sorted([*taken.source.tolist(), *rest.source.tolist()]) == list(range(NUM))
    torch.testing.assert_close(taken.splats.means, splats.means[[3, 7, 90]])
    assert taken.splats.sh is not None and splats.sh is not None
    torch.testing.assert_close(taken.splats.sh, splats.sh[[3, 7, 90]])


def test_what_belongs_to_splats_follows(splats: Splats) -> None:
    edited = delete_splats(splats, torch.tensor([0, 2]))
    rows = torch.arange(NUM * 4.0).reshape(NUM, 4)
    assert edited.follow(rows)[:2].tolist() == rows[[1, 3]].tolist()
    assert edited.follow(torch.arange(NUM)).tolist() == edited.source.tolist()


def test_a_store_follows(splats: Splats, tmp_path: Path) -> None:
    stored = features(tmp_path)
    edited = extract_splats(splats, torch.tensor([5, 100]))
    arrays = follow_features(stored, edited)
    info = replace(stored.info, num_points=2, num_valid=2)
    Run(tmp_path).write_features("taken", info, codec="int8", **arrays)
    back = Run(tmp_path).features("taken")
    np.testing.assert_allclose(np.asarray(back.rows), stored.take(np.array([5, 100])), atol=0.01)
    assert back.valid.all() and back.segments is not None


def test_the_wall_shows_where_the_mug_was(splats: Splats) -> None:
    before = render(splats, camera())
    inner = torch.tensor([HIDDEN, UNSEEN])
    after = render(delete_splats(splats, torch.cat((IDS, inner))).splats, camera())
    assert float(before.depth_m[40, 40]) < 4.2 < 5.5 < float(after.depth_m[40, 40])
    torch.testing.assert_close(after.depth_m[40, 80], before.depth_m[40, 80])


def test_a_colour_is_taken_on(splats: Splats) -> None:
    edited = recolour_splats(splats, IDS, colour=(0.1, 0.2, 0.9))
    assert edited.source.tolist() == list(range(NUM))
    assert edited.splats.sh is not None and splats.sh is not None
    base = base_colours(edited.splats.sh)
    torch.testing.assert_close(base[MUG], torch.tensor([0.1, 0.2, 0.9]).expand(40, 3))
    torch.testing.assert_close(edited.splats.sh[WALL], splats.sh[WALL])
    shown = render(edited.splats, camera()).colour
    assert shown is not None and int(shown[:, 40, 40].argmax()) == 2
    # The old scene is as it was.
    torch.testing.assert_close(base_colours(splats.sh)[0], torch.tensor([0.8, 0.2, 0.1]))


def test_a_hue_turns(splats: Splats) -> None:
    edited = recolour_splats(splats, IDS, hue_rad=2 * math.pi / 3)
    assert edited.splats.sh is not None
    base = base_colours(edited.splats.sh)
    torch.testing.assert_close(base[0], torch.tensor([0.1, 0.8, 0.2]), atol=1e-6, rtol=0)


def test_highlights_turn_with_the_colour(splats: Splats) -> None:
    assert splats.sh is not None
    sh = splats.sh.clone()
    sh[0, 2] = torch.tensor([0.3, 0.0, 0.0])
    edited = recolour_splats(replace(splats, sh=sh), IDS, hue_rad=2 * math.pi / 3)
    assert edited.splats.sh is not None
    torch.testing.assert_close(edited.splats.sh[0, 2], torch.tensor([0, 0.3, 0]), atol=1e-6, rtol=0)


# ---- refusals ----------------------------------------------------------------------------------


def green(splats: Splats, ids: torch.Tensor) -> Edited:
    return recolour_splats(splats, ids, colour=(0.0, 1.0, 0.0))


@pytest.mark.parametrize("edit", [extract_splats, delete_splats, green])
@pytest.mark.parametrize(
    ("ids", "message"), [([], "empty"), ([-1], "-1 to -1"), ([3, NUM], f"3 to {NUM}")]
)
def test_selections_that_do_not_fit(
    splats: Splats, edit: Edit, ids: list[int], message: str, four_parts: Check
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        edit(splats, torch.tensor(ids, dtype=torch.int64))
    four_parts(caught.value, 2)


def test_something_must_be_left(splats: Splats) -> None:
    with pytest.raises(UsageError, match=f"all {NUM} splats"):
        delete_splats(splats, torch.arange(NUM))
    assert len(extract_splats(splats, torch.arange(NUM)).splats) == NUM


@pytest.mark.parametrize("colour", [(1.5, 0.0, 0.0), (-0.1, 0.0, 0.0), (math.nan, 0.0, 0.0)])
def test_colours_out_of_range(splats: Splats, colour: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="0 to 1"):
        recolour_splats(splats, IDS, colour=colour)


@pytest.mark.parametrize("how", [{}, {"colour": (1.0, 0.0, 0.0), "hue_rad": 1.0}])
def test_one_of_colour_and_hue(splats: Splats, how: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="one of them"):
        recolour_splats(splats, IDS, **how)


@pytest.mark.parametrize("angle", [math.nan, math.inf])
def test_hues_must_be_angles(splats: Splats, angle: float) -> None:
    with pytest.raises(UsageError, match="finite angle"):
        recolour_splats(splats, IDS, hue_rad=angle)


def test_splats_without_colour_have_none_to_change(splats: Splats) -> None:
    with pytest.raises(UsageError, match="without spherical harmonics"):
        recolour_splats(replace(splats, sh=None), IDS, hue_rad=1.0)


def test_features_of_another_scene_do_not_follow(splats: Splats, tmp_path: Path) -> None:
    few = {
        "rows": np.ones((9, 48), np.float32),
        "valid": np.ones(9, np.bool_),
        "weight": np.ones(9, np.float32),
        "num_views": np.ones(9, np.int32),
        "disagreement": np.zeros(9, np.float32),
        "segments": np.zeros(9, np.int32),
    }
    with pytest.raises(UsageError, match="9 rows"):
        follow_features(features(tmp_path, **few), delete_splats(splats, IDS))
