"""Changing the rate of a signal: band-limited for sound, by time stamps for irregular clocks."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from lifting.backends import entry_rows
from lifting.operator import LiftOperator

# The kernel: zero crossings on each side, the share of the band that passes, Kaiser's beta. The
# stop band lies 115 dB down and begins at half the lower rate, so nothing audible folds back.
_ZEROS, _PASS, _BETA = 48, 0.92, 12.0
# Phases that are worked on together: their kernels overlap almost fully.
_GROUP = 32
_MAX_TERM = 5000
# A clock that is wrong by a millionth loses a millisecond in a quarter of an hour.
_MAX_RATIO_ERROR = 1e-6
# Without a limit, a pause of more than this many periods is a gap.
_GAP_PERIODS = 4.0


def resample(samples: Float[Tensor, "*B N"], from_hz: float, to_hz: float) -> Float[Tensor, "*B M"]:
    """Sound at another rate, band-limited; differentiable.

    Sample k of the result lies at time `k / to_hz`; zeros are assumed beyond both ends. A constant
    stays that constant.

    Args:
        samples: Equally spaced samples.
        from_hz: Their rate.
        to_hz: Rate of the result, which has `ceil(N * to_hz / from_hz)` samples.

    Raises:
        ValueError: If a rate is not positive, or no fraction of small integers is near their ratio.
    """
    up, down = _ratio(from_hz, to_hz)
    if up == down:
        return samples
    num = samples.shape[-1]
    num_out = -(-num * up // down)
    several = -(-_GROUP // up)  # short turns are taken together, or kernels would be read in vain
    up, down = up * several, down * several
    if not num_out:
        return samples.new_zeros(*samples.shape[:-1], 0)
    taps = _taps(up, down)
    turns = -(-num_out // up)  # each phase comes once in a turn of `up` results
    right = (turns * down + taps) - num + taps
    padded = functional.pad(samples, (taps, max(right, 0)))
    groups: list[Tensor] = []
    for first in range(0, up, _GROUP):
        kernel, start = _kernel(up, down, first, min(first + _GROUP, up))
        kernel = kernel.to(samples)
        begin = start + taps
        piece = padded[..., begin : begin + (turns - 1) * down + kernel.shape[1]]
        groups.append(piece.unfold(-1, kernel.shape[1], down) @ kernel.T)
    return torch.cat(groups, -1).flatten(-2)[..., :num_out]


def to_rate(
    values: Float[Tensor, "N C"],
    time_s: Float[Tensor, " N"],
    rate_hz: float,
    start_s: float,
    num: int,
    *,
    max_gap_s: float | None = None,
) -> tuple[Float[Tensor, "num C"], Bool[Tensor, " num"]]:
    """Readings of an irregular clock at times `start_s + k / rate_hz`; see `resampling_operator`.

    A reading with a NaN counts as missing.

    Returns:
        The values, zero where not valid, and what is valid.

    Raises:
        ValueError: If times do not increase or an argument makes no sense.
    """
    if len(values) != len(time_s):
        raise ValueError(f"{len(values)} readings have {len(time_s)} time stamps")
    known = values.isfinite().all(1)
    if max_gap_s is None:
        max_gap_s = usual_gap(time_s)
    operator = resampling_operator(
        time_s[known], rate_hz=rate_hz, start_s=start_s, num=num, max_gap_s=max_gap_s
    )
    weighted = operator.to(device=values.device, dtype=values.dtype)
    return weighted.apply(values[known]), operator.crow.diff() > 0


def resampling_operator(
    time_s: Float[Tensor, " N"],
    *,
    rate_hz: float,
    start_s: float,
    num: int,
    max_gap_s: float | None = None,
) -> LiftOperator:
    """Operator from readings at `time_s` to `num` times `start_s + k / rate_hz`.

    The readings are joined by straight lines. Where they come faster than `rate_hz`, the lines are
    averaged with a triangle that is as wide as the rates differ, which holds back what the new rate
    cannot show; where they come slower or as fast, a result lies on the line. Straight motions are
    kept exactly, away from the ends.

    Args:
        time_s: Times of readings, increasing, any spacing.
        rate_hz: Rate of the result.
        start_s: Time of its first value.
        num: Number of its values.
        max_gap_s: A pause longer than this is a gap: nothing in it is valid, and nothing is
            averaged across it. Four times the usual spacing if not given.

    Returns:
        num x N; rows sum to one, and are empty in gaps and beyond the first and last reading.

    Raises:
        ValueError: If times do not increase, or a rate, number or gap is not positive.
    """
    if not 0 < rate_hz < math.inf or num < 0:
        raise ValueError(f"resampling needs rate_hz > 0 and num >= 0, got {rate_hz:g} and {num}")
    at_s = start_s + torch.arange(num, dtype=torch.float64, device=time_s.device) / rate_hz
    width_s = max(1 / rate_hz - usual_spacing(time_s), 0.0) if len(time_s) > 1 else 0.0
    return interpolation_operator(time_s, at_s, width_s=width_s, max_gap_s=max_gap_s)


def interpolation_operator(
    time_s: Float[Tensor, " N"],
    at_s: Float[Tensor, " M"],
    *,
    width_s: float = 0.0,
    max_gap_s: float | None = None,
) -> LiftOperator:
    """Operator from readings at `time_s` to the times `at_s`, in any order.

    Args:
        time_s: Times of readings, increasing.
        at_s: Times of results.
        width_s: Half the base of the triangle that averages; 0 reads the straight lines.
        max_gap_s: As in `resampling_operator`.

    Raises:
        ValueError: If times do not increase, or the width or gap is negative.
    """
    t, at = time_s.to(torch.float64), at_s.to(torch.float64)
    _check_times(t)
    if max_gap_s is None:
        max_gap_s = usual_gap(time_s)
    if width_s < 0 or max_gap_s <= 0:
        raise ValueError(f"need width_s >= 0 and max_gap_s > 0, got {width_s:g}, {max_gap_s:g}")
    if not len(t) or not len(at):
        return _empty(len(at), len(t), time_s.device)
    # A reading whose neighbour is across a gap counts as an end of its stretch.
    pause = t.diff() > max_gap_s
    ends = torch.ones(1, dtype=torch.bool, device=t.device)
    opens, closes = torch.cat([ends, pause]), torch.cat([pause, ends])
    stretch = opens.cumsum(0) - 1
    first, last = opens.nonzero()[:, 0], closes.nonzero()[:, 0]
    slack = 1e-9 * max(1.0, float(t.abs().max()))  # rounding of sums of time stamps
    before = (torch.searchsorted(t, at + slack, right=True) - 1).clamp_min(0)
    own = stretch[before]
    low = torch.searchsorted(t, at - width_s - slack, right=True) - 1
    high = torch.searchsorted(t, at + width_s + slack)
    low, high = torch.maximum(low, first[own]), torch.minimum(high, last[own])
    inside = (at >= t[first[own]] - slack) & (at <= t[last[own]] + slack)
    length = torch.where(inside, high - low + 1, 0)
    crow = torch.zeros(len(at) + 1, dtype=torch.int64, device=t.device)
    torch.cumsum(length, 0, out=crow[1:])
    row = entry_rows(crow, int(crow[-1]))
    col = low[row] + torch.arange(len(row), device=t.device) - crow[row]
    weight = _hat_means(t, at[row], col, width_s, (opens, closes))
    total = torch.zeros_like(at).index_add(0, row, weight)
    weight = (weight / total[row]).to(time_s.dtype)
    return LiftOperator(crow=crow, col=col, weight=weight, num_sources=len(t)).drop_zeros()


def usual_spacing(time_s: Float[Tensor, " N"]) -> float:
    """Median time from one reading to the next, seconds.

    Raises:
        ValueError: If there are fewer than two readings.
    """
    if len(time_s) < 2:
        raise ValueError(f"a rate needs two time stamps or more, got {len(time_s)}")
    return float(time_s.to(torch.float64).diff().median())


def usual_gap(time_s: Float[Tensor, " N"]) -> float:
    """The pause that is a gap by default: four times the usual spacing, seconds."""
    return _GAP_PERIODS * usual_spacing(time_s) if len(time_s) > 1 else 1.0


# ---- irregular clocks --------------------------------------------------------------------------


def _hat_means(
    t: Tensor, at: Tensor, col: Tensor, width_s: float, ends: tuple[Tensor, Tensor]
) -> Tensor:
    """Mean, under a triangle around `at`, of the line that is 1 at reading `col`, 0 at all others.

    The line is three ramps that begin at readings, so its mean is a sum of means of ramps. Beyond
    the end of a stretch the line goes on level.
    """
    opens, closes = ends[0][col], ends[1][col]
    here = t[col]
    left, right = t[(col - 1).clamp_min(0)], t[(col + 1).clamp_max(len(t) - 1)]
    ramp = _ramp_mean(at - here, width_s)
    rise = (_ramp_mean(at - left, width_s) - ramp) / torch.where(opens, 1.0, here - left)
    fall = (ramp - _ramp_mean(at - right, width_s)) / torch.where(closes, 1.0, right - here)
    weight = torch.where(opens, 1.0, rise) - torch.where(closes, 0.0, fall)
    return weight.clamp_min(0)


def _ramp_mean(ahead_s: Tensor, width_s: float) -> Tensor:
    """Mean of `max(x, 0)` under a triangle of half base `width_s` around `ahead_s`."""
    if width_s <= 0:
        return ahead_s.clamp_min(0)
    x = (ahead_s / width_s).clamp(-1, 1)
    low, high = (1 + x).pow(3) / 6, x + (1 - x).pow(3) / 6
    inner = torch.where(x < 0, low, high) * width_s
    return torch.where(ahead_s > width_s, ahead_s, inner)


def _check_times(t: Tensor) -> None:
    if len(t) and not bool(t.isfinite().all()):
        raise ValueError("time stamps must be finite, got NaN or infinity")
    if bool((t.diff() <= 0).any()):
        k = int((t.diff() <= 0).nonzero()[0, 0])
        raise ValueError(
            f"time stamps must increase, got {float(t[k]):.6f} s and then {float(t[k + 1]):.6f} s "
            f"at reading {k + 1}"
        )


def _empty(num_targets: int, num_sources: int, device: torch.device) -> LiftOperator:
    return LiftOperator(
        crow=torch.zeros(num_targets + 1, dtype=torch.int64, device=device),
        col=torch.zeros(0, dtype=torch.int64, device=device),
        weight=torch.zeros(0, device=device),
        num_sources=num_sources,
    )


# ---- band-limited ------------------------------------------------------------------------------


def _ratio(from_hz: float, to_hz: float) -> tuple[int, int]:
    """`to_hz / from_hz` as a fraction of small integers."""
    if not (0 < from_hz < math.inf and 0 < to_hz < math.inf):
        raise ValueError(f"rates must be positive, got {from_hz:g} and {to_hz:g} Hz")
    exact = Fraction(to_hz) / Fraction(from_hz)
    near = exact.limit_denominator(_MAX_TERM)
    if not 0 < near.numerator <= 8 * _MAX_TERM or abs(near / exact - 1) > _MAX_RATIO_ERROR:
        raise ValueError(
            f"no fraction of small integers is near {to_hz:g} / {from_hz:g} Hz; "
            "resample in two steps"
        )
    return near.numerator, near.denominator


def _taps(up: int, down: int) -> int:
    """Samples on each side that a result reads."""
    return math.ceil(_ZEROS * max(down / up, 1.0) / _PASS)


@lru_cache(maxsize=512)
def _kernel(up: int, down: int, first: int, end: int) -> tuple[Tensor, int]:
    """Weights [phases, width] of results `first` to `end` of a turn, and where they start to read.

    Result p of a turn lies at sample `p * down / up` of it.
    """
    taps = _taps(up, down)
    start = first * down // up - taps
    width = (end - 1) * down // up + taps + 2 - start
    at = torch.arange(first, end, dtype=torch.float64) * down / up
    place = torch.arange(start, start + width, dtype=torch.float64)
    away = (place[None] - at[:, None]) * (_PASS * min(up / down, 1.0))
    shape = (1 - (away / _ZEROS).square()).clamp_min(0).sqrt()
    window = torch.special.i0(_BETA * shape) * (away.abs() < _ZEROS)
    weight = torch.sinc(away) * window
    return weight / weight.sum(1, keepdim=True), start
