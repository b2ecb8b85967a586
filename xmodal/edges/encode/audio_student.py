"""What the ops of students of sound share: log-mel windows, and how they are varied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from xmodal.edges.encode.clip_student import (
    check_positive,
    check_shares,
    clips_of,
    head_channels,
    hop_of,
    refuse_non_finite,
    whole,
)
from xmodal.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from detectors.clip_student import ClipStudent, ClipTrunk
    from lifting.signals.spectra import LogMel
    from xmodal.recordings.inputs import Clips
    from xmodal.values import Audio

# YAMNet's: log(magnitude + 0.001) is quiet about what is far below speech.
_FLOOR = 1e-3
# Of the power that coherence is divided by: what a 16-bit converter cannot tell from silence.
COHERENCE_FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True)
class AudioStudentOp:
    """Settings of a student of sound; subclasses say which network stands on the spectrogram.

    Attributes:
        op: Name of the op.
        size: Preset of the network.
        rate_hz: Samples per second that sound is brought to.
        window_s: Length of a window. Shorter recordings have silence around them.
        hop_s: From one window to the next; half a window when None.
        frame_s: Length of a frame of the spectrogram.
        frame_hop_s: From one frame to the next.
        num_mels: Frequency bands, equally spaced in mel.
        low_hz: Where the lowest band begins.
        high_hz: Where the highest ends; at most half of `rate_hz`.
        mics: Microphones. With 1, sound of several is averaged; else a recording must have as many.
        phase: Beside the spectra, show how each microphone's sound goes with the first one's:
            real and imaginary part of their coherence in each band. Needs two or more `mics`.
        dropout: Part of the trunk's row that is hidden while training.
        gain_db: In training, windows are made louder or softer by up to this.
        shift: In training, windows are turned in time by up to this part of their length.
        mask_mels: In training, up to this many neighbouring bands are hidden, twice.
        mask_time: In training, up to this part of the window is hidden, twice.
    """

    op: str = ""
    size: Literal["micro", "tiny", "small", "base"] = "tiny"
    rate_hz: float = 16000.0
    window_s: float = 1.92
    hop_s: float | None = None
    frame_s: float = 0.025
    frame_hop_s: float = 0.01
    num_mels: int = 64
    low_hz: float = 60.0
    high_hz: float = 7800.0
    mics: int = 1
    phase: bool = False
    dropout: float = 0.1
    gain_db: float = 6.0
    shift: float = 0.1
    mask_mels: int = 8
    mask_time: float = 0.1

    def __post_init__(self) -> None:
        check_positive(
            rate_hz=self.rate_hz,
            window_s=self.window_s,
            hop_s=hop_of(self.hop_s, self.window_s),
            frame_s=self.frame_s,
            frame_hop_s=self.frame_hop_s,
        )
        check_shares(dropout=self.dropout, shift=self.shift, mask_time=self.mask_time)
        if self.mics < 1 or (self.phase and self.mics < 2):
            wanted = "2 for `phase`" if self.phase else "1"
            raise ValueError(f"mics must be at least {wanted}, not {self.mics}")
        if self.high_hz > self.rate_hz / 2 or not 0 <= self.low_hz < self.high_hz:
            raise ValueError(
                f"low_hz ({self.low_hz}) to high_hz ({self.high_hz}) must lie within 0 to half of "
                f"rate_hz ({self.rate_hz / 2})"
            )
        if self.frame_s > self.window_s:
            raise ValueError(f"frame_s ({self.frame_s}) is longer than window_s ({self.window_s})")
        if not 0 <= self.mask_mels < self.num_mels or not 0 <= self.gain_db < float("inf"):
            raise ValueError(
                f"mask_mels ({self.mask_mels}) must be 0 or more and below num_mels "
                f"({self.num_mels}), gain_db ({self.gain_db}) 0 or more"
            )

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Shape of one input: channels, bands, frames."""
        channels = self.mics + (2 * (self.mics - 1) if self.phase else 0)
        return channels, self.num_mels, self.spectra().num_frames(self.num_samples)

    @property
    def num_samples(self) -> int:
        """Samples of a window at `rate_hz`."""
        return whole(self.window_s, self.rate_hz)

    def spectra(self) -> LogMel:
        """What makes a spectrogram of sound at `rate_hz`.

        Raises:
            DataError: If the settings make none, such as more bands than frequencies.
        """
        from lifting.signals.spectra import LogMel

        try:
            return LogMel(
                rate_hz=self.rate_hz,
                window_s=self.frame_s,
                hop_s=self.frame_hop_s,
                num_mels=self.num_mels,
                low_hz=self.low_hz,
                high_hz=self.high_hz,
                power=1,
                floor=_FLOOR,
                scale="htk",
                norm=None,
            )
        except ValueError as error:
            raise DataError(
                f"op `{self.op}`",
                wanted="settings of which a spectrogram can be made",
                got=str(error),
                fix="write a longer frame_s, fewer num_mels, or a wider band",
            ) from error

    def student(
        self, trunk: ClipTrunk, channels: int, space: Literal["unit", "simplex", "raw"] | None
    ) -> ClipStudent:
        """The student around a trunk."""
        from detectors.clip_student import ClipStudent

        return ClipStudent(
            trunk,
            channels,
            space=space or "raw",
            head_channels=head_channels(self.size),
            dropout=self.dropout,
        )

    def describe(self, sound: Audio) -> Clips:
        """Log-mel maps of all windows, [channels, bands, frames] each.

        Raises:
            DataError: If there are too few microphones, or a sample is not a number.
        """
        refuse_non_finite(sound.amplitudes.T, sound.offsets, "amplitudes")
        amplitudes = self._right_mics(sound.amplitudes)
        parts = [
            self._windows(part, sound.rate_hz)
            for part in amplitudes.split(sound.offsets.diff().tolist(), dim=1)
        ]
        return clips_of([self.inputs_of(part) for part in parts], self.in_shape)

    def inputs_of(self, windows: Tensor) -> Tensor:
        """Inputs [W, channels, bands, frames] from samples [W, mics, N] at `rate_hz`."""
        if not len(windows):
            return windows.new_zeros(0, *self.in_shape)
        spectra = self.spectra()
        inputs = spectra(windows)
        if not self.phase:
            return inputs
        import torch

        return torch.cat([inputs, _coherence(windows, spectra)], dim=1)

    def _right_mics(self, amplitudes: Tensor) -> Tensor:
        given = len(amplitudes)
        if self.mics == 1:
            return amplitudes.mean(dim=0, keepdim=True)
        if given != self.mics:
            raise DataError(
                f"op `{self.op}`",
                wanted=f"sound of {self.mics} microphones, as its `mics` says",
                got=f"{given}",
                fix=f"write mics: {given}, or mics: 1 to average them",
            )
        return amplitudes

    def _windows(self, amplitudes: Tensor, rate_hz: float) -> Tensor:
        """Windows [W, mics, N] of one recording at `rate_hz`."""
        from lifting.signals.resampling import resample
        from lifting.signals.windows import cut, windows

        if rate_hz != self.rate_hz:
            amplitudes = resample(amplitudes, rate_hz, self.rate_hz)
        hop_s = hop_of(self.hop_s, self.window_s)
        spans = windows(amplitudes.shape[1], self.rate_hz, self.window_s, hop_s, cover=True)
        return cut(amplitudes.T, spans).movedim(1, 2)

    def vary(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Windows turned in time, louder or softer, with bands and frames hidden."""
        import torch

        from lifting.signals.augment import mask_spectrogram

        inputs = self._louder(self._turned(inputs, generator), generator)
        # The same cells in all channels: a band that one microphone hides, the other would tell.
        hidden = mask_spectrogram(
            torch.zeros_like(inputs[:, 0]),
            generator=generator,
            max_mels=self.mask_mels,
            max_frames=round(self.mask_time * inputs.shape[-1]),
            value=1.0,
        )
        mean = inputs.mean(dim=(2, 3), keepdim=True)
        return torch.where(hidden[:, None] > 0, mean, inputs)

    def _turned(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Each window begins elsewhere; what falls out at one end comes in at the other."""
        import torch

        frames, reach = inputs.shape[-1], round(self.shift * inputs.shape[-1])
        if reach == 0:
            return inputs
        device = generator.device
        by = torch.randint(-reach, reach + 1, (len(inputs), 1), generator=generator, device=device)
        index = (torch.arange(frames, device=device) + by).remainder(frames).to(inputs.device)
        return inputs.gather(3, index[:, None, None].expand_as(inputs))

    def _louder(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """A gain adds to the logarithm of magnitudes; what was silent stays so."""
        import torch

        drawn = torch.rand(len(inputs), 1, 1, 1, generator=generator, device=generator.device)
        gain = ((drawn * 2 - 1) * self.gain_db * math.log(10) / 20).to(inputs)
        spectra, rest = inputs[:, : self.mics], inputs[:, self.mics :]
        mel = (spectra.exp() - _FLOOR).clamp_min(0)
        spectra = (mel * gain.exp() + _FLOOR).log()
        return torch.cat([spectra, rest], dim=1)


def _coherence(windows: Tensor, spectra: LogMel) -> Tensor:
    """How each microphone's sound goes with the first one's, [W, 2 (mics - 1), bands, frames].

    Real and imaginary part, each within -1 to 1; zeros in silence.
    """
    import torch

    from lifting.signals.spectra import stft

    found = stft(
        windows,
        n_fft=spectra.fft_samples,
        hop=spectra.hop_samples,
        window_samples=spectra.window_samples,
        centre=spectra.centre,
    )
    crossed = found[:, 1:] * found[:, :1].conj()
    filters = spectra.filters().to(windows)
    power = filters @ crossed.abs()
    parts = torch.cat([filters @ crossed.real, filters @ crossed.imag], dim=1)
    return parts / (torch.cat([power, power], dim=1) + COHERENCE_FLOOR)
