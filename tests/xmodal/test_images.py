from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from xmodal.images import read_depth, read_header, read_label_map, read_rgb

RGB = np.random.default_rng(0).integers(0, 256, (7, 5, 3)).astype(np.uint8)
GREY = RGB[..., 0]


def palette_image(transparency=None):
    picture = Image.fromarray(GREY % 4).convert("P")
    picture.putdata((GREY % 4).reshape(-1).tolist())
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 255, 0, 255])
    if transparency is not None:
        picture.info["transparency"] = transparency
    return picture


PALETTE = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [255, 0, 255]], np.uint8)
ALPHA = np.dstack([RGB, np.where(GREY > 128, 255, 0)]).astype(np.uint8)
OVER_BLACK = np.where(ALPHA[..., 3:] == 255, RGB, 0)
WIDE = GREY.astype(np.uint16) * 257

CASES = {
    "rgb.png": (Image.fromarray(RGB), RGB),
    "rgb.tif": (Image.fromarray(RGB), RGB),
    "rgb.bmp": (Image.fromarray(RGB), RGB),
    "grey.png": (Image.fromarray(GREY), np.dstack([GREY] * 3)),
    "bilevel.png": (Image.fromarray(GREY > 128), np.dstack([(GREY > 128) * np.uint8(255)] * 3)),
    "sixteen.png": (Image.fromarray(WIDE), np.dstack([GREY] * 3)),
    "sixteen.tif": (Image.fromarray(WIDE), np.dstack([GREY] * 3)),
    "palette.png": (palette_image(), PALETTE[GREY % 4]),
    "alpha.png": (Image.fromarray(ALPHA), OVER_BLACK),
    "grey_alpha.png": (
        Image.fromarray(np.dstack([GREY, ALPHA[..., 3]])),
        np.dstack([np.where(ALPHA[..., 3] == 255, GREY, 0)] * 3),
    ),
    "palette_alpha.png": (
        palette_image(transparency=3),
        np.where((GREY % 4 == 3)[..., None], 0, PALETTE[GREY % 4]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_picture_is_one_kind_of_rgb(tmp_path, name):
    picture, wanted = CASES[name]
    path = tmp_path / name
    picture.save(path)
    rgb = read_rgb(path)
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb, wanted)
    rgb[0, 0] = 1  # the result is the caller's own


def test_cmyk_jpeg_is_converted(tmp_path):
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    path = tmp_path / "cmyk.jpg"
    Image.fromarray(smooth).convert("CMYK").save(path, quality=100)
    assert np.abs(read_rgb(path).astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    stored = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, 1),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(RGB, -1),
    }[orientation]
    path = tmp_path / "rotated.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_array_equal(read_rgb(path), RGB)
    header = read_header(path)
    assert header.orientation == orientation
    assert header.hw == stored.shape[:2]


def test_a_nonsense_orientation_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 77
    Image.fromarray(RGB).save(tmp_path / "odd.png", exif=exif)
    assert read_header(tmp_path / "odd.png").orientation == 1
    np.testing.assert_array_equal(read_rgb(tmp_path / "odd.png"), RGB)


def test_depth_is_metres_with_zero_for_no_reading(tmp_path):
    stored = np.array([[0, 1, 1000], [65535, 65534, 2500]], np.uint16)
    Image.fromarray(stored).save(tmp_path / "d.png")
    depth_m = read_depth(tmp_path / "d.png", scale=1000.0)
    np.testing.assert_allclose(depth_m, [[0, 0.001, 1], [0, 65.534, 2.5]], rtol=1e-6)
    assert depth_m.dtype == np.float32


def test_rotated_depth_bits_by_hand(tmp_path):
    # 0.9 m is 9000 tenths of a millimetre, 0b10001100101000; three bits to the left of 16.
    tenths = np.array([[9000, 1, 40000, 0]], np.uint16)
    stored = (tenths << 3) | (tenths >> 13)
    assert stored[0, 0] == (9000 * 8) % 65536 + 9000 * 8 // 65536
    Image.fromarray(stored).save(tmp_path / "d.png")
    depth_m = read_depth(tmp_path / "d.png", scale=10000.0, encoding="rotated3")
    np.testing.assert_allclose(depth_m, [[0.9, 1e-4, 4.0, 0]], rtol=1e-6)


@pytest.mark.parametrize("picture", [Image.fromarray(GREY), Image.fromarray(WIDE), palette_image()])
def test_label_maps_are_ids(tmp_path, picture):
    picture.save(tmp_path / "l.png")
    ids = read_label_map(tmp_path / "l.png")
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, np.asarray(picture))
