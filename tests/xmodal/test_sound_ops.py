"""Ops of students of sound: what they are shown, how it varies, rows of recordings."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lifting.signals.resampling import resample
from lifting.signals.spectra import LogMel
from xmodal.edges.encode.audio_cnn import AudioCnn
from xmodal.edges.encode.audio_student import AudioStudentOp
from xmodal.edges.encode.audio_transformer import AudioTransformer
from xmodal.edges.encode.grid_decoder import GridDecoderOp
from xmodal.errors import DataError
from xmodal.values import Audio, Grids

# Half a second of 16 bands, so that everything is quick.
SHORT = {"size": "micro", "window_s": 0.5, "num_mels": 32, "mask_mels": 4}
OPS = pytest.mark.parametrize("op", [AudioCnn(**SHORT), AudioTransformer(**SHORT)])


def sound(*seconds: float, rate_hz: float = 16000.0, mics: int = 1, seed: int = 0) -> Audio:
    """Noise, one recording for each length."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [round(s * rate_hz) for s in seconds]
    amplitudes = torch.randn(mics, sum(sizes), generator=generator) * 0.1
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    return Audio(amplitudes=amplitudes, rate_hz=rate_hz, offsets=offsets)


def log_mel(op: AudioStudentOp) -> LogMel:
    return LogMel(
        rate_hz=16000.0,
        window_s=0.025,
        hop_s=0.01,
        num_mels=op.num_mels,
        low_hz=60.0,
        high_hz=7800.0,
        power=1,
        floor=1e-3,
        scale="htk",
        norm=None,
    )


def test_inputs_are_log_mels_of_windows_cut_by_hand() -> None:
    op = AudioCnn(**SHORT)
    given = sound(1.1)
    clips = op.describe(given)
    # Windows begin every quarter of a second, and the last ends with the recording.
    starts = [0, 4000, 8000, 17600 - 8000]
    expected = [log_mel(op)(given.amplitudes[:, s : s + 8000]) for s in starts]
    assert clips.offsets.tolist() == [0, 4]
    torch.testing.assert_close(clips.inputs, torch.stack(expected))


def test_other_rates_are_brought_to_the_ops() -> None:
    op = AudioCnn(**SHORT)
    given = sound(0.5, rate_hz=44100.0)
    expected = log_mel(op)(resample(given.amplitudes, 44100.0, 16000.0))
    torch.testing.assert_close(op.describe(given).inputs[0], expected)


def test_several_microphones_are_averaged_or_kept() -> None:
    given = sound(0.5, mics=2)
    mean = replace(given, amplitudes=given.amplitudes.mean(dim=0, keepdim=True))
    one = AudioCnn(**SHORT)
    torch.testing.assert_close(one.describe(given).inputs, one.describe(mean).inputs)
    both = AudioCnn(**SHORT, mics=2).describe(given).inputs
    assert both.shape[1] == 2
    torch.testing.assert_close(both[0], log_mel(one)(given.amplitudes))


def test_phase_tells_on_which_side_a_sound_is() -> None:
    """A sample of delay turns the coherence of a band by its frequency."""
    noise = sound(0.6).amplitudes
    op = AudioCnn(**SHORT, mics=2, phase=True)
    left = torch.cat([noise[:, 1:8001], noise[:, :8000]])
    together = torch.cat([noise[:, :8000]] * 2)

    def seen(amplitudes: Tensor) -> Tensor:
        offsets = torch.tensor([0, 8000])
        return op.describe(Audio(amplitudes=amplitudes, rate_hz=16000.0, offsets=offsets)).inputs[0]

    assert op.in_shape[0] == 4
    assert (seen(together)[2] > 0.99).all()
    assert (seen(together)[3].abs() < 1e-3).all()
    later = seen(left)
    centre_hz = 2000.0
    filters = log_mel(op).filters()
    mean_hz = filters @ torch.arange(257.0) / filters.sum(dim=1) * 31.25
    band = int((mean_hz - centre_hz).abs().argmin())
    angle = torch.atan2(later[3, band], later[2, band]).mean()
    assert abs(float(angle) + 2 * math.pi * centre_hz / 16000) < 0.1


@OPS
def test_rows_of_recordings(op: AudioCnn | AudioTransformer) -> None:
    """Long, none, a single sample, exactly one window; the missing one weighs nothing."""
    net = op.build(channels=6, space="unit").eval()
    found = op(net, sound(7.3, 0.0, 1 / 16000, 0.5))
    assert found.offsets.tolist() == [0, 1, 2, 3, 4]
    assert found.valid.tolist() == [True, False, True, True]
    assert found.weight.tolist() == [1.0, 0.0, 1.0, 1.0]
    assert torch.isfinite(found.rows).all()
    assert (found.rows[1] == 0).all()
    torch.testing.assert_close(found.rows[[0, 2, 3]].norm(dim=1), torch.ones(3))


@OPS
def test_a_row_is_the_mean_over_its_windows(op: AudioCnn | AudioTransformer) -> None:
    net = op.build(channels=6, space="simplex").eval()
    given = sound(1.1, 0.6)
    clips = op.describe(given)
    windows = net(clips.inputs)
    expected = torch.stack([windows[:4].mean(dim=0), windows[4:].mean(dim=0)])
    torch.testing.assert_close(op(net, given).rows, expected)
    torch.testing.assert_close(op(net, given).rows.sum(dim=1), torch.ones(2))


def test_recordings_do_not_see_each_other() -> None:
    op = AudioCnn(**SHORT)
    net = op.build(channels=6).eval()
    given = sound(0.7, 0.5, 1.3)
    one, two, three = given.amplitudes.split(given.offsets.diff().tolist(), dim=1)
    turned = Audio(
        amplitudes=torch.cat([three, one, two], dim=1),
        rate_hz=16000.0,
        offsets=torch.tensor([0, 20800, 32000, 40000]),
    )
    torch.testing.assert_close(
        op(net, turned).rows, op(net, given).rows[[2, 0, 1]], rtol=1e-4, atol=1e-5
    )


def test_no_recordings_and_only_empty_ones() -> None:
    op = AudioCnn(**SHORT)
    net = op.build(channels=6)
    nothing = op(net, sound())
    assert nothing.rows.shape == (0, 6)
    empty = op(net.train(), sound(0.0, 0.0))
    assert empty.valid.tolist() == [False, False]
    assert (empty.rows == 0).all()


def test_silence_is_heard_as_silence() -> None:
    op = AudioCnn(**SHORT)
    silent = replace(sound(0.5), amplitudes=torch.zeros(1, 8000))
    inputs = op.describe(silent).inputs
    torch.testing.assert_close(inputs, torch.full_like(inputs, math.log(1e-3)))
    found = op(op.build(channels=6).eval(), silent)
    assert found.valid.all()
    assert torch.isfinite(found.rows).all()
    varied = op.vary(inputs, torch.Generator().manual_seed(0))
    torch.testing.assert_close(varied, inputs)


def test_gradients_reach_the_student() -> None:
    op = AudioCnn(**SHORT)
    net = op.build(channels=6)
    op(net, sound(0.9, 0.0, 0.5)).rows.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_variation_follows_its_generator() -> None:
    op = AudioCnn(**SHORT, mics=2, phase=True)
    inputs = op.describe(sound(3.0, mics=2)).inputs
    first, again, other = (
        op.vary(inputs, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == inputs.shape
    assert torch.isfinite(first).all()


def test_without_variation_nothing_changes() -> None:
    op = AudioCnn(**{**SHORT, "mask_mels": 0}, gain_db=0.0, shift=0.0, mask_time=0.0)
    inputs = op.describe(sound(1.0)).inputs
    varied = op.vary(inputs, torch.Generator().manual_seed(0))
    torch.testing.assert_close(varied, inputs, rtol=1e-4, atol=1e-4)


def test_a_gain_is_that_of_louder_sound() -> None:
    op = AudioCnn(**{**SHORT, "mask_mels": 0}, gain_db=6.0, shift=0.0, mask_time=0.0)
    given = sound(0.5)
    inputs = op.describe(given).inputs
    varied = op.vary(inputs, torch.Generator().manual_seed(0))
    drawn = float(torch.rand(1, generator=torch.Generator().manual_seed(0))) * 2 - 1
    louder = replace(given, amplitudes=given.amplitudes * 10 ** (drawn * 6.0 / 20))
    torch.testing.assert_close(varied, op.describe(louder).inputs, rtol=1e-4, atol=1e-4)


def test_a_shift_turns_all_bands_alike() -> None:
    op = AudioCnn(**{**SHORT, "mask_mels": 0}, gain_db=0.0, shift=0.3, mask_time=0.0)
    inputs = op.describe(sound(2.0)).inputs
    varied = op.vary(inputs, torch.Generator().manual_seed(0))
    frames = inputs.shape[-1]
    for before, after in zip(inputs, varied, strict=True):
        found = [s for s in range(frames) if torch.allclose(before.roll(s, -1), after, atol=1e-4)]
        assert len(found) == 1
        assert min(found[0], frames - found[0]) <= round(0.3 * frames)


def test_dense_maps_of_recordings() -> None:
    op = GridDecoderOp(**SHORT, grid_hw=(8, 16), mics=2, phase=True, positive=True)
    net = op.build(channels=1).eval()
    given = sound(0.5, 0.0, 0.8, mics=2)
    found = op(net, given)
    assert isinstance(found, Grids)
    assert found.grid_hw == (8, 16)
    assert found.offsets.tolist() == [0, 128, 256, 384]
    assert found.valid.view(3, 128).all(dim=1).tolist() == [True, False, True]
    assert (found.rows[128:256] == 0).all()
    windows = net(op.describe(given).inputs)
    torch.testing.assert_close(found.rows[256:], windows[1:].mean(dim=0))
    assert (found.rows[:128] > 0).all()


def test_positive_probabilities_are_refused() -> None:
    with pytest.raises(DataError, match="positive"):
        GridDecoderOp(**SHORT, positive=True).build(channels=3, space="simplex")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_samples_that_are_no_numbers_are_refused(bad: float) -> None:
    given = sound(0.5, 0.0, 0.5)
    given.amplitudes[0, 9000] = bad
    with pytest.raises(DataError, match="recording 2 of the batch"):
        AudioCnn(**SHORT).describe(given)


def test_other_microphones_are_refused() -> None:
    with pytest.raises(DataError, match="sound of 3 microphones"):
        AudioCnn(**SHORT, mics=3).describe(sound(0.5, mics=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_s": 0.0}, "window_s"),
        ({"hop_s": 0.0}, "hop_s"),
        ({"frame_hop_s": 0.0}, "frame_hop_s"),
        ({"window_s": 0.01}, "longer than window_s"),
        ({"mics": 0}, "mics"),
        ({"phase": True}, "at least 2 for `phase`"),
        ({"high_hz": 9000.0}, "half of rate_hz"),
        ({"low_hz": 7800.0}, "low_hz"),
        ({"mask_mels": 64}, "mask_mels"),
        ({"gain_db": -1.0}, "gain_db"),
        ({"shift": 1.0}, "shift"),
        ({"dropout": -0.1}, "dropout"),
        ({"mask_time": 1.5}, "mask_time"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AudioCnn(**settings)


def test_bad_settings_of_one_op_are_refused() -> None:
    with pytest.raises(ValueError, match="patch"):
        AudioTransformer(patch=0)
    with pytest.raises(ValueError, match="levels"):
        GridDecoderOp(grid_hw=(4, 32))


def test_more_bands_than_frequencies_are_refused() -> None:
    with pytest.raises(DataError, match="mel filters fall between"):
        AudioCnn(num_mels=300).build(channels=3)
