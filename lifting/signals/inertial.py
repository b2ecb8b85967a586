"""Inertial readings: units and axes that contradict themselves, gravity, magnitudes."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lifting.signals.resampling import usual_spacing

GRAVITY_MPS2 = 9.80665

# Somebody who jumps, throws or boxes has a median well below twice gravity; free fall is short.
_GRAVITY_RANGE = (0.5, 2.5)
# Gyroscopes for people and vehicles end at 2000 deg/s, 35 rad/s.
_MAX_TURN_RADPS = 40.0
# The test of the gyroscope against gravity: length of a step, least turn seen, least agreement.
_STEP_S, _LEAST_TURN_RAD, _LEAST_AGREEMENT = 0.25, 1.0, 0.8
_CALM = 0.3
_LEAST_STEPS = 8


def check_units(
    accel: Float[Tensor, "N 3"],
    gyro: Float[Tensor, "N 3"],
    time_s: Float[Tensor, " N"] | None = None,
) -> tuple[str, ...]:
    """What speaks against m/s^2 with gravity, rad/s and common axes; empty if nothing does.

    The median length of the acceleration must be near gravity. Rates of turn must be within what
    gyroscopes can measure. With time stamps, gravity must also turn in the sensor's frame as the
    gyroscope says: a factor near 0.017 shows degrees, a negative one axes that do not agree.

    Args:
        accel: Accelerations with gravity, claimed to be in m/s^2.
        gyro: Rates of turn, claimed to be in rad/s.
        time_s: When they were read.
    """
    if not len(accel):
        return ("there are no readings",)
    problems: list[str] = []
    length = float(torch.linalg.vector_norm(accel, dim=1).median())
    low, high = (GRAVITY_MPS2 * factor for factor in _GRAVITY_RANGE)
    if not low <= length <= high:
        problems.append(
            f"the median acceleration is {length:.4g}, gravity is 9.81 m/s^2: {_unit_of(length)}"
        )
    fastest = float(gyro.abs().max())
    if not fastest <= _MAX_TURN_RADPS:
        problems.append(
            f"the fastest turn is {fastest:.4g}, no gyroscope of this kind measures more than "
            f"{_MAX_TURN_RADPS:g} rad/s: these are degrees per second"
        )
    elif time_s is not None and low <= length <= high:
        problems += _turn_problems(accel, gyro, time_s)
    return tuple(problems)


def gravity_direction(accel: Float[Tensor, "N 3"]) -> Float[Tensor, " 3"]:
    """Unit vector of the mean acceleration: straight up, where the sensor was at rest or cyclic.

    An accelerometer at rest measures what holds it up, so its reading points away from the ground.

    Raises:
        ValueError: If there are no readings, one is not finite, or their mean is nearly zero.
    """
    if not len(accel) or not bool(accel.isfinite().all()):
        raise ValueError("the direction of gravity needs finite readings")
    mean = accel.mean(0)
    length = torch.linalg.vector_norm(mean)
    usual = torch.linalg.vector_norm(accel, dim=1).mean()
    # Means of random directions are about 1/sqrt(N) long.
    if not float(length.detach()) > 1e-3 * float(usual.detach()):
        raise ValueError("accelerations cancel out: gravity has been taken out of them")
    return mean / length


def gravity_rotation(accel: Float[Tensor, "N 3"]) -> Float[Tensor, "3 3"]:
    """The smallest rotation that turns mean gravity to +z; see `gravity_direction`."""
    up = gravity_direction(accel)
    x, y, z = up.unbind()
    if float(z.detach()) < -1 + 1e-6:  # upside down: half a turn about x
        return torch.diag(accel.new_tensor([1.0, -1.0, -1.0]))
    share = 1 / (1 + z)
    return torch.stack(
        [
            torch.stack([1 - x * x * share, -x * y * share, -x]),
            torch.stack([-x * y * share, 1 - y * y * share, -y]),
            torch.stack([x, y, z]),
        ]
    )


def align_gravity(
    accel: Float[Tensor, "N 3"], gyro: Float[Tensor, "N 3"]
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
    """Both, turned by one rotation so that mean gravity is +z. Heading stays as it was.

    Raises:
        ValueError: As `gravity_direction`.
    """
    R = gravity_rotation(accel)
    return accel @ R.T, gyro @ R.T


def magnitudes(accel: Float[Tensor, "N 3"], gyro: Float[Tensor, "N 3"]) -> Float[Tensor, "N 2"]:
    """Length of acceleration and of rate of turn: the same however the sensor is worn."""
    return torch.stack([torch.linalg.vector_norm(v, dim=1) for v in (accel, gyro)], 1)


def _unit_of(length: float) -> str:
    """What a median length of acceleration looks like."""
    for unit, gravity in (("g", 1.0), ("mg or cm/s^2", 1000.0)):
        if _GRAVITY_RANGE[0] * gravity <= length <= _GRAVITY_RANGE[1] * gravity:
            return f"these are {unit}"
    if length < _GRAVITY_RANGE[0]:
        return "gravity has been taken out, or the unit is wrong"
    return "the unit is wrong"


def _turn_problems(accel: Tensor, gyro: Tensor, time_s: Tensor) -> list[str]:
    factor, agreement, turned_rad = _gravity_turn(accel, gyro, time_s)
    if agreement < _LEAST_AGREEMENT:
        return []
    if 0 < factor < 0.1 and turned_rad * factor > _LEAST_TURN_RAD:
        return [
            f"gravity turns {factor:.3f} times as fast as the gyroscope says "
            f"({math.pi / 180:.3f} means degrees per second)"
        ]
    if factor < -0.3 and turned_rad > _LEAST_TURN_RAD:
        return ["gravity turns against the gyroscope: their axes do not agree"]
    return []


def _gravity_turn(accel: Tensor, gyro: Tensor, time_s: Tensor) -> tuple[float, float, float]:
    """How much faster gravity turns than the gyroscope says; how well they agree; the whole turn.

    A direction at rest in the world changes by `-w x u` per second in the sensor's frame. Means
    over steps of a quarter second keep most of the shaking out; the sum of all turns is compared.
    """
    spacing_s = usual_spacing(time_s) if len(time_s) > 1 else math.inf
    step = max(1, round(_STEP_S / spacing_s)) if spacing_s > 0 else 1
    num = len(accel) // step
    if num < _LEAST_STEPS:
        return 1.0, 0.0, 0.0
    wide = (num, step, 3)
    up = accel[: num * step].double().reshape(wide).mean(1)
    up = up / torch.linalg.vector_norm(up, dim=1, keepdim=True).clamp_min(1e-9)
    # From the middle of a step to the middle of the next: the mean rate of the two halves.
    rate = gyro[: num * step].double().reshape(wide).mean(1)
    turn = (rate[1:] + rate[:-1]) / 2 * (step * spacing_s)
    # Throws and steps are no gravity: only what is about as long as gravity is compared.
    length = torch.linalg.vector_norm(accel[: num * step].double(), dim=1).reshape(num, step)
    calm = ((length / GRAVITY_MPS2 - 1).abs() < _CALM).all(1)
    calm = calm[1:] & calm[:-1]
    if int(calm.sum()) < _LEAST_STEPS:
        return 1.0, 0.0, 0.0
    said = -torch.linalg.cross(turn, (up[1:] + up[:-1]) / 2)[calm]
    seen = (up[1:] - up[:-1])[calm]
    square = float(said.square().sum())
    both = float((said * seen).sum())
    size = math.sqrt(square * float(seen.square().sum()))
    if size <= 0:
        return 1.0, 0.0, 0.0
    turned_rad = float(torch.linalg.vector_norm(said, dim=1).sum())
    return both / square, abs(both) / size, turned_rad
