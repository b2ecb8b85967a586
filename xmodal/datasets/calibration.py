"""Intrinsics and poses from text files, checked before any of them reaches a projection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from xmodal.errors import DataError

Matrix3 = Float64[NDArray[np.float64], "3 3"]
Matrix4 = Float64[NDArray[np.float64], "4 4"]

# ||R R^T - I||: averaged or six-digit poses reach 1e-3 (7-Scenes: 6e-4); a 1 % scale gives 0.035.
ROTATION_TOLERANCE = 5e-3
# Beyond this float32 coordinates no longer resolve a millimetre.
_FAR_M = 1e4
_MAX_BYTES = 100_000
# Principal point as a fraction of the image. A lens is within a few per cent of the middle; a
# picture of half or twice the calibrated size gives 1.0 or 0.25.
_CENTRE = (0.3, 0.7)
# Focal length in image widths, from a 157 degree lens to a 2 degree one.
_FOCAL = (0.1, 30.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pose:
    """A pose as read.

    Attributes:
        T_world_cam: The rigid transform, or None when the file says that tracking was lost
            (infinite or NaN entries).
        repaired: ||R R^T - I|| of the file's rotation, which is replaced by the nearest rotation.
    """

    T_world_cam: Matrix4 | None
    repaired: float = 0.0


def read_matrix(path: Path) -> Float64[NDArray[np.float64], "R C"]:
    """Read a whitespace- or comma-separated matrix, one row a line.

    Raises:
        DataError: If the file is missing, too large, or not a rectangle of numbers.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _wrong(path, "a small matrix", f"{path.stat().st_size} bytes")
        lines = path.read_text("utf-8-sig").replace(",", " ").splitlines()
        rows = [[float(word) for word in line.split()] for line in lines if line.split()]
    except FileNotFoundError as error:
        raise _wrong(path, "a matrix of numbers", "no such file") from error
    except (OSError, ValueError) as error:
        raise _wrong(path, "a matrix of numbers", str(error)) from error
    if not rows or len({len(row) for row in rows}) != 1:
        shape = [len(row) for row in rows]
        raise _wrong(path, "a matrix of numbers", f"rows of {shape[:6]} numbers")
    return np.array(rows, dtype=np.float64)


def read_intrinsics(path: Path) -> Matrix3:
    """Read `K` from a 3x3 or 4x4 matrix file, pixels.

    Raises:
        DataError: If it is no intrinsic matrix; `check_intrinsics` compares it with the image.
    """
    matrix = read_matrix(path)
    if matrix.shape not in ((3, 3), (4, 4), (3, 4)):
        shape = " x ".join(str(side) for side in matrix.shape)
        raise _wrong(path, "a 3x3 or 4x4 intrinsic matrix", f"a {shape} matrix")
    return matrix[:3, :3].copy()


def check_intrinsics(
    K: Matrix3, *, hw: tuple[int, int], where: str, cropped: bool = False
) -> list[str]:
    """Compare an intrinsic matrix with the size of its image.

    Args:
        K: The matrix, pixels.
        hw: Height and width of the image it is used with.
        where: Name of the camera or of its file, for the messages.
        cropped: Whether the principal point may be off-centre.

    Returns:
        What is wrong with it, in words; empty when it fits.
    """
    if not np.isfinite(K).all():
        return [f"{where} has entries that are not finite"]
    wrong: list[str] = []
    height, width = hw
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    if not (fx > 0 and fy > 0):
        return [f"{where} has fx = {fx:g}, fy = {fy:g}, which must be positive"]
    if abs(K[0, 1]) > 1e-3 * fx or abs(K[1, 0]) > 1e-9 or np.abs(K[2] - (0, 0, 1)).max() > 1e-6:
        wrong.append(f"{where} has skew or a bottom row other than 0 0 1")
    if not 0.5 * fy < fx < 2.0 * fy or not _FOCAL[0] < fx / width < _FOCAL[1]:
        wrong.append(f"{where} has fx = {fx:g}, fy = {fy:g}, implausible for {width} x {height}")
    low, high = (0.0, 1.0) if cropped else _CENTRE
    if not (low < cx / width < high and low < cy / height < high):
        wrong.append(
            f"{where} has its centre at ({cx:g}, {cy:g}), not of a {width} x {height} image"
        )
    return wrong


def scale_intrinsics(K: Matrix3, *, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Matrix3:
    """Intrinsics of the same camera after its image was resized."""
    scaled = K.copy()
    scaled[0] *= to_hw[1] / from_hw[1]
    scaled[1] *= to_hw[0] / from_hw[0]
    return scaled


def read_pose(path: Path) -> Pose:
    """Read a camera-to-world pose; see `to_pose`."""
    matrix = read_matrix(path)
    if matrix.size == 16 and 1 in matrix.shape:
        matrix = matrix.reshape(4, 4)
    if matrix.shape not in ((4, 4), (3, 4)):
        shape = " x ".join(str(side) for side in matrix.shape)
        raise _wrong(path, "a 4x4 pose T_world_cam", f"a {shape} matrix")
    if matrix.shape == (3, 4):
        matrix = np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])
    return to_pose(matrix, str(path))


def to_pose(matrix: Matrix4, where: str) -> Pose:
    """Check a camera-to-world matrix and make its rotation exact.

    Args:
        matrix: The matrix as it came.
        where: File, and line where there is one, for the error.

    Returns:
        The pose. The rotation of least distance replaces one that is off by rounding.

    Raises:
        DataError: If the rotation is scaled, mirrored or perturbed beyond rounding, the bottom row
            is not 0 0 0 1, or the camera lies implausibly far from the origin.
    """
    if not np.isfinite(matrix).all():
        return Pose(T_world_cam=None)
    R, t = matrix[:3, :3], matrix[:3, 3]
    error, det = rotation_error(matrix), float(np.linalg.det(R))
    if error > ROTATION_TOLERANCE or det < 0:
        raise DataError(
            where,
            wanted=f"a rigid pose, ||R R^T - I|| <= {ROTATION_TOLERANCE:g} and det R = +1",
            got=f"||R R^T - I|| = {error:.4g}, det R = {det:.4g}",
            fix="write camera-to-world poses without scale or mirroring (OpenCV axes, metres)",
        )
    if np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise DataError(
            where,
            wanted="a pose with bottom row 0 0 0 1",
            got=" ".join(f"{value:g}" for value in matrix[3]),
            fix="write the matrix row by row; it may be transposed",
        )
    if np.abs(t).max() > _FAR_M:
        raise DataError(
            where,
            wanted=f"a camera within {_FAR_M:g} m of the origin",
            got=f"translation {t[0]:g} {t[1]:g} {t[2]:g}",
            fix="write poses in metres and subtract a common offset from all of them",
        )
    exact = matrix.copy()
    left, _, right = np.linalg.svd(R)
    exact[:3, :3] = left @ right
    exact[3] = (0, 0, 0, 1)
    return Pose(T_world_cam=exact, repaired=error)


def rotation_error(matrix: Sequence[Sequence[float]] | NDArray[np.float64]) -> float:
    """||R R^T - I|| (Frobenius) of the rotation of a transform; infinite when not finite."""
    R = np.asarray(matrix, dtype=np.float64)[:3, :3]
    return float(np.linalg.norm(R @ R.T - np.eye(3))) if np.isfinite(R).all() else math.inf


def quaternion_pose(t: Sequence[float], q_xyzw: Sequence[float]) -> Matrix4 | None:
    """`T_world_cam` from a translation and a quaternion x, y, z, w; None when it has no length."""
    q = np.asarray(q_xyzw, dtype=np.float64)
    length = float(np.linalg.norm(q))
    # Text files round; a quaternion far from unit length is not a rotation.
    if not math.isfinite(length) or abs(length - 1.0) > 1e-2:
        return None
    x, y, z, w = q / length
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = t
    return matrix


def _wrong(path: Path, wanted: str, got: str) -> DataError:
    return DataError(str(path), wanted=wanted, got=got, fix="correct this file or export it again")
