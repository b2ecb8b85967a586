"""Log-mel maps of a minute of sound against librosa, on one thread.

The sound is noise with rumble 40 dB above it and a rising tone: a range as recordings have it,
where a transform in float32 is off by a thousandth. `error` is the largest difference of the
logarithms. The first setting is YAMNet's map (16 kHz, magnitudes of 64 HTK mels), `_general` the
one of the project's own networks (32 kHz, powers), `_clips` a batch of 64 one-second windows.
librosa draws filters in Hz, so both do here; it centres a window in its transform, so it is given
that much silence at both ends.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from benchmarks.harness import Benchmark, Case, main, need
from lifting.signals.spectra import GENERAL, YAMNET, LogMel

_MAPS = {"yamnet": replace(YAMNET, triangles="hz"), "general": GENERAL}


def make_sound(num: int, rate_hz: float, batch: int) -> torch.Tensor:
    """Noise, rumble and a rising tone, [batch, num]."""
    generator = torch.Generator().manual_seed(0)
    time_s = torch.arange(num, dtype=torch.float64) / rate_hz
    tone = torch.sin(2 * math.pi * time_s * (200 + 20 * time_s))
    rumble = torch.sin(2 * math.pi * 35 * time_s)
    noise = torch.randn(batch, num, generator=generator, dtype=torch.float64)
    return (0.004 * noise + 0.05 * tone + 0.4 * rumble).float()


def build(*, kind: str, seconds: float, batch: int = 1) -> Case:
    """Sound and the two ways to its map."""
    librosa = need("librosa", "pip install -c constraints.txt librosa")
    torch.set_num_threads(1)  # librosa has one
    spectra: LogMel = _MAPS[kind]
    sound = make_sound(round(seconds * spectra.rate_hz), spectra.rate_hz, batch)
    silence = 0 if spectra.centre else (spectra.fft_samples - spectra.window_samples) // 2

    def peer() -> np.ndarray:
        mel = librosa.feature.melspectrogram(
            y=np.pad(sound.numpy(), ((0, 0), (silence, silence))),
            sr=spectra.rate_hz,
            n_fft=spectra.fft_samples,
            hop_length=spectra.hop_samples,
            win_length=spectra.window_samples,
            center=spectra.centre,
            power=spectra.power,
            n_mels=spectra.num_mels,
            fmin=spectra.low_hz,
            fmax=spectra.high_hz,
            htk=spectra.scale == "htk",
            norm=spectra.norm,
        )
        return np.log(mel + spectra.floor)

    def error() -> float:
        ours = spectra(sound).numpy()
        theirs = peer()
        assert ours.shape == theirs.shape
        return float(np.abs(ours - theirs).max())

    return Case(ours=lambda: spectra(sound), peer=peer, error=error)


BENCHMARK = Benchmark(
    name="logmel",
    build=build,
    settings={
        "": {"kind": "yamnet", "seconds": 60.0},
        "_general": {"kind": "general", "seconds": 60.0},
        "_clips": {"kind": "yamnet", "seconds": 0.96, "batch": 64},
    },
    warm={"kind": "yamnet", "seconds": 0.5},
    note="one thread",
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
