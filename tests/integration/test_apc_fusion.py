"""Fused label maps in a left-out view: on a room that is known exactly, and on real robot views."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.apc_fusion import LeftOut, close_holes, figures, main, measure, per_view, summary
from xmodal.datasets import open_scene
from xmodal.errors import DataError

NUM_VIEWS = 5


def label(rgb: np.ndarray, names: tuple[int, int] = (7, 9)) -> np.ndarray:
    """Two objects of the room, by height: its colour is its position."""
    low, high = (rgb[..., 2] > 60) & (rgb[..., 2] < 110), rgb[..., 2] > 150
    return (low * names[0] + high * names[1]).astype(np.uint8)


@pytest.fixture
def labelled(room: Any, tmp_path: Path) -> Path:
    """Five views side by side, so that every pixel is seen by several of the others."""
    beside, kind = type(room)(), type(room.views[0])
    beside.views = []
    for index in range(NUM_VIEWS):
        T = room.views[0].T_world_cam.copy()
        T[:3, 3] += 0.05 * index * T[:3, 0]
        depth_m, xyz = room.cast(T, room.K, room.hw)
        beside.views.append(kind(f"{index:06d}", room.paint(xyz), depth_m, T))
    folder = beside.write(tmp_path / "beside")
    (folder / "label").mkdir()
    for view in beside.views:
        Image.fromarray(label(view.rgb)).save(folder / "label" / f"{view.name}.png")
    settings = {"label_ids": {"0": "unlabelled", "7": "low", "9": "high"}}
    (folder / "scene.json").write_text(json.dumps(settings))
    return folder


def swap(folder: Path, name: str) -> None:
    """Exchange the labels of one view."""
    rgb = np.asarray(Image.open(folder / "color" / f"{name}.png"))
    Image.fromarray(label(rgb, names=(9, 7))).save(folder / "label" / f"{name}.png")


def result(
    fused: float,
    neighbours: tuple[float, ...],
    shared: tuple[tuple[float, float], ...] = ((0.9, 0.8), (0.9, 0.7)),
) -> LeftOut:
    return LeftOut(
        view="v",
        fused=fused,
        neighbours=neighbours,
        covered=0.9,
        neighbours_covered=tuple(0.5 for _ in neighbours),
        fused_shared=tuple(pair[0] for pair in shared),
        neighbours_shared=tuple(pair[1] for pair in shared),
    )


def test_exact_labels_come_back_where_a_view_was_left_out(labelled: Path) -> None:
    found = measure(open_scene(labelled))
    assert [r.view for r in found] == [f"{i:06d}" for i in range(NUM_VIEWS)]
    for left_out in found:
        assert len(left_out.neighbours) == NUM_VIEWS - 1
        assert left_out.covered >= max(left_out.neighbours_covered)
        assert left_out.median_fused > 0.9


def test_labels_of_the_left_out_view_do_not_reach_its_reading(labelled: Path) -> None:
    swap(labelled, "000002")
    found = measure(open_scene(labelled))[2]
    # All others say the opposite of this view's labels: had it a voice, some pixel would agree.
    assert found.covered > 0.5
    assert found.fused < 0.02
    assert found.median_fused < 0.02


def test_a_neighbour_that_is_wrong_alone_is_outvoted(labelled: Path) -> None:
    swap(labelled, "000001")
    found = measure(open_scene(labelled))[2]
    wrong = 1  # position of view 1 among the neighbours of view 2
    assert found.neighbours_shared[wrong] < 0.05
    assert found.fused_shared[wrong] > 0.9
    assert found.fused > found.neighbours[wrong]


def test_small_holes_close_and_edges_stay_open() -> None:
    depth = torch.full((6, 8), 1.0)
    depth[2, 3] = 0  # a pixel inside a surface
    depth[:, 5] = 0  # a gap between two surfaces
    depth[:, 6:] = 2.0
    closed = close_holes(depth)
    assert closed[2, 3] == 1.0
    assert bool((closed[1:-1, 5] == 0).all())
    assert bool((close_holes(torch.zeros(4, 4)) == 0).all())


def test_figures_count_every_neighbour_in_a_and_the_median_in_b() -> None:
    above = result(0.8, (0.7, 0.6))
    below = result(0.65, (0.7, 0.6), shared=((0.5, 0.6), (0.5, 0.9)))
    found = figures([above, below], [above, above])
    assert found["a_above_every"] == 1
    assert found["b_above_median"] == 1
    assert found["fewest_beaten"] == 0
    assert found["a_above_every_closed"] == 2
    assert found["best_neighbour_a"] == pytest.approx(0.7)
    assert "1 of 2" in summary(found).text()
    assert "2 of 2" in per_view([above]).text()


def test_a_neighbour_that_shares_nothing_is_not_counted() -> None:
    left_out = result(0.8, (0.7, 0.0), shared=((0.9, 0.8), (math.nan, math.nan)))
    assert left_out.median_neighbour == 0.8
    assert left_out.beaten == 1


def test_a_scene_without_label_maps_is_refused(
    scene_folder: Path, four_parts: Callable[[BaseException, int], None]
) -> None:
    with pytest.raises(DataError, match="no label maps") as caught:
        measure(open_scene(scene_folder))
    four_parts(caught.value, 3)


def test_two_views_are_too_few(labelled: Path) -> None:
    with pytest.raises(DataError, match="three views"):
        measure(open_scene(labelled, max_frames=2))


def test_without_a_scene_the_command_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    assert main([]) == 3
    assert "python -m benchmarks.apc_fusion SCENE" in capsys.readouterr().err


@pytest.mark.realdata
def test_fusing_real_label_maps_beats_the_neighbours() -> None:
    root = os.environ.get("XMODAL_DATA")
    if root is None:
        pytest.skip("set XMODAL_DATA to the folder that holds apc_shelf_two_objects")
    found = measure(open_scene(Path(root) / "apc_shelf_two_objects"))
    assert len(found) == 15
    for left_out in found:
        assert left_out.fused > max(left_out.neighbours), left_out.view
        assert left_out.median_fused > left_out.median_neighbour, left_out.view
        # Paired, too: on the pixels shared with each, it is above most of them.
        assert left_out.beaten > len(left_out.neighbours) / 2, left_out.view
