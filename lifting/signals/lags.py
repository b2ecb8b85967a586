"""How much later one stream shows what another showed: lags between clocks, onsets of sounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lifting.signals.spectra import LogMel

# A lag that leaves less than this share of the shorter stream in common is not believed.
_LEAST_OVERLAP = 0.4
# More smoothing makes any two streams more alike; it has to earn its place.
_CLEARLY = 0.003
# Variance of streams scaled to one that is rounding of sums.
_VARIANCE_FLOOR = 1e-10


@dataclass(frozen=True, kw_only=True)
class Lag:
    """How much later a second stream is than a first.

    Attributes:
        seconds: What the first shows at time t, the second shows at t + `seconds`.
        strength: Correlation there, up to 1. Chance alone makes some: compare it with what streams
            that do not belong together give.
        smooth_s: Standard deviation of the smoothing of the second that fits best.
    """

    seconds: float
    strength: float
    smooth_s: float = 0.0

    def reversed(self) -> Lag:
        """How much later the first stream is than the second."""
        return replace(self, seconds=-self.seconds)


def estimate_lag(
    a: Float[Tensor, "N ..."],
    b: Float[Tensor, "M ..."],
    rate_hz: float,
    max_lag_s: float,
    *,
    around_s: float = 0.0,
    smooth_s: Sequence[float] = (0.0,),
    whiten: bool = False,
) -> Lag:
    """The lag at which two streams agree best, finer than a sample.

    Lags count from the first sample of both. For every lag, the samples that the streams then have
    in common are correlated, with their own means and variances. Streams of several channels are
    compared after the linear map from `b` to `a` that fits best at that lag (multiple correlation),
    so their axes need not agree. A parabola through the best lag and its neighbours gives the
    fraction.

    Args:
        a: Samples of the first, [N] or [N, C].
        b: Samples of the second, at the same rate, [M] or [M, D].
        rate_hz: That rate.
        max_lag_s: Largest lag to consider, either way from `around_s`. Lags that leave less than
            two fifths of the shorter stream in common are left out.
        around_s: Middle of the lags to consider.
        smooth_s: Smoothings of `b` to try, in this order (standard deviation of a Gaussian); a
            later one must agree clearly better. A stabilised film turns as the smoothed camera
            does, and an unsmoothed comparison would be off.
        whiten: Give all frequencies one weight first (the phase transform), for sounds in rooms.

    Raises:
        ValueError: If a stream has NaN, does not vary, or is too short for the lags.

    Source:
        Knapp and Carter, The generalized correlation method for estimation of time delay, 1976.
    """
    first, second = _checked(a, "a"), _checked(b, "b")
    lags = _lags(len(first), len(second), rate_hz, max_lag_s, around_s)
    if whiten:
        first, second = _whitened(first), _whitened(second)
    best: Lag | None = None
    for sigma_s in smooth_s:
        smoothed = _smoothed(second, sigma_s * rate_hz)
        strength = _correlations(first, smoothed, lags, signed=a.ndim == b.ndim == 1)
        place = int(strength.argmax())
        shift, value = _vertex(strength, place)
        found = Lag(
            seconds=(int(lags[place]) + shift) / rate_hz,
            strength=min(value, 1.0),
            smooth_s=sigma_s,
        )
        if best is None or found.strength > best.strength + _CLEARLY:
            best = found
    if best is None:
        raise ValueError("smooth_s must name at least one smoothing; 0 is none")
    return best


def onsets(
    amplitudes: Float[Tensor, " N"], rate_hz: float, *, hop_s: float = 0.01
) -> Float[Tensor, " T"]:
    """How suddenly a sound gets louder, at times `k * hop_s`: the mean rise over mel bands.

    Args:
        amplitudes: One microphone.
        rate_hz: Samples per second.
        hop_s: Time from one value to the next.

    Source:
        Bello et al., A tutorial on onset detection in music signals, 2005 (spectral flux).
    """
    spectra = LogMel(
        rate_hz=rate_hz,
        window_s=4 * hop_s,
        hop_s=hop_s,
        num_mels=32,
        low_hz=0.0,
        high_hz=min(8000.0, rate_hz / 2),
        power=1,
        floor=1e-3,
        norm=None,
        centre=True,
    )
    mel = spectra(amplitudes)
    return functional.pad(mel.diff(dim=1).clamp_min(0).mean(0), (1, 0))[: mel.shape[1]]


def _lags(num_a: int, num_b: int, rate_hz: float, max_lag_s: float, around_s: float) -> Tensor:
    """Lags in samples, in order, that leave enough in common."""
    reach, middle = int(max_lag_s * rate_hz), round(around_s * rate_hz)
    lags = torch.arange(middle - reach, middle + reach + 1)
    common = torch.minimum(torch.tensor(num_a), num_b - lags) - (-lags).clamp_min(0)
    lags = lags[common >= max(8, _LEAST_OVERLAP * min(num_a, num_b))]
    if reach < 1 or len(lags) < 3:
        raise ValueError(
            f"lags of {around_s:g} s, {max_lag_s:g} s more or less, leave too little of streams of "
            f"{num_a / rate_hz:.2f} and {num_b / rate_hz:.2f} s in common"
        )
    return lags


def _checked(stream: Tensor, name: str) -> Tensor:
    """A stream as double [N, C] around zero."""
    columns = stream.detach().double()
    columns = columns[:, None] if columns.ndim == 1 else columns.flatten(1)
    if not bool(columns.isfinite().all()):
        raise ValueError(f"stream {name} must be finite, got NaN or infinity")
    centred = columns - columns.mean(0) if columns.numel() else columns
    if not bool((centred != 0).any()):
        raise ValueError(f"stream {name} does not vary, so it has no lag")
    return centred / centred.square().mean().sqrt()


def _whitened(stream: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(stream, n=2 * len(stream), dim=0)
    size = spectrum.abs()
    return torch.fft.irfft(spectrum / (size + 1e-3 * size.mean(0)), dim=0)[: len(stream)]


def _smoothed(stream: Tensor, sigma: float) -> Tensor:
    """Smoothed over time by a Gaussian of `sigma` samples; ends are mirrored."""
    reach = min(math.ceil(4 * sigma), len(stream) - 1)
    if reach < 1:
        return stream
    at = torch.arange(-reach, reach + 1, dtype=stream.dtype, device=stream.device)
    kernel = torch.exp(-0.5 * (at / sigma).square())
    padded = functional.pad(stream.T[:, None], (reach, reach), mode="reflect")
    return functional.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0].T


def _correlations(a: Tensor, b: Tensor, lags: Tensor, *, signed: bool) -> Tensor:
    """Correlation of a[n] with b[n + lag] for each lag, over common samples.

    Sums of products come from one transform, sums over the common stretch from running sums.
    """
    size = len(a) + len(b)
    channels_a, channels_b = a.shape[1], b.shape[1]
    lags = lags.to(a.device)
    begin_a, end_a = (-lags).clamp_min(0), torch.minimum(torch.tensor(len(a)), len(b) - lags)
    begin_b, end_b = begin_a + lags, end_a + lags
    num = (end_a - begin_a).double()
    spectrum_a, spectrum_b = (torch.fft.rfft(x, n=size, dim=0) for x in (a, b))
    products = spectrum_a.conj()[:, :, None] * spectrum_b[:, None, :]
    both = torch.fft.irfft(products, n=size, dim=0)[lags % size]
    mean_a, mean_b = (
        _between(x, begin, end) / num[:, None]
        for x, begin, end in ((a, begin_a, end_a), (b, begin_b, end_b))
    )
    cross = both / num[:, None, None] - mean_a[:, :, None] * mean_b[:, None, :]
    own_a = _between(a.square(), begin_a, end_a) / num[:, None] - mean_a.square()
    outer_b = (b[:, :, None] * b[:, None, :]).flatten(1)
    own_b = (_between(outer_b, begin_b, end_b) / num[:, None]).reshape(-1, channels_b, channels_b)
    own_b = own_b - mean_b[:, :, None] * mean_b[:, None, :]
    total_a = own_a.sum(1).clamp_min(_VARIANCE_FLOOR)
    if signed and channels_a == channels_b == 1:
        total_b = own_b[:, 0, 0].clamp_min(_VARIANCE_FLOOR)
        return cross[:, 0, 0] / (total_a * total_b).sqrt()
    ridge = 1e-9 * own_b.diagonal(dim1=1, dim2=2).sum(1) + _VARIANCE_FLOOR
    own_b = own_b + ridge[:, None, None] * torch.eye(channels_b, dtype=b.dtype, device=b.device)
    mapped = torch.linalg.solve(own_b, cross.transpose(1, 2)).transpose(1, 2)
    explained = (cross * mapped).sum((1, 2))
    return (explained / total_a).clamp_min(0).sqrt()


def _between(x: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """Sums of rows `begin` to `end` of x, for many stretches."""
    running = functional.pad(x.cumsum(0), (0, 0, 1, 0))
    return running[end] - running[begin]


def _vertex(values: Tensor, place: int) -> tuple[float, float]:
    """Where a parabola through a maximum and its neighbours peaks, and how high."""
    if not 0 < place < len(values) - 1:
        return 0.0, float(values[place])
    left, middle, right = (float(v) for v in values[place - 1 : place + 2])
    bend = left - 2 * middle + right
    if bend >= 0:
        return 0.0, middle
    shift = 0.5 * (left - right) / bend
    return shift, middle - 0.25 * (left - right) * shift
