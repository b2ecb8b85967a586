"""Short-time spectra and log-mel maps of sound, in plain torch.

Frames are `window_samples` long, weighted by a periodic Hann window and zero-padded to `n_fft`.
Work goes in blocks of frames that fit in the processor's cache, so that a long recording costs no
more memory than its result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor
from torch.nn import functional

MelScale = Literal["htk", "slaney"]
Triangles = Literal["hz", "mel"]

# Bytes of spectrum that are worked on at once: stays in a core's second-level cache.
_BLOCK_BYTES = 1 << 20
# Far below the square of float32's rounding at full scale; its root is still a normal number.
_SMALLEST_POWER = 1e-30
# Two steps of a 16-bit converter: a muted input that is dithered reaches one.
_SILENCE_PEAK = 2 / 32768


def stft(
    amplitudes: Float[Tensor, "*B N"],
    *,
    n_fft: int,
    hop: int,
    window_samples: int | None = None,
    centre: bool = False,
) -> Complex[Tensor, "*B F T"]:
    """Short-time Fourier transform; frame t starts at sample `t * hop`.

    Args:
        amplitudes: Sound, any number of leading axes (recordings, microphones).
        n_fft: Length of the transform; frames are zero-padded at their end up to it.
        hop: Samples from one frame to the next.
        window_samples: Length of a frame and its Hann window; `n_fft` if not given.
        centre: Pad half a window of zeros at both ends, so that frame t is centred on `t * hop`.

    Returns:
        `n_fft // 2 + 1` frequencies x frames; no frames where the sound is shorter than a window.

    Raises:
        ValueError: If a length is not positive or the window is longer than `n_fft`.
    """
    window_samples = n_fft if window_samples is None else window_samples
    _check_frames(n_fft, hop, window_samples)
    frames = _frames(amplitudes, window_samples, hop, centre)
    if not frames.numel():
        spectrum = torch.zeros(
            *frames.shape[:-1], n_fft // 2 + 1, dtype=frames.dtype, device=frames.device
        )
        return torch.complex(spectrum, spectrum).transpose(-1, -2)
    window = _hann(window_samples, amplitudes.dtype, amplitudes.device)
    return torch.fft.rfft(frames * window, n=n_fft).transpose(-1, -2)


def mel_filters(
    rate_hz: float,
    n_fft: int,
    num_mels: int,
    low_hz: float,
    high_hz: float,
    *,
    norm: Literal["slaney"] | None = "slaney",
    scale: MelScale = "slaney",
    triangles: Triangles = "hz",
) -> Float[Tensor, "M F"]:
    """Triangular filters whose corners are equally spaced in mel.

    Args:
        rate_hz: Samples per second.
        n_fft: Length of the transform.
        num_mels: Number of filters.
        low_hz: Lower corner of the first filter.
        high_hz: Upper corner of the last filter.
        norm: `slaney` gives each filter unit area in Hz; None gives it height one.
        scale: Formula for mel: HTK's logarithm, or Slaney's, linear below 1 kHz.
        triangles: Whether the sides of a filter are straight in Hz or in mel. TensorFlow, and so
            YAMNet, draws them in mel and leaves out frequency zero.

    Raises:
        ValueError: If the band is empty or above half the rate, or a filter would be zero because
            it falls between two frequencies.
    """
    if not 0 <= low_hz < high_hz <= rate_hz / 2:
        raise ValueError(
            f"mel filters need 0 <= low_hz < high_hz <= {rate_hz / 2:g} Hz (half the rate), "
            f"got {low_hz:g} to {high_hz:g}"
        )
    if num_mels < 1 or n_fft < 2:
        raise ValueError(f"mel filters need num_mels >= 1 and n_fft >= 2: {num_mels}, {n_fft}")
    bins_hz = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * (rate_hz / n_fft)
    ends = _to_mel(torch.tensor([low_hz, high_hz], dtype=torch.float64), scale)
    corners = torch.linspace(float(ends[0]), float(ends[1]), num_mels + 2, dtype=torch.float64)
    corners_hz = _to_hz(corners, scale)
    if triangles == "mel":
        filters = _triangles(corners, _to_mel(bins_hz, scale))
        filters[:, 0] = 0
    else:
        filters = _triangles(corners_hz, bins_hz)
    if norm == "slaney":
        filters *= (2 / (corners_hz[2:] - corners_hz[:-2]))[:, None]
    empty = int((filters.sum(1) == 0).sum())
    if empty:
        raise ValueError(
            f"{empty} of {num_mels} mel filters fall between the {n_fft // 2 + 1} frequencies of "
            f"the transform; take a longer n_fft or fewer filters"
        )
    return filters.to(torch.float32)


@dataclass(frozen=True, kw_only=True)
class LogMel:
    """Log-mel spectrogram of sound at one rate; differentiable.

    Attributes:
        rate_hz: Samples per second of the sound that it takes.
        window_s: Length of a frame.
        hop_s: Time from one frame to the next.
        num_mels: Rows of the result.
        low_hz: Lower end of the band.
        high_hz: Upper end of the band.
        n_fft: Length of the transform; the next power of two of the window if not given.
        power: 1 sums magnitudes, 2 sums powers.
        floor: Added before a natural logarithm; lower limit before decibels.
        log: `natural` is `log(mel + floor)`, `db` is decibels of `max(mel, floor)`.
        centre: Whether frame t is centred on `t * hop_s`, with zeros beyond the ends, rather than
            starting there.
        scale: See `mel_filters`.
        norm: See `mel_filters`.
        triangles: See `mel_filters`.

    Raises:
        ValueError: If a value makes no sense; see `mel_filters` and `stft`.
    """

    rate_hz: float
    window_s: float
    hop_s: float
    num_mels: int
    low_hz: float
    high_hz: float
    n_fft: int | None = None
    power: Literal[1, 2] = 2
    floor: float = 1e-6
    log: Literal["natural", "db"] = "natural"
    centre: bool = False
    scale: MelScale = "slaney"
    norm: Literal["slaney"] | None = "slaney"
    triangles: Triangles = "hz"

    def __post_init__(self) -> None:
        if self.floor <= 0:
            raise ValueError(f"the floor of a logarithm must be above zero, got {self.floor:g}")
        if self.power not in (1, 2):
            raise ValueError(f"power must be 1 (magnitudes) or 2 (powers), got {self.power}")
        _check_frames(self.fft_samples, self.hop_samples, self.window_samples)
        _filters(self)

    @property
    def window_samples(self) -> int:
        """Samples of a frame."""
        return round(self.window_s * self.rate_hz)

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""
        return round(self.hop_s * self.rate_hz)

    @property
    def fft_samples(self) -> int:
        """Length of the transform."""
        if self.n_fft is not None:
            return self.n_fft
        return max(2, 1 << (self.window_samples - 1).bit_length())

    def num_frames(self, num_samples: int) -> int:
        """Frames of a sound of `num_samples` samples; 0 where it is shorter than a window."""
        padded = num_samples + (2 * (self.window_samples // 2) if self.centre else 0)
        return max(0, 1 + (padded - self.window_samples) // self.hop_samples)

    def num_samples(self, num_frames: int) -> int:
        """Fewest samples that give `num_frames` frames."""
        padded = (num_frames - 1) * self.hop_samples + self.window_samples
        return max(1, padded - (2 * (self.window_samples // 2) if self.centre else 0))

    def filters(self) -> Float[Tensor, "M F"]:
        """The mel filters."""
        return _filters(self).T

    def __call__(self, amplitudes: Float[Tensor, "*B N"]) -> Float[Tensor, "*B M T"]:
        """The map of each sound: mels x frames. Silence gives the logarithm of the floor.

        Raises:
            ValueError: If an amplitude is NaN or infinite.
        """
        if not _all_finite(amplitudes):
            raise ValueError("a spectrogram needs finite amplitudes, got NaN or infinity")
        batch = amplitudes.shape[:-1]
        sounds = _frames(
            amplitudes.reshape(-1, amplitudes.shape[-1]),
            self.window_samples,
            self.hop_samples,
            self.centre,
        )
        num = sounds.shape[1]
        if not sounds.numel():
            return amplitudes.new_zeros(*batch, self.num_mels, num)
        window = _hann(self.window_samples, torch.float64, sounds.device)
        filters = _filters(self).to(sounds)
        size = max(1, _BLOCK_BYTES // (8 * self.fft_samples))
        blocks = [
            self._map(piece, window, filters).flatten(0, 1)
            for several in sounds.split(max(1, size // num))
            for piece in several.split(size, dim=1)
        ]
        rows = torch.cat(blocks).reshape(*batch, num, self.num_mels)
        return rows.transpose(-1, -2)

    def _map(self, frames: Tensor, window: Tensor, filters: Tensor) -> Tensor:
        """Log-mel rows of some frames."""
        # Double precision: rumble is 100 dB louder than what the upper filters hear, and rounding
        # of a float32 transform spreads over all frequencies. The window lifts the precision.
        spectrum = torch.fft.rfft(frames * window, n=self.fft_samples)
        parts = torch.view_as_real(spectrum).to(filters.dtype)
        real, imaginary = parts[..., 0], parts[..., 1]
        power = torch.addcmul(real * real, imaginary, imaginary)
        if self.power == 1:
            # The root has no slope at zero, and silence must not make NaN gradients.
            power = power.clamp_min(_SMALLEST_POWER).sqrt()
        mel = power @ filters
        if self.log == "natural":
            return (mel + self.floor).log()
        return (10 if self.power == 2 else 20) * mel.clamp_min(self.floor).log10()


def silent(amplitudes: Float[Tensor, "*B N"]) -> Bool[Tensor, "*B"]:
    """Whether a sound is silence: it moves less than two steps of a 16-bit converter.

    A constant offset does not count as sound; no samples are silence.
    """
    if not amplitudes.shape[-1]:
        return torch.ones(amplitudes.shape[:-1], dtype=torch.bool, device=amplitudes.device)
    low, high = torch.aminmax(amplitudes.detach(), dim=-1)
    return (high - low) / 2 < _SILENCE_PEAK


# ---- pieces ------------------------------------------------------------------------------------


def _all_finite(amplitudes: Tensor) -> bool:
    """Whether no amplitude is NaN or infinite; one pass, no copy."""
    if not amplitudes.numel():
        return True
    low, high = torch.aminmax(amplitudes.detach())
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _check_frames(n_fft: int, hop: int, window_samples: int) -> None:
    if hop < 1 or window_samples < 1:
        raise ValueError(
            f"frames need a window and a hop of a sample or more, got {window_samples} and {hop}"
        )
    if window_samples > n_fft:
        raise ValueError(f"a window of {window_samples} samples does not fit in n_fft = {n_fft}")


def _frames(amplitudes: Tensor, window_samples: int, hop: int, centre: bool) -> Tensor:
    """Overlapping frames [..., T, window_samples], a view where nothing has to be padded."""
    if centre:
        amplitudes = functional.pad(amplitudes, (window_samples // 2,) * 2)
    if amplitudes.shape[-1] < window_samples:
        return amplitudes.new_zeros(*amplitudes.shape[:-1], 0, window_samples)
    return amplitudes.unfold(-1, window_samples, hop)


@lru_cache(maxsize=32)
def _hann(num: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # In double precision first: 0.5 - 0.5 cos loses digits near the ends of the window.
    window = torch.hann_window(num, periodic=True, dtype=torch.float64)
    return window.to(device=device, dtype=dtype)


@lru_cache(maxsize=32)
def _filters(mel: LogMel) -> Tensor:
    """Filters as they are multiplied: frequencies x mels."""
    return mel_filters(
        mel.rate_hz,
        mel.fft_samples,
        mel.num_mels,
        mel.low_hz,
        mel.high_hz,
        norm=mel.norm,
        scale=mel.scale,
        triangles=mel.triangles,
    ).T.contiguous()


def _triangles(corners: Tensor, bins: Tensor) -> Tensor:
    """Rise from one corner to the next, fall to the one after it."""
    left, top, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rise, fall = (bins - left) / (top - left), (right - bins) / (right - top)
    return torch.minimum(rise, fall).clamp_min(0)


# Slaney's Auditory Toolbox: 200/3 Hz a mel up to 1 kHz (15 mel), then 27 mels to a factor of 6.4.
_LINEAR_HZ, _KNEE_HZ, _STEP = 200 / 3, 1000.0, math.log(6.4) / 27


def _to_mel(hz: Tensor, scale: MelScale) -> Tensor:
    if scale == "htk":
        return 2595 * torch.log10(1 + hz / 700)
    above = _KNEE_HZ / _LINEAR_HZ + torch.log(hz.clamp_min(_KNEE_HZ) / _KNEE_HZ) / _STEP
    return torch.where(hz < _KNEE_HZ, hz / _LINEAR_HZ, above)


def _to_hz(mel: Tensor, scale: MelScale) -> Tensor:
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    knee = _KNEE_HZ / _LINEAR_HZ
    return torch.where(mel < knee, mel * _LINEAR_HZ, _KNEE_HZ * torch.exp(_STEP * (mel - knee)))


# ---- presets: they check themselves, so they come after what they need --------------------------

YAMNET = LogMel(
    rate_hz=16000.0,
    window_s=0.025,
    hop_s=0.010,
    num_mels=64,
    low_hz=125.0,
    high_hz=7500.0,
    n_fft=512,
    power=1,
    floor=0.001,
    scale="htk",
    norm=None,
    triangles="mel",
)
"""What YAMNet is fed: log magnitudes in 64 HTK mels, 10 ms apart."""

GENERAL = LogMel(
    rate_hz=32000.0,
    window_s=0.032,
    hop_s=0.010,
    num_mels=64,
    low_hz=50.0,
    high_hz=14000.0,
    floor=1e-5,
    centre=True,
)
"""For networks that are trained here: most of the audible band, powers, 10 ms apart."""
