"""A student of sound with its spectrogram in front."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from detectors.sound_chain import SoundChain
from lifting.signals.spectra import GENERAL, YAMNET


@pytest.mark.parametrize("centre", [False, True])
def test_the_spectrogram_is_that_of_log_mel(centre: bool) -> None:
    spectra = replace(YAMNET, centre=centre)
    samples = torch.randn(2, 3, 4000, generator=torch.Generator().manual_seed(0)) * 0.1
    samples[1, 2] = 0.0
    chain = SoundChain(nn.Identity(), spectra, 4000)
    torch.testing.assert_close(chain(samples), spectra(samples), rtol=1e-5, atol=1e-5)


def test_quiet_bands_beside_a_loud_tone_are_right() -> None:
    """Compared in double precision, where neither way of computing it rounds."""
    time_s = torch.arange(16000, dtype=torch.float64) / 16000
    samples = (2 * torch.pi * 1000 * time_s).sin().float()[None, None]
    chain = SoundChain(nn.Identity(), YAMNET, 16000)
    exact = YAMNET(samples.double())
    torch.testing.assert_close(chain(samples).double(), exact, rtol=0, atol=1e-5)


def test_sound_goes_with_itself_and_against_its_negative() -> None:
    one = torch.randn(1, 1, 4000, generator=torch.Generator().manual_seed(0)) * 0.1
    chain = SoundChain(nn.Identity(), YAMNET, 4000, coherence_floor=1e-6)
    maps = chain(torch.cat([one, -one, torch.zeros_like(one)], dim=1))
    assert maps.shape[1] == 3 + 4
    torch.testing.assert_close(maps[:, 3], torch.full_like(maps[:, 3], -1.0), atol=1e-2, rtol=0)
    assert (maps[:, 4].abs() < 1e-6).all()  # silence has no phase
    assert (maps[:, 5:].abs() < 1e-5).all()


def test_powers_and_decibels_are_refused() -> None:
    with pytest.raises(ValueError, match="spectra of magnitudes"):
        SoundChain(nn.Identity(), GENERAL, 32000)
    with pytest.raises(ValueError, match="spectra of magnitudes"):
        SoundChain(nn.Identity(), replace(YAMNET, log="db"), 16000)


def test_sound_of_another_length_is_refused() -> None:
    chain = SoundChain(nn.Identity(), YAMNET, 4000)
    with pytest.raises((IndexError, RuntimeError)):
        chain(torch.zeros(1, 1, 3000))
