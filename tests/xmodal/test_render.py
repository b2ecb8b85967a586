"""Scores seen from a frame: exact on the synthetic room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xmodal.datasets import Scene, open_scene
from xmodal.render import PointRenderer, heat, overlay, peak_pixel, point_spacing, write_picture


@pytest.fixture
def scene(scene_folder: Path) -> Scene:
    return open_scene(scene_folder, voxel_m=0.05)


@pytest.mark.parametrize("with_depth", [True, False])
def test_rendered_positions_are_those_of_the_pixels(scene: Scene, with_depth: bool) -> None:
    xyz = scene.cloud().xyz.numpy()
    renderer = PointRenderer.of(xyz, stride=2)
    image = scene.images[2]
    shown = renderer.render(xyz, image.camera, scene.depth(2) if with_depth else None)
    assert shown.shape == (24, 32, 3)
    # The room's colour is its position, so the picture itself says what should be seen.
    rgb = image.rgb.permute(1, 2, 0).numpy().reshape(24, 2, 32, 2, 3).mean((1, 3))
    wanted = rgb * np.array([4, 4, 2.5]) + np.array([-2, -2, 0])
    seen = np.isfinite(shown).all(-1)
    assert seen.mean() > 0.9
    assert np.median(np.linalg.norm(shown[seen] - wanted[seen], axis=1)) < 0.08


def test_what_no_point_explains_is_nan(scene: Scene) -> None:
    xyz = scene.cloud().xyz.numpy()
    left = xyz[xyz[:, 1] > 0]
    shown = PointRenderer.of(left).render(
        np.ones(len(left), np.float32), scene.images[0].camera, scene.depth(0)
    )
    assert 0.2 < np.isnan(shown).mean() < 0.8


def test_peak_is_in_pixels_of_the_colour_image() -> None:
    image = np.full((4, 6), np.nan, dtype=np.float32)
    assert peak_pixel(image, (8, 12)) is None
    image[2, 3] = 0.5
    assert peak_pixel(image, (8, 12)) == (7.0, 5.0)


def test_spacing_of_a_grid() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(5) * 0.1] * 3), -1).reshape(-1, 3)
    assert point_spacing(grid.astype(np.float32)) == pytest.approx(0.1)
    assert point_spacing(grid[:1].astype(np.float32)) > 0


def test_heat_marks_what_was_not_observed() -> None:
    colours = heat(np.array([[0.0, 1.0, np.nan]], dtype=np.float32))
    assert colours[0, 2].tolist() == [60, 60, 60]
    assert colours[0, 1].sum() > colours[0, 0].sum()


def test_overlay_keeps_the_picture_where_nothing_is_relevant(tmp_path: Path) -> None:
    rgb = np.full((8, 8, 3), 100, dtype=np.uint8)
    values = np.zeros((4, 4), dtype=np.float32)
    values[0, 0] = 1.0
    painted = overlay(rgb, values)
    assert painted[7, 7].tolist() == [80, 80, 80]
    assert painted[0, 0].tolist() != [80, 80, 80]
    write_picture(tmp_path / "p.png", painted)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "p.png")), painted)
