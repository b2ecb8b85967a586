"""Files of a COLMAP model, text or binary: cameras, images, points.

Numbers are taken as they stand: poses are world-to-camera (quaternion w x y z and translation),
camera axes x right, y down, z forward, pixel centres at +0.5. `xmodal.datasets.colmap` makes a
scene of them.

Source:
    Schoenberger and Frahm, Structure-from-motion revisited, CVPR 2016; colmap.github.io/format.html
    and its table of camera models.
"""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path

import numpy as np

from xmodal.datasets.colmap_binary import binary_cameras, binary_images, binary_points
from xmodal.datasets.colmap_entries import (
    ColmapCamera,
    ColmapImage,
    ColmapPoints,
    Counted,
    wrong,
)
from xmodal.datasets.colmap_text import text_cameras, text_images, text_points

_MAX_SIDE_PX = 1 << 20


def read_cameras(path: Path) -> tuple[dict[int, ColmapCamera], Counted]:
    """Read `cameras.bin` or `cameras.txt`.

    Args:
        path: The file; its ending tells which.

    Returns:
        Cameras by their number, and what a text file says of their number.

    Raises:
        DataError: If the file is missing, cut or damaged, or a model is unknown.
    """
    found: dict[int, ColmapCamera] = {}
    entries, said = (binary_cameras(path), None) if _is_binary(path) else text_cameras(path)
    for number, camera, where in entries:
        if number in found:
            raise wrong(where, "numbers of cameras that differ", f"camera {number} twice")
        _check_camera(camera, where)
        found[number] = camera
    return found, Counted(said=said, found=len(found))


def read_images(path: Path) -> tuple[list[ColmapImage], Counted]:
    """Read `images.bin` or `images.txt`; the points seen in each picture are skipped.

    Args:
        path: The file; its ending tells which.

    Returns:
        The pictures in the order of the file, and what a text file says of their number.

    Raises:
        DataError: If the file is missing, cut or damaged, or a name occurs twice.
    """
    entries, said = (binary_images(path), None) if _is_binary(path) else text_images(path)
    found = list(entries)
    names: dict[str, str] = {}
    for image in found:
        if not image.name:
            raise wrong(image.where, "the name of a picture", "an empty name")
        if image.name in names:
            raise wrong(image.where, "names that differ", f"{image.name}, as {names[image.name]}")
        names[image.name] = image.where
    return found, Counted(said=said, found=len(found))


def read_points3d(path: Path) -> tuple[ColmapPoints, Counted]:
    """Read `points3D.bin` or `points3D.txt`.

    Args:
        path: The file; its ending tells which.

    Returns:
        All points, and what a text file says of their number.

    Raises:
        DataError: If the file is missing, cut or damaged.
    """
    rows, said = (binary_points(path), None) if _is_binary(path) else text_points(path)
    # Position, colour, error and track length: eight numbers a point, straight into one array.
    table = np.fromiter(chain.from_iterable(rows), np.float64).reshape(-1, 8)
    points = ColmapPoints(
        xyz=table[:, :3].copy(),
        rgb=table[:, 3:6].astype(np.uint8),
        error_px=table[:, 6].copy(),
        track_length=table[:, 7].astype(np.int64),
    )
    return points, Counted(said=said, found=len(table))


def _is_binary(path: Path) -> bool:
    return path.suffix == ".bin"


def _check_camera(camera: ColmapCamera, where: str) -> None:
    sides = camera.width, camera.height
    if not (min(sides) > 0 and max(sides) <= _MAX_SIDE_PX):
        raise wrong(where, "a width and height above 0", f"{sides[0]} x {sides[1]}")
    if not all(math.isfinite(number) for number in camera.parameters):
        raise wrong(where, "finite parameters", " ".join(f"{p:g}" for p in camera.parameters))
