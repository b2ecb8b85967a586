"""Streams of one recording on one clock: the lag between two of them, found from what they show.

Each stream carries the time stamps of its file. Where devices were started by hand those clocks
differ by a constant, which is estimated here and taken out by `delayed`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lifting.signals.flow import camera_turn, flow_motion, grey
from lifting.signals.lags import Lag, estimate_lag, onsets
from lifting.signals.resampling import to_rate, usual_spacing
from xmodal.clock_span import check_length
from xmodal.errors import DataError
from xmodal.values import Audio, Imu, Skeleton, Video

Stream = TypeVar("Stream", Audio, Imu, Skeleton, Video)

# Frames are reduced to this: a turn shows in the whole picture, detail only costs time.
_MAX_SIDE = 160
# Between the rates of films and of inertial sensors; lags come out finer than a sample.
_MOTION_HZ = 60.0
# Stabilisers follow the camera smoothed over about a second, or not at all.
_SMOOTHINGS_S = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
# A wide lens, as on action cameras. It only scales the turn; correlation does not see it.
_FOCAL_WIDTHS = 0.6
_ONSET_HOP_S = 0.01
# A correlation holds so many copies of what it compares: padded to twice the length, complex.
_TRANSFORMED = 8


@dataclass(frozen=True, eq=False)
class FilmTurn:
    """How a film's camera turned.

    Attributes:
        rate_radps: Rates of turn in the camera's frame, up to the scale of a wrong focal length.
        time_s: Their times, the middles between frames.
    """

    rate_radps: Float[Tensor, "N 3"]
    time_s: Float[Tensor, " N"]


def film_turn(film: Video) -> FilmTurn:
    """Find how the camera turned from the frames alone; see `lifting.signals.flow.camera_turn`.

    Raises:
        DataError: If it is not one film, or has fewer than three frames.
    """
    _one(film, "film")
    frames = _small(film)
    turn = camera_turn(frames, _FOCAL_WIDTHS * frames.shape[2])
    return FilmTurn(
        rate_radps=turn / film.time_s.diff()[:, None].to(turn.dtype),
        time_s=(film.time_s[1:] + film.time_s[:-1]) / 2,
    )


def film_imu_lag(film: Video | FilmTurn, imu: Imu, *, max_lag_s: float = 1.0) -> Lag:
    """How much later the inertial readings show a turn than the film does.

    The turn of the whole picture is compared with the gyroscope, all axes at once, so the camera
    may be mounted in any way. Stabilised films turn as the smoothed camera does; the smoothing is
    fitted. It cannot be told fully from a lag: where the film shows a single turn, the lag of a
    stabilised film is known to about a tenth of a second, and its changes far better. Readings
    must not end before that turn does.

    Args:
        film: One film, or what `film_turn` found in it.
        imu: Readings of a sensor that is fixed to the camera.
        max_lag_s: Largest lag between time stamps to consider, either way.

    Returns:
        The lag between time stamps; positive if the readings are stamped later.

    Raises:
        DataError: If either is not one recording, is too short, or nothing turns.
    """
    turn = film_turn(film) if isinstance(film, Video) else film
    _one(imu, "imu")
    return _lag(
        _even(turn.rate_radps, turn.time_s, _MOTION_HZ),
        _even(imu.gyro_radps, imu.time_s, _MOTION_HZ),
        _MOTION_HZ,
        max_lag_s,
        (float(turn.time_s[0]), float(imu.time_s[0])),
        smooth_s=_SMOOTHINGS_S,
    )


def aligned_imu(
    film: Video | FilmTurn,
    imu: Imu,
    *,
    rate_hz: float | None = None,
    max_lag_s: float = 1.0,
    least_strength: float = 0.9,
) -> tuple[Imu, Lag]:
    """Readings put on the film's clock, and the lag that was taken out.

    Args:
        film: One film, or what `film_turn` found in it.
        imu: Readings of a sensor that is fixed to the camera.
        rate_hz: Even rate to bring the readings to, over the time of the film; they stay as they
            are if not given. Where readings lack, there are none.
        max_lag_s: As in `film_imu_lag`.
        least_strength: Correlation below which the two do not belong together. Three axes and a
            free smoothing fit a few seconds of foreign readings up to 0.86.

    Raises:
        DataError: As `film_imu_lag`, or if the two agree less than `least_strength`.
    """
    turn = film_turn(film) if isinstance(film, Video) else film
    lag = film_imu_lag(turn, imu, max_lag_s=max_lag_s)
    if lag.strength < least_strength:
        raise DataError(
            "lag between a film and inertial readings",
            wanted=f"turns that agree, a correlation of {least_strength:g} or more",
            got=f"{lag.strength:.3f} at {lag.seconds:.3f} s",
            fix="check that they are of one recording; raise max_lag_s if clocks differ by more",
        )
    moved = delayed(imu, -lag.seconds)
    if rate_hz is None:
        return moved, lag
    start_s, end_s = float(turn.time_s[0]), float(turn.time_s[-1])
    num = int((end_s - start_s) * rate_hz) + 1
    both = torch.cat([moved.accel_mps2, moved.gyro_radps], 1)
    check_length(turn.time_s, num * both.shape[1], rate_hz)
    even, known = to_rate(both, moved.time_s, rate_hz, start_s, num)
    time_s = start_s + torch.arange(num, dtype=torch.float64) / rate_hz
    return Imu(
        accel_mps2=even[known, :3],
        gyro_radps=even[known, 3:],
        time_s=time_s[known],
        offsets=torch.tensor([0, int(known.sum())]),
    ), lag


def sound_lag(first: Audio, second: Audio, *, max_lag_s: float = 1.0, whiten: bool = False) -> Lag:
    """How much later the second sound is than the first, to a fraction of a sample.

    Args:
        first: One recording; its microphones are averaged.
        second: Another recording of the same event, at the same rate.
        max_lag_s: Largest lag between time stamps to consider, either way.
        whiten: For rooms with echoes; see `estimate_lag`.

    Raises:
        DataError: If either is not one recording, is silent or too short, or rates differ.
    """
    _one(first, "first sound")
    _one(second, "second sound")
    if first.rate_hz != second.rate_hz:
        raise DataError(
            "lag between two sounds",
            wanted="one rate",
            got=f"{first.rate_hz:g} and {second.rate_hz:g} Hz",
            fix="read both with the same `rate_hz`",
        )
    return _lag(
        first.amplitudes.mean(0),
        second.amplitudes.mean(0),
        first.rate_hz,
        max_lag_s,
        (_start(first), _start(second)),
        whiten=whiten,
    )


def sound_film_lag(sound: Audio, film: Video, *, max_lag_s: float = 1.0) -> Lag:
    """How much later the film shows sudden motion than the sound has onsets.

    It works where what is heard is what is seen to move: claps, steps, hammers. Elsewhere
    `strength` is that of chance, below about 0.3 for half a minute, and the lag means nothing.

    Raises:
        DataError: If either is not one recording, is too short, or one is silent or still.
    """
    _one(sound, "sound")
    _one(film, "film")
    motion = flow_motion(_small(film))
    middle_s = (film.time_s[1:] + film.time_s[:-1]) / 2
    rate_hz = 1 / _ONSET_HOP_S
    sudden = onsets(sound.amplitudes.mean(0), sound.rate_hz, hop_s=_ONSET_HOP_S)
    # A frame is exposed for about its period: onsets are smeared by as much.
    smear_s = usual_spacing(film.time_s) / 2
    return _lag(
        _even(motion[:, None], middle_s, rate_hz)[:, 0],
        sudden.to(motion.dtype),
        rate_hz,
        max_lag_s,
        (float(middle_s[0]), _start(sound)),
        smooth_s=(smear_s,),
    ).reversed()


def delayed(stream: Stream, seconds: float) -> Stream:
    """The stream with its clock set later by `seconds`; earlier if negative.

    `delayed(imu, -film_imu_lag(film, imu).seconds)` puts readings on the film's clock.
    """
    if isinstance(stream, Audio):
        start_s = stream.start_s
        if start_s is None:
            start_s = torch.zeros(len(stream.offsets) - 1, dtype=torch.float64)
        return replace(stream, start_s=start_s + seconds)
    return replace(stream, time_s=stream.time_s + seconds)


# ---- pieces ------------------------------------------------------------------------------------


def _lag(
    a: Tensor,
    b: Tensor,
    rate_hz: float,
    max_lag_s: float,
    starts_s: tuple[float, float],
    *,
    smooth_s: tuple[float, ...] = (0.0,),
    whiten: bool = False,
) -> Lag:
    """Lag of streams that begin at different times of their clocks."""
    try:
        # Equal time stamps are the middle of the search.
        found = estimate_lag(
            a,
            b,
            rate_hz,
            max_lag_s,
            around_s=starts_s[0] - starts_s[1],
            smooth_s=smooth_s,
            whiten=whiten,
        )
    except ValueError as error:
        raise DataError(
            "lag between two streams",
            wanted="streams that vary and are longer than the lags",
            got=str(error),
            fix="take a longer recording or a smaller max_lag_s",
        ) from error
    return replace(found, seconds=found.seconds + starts_s[1] - starts_s[0])


def _one(stream: Audio | Imu | Video, name: str) -> None:
    if len(stream.offsets) != 2 or int(stream.offsets[1]) < 3:
        got = (
            f"{int(stream.offsets[-1])} samples"
            if len(stream.offsets) == 2
            else f"{len(stream.offsets) - 1} recordings"
        )
        raise DataError(
            f"lag between two streams, {name}",
            wanted="one recording with samples",
            got=got,
            fix="align recordings one by one",
        )


def _start(sound: Audio) -> float:
    return 0.0 if sound.start_s is None else float(sound.start_s[0])


def _even(values: Tensor, time_s: Tensor, rate_hz: float) -> Tensor:
    """Values at an even rate from the first time stamp on; gaps are bridged by the mean."""
    num = int(float(time_s[-1] - time_s[0]) * rate_hz) + 1
    check_length(time_s, _TRANSFORMED * num * values.shape[1], rate_hz)
    even, known = to_rate(values, time_s, rate_hz, float(time_s[0]), num)
    return torch.where(known[:, None], even, even[known].mean(0)) if bool(known.any()) else even


def _small(film: Video) -> Tensor:
    """Grey frames in [0, 1], reduced by whole factors."""
    factor = max(1, max(film.rgb.shape[2:]) // _MAX_SIDE)
    parts = [functional.avg_pool2d(part.float() / 255, factor) for part in film.rgb.split(64)]
    return torch.cat([grey(part) for part in parts])
