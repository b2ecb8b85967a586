"""Ops of students of motion and skeletons: what they are shown, how it varies, their rows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from xmodal.edges.encode.imu_tcn import ImuTcn
from xmodal.edges.encode.imu_transformer import ImuTransformerOp
from xmodal.edges.encode.joints import PARENTS, filled, joint_features, root_of
from xmodal.edges.encode.skeleton_net import SkeletonNetOp
from xmodal.errors import DataError
from xmodal.values import Imu, Skeleton

IMU_OPS = pytest.mark.parametrize(
    "op", [ImuTcn(size="micro", window_s=1.0), ImuTransformerOp(size="micro", window_s=1.0)]
)


def imu(*sizes: int, rate_hz: float = 50.0, seed: int = 0) -> Imu:
    """Noise beside gravity, one recording for each size."""
    generator = torch.Generator().manual_seed(seed)
    num = sum(sizes)
    readings = torch.randn(num, 6, generator=generator)
    gravity = torch.tensor([0.0, 0.0, 9.81])
    time_s = torch.cat([torch.arange(size) / rate_hz for size in sizes] or [torch.zeros(0)])
    return Imu(
        accel_mps2=readings[:, :3] + gravity,
        gyro_radps=readings[:, 3:],
        time_s=time_s,
        offsets=torch.tensor([0, *sizes]).cumsum(0),
    )


def body(*sizes: int, joints: int = 20, seed: int = 0) -> Skeleton:
    """A skeleton that shakes, one recording for each size, 30 frames a second."""
    generator = torch.Generator().manual_seed(seed)
    rest = torch.randn(joints, 3, generator=generator)
    shaken = rest + 0.05 * torch.randn(sum(sizes), joints, 3, generator=generator)
    time_s = torch.cat([torch.arange(size) / 30.0 for size in sizes] or [torch.zeros(0)])
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    return Skeleton(joints_m=shaken, time_s=time_s, offsets=offsets)


# ---- motion ------------------------------------------------------------------------------------


def test_inputs_are_readings_by_hand() -> None:
    op = ImuTcn(size="micro", window_s=1.0)
    given = imu(60)
    clips = op.describe(given)
    accel, gyro = given.accel_mps2 / 9.81, given.gyro_radps / 3.0
    rows = torch.cat(
        [
            accel,
            gyro,
            accel.norm(dim=1, keepdim=True),
            gyro.norm(dim=1, keepdim=True),
            torch.ones(60, 1),
        ],
        dim=1,
    )
    # 50 readings in a window; the second one ends with the recording.
    expected = torch.stack([rows[:50].T, rows[10:60].T])
    assert clips.offsets.tolist() == [0, 2]
    torch.testing.assert_close(clips.inputs, expected, rtol=1e-4, atol=1e-4)


def test_recordings_are_stretched_to_one_window() -> None:
    op = ImuTcn(size="micro", window_s=1.0, fit="stretch")
    line = torch.linspace(0, 1, 99)[:, None].repeat(1, 3)
    given = replace(imu(99), accel_mps2=line * 9.81, gyro_radps=line * 3.0)
    inputs = op.describe(given).inputs
    assert inputs.shape == (1, 9, 50)
    # The ends are where a coarser clock has less to average over.
    torch.testing.assert_close(
        inputs[0, 0, 1:-1], torch.linspace(0, 1, 50)[1:-1], atol=1e-3, rtol=0
    )
    assert (inputs[0, -1, :-1] == 1).all()


@pytest.mark.parametrize("normalise", ["recording", "centred"])
def test_offsets_of_a_sensor_do_not_matter_once_centred(normalise: str) -> None:
    op = ImuTcn(size="micro", window_s=1.0, normalise=normalise)  # pyright: ignore
    given = imu(50)
    moved = replace(given, gyro_radps=given.gyro_radps + torch.tensor([1.0, -2.0, 0.5]))
    torch.testing.assert_close(
        op.describe(given).inputs[:, :6], op.describe(moved).inputs[:, :6], atol=1e-4, rtol=1e-4
    )


def test_scale_of_a_sensor_does_not_matter_in_its_own_units() -> None:
    op = ImuTcn(size="micro", window_s=1.0, normalise="recording")
    given = imu(50)
    doubled = replace(given, gyro_radps=2 * given.gyro_radps)
    inputs = op.describe(given).inputs
    torch.testing.assert_close(inputs, op.describe(doubled).inputs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        inputs[:, 3:6].square().mean(), torch.tensor(1.0), atol=1e-3, rtol=1e-3
    )


def test_a_turned_sensor_gives_the_same_up_once_aligned() -> None:
    op = ImuTcn(size="micro", window_s=1.0, align=True)
    given = imu(50)
    turned = replace(
        given,
        accel_mps2=given.accel_mps2[:, [1, 2, 0]],
        gyro_radps=given.gyro_radps[:, [1, 2, 0]],
    )
    ours, theirs = op.describe(given).inputs, op.describe(turned).inputs
    # Heading is not known: up and lengths are.
    torch.testing.assert_close(ours[:, [2, 5, 6, 7]], theirs[:, [2, 5, 6, 7]], atol=1e-4, rtol=1e-4)


@IMU_OPS
def test_rows_of_motion(op: ImuTcn) -> None:
    net = op.build(channels=6, space="unit").eval()
    found = op(net, imu(3000, 0, 1, 20))
    assert found.valid.tolist() == [True, False, True, True]
    assert found.weight.tolist() == [1.0, 0.0, 1.0, 1.0]
    assert torch.isfinite(found.rows).all()
    assert (found.rows[1] == 0).all()


@IMU_OPS
def test_recordings_do_not_see_each_other(op: ImuTcn) -> None:
    net = op.build(channels=6).eval()
    together = op(net, imu(70, 30)).rows
    given = imu(70, 30)
    alone = Imu(
        accel_mps2=given.accel_mps2[70:],
        gyro_radps=given.gyro_radps[70:],
        time_s=given.time_s[70:],
        offsets=torch.tensor([0, 30]),
    )
    torch.testing.assert_close(op(net, alone).rows, together[1:], rtol=1e-4, atol=1e-5)


@IMU_OPS
def test_gradients_reach_the_student(op: ImuTcn) -> None:
    net = op.build(channels=6)
    op(net, imu(70, 0, 1)).rows.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_a_pause_is_no_reading() -> None:
    op = ImuTcn(size="micro", window_s=2.0)
    given = imu(80)
    given.time_s[40:] += 0.41
    seen = op.describe(given).inputs[0, -1]
    missing = (seen == 0).nonzero().squeeze(1)
    assert 15 <= len(missing) <= 25
    assert torch.equal(missing, torch.arange(int(missing[0]), int(missing[-1]) + 1))


def test_clocks_that_count_from_years_ago_are_read() -> None:
    op = ImuTcn(size="micro", window_s=1.0)
    given = imu(60)
    later = replace(given, time_s=given.time_s.double() + 1.7e9)
    torch.testing.assert_close(
        op.describe(later).inputs, op.describe(given).inputs, rtol=1e-4, atol=1e-4
    )


def test_readings_that_are_no_numbers_count_as_missing() -> None:
    op = ImuTcn(size="micro", window_s=1.0)
    given = imu(50, 50)
    given.accel_mps2[10:40, 1] = math.nan
    given.gyro_radps[50:] = math.nan
    clips = op.describe(given)
    assert clips.offsets.tolist() == [0, 1, 1]
    assert torch.isfinite(clips.inputs).all()
    assert 25 <= int((clips.inputs[0, -1] == 0).sum()) <= 35
    assert op(op.build(channels=4).eval(), given).valid.tolist() == [True, False]


def test_a_sensor_at_rest_has_no_spread_and_no_nan() -> None:
    op = ImuTcn(size="micro", window_s=1.0, normalise="recording")
    still = replace(
        imu(50),
        accel_mps2=torch.tensor([[0.0, 0.0, 9.81]]).repeat(50, 1),
        gyro_radps=torch.zeros(50, 3),
    )
    inputs = op.describe(still).inputs
    assert torch.isfinite(inputs).all()
    assert (inputs[:, :8].abs() < 1e-2).all()


@pytest.mark.parametrize("op", [ImuTcn(size="micro"), ImuTransformerOp(size="micro")])
def test_variation_of_motion_follows_its_generator(op: ImuTcn) -> None:
    inputs = op.describe(imu(500, 20)).inputs
    first, again, other = (
        op.vary(inputs, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.isfinite(first).all()
    seen = first[:, -1:]
    assert ((seen == 0) | (seen == 1)).all()
    assert (first * (1 - seen) == 0).all()
    # The short recording stays short.
    assert abs(float(seen[-1].sum() - inputs[-1, -1].sum())) <= 6


def test_turning_keeps_lengths() -> None:
    op = ImuTcn(size="micro", scale=0.0, warp=0.0, jitter=0.0, turn_rad=3.0)
    inputs = op.describe(imu(400)).inputs
    varied = op.vary(inputs, torch.Generator().manual_seed(0))
    for axes, length in ((slice(0, 3), 6), (slice(3, 6), 7)):
        torch.testing.assert_close(
            varied[:, axes].norm(dim=1), inputs[:, length], rtol=1e-3, atol=1e-3
        )
    assert (varied[:, :6] - inputs[:, :6]).abs().max() > 0.1


def test_without_variation_nothing_changes() -> None:
    op = ImuTcn(size="micro", scale=0.0, warp=0.0, jitter=0.0, turn_rad=0.0)
    inputs = op.describe(imu(400)).inputs
    varied = op.vary(inputs, torch.Generator().manual_seed(0))
    torch.testing.assert_close(varied, inputs, rtol=1e-3, atol=1e-4)


def test_clocks_that_stand_still_are_refused() -> None:
    given = imu(40, 40)
    given.time_s[60] = given.time_s[59]
    with pytest.raises(DataError, match="recording 1 of the batch"):
        ImuTcn().describe(given)
    with pytest.raises(DataError, match="recording 0 of the batch"):
        ImuTcn().describe(replace(imu(40), time_s=torch.full((40,), math.nan)))


def test_the_clock_of_the_next_recording_begins_anew() -> None:
    assert len(ImuTcn(window_s=1.0).describe(imu(50, 50))) == 2


def test_motion_without_gravity_cannot_be_aligned() -> None:
    wave = torch.sin(torch.arange(50) * 2 * math.pi / 50)[:, None].repeat(1, 3)
    given = replace(imu(50), accel_mps2=wave)
    with pytest.raises(DataError, match="gravity"):
        ImuTcn(align=True).describe(given)


@pytest.mark.parametrize("kind", [ImuTcn, SkeletonNetOp])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate_hz": 0.0}, "rate_hz"),
        ({"window_s": -1.0}, "window_s"),
        ({"max_gap_s": 0.0}, "max_gap_s"),
        ({"fit": "stretch", "hop_s": 1.0}, "no effect"),
        ({"turn_rad": -1.0}, "turn_rad"),
        ({"jitter": math.inf}, "jitter"),
        ({"warp": 1.0}, "warp"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_settings_are_refused(
    kind: type[ImuTcn], settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)  # pyright: ignore


def test_a_patch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="patch"):
        ImuTransformerOp(patch=0)


# ---- skeletons ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", list(PARENTS))
def test_every_joint_hangs_on_the_root(layout: str) -> None:
    parents = PARENTS[layout]  # pyright: ignore
    assert sum(joint == parent for joint, parent in enumerate(parents)) == 1
    for joint in range(len(parents)):
        for _ in parents:
            joint = parents[joint]
        assert joint == root_of(parents)


def test_joints_by_hand() -> None:
    """Two joints on a hip that walks: places and bones stay, velocities are the walk's."""
    parents = (1, 1, 1)
    rest = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    walk = torch.tensor([0.3, 0.0, 0.0]) * torch.arange(4)[:, None, None]
    found = joint_features(rest + walk, torch.ones(4, 3, dtype=torch.bool), parents, 10.0)
    unit_m = 1.5  # the mean of both bones
    assert found.shape == (10, 3, 4)
    torch.testing.assert_close(found[:3, 0, 2], torch.tensor([0.0, 2.0, 0.0]) / unit_m)
    torch.testing.assert_close(found[3:6, 2, 3], torch.tensor([0.0, 0.0, 1.0]) / unit_m)
    torch.testing.assert_close(found[6:9, 1, 1], torch.tensor([0.3, 0.0, 0.0]) / unit_m)
    assert (found[6:9, :, 0] == 0).all()
    assert (found[9] == 1).all()


def test_where_a_body_stands_and_how_tall_it_is_does_not_matter() -> None:
    op = SkeletonNetOp(size="micro", window_s=1.0)
    given = body(40)
    moved = replace(given, joints_m=given.joints_m * 1.3 + torch.tensor([1.0, -2.0, 3.0]))
    torch.testing.assert_close(
        op.describe(given).inputs, op.describe(moved).inputs, rtol=1e-3, atol=1e-3
    )


def test_lost_joints_are_filled_in_by_hand() -> None:
    joints = torch.arange(5.0)[:, None, None].repeat(1, 3, 3)
    joints[1:3, 0] = math.nan
    joints[:2, 1] = math.nan
    joints[:, 2] = math.nan
    places, tracked = filled(joints)
    assert places[:, 0, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert places[:, 1, 0].tolist() == [2.0, 2.0, 2.0, 3.0, 4.0]
    assert places[:, 2, 0].tolist() == [0.0] * 5
    assert tracked.sum(dim=0).tolist() == [3, 3, 0]


def test_lost_joints_are_marked_and_zero() -> None:
    op = SkeletonNetOp(size="micro", window_s=1.0)
    given = body(30)
    given.joints_m[5:12, 3] = math.nan
    inputs = op.describe(given).inputs
    assert torch.isfinite(inputs).all()
    assert (inputs[0, 9, 3, 6:11] == 0).all()
    assert (inputs[0, :, 3, 6:11] == 0).all()
    assert (inputs[0, 9, 3, 14:] == 1).all()
    assert (inputs[0, 9, 4] == 1).all()


@pytest.mark.parametrize("fit", ["windows", "stretch"])
def test_rows_of_skeletons(fit: str) -> None:
    op = SkeletonNetOp(size="micro", window_s=1.0, fit=fit)  # pyright: ignore
    given = body(500, 0, 1, 10, 30)
    given.joints_m[-30:] = math.nan
    net = op.build(channels=6, space="unit").eval()
    found = op(net, given)
    assert found.valid.tolist() == [True, False, True, True, False]
    assert torch.isfinite(found.rows).all()
    assert (found.rows[[1, 4]] == 0).all()


def test_velocities_are_those_of_the_recording_when_it_is_stretched() -> None:
    walk = torch.linspace(0, 1, 61)[:, None, None] * torch.tensor([1.0, 0.0, 0.0])
    still = body(1).joints_m
    given = replace(body(61), joints_m=still + walk)
    usual = SkeletonNetOp(size="micro", window_s=2.0).describe(given).inputs
    stretched = SkeletonNetOp(size="micro", window_s=1.0, fit="stretch").describe(given).inputs
    torch.testing.assert_close(
        usual[0, 6, :, 10:50].mean(), stretched[0, 6, :, 10:20].mean(), rtol=1e-2, atol=1e-3
    )


def test_variation_of_skeletons_follows_its_generator() -> None:
    op = SkeletonNetOp(size="micro", window_s=1.0, hide_joints=0.3)
    inputs = op.describe(body(100)).inputs
    first, again, other = (
        op.vary(inputs, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == inputs.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.isfinite(first).all()
    hidden = (first[:, 9] == 0).all(dim=2)
    assert 0.1 < hidden.float().mean() < 0.5
    assert (first.movedim(1, 3)[hidden] == 0).all()


def test_a_turned_body_keeps_heights_and_lengths() -> None:
    op = SkeletonNetOp(
        size="micro", window_s=1.0, scale=0.0, warp=0.0, jitter=0.0, hide_joints=0.0, turn_rad=2.0
    )
    inputs = op.describe(body(30)).inputs
    varied = op.vary(inputs, torch.Generator().manual_seed(0))
    for first in (0, 3, 6):
        vectors = slice(first, first + 3)
        assert _close(varied[:, first + 1], inputs[:, first + 1])
        assert _close(varied[:, vectors].norm(dim=1), inputs[:, vectors].norm(dim=1))
    assert not _close(varied, inputs)


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3)


def test_other_joints_are_refused() -> None:
    with pytest.raises(DataError, match="20 joints, as in the layout `kinect20`"):
        SkeletonNetOp().describe(body(30, joints=25))
    found = SkeletonNetOp(layout="kinect25", size="micro").describe(body(30, joints=25))
    assert found.inputs.shape[2] == 25


def test_bad_joints_to_hide_are_refused() -> None:
    with pytest.raises(ValueError, match="hide_joints"):
        SkeletonNetOp(hide_joints=1.0)
