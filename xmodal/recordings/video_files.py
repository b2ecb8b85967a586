"""Films at the door: frames with the time stamps of the file, upright."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray

from xmodal.errors import DataError
from xmodal.recordings.films import damaged, open_film, video_stream
from xmodal.values import Video

if TYPE_CHECKING:
    from av import VideoFrame

MAX_BYTES = 4 << 30
"""Most bytes of all frames together."""

# What a stream may lack of the frames that its header counts: encoders count some that are never
# shown, at least at the ends. A cut file is found before, by its length.
_MISSING_SHARE, _MISSING_FRAMES = 0.02, 2


def read_video(
    path: Path | str,
    *,
    every_s: float | None = None,
    max_side: int | None = None,
    until_s: float | None = None,
) -> Video:
    """Read the frames of a film.

    Frames come upright: the rotation that phones write beside a film is applied. Each keeps the
    time stamp that it has in the file, so a film of varying rate is right too, and the sound of
    the same file (`read_audio`) is on the same clock.

    Args:
        path: What FFmpeg reads: MP4, MOV, MKV, WebM, AVI.
        every_s: Keep the first frame at or after each multiple of this, from the first frame on;
            all if not given.
        max_side: Longest side of the result, pixels; larger frames are reduced, one at a time.
        until_s: Stop at this moment of the film's clock; what comes after it is not looked at.

    Raises:
        DataError: If the file is missing, empty, no film, cut or damaged, has no pictures, frames
            without a time stamp or out of order, or more than fits in memory.
        BackendError: If PyAV is not installed.
    """
    path = Path(path)
    if every_s is not None and not 0 < every_s < math.inf:
        raise ValueError(f"every_s must be positive, got {every_s:g}")
    if max_side is not None and max_side < 2:
        raise ValueError(f"max_side must be 2 pixels or more, got {max_side}")
    frames: list[NDArray[np.uint8]] = []
    times: list[float] = []
    num = size = 0
    with open_film(path, "video") as film:
        stream = video_stream(film)
        promised = stream.frames
        for frame in film.decode(stream):
            num += 1
            time_s = _time_of(path, frame, num, times)
            if until_s is not None and time_s >= until_s and frames:
                promised = num
                break
            if every_s is not None and times and not _is_due(time_s, times[0], times[-1], every_s):
                continue
            rgb = _upright(frame, max_side)
            if frames and rgb.shape != frames[0].shape:
                raise damaged(path, f"frame {num} is {rgb.shape[1:]}, not {frames[0].shape[1:]}")
            size += rgb.nbytes
            _check_size(path, size)
            frames.append(rgb)
            times.append(time_s)
    if not frames or promised - num > max(_MISSING_FRAMES, _MISSING_SHARE * promised):
        raise damaged(path, f"{num} frames, the header says {promised}")
    return Video(
        rgb=torch.from_numpy(np.stack(frames)),
        time_s=torch.tensor(times, dtype=torch.float64),
        offsets=torch.tensor([0, len(times)]),
    )


def _time_of(path: Path, frame: VideoFrame, num: int, times: list[float]) -> float:
    stamp, unit = frame.pts, frame.time_base
    time_s = math.nan if stamp is None or unit is None else float(stamp * unit)
    if math.isnan(time_s) or (times and time_s <= times[-1]):
        raise DataError(
            f"{path}, frame {num}",
            wanted=f"a time stamp after {times[-1]:.6f} s" if times else "a time stamp",
            got="none" if math.isnan(time_s) else f"{time_s:.6f} s",
            fix="write the film anew, for example `ffmpeg -fflags +genpts -i IN OUT`",
        )
    return time_s


def _is_due(time_s: float, first_s: float, last_s: float, every_s: float) -> bool:
    """Whether a multiple of the period lies after the last frame kept, up to this one."""
    slack = 1e-6  # time stamps are fractions that are rounded to microseconds at worst
    done = math.floor((last_s - first_s) / every_s + slack)
    return math.floor((time_s - first_s) / every_s + slack) > done


def _upright(frame: VideoFrame, max_side: int | None) -> UInt8[NDArray[np.uint8], "3 H W"]:
    """The frame as RGB, reduced, then turned as its file says."""
    longest, rotation = max(frame.width, frame.height), frame.rotation
    if max_side is not None and longest > max_side:
        factor = max_side / longest
        width, height = (max(1, round(side * factor)) for side in (frame.width, frame.height))
        frame = frame.reformat(width=width, height=height, format="rgb24")
    rgb = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    quarters = round(rotation / 90) % 4  # counter-clockwise, as numpy counts
    return np.ascontiguousarray(np.rot90(rgb, quarters).transpose(2, 0, 1))


def _check_size(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise DataError(
            str(path),
            wanted=f"frames of at most {MAX_BYTES >> 30} GiB",
            got="more",
            fix="read fewer or smaller ones: every_s, max_side",
        )
