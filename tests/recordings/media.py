"""Sounds, films and inertial readings written for tests, whole or with a fault."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

Array = NDArray[np.float64]


def tone(num: int = 4000, channels: int = 1, rate_hz: int = 8000) -> Array:
    """A tone of 440 Hz in each channel, half as loud in each further one."""
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(num) / rate_hz)
    return wave[:, None] * 0.5 ** np.arange(channels)


def write_sound(path: Path, samples: Array, rate_hz: int = 8000, **options: str) -> Path:
    soundfile.write(path, samples, rate_hz, **options)
    return path


def colours(frame: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Grey that gets brighter by 8 a frame, with a white quarter top left."""
    picture = np.full((*hw, 3), 40 + 8 * frame, np.uint8)
    picture[: hw[0] // 2, : hw[1] // 2] = 255
    return picture


def write_film(
    path: Path,
    *,
    num: int = 10,
    rate_hz: int = 10,
    hw: tuple[int, int] = (48, 64),
    pictures: bool = True,
    sound: bool = True,
    faststart: bool = False,
) -> Path:
    """Frames of `colours` and a tone of the same length."""
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as film:
        video = film.add_stream("mpeg4", rate=rate_hz) if pictures else None
        audio = film.add_stream("aac", rate=16000, layout="mono") if sound else None
        if video is not None:
            video.height, video.width = hw
            video.pix_fmt = "yuv420p"
            video.bit_rate = 2_000_000
            video.time_base = Fraction(1, rate_hz)
            for k in range(num):
                frame = av.VideoFrame.from_ndarray(colours(k, hw), format="rgb24")
                frame.pts = k
                film.mux(video.encode(frame))
            film.mux(video.encode())
        if audio is not None:
            wave = tone(16000 * num // rate_hz, rate_hz=16000).T.astype(np.float32)
            for start in range(0, wave.shape[1], 1024):
                block = np.ascontiguousarray(wave[:, start : start + 1024])
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16000, start
                film.mux(audio.encode(frame))
            film.mux(audio.encode())
    return path


def turn_film(path: Path) -> None:
    """Say in the header that pictures are to be shown a quarter turn clockwise, as phones do."""
    raw = bytearray(path.read_bytes())
    place = raw.index(b"tkhd") + 4 + 40
    one = 1 << 16
    raw[place : place + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(raw)


def readings(num: int = 200, rate_hz: float = 50.0) -> tuple[Array, Array, Array]:
    """Times, accelerations and rates of turn of a sensor that rocks about x."""
    t = np.arange(num) / rate_hz
    angle, rate = np.sin(0.6 * t), 0.6 * np.cos(0.6 * t)
    zero = np.zeros(num)
    accel = 9.80665 * np.stack([zero, np.sin(angle), np.cos(angle)], 1)
    return t, accel, np.stack([rate, zero, zero], 1)


def write_table(
    path: Path,
    time: Array,
    accel: Array,
    gyro: Array,
    header: str = "time_s,ax,ay,az,gx,gy,gz",
    separator: str = ",",
) -> Path:
    rows = np.concatenate([time[:, None], accel, gyro], 1)
    lines = [separator.join(repr(float(cell)) for cell in row) for row in rows]
    path.write_text("\n".join([header.replace(",", separator), *lines]) + "\n")
    return path
