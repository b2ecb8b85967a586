"""Sound at the door: what soundfile reads, and the sound of films, as amplitudes in [-1, 1].

A cut file is an error, not a shorter sound: the header's length, the container's marks and what
was decoded are compared.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray

from lifting.signals.resampling import resample
from xmodal.errors import BackendError, DataError
from xmodal.recordings.containers import refuse_cut, refuse_empty
from xmodal.recordings.films import FILM_SUFFIXES, audio_stream, damaged, open_film
from xmodal.values import Audio

if TYPE_CHECKING:
    from types import ModuleType

Samples = Float32[NDArray[np.float32], "N mics"]

MAX_SAMPLES = 1 << 29
"""Most samples over all microphones: 2 GiB in memory, an hour and a half of stereo at 48 kHz."""

# Sensors of bats end at 1 MHz; below 1 kHz there is no sound to speak of.
_RATES_HZ = (1000.0, 1_000_000.0)
# Lossy codecs and float mixes overshoot by a few dB; beyond this the scale itself is wrong.
_MAX_OVERSHOOT = 8.0
_BLOCK = 1 << 20
# A film's sound may stop and go on; a step of its clock below this is rounding.
_MAX_STEP_S = 0.02


def read_audio(
    path: Path | str,
    *,
    rate_hz: float | None = None,
    span_s: tuple[float, float] | None = None,
    mics: int | None = None,
) -> Audio:
    """Read the sound of a file: WAV, FLAC, Ogg, MP3, AIFF, or a film with sound.

    Samples stay as they were recorded; peaks of lossy or float files beyond full scale are clipped.
    Silence is no error: `lifting.signals.spectra.silent` tells it.

    Args:
        path: The file.
        rate_hz: Rate of the result, resampled band-limited; the file's own if not given.
        span_s: Start and end of the part to read, seconds from the beginning of the file.
        mics: 1 averages all microphones to one; another number must be the file's.

    Returns:
        One recording; `start_s` is when its first sample was taken, on the clock of the file. The
        sound of a film keeps the film's clock, so that it goes with its pictures.

    Raises:
        DataError: If the file is missing, empty, no sound, cut or damaged, says another length or
            rate than it holds, has NaN or a wrong scale, or ends before the span.
        BackendError: If soundfile or PyAV is not installed.
    """
    path = Path(path)
    _check_options(path, rate_hz, span_s)
    refuse_empty(path, "a sound file")
    if path.suffix.lower() in FILM_SUFFIXES:
        samples, own_hz, start_s = _read_film(path, span_s)
    else:
        samples, own_hz, start_s = _read_sound(path, span_s)
    _check_samples(path, samples, own_hz, start_s)
    amplitudes = torch.from_numpy(np.ascontiguousarray(samples.T)).clamp_(-1, 1)
    amplitudes = _microphones(path, amplitudes, mics)
    if rate_hz is not None and rate_hz != own_hz:
        amplitudes = resample(amplitudes, own_hz, float(rate_hz)).clamp(-1, 1)
    return Audio(
        amplitudes=amplitudes.contiguous(),
        rate_hz=float(own_hz if rate_hz is None else rate_hz),
        offsets=torch.tensor([0, amplitudes.shape[1]]),
        start_s=torch.tensor([start_s], dtype=torch.float64),
    )


def sound_seconds(path: Path) -> float:
    """Length of a sound file (no film), as its header says.

    Raises:
        DataError: If the file is missing, empty, cut, or no sound.
        BackendError: If soundfile is not installed.
    """
    soundfile = _soundfile()
    refuse_empty(path, "a sound file")
    refuse_cut(path)
    try:
        with soundfile.SoundFile(str(path)) as file:
            return file.frames / _right_rate(path, float(file.samplerate))
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise _no_sound(path, error) from error


# ---- sound files -------------------------------------------------------------------------------


def _read_sound(path: Path, span_s: tuple[float, float] | None) -> tuple[Samples, float, float]:
    soundfile = _soundfile()
    refuse_cut(path)
    try:
        with soundfile.SoundFile(str(path)) as file:
            rate_hz = _right_rate(path, float(file.samplerate))
            first, end = _frames_of_span(path, span_s, rate_hz, file.frames)
            _check_size(path, (end - first) * file.channels)
            file.seek(first)
            blocks: list[NDArray[np.float32]] = []
            left = end - first
            while left > 0:
                block = file.read(min(left, _BLOCK), dtype="float32", always_2d=True)
                if not len(block):
                    break
                blocks.append(block)
                left -= len(block)
            channels = file.channels
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise _no_sound(path, error) from error
    if left > 0:
        raise _shorter(path, end - first, end - first - left, rate_hz)
    samples = np.concatenate(blocks) if blocks else np.zeros((0, channels), np.float32)
    return samples, rate_hz, first / rate_hz


def _frames_of_span(
    path: Path, span_s: tuple[float, float] | None, rate_hz: float, frames: int
) -> tuple[int, int]:
    """First frame and the one after the last."""
    if span_s is None:
        return 0, frames
    first, end = (round(t * rate_hz) for t in span_s)
    if end > frames:
        raise DataError(
            str(path),
            wanted=f"sound from {span_s[0]:g} to {span_s[1]:g} s",
            got=f"a file of {frames / rate_hz:.3f} s",
            fix="ask for a part that the file has",
        )
    return first, end


# ---- films -------------------------------------------------------------------------------------


def _read_film(path: Path, span_s: tuple[float, float] | None) -> tuple[Samples, float, float]:
    with open_film(path, "audio") as film:
        stream = audio_stream(film)
        rate_hz = _right_rate(path, float(stream.rate or 0))
        limit = MAX_SAMPLES // max(stream.channels, 1)
        blocks: list[NDArray[np.float32]] = []
        start_s: float | None = None
        num = 0
        for frame in film.decode(stream):
            block = _to_float(frame.to_ndarray(), frame.format.is_planar, stream.channels)
            time_s = frame.time
            if time_s is None or frame.sample_rate != rate_hz:
                raise damaged(path, "a stretch of sound without time stamp or at another rate")
            start_s = time_s if start_s is None else start_s
            silence = round((time_s - start_s) * rate_hz) - num
            if silence > _MAX_STEP_S * rate_hz:  # nothing was recorded here
                _check_size(path, (num + silence) * stream.channels)
                blocks.append(np.zeros((silence, block.shape[1]), np.float32))
                num += silence
            elif silence < -_MAX_STEP_S * rate_hz:
                raise damaged(path, f"sound whose clock goes back at {time_s:.3f} s")
            blocks.append(block)
            num += len(block)
            if num > limit:
                _check_size(path, num * stream.channels)
        promised_s = float((stream.duration or 0) * (stream.time_base or 0))
    if not blocks or start_s is None:
        raise damaged(path, "no sound at all")
    # Encoders pad the first and last block of sound, so a tenth of a second may lack.
    if num / rate_hz < promised_s - 0.1:
        raise _shorter(path, round(promised_s * rate_hz), num, rate_hz)
    samples = np.concatenate(blocks)
    if span_s is None:
        return samples, rate_hz, start_s
    begin, end = _frames_of_span(path, span_s, rate_hz, len(samples))
    return samples[begin:end], rate_hz, start_s + begin / rate_hz


def _to_float(raw: NDArray[Any], planar: bool, channels: int) -> NDArray[np.float32]:
    """One decoded block as [N, channels] in [-1, 1]."""
    block = raw.T if planar else raw.reshape(-1, channels)
    if block.dtype.kind == "f":
        return block.astype(np.float32)
    if block.dtype == np.uint8:
        return (block.astype(np.float32) - 128) / 128
    return block.astype(np.float32) / -float(np.iinfo(block.dtype).min)


# ---- checks ------------------------------------------------------------------------------------


def _check_options(path: Path, rate_hz: float | None, span_s: tuple[float, float] | None) -> None:
    if rate_hz is not None and not _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1]:
        raise ValueError(f"rate_hz must be {_RATES_HZ[0]:g} to {_RATES_HZ[1]:g}, got {rate_hz:g}")
    if span_s is not None and not 0 <= span_s[0] < span_s[1] < math.inf:
        raise ValueError(f"{path}: span_s must be start < end from 0 s on, got {span_s}")


def _right_rate(path: Path, rate_hz: float) -> float:
    if not _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1]:
        raise DataError(
            str(path),
            wanted=f"a rate of {_RATES_HZ[0]:g} to {_RATES_HZ[1]:g} samples a second",
            got=f"{rate_hz:g}",
            fix="correct the header, or export the file again",
        )
    return rate_hz


def _check_size(path: Path, num: int) -> None:
    if num > MAX_SAMPLES:
        raise DataError(
            str(path),
            wanted=f"at most {MAX_SAMPLES} samples at once",
            got=f"{num}",
            fix="read parts of the file with `span_s`",
        )


def _check_samples(path: Path, samples: Samples, rate_hz: float, start_s: float) -> None:
    if not len(samples):
        raise DataError(
            str(path), wanted="sound", got="a file without samples", fix="leave this recording out"
        )
    good = np.isfinite(samples)
    if not good.all():
        frame = int(np.argwhere(~good)[0, 0])
        raise DataError(
            f"{path}, {start_s + frame / rate_hz:.6f} s",
            wanted="amplitudes that are numbers",
            got=f"{int((~good).sum())} NaN or infinite of {samples.size} samples",
            fix="export the file again; whatever wrote it divided by zero",
        )
    peak = float(np.abs(samples).max())
    if peak > _MAX_OVERSHOOT:
        raise DataError(
            str(path),
            wanted="amplitudes within -1 to 1",
            got=f"a peak of {peak:.6g}",
            fix="divide by full scale before writing floats (32768 for 16-bit samples)",
        )


def _no_sound(path: Path, error: Exception) -> DataError:
    return DataError(
        str(path),
        wanted="a sound file that soundfile reads (WAV, FLAC, Ogg, MP3, AIFF), or a film",
        got=str(error).splitlines()[0][:200],
        fix="convert it, for example with ffmpeg",
    )


def _shorter(path: Path, wanted: int, got: int, rate_hz: float) -> DataError:
    return DataError(
        str(path),
        wanted=f"{wanted} samples ({wanted / rate_hz:.3f} s), as the header says",
        got=f"{got} ({got / rate_hz:.3f} s)",
        fix="fetch or export the file again",
    )


def _microphones(path: Path, amplitudes: torch.Tensor, mics: int | None) -> torch.Tensor:
    if mics is None or mics == len(amplitudes):
        return amplitudes
    if mics == 1:
        return amplitudes.mean(0, keepdim=True)
    raise DataError(
        str(path),
        wanted=f"sound of {mics} microphones",
        got=f"{len(amplitudes)}",
        fix="correct `mics`; 1 averages all microphones",
    )


def _soundfile() -> ModuleType:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package without its library
        raise BackendError(
            "python package soundfile",
            wanted="soundfile, which reads sound",
            got=str(error),
            fix="pip install 'xmodal[audio]'",
        ) from error
    return soundfile
