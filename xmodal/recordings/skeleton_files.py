"""Skeletons at the door: joints in metres in the camera's frame, NaN where not tracked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray

from xmodal.errors import DataError
from xmodal.recordings.containers import refuse_empty
from xmodal.recordings.mat_files import read_matrix
from xmodal.teachers.arrays import read_arrays
from xmodal.values import Skeleton

UTD_HZ = 30.0
"""Frames a second of UTD-MHAD's Kinect."""

_MAX_BYTES = 500_000_000
# Nobody is farther from a depth camera than this; millimetres and pixels are.
_MAX_M = 30.0
_RATES_HZ = (1.0, 1000.0)


def read_skeleton(path: Path | str) -> Skeleton:
    """Read the joints of one person over time.

    - `.mat`: UTD-MHAD's `d_skel [20, 3, N]`, metres in the Kinect's frame (x to its left, y up, z
      forward), converted here to the camera's (x right, y down, z forward). It has no time stamps:
      30 frames a second from 0 s. A joint at the origin was not tracked.
    - `.npz`: `joints_m [N, J, 3]` in the camera's frame and `time_s [N]`, NaN for joints that were
      not tracked.

    Raises:
        DataError: If the file is missing, empty, damaged or of another kind, arrays lack or have
            another shape, times do not increase, or joints are not in metres.
    """
    path = Path(path)
    refuse_empty(path, "a skeleton in .mat or .npz")
    suffix = path.suffix.lower()
    if suffix == ".mat":
        joints, time_s = _read_utd(path)
    elif suffix == ".npz":
        joints, time_s = _read_npz(path)
    else:
        raise _wrong(
            path, "a skeleton in .mat or .npz", f"a file {path.suffix or 'without suffix'}"
        )
    joints = np.where(np.isfinite(joints).all(2, keepdims=True), joints, np.nan)
    if np.isnan(joints).all():
        raise _wrong(path, "tracked joints", "none in any frame")
    farthest = float(np.nanmax(np.abs(joints)))
    if farthest > _MAX_M:
        raise _wrong(path, f"joints in metres, within {_MAX_M:g}", f"{farthest:.6g}")
    return Skeleton(
        joints_m=torch.from_numpy(joints.astype(np.float32)),
        time_s=torch.from_numpy(time_s),
        offsets=torch.tensor([0, len(time_s)]),
    )


def _read_utd(
    path: Path,
) -> tuple[Float64[NDArray[np.float64], "N J 3"], Float64[NDArray[np.float64], " N"]]:
    raw = read_matrix(path, "d_skel", "[20, 3, N]")
    if raw.ndim != 3 or raw.shape[1] != 3 or not raw.size:
        raise _wrong(path, "`d_skel` of shape [20, 3, N]", str(list(raw.shape)))
    kinect = raw.transpose(2, 0, 1)
    joints = kinect * np.array([-1.0, -1.0, 1.0])
    joints[(kinect == 0).all(2)] = np.nan
    return joints, np.arange(len(joints), dtype=np.float64) / UTD_HZ


def _read_npz(
    path: Path,
) -> tuple[Float64[NDArray[np.float64], "N J 3"], Float64[NDArray[np.float64], " N"]]:
    arrays = read_arrays(path, max_bytes=_MAX_BYTES)
    if not {"joints_m", "time_s"} <= arrays.keys():
        found = ", ".join(sorted(arrays))[:200] or "nothing"
        raise _wrong(path, "arrays joints_m [N, J, 3] and time_s [N]", found)
    joints, time_s = arrays["joints_m"], arrays["time_s"]
    if joints.ndim != 3 or joints.shape[2] != 3 or time_s.shape != joints.shape[:1]:
        got = f"{list(joints.shape)} and {list(time_s.shape)}"
        raise _wrong(path, "joints_m [N, J, 3] and time_s [N]", got)
    if joints.dtype.kind not in "fiu" or time_s.dtype.kind not in "fiu" or not joints.size:
        raise _wrong(path, "joints and times that are numbers", f"{joints.dtype}, {time_s.dtype}")
    times = time_s.astype(np.float64)
    _check_times(path, times)
    return joints.astype(np.float64), times


def _check_times(path: Path, times: Float64[NDArray[np.float64], " N"]) -> None:
    steps = np.diff(times)
    if not np.isfinite(times).all() or (steps <= 0).any():
        bad = int((~np.isfinite(times)).sum()), int((steps <= 0).sum())
        raise _wrong(
            path, "finite times that increase", f"{bad[0]} not finite, {bad[1]} steps back or zero"
        )
    rate_hz = 1 / float(np.median(steps)) if len(steps) else _RATES_HZ[0]
    if not _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1]:
        raise _wrong(path, "time_s in seconds", f"{rate_hz:.6g} frames a second")


def _wrong(path: Path, wanted: str, got: str) -> DataError:
    return DataError(
        str(path),
        wanted=wanted,
        got=got,
        fix="correct the file; see `read_skeleton` for its layout",
    )
