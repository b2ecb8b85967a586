"""What the files of a COLMAP model hold, whichever way they are written.

Source:
    The table of camera models in COLMAP's documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from numpy.typing import NDArray

from xmodal.errors import DataError

Numbers = tuple[float, ...]

# Name and number of parameters by the number that binary files use.
MODELS: Mapping[int, tuple[str, int]] = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
}
NUM_PARAMETERS: Mapping[str, int] = dict(MODELS.values())


@dataclass(frozen=True, kw_only=True)
class ColmapCamera:
    """A calibrated camera: name of its model, size in pixels, parameters in the model's order."""

    model: str
    width: int
    height: int
    parameters: Numbers


@dataclass(frozen=True, kw_only=True)
class ColmapImage:
    """A picture with its pose from world to camera; `where` is its place in the file."""

    name: str
    camera_id: int
    q_wxyz: Numbers
    t: Numbers
    where: str


@dataclass(frozen=True, kw_only=True, eq=False)
class ColmapPoints:
    """Points of a model, in the order of the file.

    Attributes:
        xyz: World frame, in the units of the poses.
        rgb: Colours, 8 bits.
        error_px: Mean distance between the point's images and where it was found, pixels; -1 where
            unknown.
        track_length: In how many pictures it was found.
    """

    xyz: Float64[NDArray[np.float64], "N 3"]
    rgb: UInt8[NDArray[np.uint8], "N 3"]
    error_px: Float64[NDArray[np.float64], " N"]
    track_length: Int64[NDArray[np.int64], " N"]


@dataclass(frozen=True, kw_only=True)
class Counted:
    """How many entries a text file announces in its first lines, and how many it has."""

    said: int | None
    found: int


def read_bytes(path: Path, *, max_bytes: int | None = None) -> bytes:
    """The whole file.

    Raises:
        DataError: If it is missing, cannot be read, or is larger than that.
    """
    try:
        if max_bytes is not None and path.stat().st_size > max_bytes:
            raise wrong(path, f"at most {max_bytes} bytes", f"{path.stat().st_size} bytes")
        return path.read_bytes()
    except OSError as error:
        raise wrong(path, "a readable file of a COLMAP model", str(error)) from error


def wrong(where: Path | str, wanted: str, got: str) -> DataError:
    """The error for an entry that cannot be right."""
    fix = "copy the model again, or export it again with `colmap model_converter`"
    return DataError(str(where), wanted=wanted, got=got, fix=fix)
