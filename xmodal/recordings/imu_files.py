"""Inertial readings at the door: csv, npz and UTD-MHAD's MATLAB files, as m/s^2, rad/s, seconds.

Units are taken from names of columns (`ax_g`, `gyro_x [deg/s]`, `time_ms`), or given; without
either they are SI. What comes out is checked against gravity and against what gyroscopes measure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray

from lifting.signals.inertial import GRAVITY_MPS2, check_units
from lifting.signals.resampling import interpolation_operator, usual_gap
from xmodal.errors import DataError
from xmodal.recordings.containers import refuse_empty
from xmodal.recordings.imu_columns import Table, read_csv, read_npz
from xmodal.recordings.mat_files import read_matrix
from xmodal.values import Imu

Readings = Float64[NDArray[np.float64], "N C"]
Times = Float64[NDArray[np.float64], " N"]

AccelUnit = Literal["mps2", "g", "mg"]
GyroUnit = Literal["radps", "degps"]
TimeUnit = Literal["s", "ms", "us", "ns"]
_FACTORS: dict[str, float] = {
    "mps2": 1.0, "g": GRAVITY_MPS2, "mg": GRAVITY_MPS2 / 1000,
    "radps": 1.0, "degps": math.pi / 180,
    "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9,
}  # fmt: skip
_UTD_HZ = 50.0
# Readings a second that a motion sensor can have; outside, the time stamps have another unit.
_RATES_HZ = (1.0, 20_000.0)


@dataclass(frozen=True, kw_only=True)
class ImuUnits:
    """Units of a file, where the names of its columns do not say; None where they do."""

    accel: AccelUnit | None = None
    gyro: GyroUnit | None = None
    time: TimeUnit | None = None


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """What was wrong with the readings of a file.

    Attributes:
        num_readings: Readings in the file.
        duplicates: Readings dropped because they have the time of the one before.
        backward: Readings dropped because their time lies before one that came earlier.
        not_finite: Readings dropped for a NaN or infinity.
        gaps: Pauses of more than four times the usual spacing. They stay; nothing is made up.
        longest_gap_s: The longest pause, seconds; 0 without gaps.
    """

    num_readings: int
    duplicates: int
    backward: int
    not_finite: int
    gaps: int
    longest_gap_s: float

    @property
    def dropped(self) -> int:
        """Readings that are not in the result."""
        return self.duplicates + self.backward + self.not_finite


def read_imu(
    path: Path | str,
    *,
    units: ImuUnits | None = None,
    check: bool = True,
    max_dropped: float = 0.01,
) -> Imu:
    """Read inertial readings; see `read_imu_checked`, which also tells what was repaired."""
    return read_imu_checked(path, units=units, check=check, max_dropped=max_dropped)[0]


def read_imu_checked(
    path: Path | str,
    *,
    units: ImuUnits | None = None,
    check: bool = True,
    max_dropped: float = 0.01,
) -> tuple[Imu, Repairs]:
    """Read inertial readings and count what was wrong with them.

    - `.csv`: one row for each reading, named columns: a time, three accelerations, three rates of
      turn, for example `time_s, ax, ay, az, gx, gy, gz` or `t_ms, acc_x [g], .., gyro_x [deg/s]`.
    - `.npz`: `time_s [N]`, `accel_mps2 [N, 3]`, `gyro_radps [N, 3]`, or with other units in their
      names; each may have a clock of its own (`ACCL`, `ACCL_t`, `GYRO`, `GYRO_t`, as decoded from
      GoPro films): the gyroscope is then brought to the times of the accelerometer.
    - `.mat`: UTD-MHAD's `d_iner [N, 6]`, acceleration in g and rate of turn in deg/s at 50 Hz
      without time stamps; converted to m/s^2 and rad/s, starting at 0 s.

    Axes stay those of the sensor, the `imu` frame.

    Args:
        path: The file.
        units: Units that the names of columns do not say. UTD-MHAD's are known.
        check: Whether readings that speak against their units are an error: a median acceleration
            far from gravity, turns faster than gyroscopes measure, gravity that turns otherwise
            than the gyroscope says. Turn it off for readings whose gravity has been taken out.
        max_dropped: Largest share of readings that may be dropped as repeated, out of order or not
            finite before the file counts as damaged.

    Raises:
        DataError: If the file is missing, empty, damaged or of another kind, columns lack or
            contradict `units`, or the readings fail a check.
    """
    path = Path(path)
    units = units or ImuUnits()
    refuse_empty(path, "inertial readings in .csv, .npz or .mat")
    suffix = path.suffix.lower()
    # What overflows becomes infinite, and is counted as such.
    with np.errstate(over="ignore", invalid="ignore"):
        time_s, readings = _in_si(path, suffix, units)
    time_s, readings, repairs = _repair(path, time_s, readings, max_dropped)
    _check_clock(path, time_s)
    accel, gyro = torch.from_numpy(readings[:, :3].copy()), torch.from_numpy(readings[:, 3:].copy())
    times = torch.from_numpy(time_s)
    if check:
        _check_readings(path, check_units(accel, gyro, times))
    return Imu(
        accel_mps2=accel.float(),
        gyro_radps=gyro.float(),
        time_s=times,
        offsets=torch.tensor([0, len(time_s)]),
    ), repairs


# ---- formats -----------------------------------------------------------------------------------


def _in_si(path: Path, suffix: str, units: ImuUnits) -> tuple[Times, Readings]:
    if suffix == ".mat":
        return _read_utd(path, units)
    if suffix == ".csv":
        return _to_si(path, read_csv(path), units)
    if suffix == ".npz":
        return _to_si(path, read_npz(path), units)
    raise DataError(
        str(path),
        wanted="inertial readings in .csv, .npz or .mat",
        got=f"a file {path.suffix or 'without suffix'}",
        fix="convert it to csv with named columns",
    )


def _read_utd(path: Path, units: ImuUnits) -> tuple[Times, Readings]:
    raw = read_matrix(path, "d_iner", "[N, 6]")
    if raw.ndim != 2 or raw.shape[1] != 6 or not len(raw):
        raise DataError(
            str(path),
            wanted="`d_iner` of shape [N, 6]",
            got=str(list(raw.shape)),
            fix="use UTD-MHAD's files as they are, or convert yours to csv or npz",
        )
    accel = _FACTORS[units.accel or "g"] * raw[:, :3]
    gyro = _FACTORS[units.gyro or "degps"] * raw[:, 3:]
    return np.arange(len(raw)) / _UTD_HZ, np.concatenate([accel, gyro], 1)


def _to_si(path: Path, table: Table, units: ImuUnits) -> tuple[Times, Readings]:
    factors: dict[str, float] = {}
    for part, given, default in (
        ("accel", units.accel, "mps2"),
        ("gyro", units.gyro, "radps"),
        ("time", units.time, "s"),
    ):
        named = table.units.get(part)
        if named and given and named != given:
            raise DataError(
                str(path),
                wanted=f"{part} in {given}, as `units` says",
                got=f"columns named as {named}",
                fix="correct the one or the other",
            )
        factors[part] = _FACTORS[named or given or default]
    time_s = table.time * factors["time"]
    accel, gyro = table.accel * factors["accel"], table.gyro * factors["gyro"]
    if table.gyro_time is not None:
        gyro = _on_clock(path, gyro, table.gyro_time * factors["time"], time_s)
    return time_s, np.concatenate([accel, gyro], 1)


def _on_clock(
    path: Path, gyro: Readings, time_s: Times, at_s: Float64[NDArray[np.float64], " M"]
) -> Float64[NDArray[np.float64], "M C"]:
    """Rates of turn at the accelerometer's times; NaN where the gyroscope has nothing to say."""
    good = np.isfinite(gyro).all(1) & np.isfinite(time_s)
    t = torch.from_numpy(time_s[good])
    if len(t) < 2 or bool((t.diff() <= 0).any()):
        raise DataError(
            str(path),
            wanted="a gyroscope with increasing time stamps of its own",
            got=f"{len(t)} readings, {int((t.diff() <= 0).sum())} of them not after the one before",
            fix="sort the readings, and drop repeated ones",
        )
    at = torch.from_numpy(at_s).nan_to_num(float(t[0]))
    # Two clocks rarely begin and end together: shortly beyond an end, the reading there holds.
    held = at.clamp(t[0], t[-1])
    at = torch.where((at - held).abs() <= usual_gap(t), held, at)
    operator = interpolation_operator(t, at)
    found = operator.apply(torch.from_numpy(gyro[good]))
    return torch.where((operator.crow.diff() > 0)[:, None], found, math.nan).numpy()


# ---- repairs and checks ------------------------------------------------------------------------


def _repair(
    path: Path, time_s: Times, readings: Readings, max_dropped: float
) -> tuple[Float64[NDArray[np.float64], " K"], Float64[NDArray[np.float64], "K C"], Repairs]:
    """Drop what cannot be right, count it, and refuse files where that is much."""
    num = len(time_s)
    finite = np.isfinite(readings).all(1) & np.isfinite(time_s)
    t, kept = time_s[finite], readings[finite]
    latest = np.maximum.accumulate(t) if len(t) else t
    before = np.concatenate([[-np.inf], latest[:-1]])
    duplicate, backward = t == before, t < before
    t, kept = t[~(duplicate | backward)], kept[~(duplicate | backward)]
    pauses = np.diff(t)
    usual = float(np.median(pauses)) if len(pauses) else 0.0
    gaps = pauses[pauses > 4 * usual]
    repairs = Repairs(
        num_readings=num,
        duplicates=int(duplicate.sum()),
        backward=int(backward.sum()),
        not_finite=num - int(finite.sum()),
        gaps=len(gaps),
        longest_gap_s=float(gaps.max()) if len(gaps) else 0.0,
    )
    if not len(t) or repairs.dropped > max_dropped * num:
        raise DataError(
            str(path),
            wanted=f"increasing time stamps and finite readings, up to {max_dropped:.1%} faulty",
            got=f"of {num} readings {repairs.duplicates} with a repeated time, "
            f"{repairs.backward} out of order, {repairs.not_finite} not finite",
            fix="sort the readings by time and drop repeated ones, or raise `max_dropped`",
        )
    return t, kept, repairs


def _check_clock(path: Path, time_s: Times) -> None:
    if len(time_s) < 2:
        return
    rate_hz = 1 / float(np.median(np.diff(time_s)))
    if not _RATES_HZ[0] <= rate_hz <= _RATES_HZ[1]:
        raise DataError(
            str(path),
            wanted=f"{_RATES_HZ[0]:g} to {_RATES_HZ[1]:g} readings a second",
            got=f"{rate_hz:.6g}",
            fix="say the unit of time: a column named time_ms, time_us or time_ns, or `units`",
        )


def _check_readings(path: Path, problems: tuple[str, ...]) -> None:
    if problems:
        raise DataError(
            str(path),
            wanted="accelerations in m/s^2 with gravity and rates of turn in rad/s",
            got="; ".join(problems),
            fix="name the units in the columns (ax_g, gx_degps) or give `units`; "
            "`check=False` takes readings as they are",
        )
