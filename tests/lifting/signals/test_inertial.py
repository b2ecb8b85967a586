"""Inertial readings: units that contradict themselves, gravity, magnitudes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from lifting.signals.inertial import (
    GRAVITY_MPS2,
    align_gravity,
    check_units,
    gravity_direction,
    gravity_rotation,
    magnitudes,
)

D = torch.float64


def swinging(rate_hz: float = 50.0, seconds: float = 10.0) -> tuple[torch.Tensor, ...]:
    """A sensor that rocks slowly about x, as sensors see it: at most 34 deg/s."""
    t = torch.arange(int(rate_hz * seconds), dtype=D) / rate_hz
    angle, rate = 1.0 * torch.sin(0.6 * t), 0.6 * torch.cos(0.6 * t)
    zero = torch.zeros_like(t)
    # World up in the sensor's frame, turned by R.T.
    accel = GRAVITY_MPS2 * torch.stack([zero, angle.sin(), angle.cos()], 1)
    return accel, torch.stack([rate, zero, zero], 1), t


def test_right_readings_have_no_problem():
    accel, gyro, t = swinging()
    assert check_units(accel, gyro, t) == ()
    assert check_units(accel, gyro) == ()


@pytest.mark.parametrize(
    ("factor", "told"),
    [
        (1 / GRAVITY_MPS2, "these are g"),
        (1000 / GRAVITY_MPS2, "these are mg or cm/s^2"),
        (100.0, "these are mg or cm/s^2"),
        (0.01, "gravity has been taken out"),
        (4.0, "the unit is wrong"),
    ],
)
def test_accelerations_in_another_unit(factor, told):
    accel, gyro, t = swinging()
    (problem,) = check_units(accel * factor, gyro, t)
    assert told in problem
    assert "9.81" in problem


def test_fast_turns_in_degrees_are_seen_without_a_clock():
    accel, gyro, _ = swinging()
    (problem,) = check_units(accel, gyro * 180 / math.pi * 2)
    assert "degrees per second" in problem


def test_slow_turns_in_degrees_are_seen_by_how_gravity_turns():
    accel, gyro, t = swinging()
    degrees = gyro * 180 / math.pi
    assert float(degrees.abs().max()) < 40
    assert check_units(accel, degrees) == ()  # nothing to see without a clock
    (problem,) = check_units(accel, degrees, t)
    assert "0.017" in problem
    assert "degrees per second" in problem


def test_axes_that_do_not_agree():
    accel, gyro, t = swinging()
    (problem,) = check_units(accel, -gyro, t)
    assert "axes do not agree" in problem


def test_a_sensor_at_rest_and_shaken_ones_say_nothing_of_axes():
    accel, gyro, t = swinging()
    rest = accel[:1].expand_as(accel)
    assert check_units(rest, torch.zeros_like(gyro), t) == ()
    shaken = accel + 30 * torch.randn(accel.shape, generator=torch.Generator().manual_seed(0))
    assert not any("axes" in problem for problem in check_units(shaken, -gyro, t))


def test_no_readings_and_few():
    nothing = torch.zeros(0, 3)
    assert check_units(nothing, nothing) == ("there are no readings",)
    accel, gyro, t = swinging()
    assert check_units(accel[:3], -gyro[:3], t[:3]) == ()
    assert check_units(accel[:1], gyro[:1], t[:1]) == ()


@pytest.mark.parametrize("up", [[0, 0, 1], [0, 0, -1], [1, 0, 0], [0.3, -0.9, 0.2], [0, 1e-9, -1]])
def test_gravity_is_turned_up(up):
    up = torch.nn.functional.normalize(torch.tensor(up, dtype=D), dim=0)
    accel = GRAVITY_MPS2 * up.expand(20, 3)
    gyro = torch.randn(20, 3, dtype=D)
    turned, turned_gyro = align_gravity(accel, gyro)
    expected = torch.tensor([0, 0, GRAVITY_MPS2], dtype=D)
    assert torch.allclose(turned, expected.expand(20, 3), atol=1e-6)
    R = gravity_rotation(accel)
    assert torch.allclose(R @ R.T, torch.eye(3, dtype=D), atol=1e-9)
    assert float(torch.linalg.det(R)) == pytest.approx(1.0)
    assert torch.allclose(turned_gyro.norm(dim=1), gyro.norm(dim=1))


def test_heading_stays_and_alignment_is_stable():
    accel, gyro, _ = swinging()
    once = align_gravity(accel + torch.tensor([0.5, 0.0, 0.0], dtype=D), gyro)
    twice = align_gravity(*once)
    assert torch.allclose(once[0], twice[0], atol=1e-9)


@pytest.mark.parametrize(
    "accel",
    [torch.zeros(0, 3), torch.full((4, 3), math.nan), torch.eye(3).repeat(2, 1) * 0],
)
def test_no_gravity_is_refused(accel):
    with pytest.raises(ValueError, match="gravity"):
        gravity_direction(accel)


def test_accelerations_that_cancel_are_refused():
    with pytest.raises(ValueError, match="cancel out"):
        gravity_direction(torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]))


def test_magnitudes_do_not_turn():
    accel, gyro = torch.tensor([[3.0, 4.0, 0.0]]), torch.tensor([[0.0, 5.0, 12.0]])
    assert magnitudes(accel, gyro).tolist() == [[5, 13]]


def test_alignment_has_a_gradient():
    accel = (torch.randn(5, 3, dtype=D) + 9).requires_grad_()
    gyro = torch.randn(5, 3, dtype=D, requires_grad=True)
    assert gradcheck(align_gravity, (accel, gyro))
