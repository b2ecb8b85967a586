"""Fault matrix row 12: depth without readings, and units that slip."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from xmodal.datasets import open_scene
from xmodal.errors import DataError


@pytest.mark.parametrize("scale", [1.0, 10.0, 50.0, 50_000.0, 1e6])
def test_a_slip_of_the_unit_names_depth_scale(scene_folder, write_json, four_parts, scale):
    write_json(scene_folder / "scene.json", {"depth_scale": scale})
    with pytest.raises(DataError, match="depth_scale") as caught:
        open_scene(scene_folder)
    four_parts(caught.value)
    assert " m" in caught.value.got


def test_a_thousandfold_slip_in_the_files_is_found(scene_folder, room, save_depth, four_parts):
    for view in room.views:
        save_depth(scene_folder / "depth" / f"{view.name}.png", view.depth_m, 20.0)
    with pytest.raises(DataError, match="1000 for millimetres") as caught:
        open_scene(scene_folder)
    four_parts(caught.value)


@pytest.mark.parametrize("value", [0, 65535])
def test_depth_without_any_reading_is_refused(scene_folder, four_parts, value):
    for path in (scene_folder / "depth").iterdir():
        Image.fromarray(np.full((48, 64), value, np.uint16)).save(path)
    with pytest.raises(DataError, match="no reading") as caught:
        open_scene(scene_folder)
    four_parts(caught.value)


def test_one_empty_frame_is_counted_not_refused(scene_folder):
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(scene_folder / "depth" / "000001.png")
    assert open_scene(scene_folder).report.invalid_depth == pytest.approx(0.2, abs=0.01)


def test_a_preview_in_place_of_depth_is_refused(scene_folder, four_parts):
    Image.new("L", (64, 48)).save(scene_folder / "depth" / "000001.png")
    with pytest.raises(DataError, match=r"depth/000001\.png") as caught:
        open_scene(scene_folder)
    four_parts(caught.value)


def test_depth_of_another_shape_needs_its_own_intrinsics(scene_folder, four_parts):
    for path in (scene_folder / "depth").iterdir():
        Image.open(path).resize((64, 64), Image.Resampling.NEAREST).save(path)
    with pytest.raises(DataError, match="intrinsic_depth") as caught:
        open_scene(scene_folder)
    four_parts(caught.value)


def test_a_damaged_frame_is_found_when_it_is_read(scene_folder, four_parts):
    path = scene_folder / "depth" / "000001.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"000001\.png") as caught:
        open_scene(scene_folder)
    four_parts(caught.value)
