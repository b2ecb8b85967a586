"""Films at the door: frames, their times, upright and smaller."""

from __future__ import annotations

import pytest
import torch

from xmodal.errors import DataError
from xmodal.recordings.video_files import read_video


def test_frames_come_with_their_times(media, tmp_path):
    film = read_video(media.write_film(tmp_path / "a.mp4"))
    assert film.rgb.shape == (10, 3, 48, 64)
    assert film.rgb.dtype == torch.uint8
    assert film.offsets.tolist() == [0, 10]
    assert torch.allclose(film.time_s, torch.arange(10, dtype=torch.float64) / 10, atol=1e-4)
    level = film.rgb[:, :, 30:, 40:].float().mean((1, 2, 3))
    assert torch.allclose(level, 40 + 8 * torch.arange(10.0), atol=6)
    assert float(film.rgb[0, :, 4:20, 4:28].float().mean()) > 230  # the white quarter top left


@pytest.mark.parametrize(
    ("every_s", "kept"),
    [(0.2, [0, 2, 4, 6, 8]), (0.25, [0, 3, 5, 8]), (0.05, list(range(10))), (9.0, [0])],
)
def test_some_frames(media, tmp_path, every_s, kept):
    film = read_video(media.write_film(tmp_path / "a.mp4"), every_s=every_s)
    assert film.time_s.mul(10).round().int().tolist() == kept


def test_smaller_frames_keep_their_shape(media, tmp_path):
    path = media.write_film(tmp_path / "a.mp4")
    assert read_video(path, max_side=32).rgb.shape == (10, 3, 24, 32)
    assert read_video(path, max_side=100).rgb.shape == (10, 3, 48, 64)


@pytest.mark.parametrize("max_side", [None, 32])
def test_a_film_from_a_phone_is_upright(media, tmp_path, max_side):
    path = media.write_film(tmp_path / "a.mp4")
    media.turn_film(path)
    film = read_video(path, max_side=max_side)
    height, width = (64, 48) if max_side is None else (32, 24)
    assert film.rgb.shape == (10, 3, height, width)
    corners = film.rgb[0].float().mean(0)[[4, 4, -4, -4], [4, -4, 4, -4]] > 200
    # Top left was turned clockwise: it is top right now.
    assert corners.tolist() == [False, True, False, False]


@pytest.mark.parametrize("suffix", ["mkv", "avi", "mov"])
def test_other_containers(media, tmp_path, suffix):
    film = read_video(media.write_film(tmp_path / f"a.{suffix}", sound=False))
    assert len(film.time_s) == 10
    assert bool((film.time_s.diff() > 0).all())


@pytest.mark.parametrize(
    "options", [{"every_s": 0.0}, {"every_s": -1.0}, {"max_side": 1}, {"max_side": 0}]
)
def test_options_that_make_no_sense_are_refused(media, tmp_path, options):
    path = media.write_film(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"every_s|max_side"):
        read_video(path, **options)


def test_more_than_fits_is_refused_while_reading(media, tmp_path, four_parts, monkeypatch):
    monkeypatch.setattr("xmodal.recordings.video_files.MAX_BYTES", 40_000)
    with pytest.raises(DataError, match="every_s, max_side") as caught:
        read_video(media.write_film(tmp_path / "a.mp4"))
    four_parts(caught.value)
