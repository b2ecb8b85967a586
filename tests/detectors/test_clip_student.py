"""Students of recordings: shapes, spaces, gaps, shifts, sizes, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from detectors.audio_cnn import AttentivePooling, AudioCNN
from detectors.clip_student import ClipSize, ClipStudent, mean_and_max, num_parameters
from detectors.imu_tcn import ImuTCN
from detectors.imu_transformer import ImuTransformer
from detectors.skeleton_net import SkeletonNet
from detectors.spaces import Space
from detectors.spectrogram_transformer import SpectrogramTransformer
from detectors.temporal import Stage, TemporalTrunk
from tests.detectors.clips import KINDS, WITH_MARKS, inputs_for, trunk

YAMNET_WEIGHTS = 3_751_369


def student(kind: str, space: Space = "raw", channels: int = 7) -> ClipStudent:
    return ClipStudent(trunk(kind), channels, space=space).eval()


@KINDS
@pytest.mark.parametrize("num", [1, 3])
def test_one_row_for_each_window(kind: str, num: int) -> None:
    net = student(kind)
    inputs = inputs_for(net.trunk, num)
    assert net(inputs).shape == (num, 7) == (num, net.out_channels)
    assert net.encode(inputs).shape == (num, net.trunk.width)
    torch.testing.assert_close(net(inputs), net.decode(net.encode(inputs)))


@KINDS
def test_maps_are_those_it_names(kind: str) -> None:
    net = student(kind)
    maps = net.features(inputs_for(net.trunk, 2))
    assert tuple(part.shape[1] for part in maps) == net.trunk.map_channels
    assert all(part.shape[0] == 2 and torch.isfinite(part).all() for part in maps)


@KINDS
def test_rows_are_in_the_declared_space(kind: str) -> None:
    inputs = inputs_for(trunk(kind), 4)
    unit, simplex = student(kind, "unit")(inputs), student(kind, "simplex")(inputs)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(simplex.sum(dim=1), torch.ones(4))
    assert (simplex >= 0).all()


@KINDS
def test_every_weight_learns(kind: str) -> None:
    net = student(kind).train()
    inputs = inputs_for(net.trunk, 4)
    # Blocks begin as the way around them, so only a step later all of them have a gradient.
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.01 * torch.randn(parameter.shape)
    net(inputs).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@KINDS
def test_inputs_get_a_gradient(kind: str) -> None:
    net = student(kind)
    inputs = inputs_for(net.trunk, 2).requires_grad_()
    net(inputs).square().sum().backward()
    assert inputs.grad is not None
    assert torch.isfinite(inputs.grad).all()


@KINDS
def test_equal_seeds_give_equal_students(kind: str) -> None:
    inputs = inputs_for(trunk(kind), 2)
    assert torch.equal(student(kind)(inputs), student(kind)(inputs))


@KINDS
def test_windows_do_not_see_each_other(kind: str) -> None:
    net = student(kind)
    inputs = inputs_for(net.trunk, 5)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(net(inputs[order]), net(inputs)[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(inputs[2:3]), net(inputs)[2:3], rtol=1e-4, atol=1e-5)


@KINDS
@pytest.mark.parametrize("training", [False, True])
def test_nothing_but_zeros_gives_finite_rows(kind: str, training: bool) -> None:
    net = student(kind, "unit").train(training)
    inputs = torch.zeros(2, *net.in_shape, requires_grad=True)
    rows = net(inputs)
    rows.sum().backward()
    assert torch.isfinite(rows).all()
    assert inputs.grad is not None
    assert torch.isfinite(inputs.grad).all()


@WITH_MARKS
def test_what_stands_in_gaps_has_no_effect(kind: str) -> None:
    net = student(kind)
    inputs = inputs_for(net.trunk, 3)
    inputs[:, -1, ..., 10:17] = 0.0
    other = inputs.clone()
    other[:, :-1, ..., 10:17] = 1e3
    if kind == "skeleton_net":  # joints that are not tracked do come in as zeros
        other[:, :-1] *= other[:, -1:]
        inputs[:, :-1] *= inputs[:, -1:]
    torch.testing.assert_close(net(inputs), net(other))
    torch.testing.assert_close(net.features(inputs)[-1], net.features(other)[-1])


def test_behind_the_end_of_a_recording_nothing_counts() -> None:
    """Rows of a short recording do not depend on how long its window is."""
    torch.manual_seed(0)
    short, long = ImuTCN(32, "micro").eval(), ImuTCN(64, "micro").eval()
    long.load_state_dict(short.state_dict())
    inputs = inputs_for(short, 2)
    padded = torch.nn.functional.pad(inputs, (0, 32))
    torch.testing.assert_close(short(inputs).rows, long(padded).rows)


@pytest.mark.parametrize(
    ("kind", "shift"), [("imu_tcn", 4), ("imu_tcn", 8), ("audio_cnn", 16), ("skeleton_net", 4)]
)
def test_rows_stay_when_an_event_comes_later(kind: str, shift: int) -> None:
    """The shift is a multiple of the strides, and the event far from both ends."""
    long = {
        "imu_tcn": ImuTCN(256, "micro"),
        "audio_cnn": AudioCNN(1, 32, 320, "micro"),
        "skeleton_net": SkeletonNet((1, 2, 2, 2, 3), 256, "micro"),
    }[kind].eval()
    inputs = torch.zeros(1, *long.in_shape)
    if kind != "audio_cnn":
        inputs[:, -1] = 1.0
    middle = inputs.shape[-1] // 2
    inputs[:, :-1, ..., middle : middle + 5] = torch.randn(inputs[:, :-1, ..., :5].shape)
    if kind == "audio_cnn":
        inputs[:, :, ..., middle : middle + 5] = torch.randn(1, 1, 32, 5)
    moved = inputs.roll(shift, -1)
    torch.testing.assert_close(long(inputs).rows, long(moved).rows, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(long(inputs).maps[-1], long(moved).maps[-1])


def test_loud_and_soft_bands_are_told_apart_after_normalisation() -> None:
    """A band that is a hundred times as loud as another does not drown it, once it is known."""
    net = AudioCNN(1, 16, 20, "micro").train()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 1, 16, 20, generator=generator)
    inputs[:, :, 3] *= 100
    inputs[:, :, 4] -= 50
    normal = net.frequencies(inputs.flatten(1, 2))
    torch.testing.assert_close(normal.mean(dim=(0, 2)), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal.std(dim=(0, 2)), torch.ones(16), atol=1e-2, rtol=0)


@KINDS
def test_the_start_is_where_the_teacher_is(kind: str) -> None:
    net = student(kind, "simplex", channels=5)
    teacher = torch.tensor([[0.6, 0.1, 0.1, 0.1, 0.1]]).repeat(50, 1)
    net.start_from(teacher + 0.01 * torch.rand(50, 5))
    rows = net(inputs_for(net.trunk, 8))
    assert (rows.argmax(dim=1) == 0).all()


def test_a_start_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="gives 7 channels, the rows have 5"):
        student("imu_tcn").start_from(torch.rand(10, 5))


@KINDS
def test_inputs_of_another_shape_are_refused(kind: str) -> None:
    net = student(kind)
    inputs = inputs_for(net.trunk, 2)
    with pytest.raises(ValueError, match="one input has the shape"):
        net(inputs[..., :-1])
    with pytest.raises(ValueError, match="one input has the shape"):
        net(inputs[:, :-1])


@pytest.mark.parametrize(
    "settings",
    [
        {"out_channels": 0},
        {"out_channels": 3, "head_channels": 0},
        {"out_channels": 3, "dropout": 1.0},
    ],
)
def test_bad_settings_of_a_student_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        ClipStudent(trunk("imu_tcn"), **settings)  # pyright: ignore[reportArgumentType]


def test_bad_shapes_of_trunks_are_refused() -> None:
    with pytest.raises(ValueError, match="no spectrogram"):
        AudioCNN(0, 64, 98)
    with pytest.raises(ValueError, match="no spectrogram"):
        SpectrogramTransformer(1, 64, 98, patch=0)
    with pytest.raises(ValueError, match="at least one reading"):
        ImuTCN(0)
    with pytest.raises(ValueError, match="no window"):
        ImuTransformer(0)
    with pytest.raises(ValueError, match="not a window"):
        SkeletonNet((0, 1, 7), 10)
    with pytest.raises(ValueError, match="not a window"):
        SkeletonNet((), 10)
    with pytest.raises(ValueError, match="odd kernel"):
        TemporalTrunk(3, (Stage(8),), kernel=4)
    with pytest.raises(ValueError, match="odd kernel"):
        TemporalTrunk(3, ())


def test_presets_have_the_size_they_say() -> None:
    sound = {s: ClipStudent(AudioCNN(1, 64, 190, s), 1024, head_channels=h) for s, h in HEADS}
    assert num_parameters(sound["micro"]) < 0.1 * YAMNET_WEIGHTS
    seen = {s: ClipStudent(SpectrogramTransformer(1, 64, 190, s), 1024) for s, _ in HEADS}
    for made in (sound, seen):
        assert num_parameters(made["tiny"]) < 1_000_000
        sizes = [num_parameters(made[s]) for s, _ in HEADS]
        assert sizes == sorted(sizes)
    for net in (ImuTCN(160), ImuTransformer(160), SkeletonNet(tuple([0] * 20), 96)):
        assert num_parameters(ClipStudent(net, 512)) < 1_000_000


HEADS: tuple[tuple[ClipSize, int], ...] = (
    ("micro", 96), ("tiny", 128), ("small", 128), ("base", 128),
)  # fmt: skip


def test_mean_and_max_by_hand() -> None:
    x = torch.tensor([[[1.0, -3.0, 2.0], [-1.0, -2.0, -6.0]]])
    seen = torch.tensor([[[1.0, 0.0, 1.0]]])
    assert mean_and_max(x).tolist() == [[0.0, -3.0, 2.0, -1.0]]
    assert mean_and_max(x, seen).tolist() == [[1.5, -3.5, 2.0, -1.0]]
    assert mean_and_max(x, torch.zeros(1, 1, 3)).tolist() == [[0.0] * 4]


def test_attention_over_equal_frames_is_their_mean() -> None:
    pooled = AttentivePooling(4)(torch.full((2, 4, 9), 3.0))
    torch.testing.assert_close(pooled[:, :4], torch.full((2, 4), 3.0))
    torch.testing.assert_close(pooled[:, 4:], torch.full((2, 4), 1e-5**0.5))


def test_dropout_only_while_training() -> None:
    net = ClipStudent(trunk("imu_tcn"), 7, dropout=0.5)
    inputs = inputs_for(net.trunk, 4)
    torch.manual_seed(1)
    first, second = net.train()(inputs), net(inputs)
    assert not torch.equal(first, second)
    assert torch.equal(net.eval()(inputs), net(inputs))
