"""Random changes: what they keep, what they draw, and that they can be repeated."""

from __future__ import annotations

import math

import pytest
import torch

from lifting.signals.augment import jitter, mask_spectrogram, rotate, scale, time_warp


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def motion(batch: int = 4, channels: int = 6, num: int = 50) -> torch.Tensor:
    return torch.randn(batch, channels, num, generator=chance(9), dtype=torch.float64)


CHANGES = {
    "rotate": rotate,
    "scale": scale,
    "jitter": lambda x, generator: jitter(x, generator=generator, std=0.1),
    "time_warp": time_warp,
    "mask": mask_spectrogram,
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_changes_are_drawn_for_each_recording_and_can_be_repeated(name):
    x = motion(1).expand(4, 6, 50)
    first, again, other = (CHANGES[name](x, generator=chance(seed)) for seed in (0, 0, 1))
    assert first.shape == x.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])


def test_a_turn_keeps_lengths_and_angles_of_all_vectors():
    x = motion()
    y = rotate(x, generator=chance())
    for a, b in ((0, 0), (0, 3), (3, 3)):
        before = (x[:, a : a + 3] * x[:, b : b + 3]).sum(1)
        after = (y[:, a : a + 3] * y[:, b : b + 3]).sum(1)
        assert torch.allclose(before, after)
    volume = torch.linalg.det(x[:, :3, :3]), torch.linalg.det(y[:, :3, :3])
    assert torch.allclose(*volume)  # no mirror


def test_a_turn_about_z_keeps_z_and_a_small_one_is_small():
    x = motion()
    y = rotate(x, generator=chance(), about="z")
    assert torch.allclose(x[:, [2, 5]], y[:, [2, 5]])
    assert not torch.allclose(x[:, 0], y[:, 0])
    near = rotate(x, generator=chance(), max_rad=1e-4)
    assert float((near - x).abs().max()) < 1e-3
    assert torch.allclose(rotate(x, generator=chance(), max_rad=0.0), x)


def test_scales_stay_within_their_share_and_are_per_channel():
    x = torch.ones(50, 6, 3)
    y = scale(x, generator=chance(), max_share=0.2)
    assert float(y.min()) >= 0.8
    assert float(y.max()) <= 1.2
    assert torch.equal(y[..., 0], y[..., 2])
    assert float(y.std()) == pytest.approx(0.4 / math.sqrt(12), rel=0.2)


def test_noise_has_its_spread():
    y = jitter(torch.zeros(20, 6, 500), generator=chance(), std=0.3)
    assert float(y.std()) == pytest.approx(0.3, rel=0.02)


def test_warped_time_keeps_its_ends_and_order():
    ramp = torch.linspace(0, 1, 80, dtype=torch.float64).expand(5, 1, 80)
    y = time_warp(ramp, generator=chance(), max_share=0.9)
    assert torch.allclose(y[..., 0], ramp[..., 0])
    assert torch.allclose(y[..., -1], ramp[..., -1])
    assert bool((y.diff(dim=2) > 0).all())
    assert float((y - ramp).abs().max()) > 0.02
    assert torch.allclose(time_warp(ramp, generator=chance(), max_share=0.0), ramp)
    assert time_warp(torch.ones(2, 1, 1), generator=chance()).shape == (2, 1, 1)


def test_masks_hide_bands_and_stretches_up_to_their_widths():
    x = motion(40, 64, 96)
    y = mask_spectrogram(x, generator=chance(), max_mels=5, max_frames=9, num=1, value=7.0)
    hidden = y == 7.0
    assert torch.equal(y[~hidden], x[~hidden])
    bands, stretches = hidden.all(2).sum(1), hidden.all(1).sum(1)
    assert int(bands.max()) == 5
    assert int(stretches.max()) == 9
    either = hidden.all(2)[:, :, None] | hidden.all(1)[:, None]
    assert torch.equal(hidden, either)


def test_masks_hold_the_mean_and_may_be_wider_than_the_map():
    x = motion(3, 4, 5)
    y = mask_spectrogram(x, generator=chance(), max_mels=100, max_frames=100, num=3)
    hidden = y != x
    mean = x.mean((1, 2), keepdim=True).expand_as(x)
    assert torch.equal(y[hidden], mean[hidden])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda: rotate(motion(1, 4), generator=chance()), "multiple of 3"),
        (lambda: time_warp(motion(), generator=chance(), num_knots=1), "two knots"),
        (lambda: time_warp(motion(), generator=chance(), max_share=1.0), "below 1"),
        (lambda: mask_spectrogram(motion(), generator=chance(), max_mels=-1), "0 or more"),
    ],
)
def test_changes_that_make_no_sense_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        change()


def test_changes_have_gradients():
    x = motion(2).requires_grad_()
    for change in CHANGES.values():
        (gradient,) = torch.autograd.grad(change(x, generator=chance()).square().sum(), x)
        assert bool(gradient.isfinite().all())
