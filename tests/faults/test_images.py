"""Fault matrix rows 9 to 11: damaged, huge and unclear pictures."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from xmodal.errors import DataError
from xmodal.images import read_depth, read_header, read_label_map, read_rgb

SMOOTH = (np.mgrid[0:60, 0:80][1][..., None] * [3, 2, 1]).clip(0, 255).astype(np.uint8)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("part", range(17))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_a_truncated_picture_is_refused(tmp_path, four_parts, kind, part):
    data = encoded(kind)
    # Sixteen cuts, and one that loses the last byte only.
    cut = data[: len(data) * part // 16] if part < 16 else data[:-1]
    path = tmp_path / "picture"
    path.write_bytes(cut)
    with pytest.raises(DataError) as caught:
        read_rgb(path)
    four_parts(caught.value)
    assert str(path) in caught.value.where


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    return data + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"


@pytest.mark.parametrize("side", [8000, 10_000, 20_000, 60_000])
@pytest.mark.parametrize("read", [read_rgb, read_header, read_label_map])
def test_a_decompression_bomb_is_refused_before_decoding(tmp_path, four_parts, read, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))
    with pytest.raises(DataError, match="nothing was decoded") as caught:
        read(path)
    four_parts(caught.value)


def test_the_limit_can_be_chosen(tmp_path):
    path = tmp_path / "small.png"
    path.write_bytes(encoded("PNG"))
    assert read_rgb(path, max_pixels=60 * 80).shape == (60, 80, 3)
    with pytest.raises(DataError, match="at most 4799 pixels"):
        read_rgb(path, max_pixels=60 * 80 - 1)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"GIF89a" + b"\0" * 50, b"%!PS"])
def test_other_files_are_refused(tmp_path, four_parts, content):
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    for read in (read_rgb, read_header):
        with pytest.raises(DataError) as caught:
            read(path)
        four_parts(caught.value)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_samples_without_a_clear_meaning_are_refused(tmp_path, four_parts, mode):
    path = tmp_path / "p.tif"
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(DataError, match=f"mode {mode}") as caught:
        read_rgb(path)
    four_parts(caught.value)


def test_a_missing_picture_and_a_folder_are_refused(tmp_path, four_parts):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(DataError) as caught:
            read_rgb(path)
        four_parts(caught.value)


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("L", (4, 4)),
        Image.new("RGB", (4, 4)),
        Image.new("P", (4, 4)),
        Image.new("RGBA", (4, 4)),
    ],
    ids=lambda p: p.mode,
)
def test_depth_must_have_one_channel_of_16_bits(tmp_path, four_parts, picture):
    path = tmp_path / "d.png"
    picture.save(path)
    with pytest.raises(DataError, match="16-bit") as caught:
        read_depth(path, scale=1000.0)
    four_parts(caught.value)


def test_a_depth_jpeg_is_refused(tmp_path):
    path = tmp_path / "d.png"
    Image.new("L", (4, 4)).save(path, "JPEG")
    with pytest.raises(DataError, match="JPEG"):
        read_depth(path, scale=1000.0)


def test_a_coloured_label_map_is_refused(tmp_path, four_parts):
    Image.new("RGB", (4, 4)).save(tmp_path / "l.png")
    with pytest.raises(DataError, match="one channel of ids") as caught:
        read_label_map(tmp_path / "l.png")
    four_parts(caught.value)
