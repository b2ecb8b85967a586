"""Pictures at the door: every colour file becomes 8-bit RGB, every depth file metres, or an error.

Pillow decodes; OpenCV is not used, because it returns half a picture for a truncated file. The
whole file is decoded before anything is returned, and its size is checked before it is decoded.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int32, UInt8, UInt16
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from xmodal.errors import DataError

MAX_PIXELS = 50_000_000
"""Largest picture that is decoded, pixels: 150 MB of RGB, more than any camera in the field."""

DepthEncoding = Literal["plain", "rotated3"]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A picture that lies inside a larger file, such as a frame of a recording.

    Attributes:
        path: The file.
        offset: Where the picture starts, bytes.
        num_bytes: How long it is.
        name: What to call it in messages, such as `frame 12`.
    """

    path: Path
    offset: int
    num_bytes: int
    name: str

    def __str__(self) -> str:
        return f"{self.path}, {self.name}"

    def read_bytes(self) -> bytes:
        """The bytes of the picture, fewer where the file ends early."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.num_bytes)


Source = Path | Span
"""Where a picture is stored."""

_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
_ORIENTATION = 0x0112  # the EXIF tag
_PNG_END = b"IEND\xaeB`\x82"
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
_NO_READING = (0, 65535)  # what depth sensors write where they saw nothing


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What a picture file says of itself, read without decoding it.

    Attributes:
        hw: Height and width of the stored pixels, before any EXIF rotation.
        mode: Pillow's mode, such as `RGB`, `L`, `I;16`, `P`.
        orientation: EXIF orientation 1-8; 1 means upright.
    """

    hw: tuple[int, int]
    mode: str
    orientation: int


def read_header(path: Source, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read size, mode and EXIF orientation of a picture without decoding its pixels.

    Args:
        path: A PNG, JPEG, TIFF, WebP or BMP file, or a part of a file that holds one.
        max_pixels: Limit on height times width.

    Returns:
        The header.

    Raises:
        DataError: If the file is missing, is no picture, or is larger than `max_pixels`.
    """
    try:
        if isinstance(path, Span):
            return _header(_open(io.BytesIO(path.read_bytes()), path, max_pixels))
        with path.open("rb") as file, _open(file, path, max_pixels) as picture:
            return _header(picture)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def read_rgb(
    path: Source, *, max_pixels: int = MAX_PIXELS, upright: bool = True
) -> UInt8[NDArray[np.uint8], "H W 3"]:
    """Read a colour picture as 8-bit RGB, whatever it is stored as.

    EXIF rotation is applied, so the result is upright and may be transposed against the stored
    pixels (a scene refuses such frames, because its intrinsics could mean either). Grey is repeated
    over the channels; palettes are looked up; 16 bits become 8 by the factor 255 / 65535; CMYK is
    converted without a colour profile; alpha is composited over black.

    Args:
        path: A PNG, JPEG, TIFF, WebP or BMP file, or a part of a file that holds one.
        max_pixels: Limit on height times width, checked before anything is decoded.
        upright: Whether EXIF rotation is applied; otherwise the pixels come as they are stored.

    Returns:
        The picture, channels red, green, blue.

    Raises:
        DataError: If the file is missing, truncated, damaged, too large, or of a kind that has no
            clear RGB meaning (float or 32-bit samples).
    """
    picture = _decode(path, max_pixels)
    try:
        turned = ImageOps.exif_transpose(picture) if upright else picture
        return np.array(_to_rgb(turned, path), dtype=np.uint8)
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def read_depth(
    path: Path, *, scale: float, encoding: DepthEncoding = "plain", max_pixels: int = MAX_PIXELS
) -> Float32[NDArray[np.float32], "H W"]:
    """Read a 16-bit depth PNG as z-depth in metres.

    Args:
        path: A single-channel 16-bit PNG.
        scale: Stored units per metre: 1000 for millimetres, 5000 for TUM.
        encoding: `rotated3` when the bits of each value are rotated left by three (PrimeSense
            drivers of the Princeton APC sets); `plain` otherwise.
        max_pixels: Limit on height times width.

    Returns:
        Depth in metres; exactly 0 where the file says 0 or 65535, which mean no reading.

    Raises:
        DataError: If the file is missing, truncated, damaged, or not 16-bit grey.
    """
    picture = _decode(path, max_pixels)
    if picture.format != "PNG" or not picture.mode.startswith("I;16"):
        raise DataError(
            str(path),
            wanted="a depth map: a PNG of one 16-bit channel",
            got=f"{picture.format} of mode {picture.mode}",
            fix="export the raw depth as 16-bit PNG; 8-bit or colour previews have lost the metres",
        )
    return depth_in_metres(np.asarray(picture).astype(np.uint16), scale=scale, encoding=encoding)


def depth_in_metres(
    stored: UInt16[NDArray[np.uint16], "H W"], *, scale: float, encoding: DepthEncoding = "plain"
) -> Float32[NDArray[np.float32], "H W"]:
    """Stored depth as metres; arguments and result as in `read_depth`."""
    invalid = np.isin(stored, _NO_READING)
    if encoding == "rotated3":
        stored = (stored << np.uint16(13)) | (stored >> np.uint16(3))
    depth_m = stored.astype(np.float32) / np.float32(scale)
    depth_m[invalid] = 0.0
    return depth_m


def read_label_map(path: Path, *, max_pixels: int = MAX_PIXELS) -> Int32[NDArray[np.int32], "H W"]:
    """Read a label picture: the stored number of each pixel (for palettes the index, not a colour).

    Args:
        path: A PNG of one channel, 1 to 16 bits.
        max_pixels: Limit on height times width.

    Returns:
        Label ids.

    Raises:
        DataError: If the file is missing, damaged, or has more than one channel.
    """
    picture = _decode(path, max_pixels)
    if picture.mode not in ("L", "P", "1") and not picture.mode.startswith("I;16"):
        raise DataError(
            str(path),
            wanted="a label map: one channel of ids (8 or 16 bits, or a palette)",
            got=f"{picture.format} of mode {picture.mode}",
            fix="save the ids, not their colours",
        )
    return np.asarray(picture).astype(np.int32)


def _open(file: io.BytesIO | io.BufferedReader, path: Source, max_pixels: int) -> Pillow.Image:
    try:
        picture = Pillow.open(file, formats=_FORMATS)
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise _too_large(path, str(error), max_pixels) from error
    width, height = picture.size
    if width * height > max_pixels:
        raise _too_large(path, f"{width} x {height} pixels", max_pixels)
    return picture


def _decode(path: Source, max_pixels: int) -> Pillow.Image:
    try:
        raw = path.read_bytes()
        picture = _open(io.BytesIO(raw), path, max_pixels)
        # Pillow accepts a PNG that ends inside its last chunk, whose checksum is then missing.
        if picture.format == "PNG" and _PNG_END not in raw:
            raise OSError("the file ends before its IEND chunk")
        picture.load()
    except FileNotFoundError as error:
        raise _missing(path) from error
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    return picture


def _header(picture: Pillow.Image) -> ImageHeader:
    width, height = picture.size
    orientation = picture.getexif().get(_ORIENTATION, 1)
    upright = not isinstance(orientation, int) or orientation not in range(1, 9)
    return ImageHeader(
        hw=(height, width), mode=picture.mode, orientation=1 if upright else orientation
    )


def _to_rgb(picture: Pillow.Image, path: Source) -> Pillow.Image:
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.float32) * (255.0 / 65535.0)
        return Pillow.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if picture.mode in ("LA", "PA", "La", "RGBA", "RGBa", "RGBX") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        black = Pillow.new("RGBA", rgba.size, (0, 0, 0, 255))
        return Pillow.alpha_composite(black, rgba).convert("RGB")
    if picture.mode in ("RGB", "L", "P", "1", "CMYK", "YCbCr", "HSV"):
        return picture.convert("RGB")
    raise DataError(
        str(path),
        wanted="a colour picture with 8 or 16 bits a channel",
        got=f"{picture.format} of mode {picture.mode}",
        fix="save it as 8-bit RGB; there is no one right way to show these samples",
    )


def _missing(path: Source) -> DataError:
    return DataError(
        str(path),
        wanted="a picture file",
        got="no such file",
        fix="check the path and whether the download or export finished",
    )


def _damaged(path: Source, error: Exception) -> DataError:
    kinds = ", ".join(_FORMATS)
    return DataError(
        str(path),
        wanted=f"a whole, readable picture ({kinds})",
        got=f"{type(error).__name__}: {error} ({_size(path)})",
        fix="copy or export the file again; it is truncated, damaged, or another format",
    )


def _too_large(path: Source, got: str, max_pixels: int) -> DataError:
    return DataError(
        str(path),
        wanted=f"at most {max_pixels} pixels",
        got=f"{got}; nothing was decoded",
        fix="resize the picture (and its intrinsics), or pass a larger max_pixels",
    )


def _size(path: Source) -> str:
    if isinstance(path, Span):
        return f"{path.num_bytes} bytes"
    return f"{path.stat().st_size} bytes" if path.is_file() else "not a file"
