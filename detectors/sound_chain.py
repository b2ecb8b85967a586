"""From samples to rows in one module: spectrogram and student, in operations that ONNX has."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lifting.signals.spectra import LogMel


class SoundChain(nn.Module):
    """A student of sound with its log-mel spectrogram in front.

    The Fourier transform is a matrix in double precision: there is no transform in ONNX that every
    runtime has, and a product in single precision loses quiet bands beside loud ones.

    Args:
        net: The student; takes spectrograms [B, channels, bands, frames].
        spectra: How they are made; of magnitudes, with a natural logarithm.
        num_samples: Samples of a window.
        coherence_floor: Show how each microphone's sound goes with the first one's as well; what
            is added to the power that it is divided by. None for spectra alone.

    Raises:
        ValueError: If the spectrogram is one of powers or in decibels.
    """

    def __init__(
        self,
        net: nn.Module,
        spectra: LogMel,
        num_samples: int,
        *,
        coherence_floor: float | None = None,
    ) -> None:
        super().__init__()
        if spectra.power != 1 or spectra.log != "natural":
            raise ValueError("a chain takes spectra of magnitudes with a natural logarithm")
        self.net, self.floor, self.coherence_floor = net, spectra.floor, coherence_floor
        self.pad = spectra.window_samples // 2 if spectra.centre else 0
        length, frames = spectra.window_samples, spectra.num_frames(num_samples)
        starts = torch.arange(frames)[:, None] * spectra.hop_samples
        self.frames, self.length = frames, length
        self.register_buffer("index", (starts + torch.arange(length)).flatten())
        self.register_buffer("transform", _transform(length, spectra.fft_samples))
        self.register_buffer("filters", spectra.filters().double().T.contiguous())

    def spectrograms(self, samples: Float[Tensor, "B mics N"]) -> Float[Tensor, "B Ci M T"]:
        """What the student is shown."""
        samples = functional.pad(samples, (self.pad, self.pad)).double()
        frames = samples.index_select(2, self.get_buffer("index"))
        frames = frames.unflatten(2, (self.frames, self.length))
        real, imaginary = (frames @ self.get_buffer("transform")).chunk(2, dim=3)
        filters = self.get_buffer("filters")
        magnitude = (real.square() + imaginary.square()).sqrt()
        maps = (magnitude @ filters + self.floor).log()
        if self.coherence_floor is not None:
            first_r, first_i, rest_r, rest_i = (
                real[:, :1], imaginary[:, :1], real[:, 1:], imaginary[:, 1:],
            )  # fmt: skip
            power = (magnitude[:, :1] * magnitude[:, 1:]) @ filters + self.coherence_floor
            together = (rest_r * first_r + rest_i * first_i) @ filters / power
            across = (rest_i * first_r - rest_r * first_i) @ filters / power
            maps = torch.cat([maps, together, across], dim=1)
        return maps.float().movedim(2, 3)

    def forward(self, samples: Float[Tensor, "B mics N"]) -> Float[Tensor, "B ..."]:
        """The student's rows."""
        return self.net(self.spectrograms(samples))


def _transform(length: int, n_fft: int) -> Tensor:
    """Windowed frames to real and imaginary parts of their frequencies, [L, 2 F]."""
    window = torch.hann_window(length, periodic=True, dtype=torch.float64)[:, None]
    time = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = torch.arange(n_fft // 2 + 1, dtype=torch.float64)
    angle = time * frequency * (-2 * math.pi / n_fft)
    return torch.cat([window * angle.cos(), window * angle.sin()], dim=1)
