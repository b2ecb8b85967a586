"""Columns of inertial readings found by their names, with the unit that a name says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from xmodal.errors import DataError
from xmodal.teachers.arrays import read_arrays

Times = Float64[NDArray[np.float64], " N"]

MAX_BYTES = 500_000_000
"""Largest table that is read, bytes: a day of readings at 100 Hz."""

# Spelling of a unit, without signs and spaces -> our word for it.
_UNITS = MappingProxyType(
    {
        "mps2": "mps2", "ms2": "mps2", "m/s2": "mps2", "m/s/s": "mps2", "g": "g", "mg": "mg",
        "radps": "radps", "rad/s": "radps", "rads": "radps", "rps": "radps",
        "degps": "degps", "deg/s": "degps", "degs": "degps", "dps": "degps",
        "s": "s", "sec": "s", "seconds": "s", "ms": "ms", "us": "us", "ns": "ns",
    }
)  # fmt: skip
_OF_PART = MappingProxyType(
    {
        "accel": ("mps2", "g", "mg"),
        "gyro": ("radps", "degps"),
        "time": ("s", "ms", "us", "ns"),
    }
)
_ACCEL = re.compile(r"(?:a|acc|accel|accl|accelerometer|acceleration)")
_GYRO = re.compile(r"(?:g|gyr|gyro|gyroscope|w|omega|angularvelocity|rotationrate)")
_TIME = re.compile(r"(?:t|time|timestamp|timestamps|times)")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Readings as a file holds them.

    Attributes:
        time: Clock of the accelerations, and of the rates of turn unless they have one.
        accel: Accelerations.
        gyro: Rates of turn.
        gyro_time: Their own clock, if any.
        units: Part (`accel`, `gyro`, `time`) -> unit, where the names say one.
    """

    time: Times
    accel: Float64[NDArray[np.float64], "N 3"]
    gyro: Float64[NDArray[np.float64], "M 3"]
    gyro_time: Float64[NDArray[np.float64], " M"] | None
    units: dict[str, str]


def read_csv(path: Path) -> Table:
    """Readings of a table with a header; further columns are left alone.

    Raises:
        DataError: If columns lack or are there twice, a cell is no number, or units disagree.
    """
    if path.stat().st_size > MAX_BYTES:
        raise _wrong(path, f"at most {MAX_BYTES} bytes", f"{path.stat().st_size}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong(path, "a table in UTF-8", str(error)) from error
    lines = [
        (number, line)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.startswith("#")
    ]
    if not lines:
        raise _wrong(path, "a header and readings", "no line")
    separator = next((mark for mark in ";\t," if mark in lines[0][1]), ",")
    header = [name.strip() for name in lines[0][1].split(separator)]
    places: dict[str, int] = {}
    units: dict[str, str] = {}
    for place, name in enumerate(header):
        found = _column(name)
        if found is None:
            continue
        part, unit = found
        if part in places:
            raise _wrong(path, f"one column for {part}", f"{header[places[part]]!r} and {name!r}")
        places[part] = place
        _note_unit(path, units, part.split("_")[0], unit)
    wanted = ["time", *(f"{part}_{axis}" for part in ("accel", "gyro") for axis in "xyz")]
    missing = [part for part in wanted if part not in places]
    if missing:
        raise _wrong(
            path,
            "columns for time, acceleration x y z and rate of turn x y z "
            "(time_s, ax, ay, az, gx, gy, gz)",
            f"none for {', '.join(missing)} in {', '.join(header)[:200]}",
        )
    rows = _numbers(path, lines[1:], separator, [places[part] for part in wanted])
    return Table(
        time=rows[:, 0], accel=rows[:, 1:4], gyro=rows[:, 4:7], gyro_time=None, units=units
    )


def read_npz(path: Path) -> Table:
    """Readings of arrays named as `read_imu` says.

    Raises:
        DataError: If arrays lack, are of another shape, or units disagree.
    """
    arrays = read_arrays(path, max_bytes=MAX_BYTES)
    found: dict[str, NDArray[np.float64]] = {}
    units: dict[str, str] = {}
    for name, array in arrays.items():
        known = _array(name)
        if known is None or array.dtype.kind not in "fiu":
            continue
        part, unit = known
        if part in found:
            raise _wrong(path, f"one array for {part}", f"a second one, {name!r}")
        found[part] = array.astype(np.float64)
        _note_unit(path, units, part.split("_")[-1] if "time" in part else part, unit)
    time = found.get("time", found.get("accel_time"))
    if time is None or "accel" not in found or "gyro" not in found:
        raise _wrong(
            path,
            "arrays time_s [N], accel_mps2 [N, 3] and gyro_radps [N, 3]",
            f"{', '.join(sorted(arrays))[:200] or 'nothing'}",
        )
    gyro_time = found.get("gyro_time")
    for part, clock in (("accel", time), ("gyro", time if gyro_time is None else gyro_time)):
        if clock.ndim != 1 or found[part].shape != (len(clock), 3):
            raise _wrong(
                path,
                f"{part} of shape [N, 3] and N times",
                f"{list(found[part].shape)} and {list(clock.shape)}",
            )
    if gyro_time is not None and np.array_equal(gyro_time, time):
        gyro_time = None
    return Table(
        time=time, accel=found["accel"], gyro=found["gyro"], gyro_time=gyro_time, units=units
    )


# ---- names -------------------------------------------------------------------------------------


def _column(name: str) -> tuple[str, str | None] | None:
    """Part and axis of a column, and its unit: `gyro_x [deg/s]` -> (`gyro_x`, `degps`)."""
    stem, unit = _split_unit(name)
    if _TIME.fullmatch(stem):
        return "time", unit
    if stem[-1:] not in ("x", "y", "z"):
        return None
    for part, pattern in (("accel", _ACCEL), ("gyro", _GYRO)):
        if pattern.fullmatch(stem[:-1]):
            return f"{part}_{stem[-1]}", unit
    return None


def _array(name: str) -> tuple[str, str | None] | None:
    """Part of an array, and its unit: `ACCL_t` -> (`accel_time`, None)."""
    stem, unit = _split_unit(name)
    if _TIME.fullmatch(stem):
        return "time", unit
    for part, pattern in (("accel", _ACCEL), ("gyro", _GYRO)):
        if pattern.fullmatch(stem):
            return part, unit
        clock = re.fullmatch(rf"({pattern.pattern})({_TIME.pattern})", stem)
        if clock:
            return f"{part}_time", unit
    return None


def _split_unit(name: str) -> tuple[str, str | None]:
    """A name in small letters without marks between words, and the unit at its end."""
    plain = name.strip().lower().replace("²", "2").replace("^", "").replace("°", "deg")
    plain = plain.replace("µ", "u").replace("μ", "u")
    boxed = re.fullmatch(r"(.*?)\s*[\[(]\s*(.*?)\s*[\])]\s*", plain)
    unit: str | None = None
    if boxed:
        plain, unit = boxed.group(1), _UNITS.get(boxed.group(2), boxed.group(2))
    else:
        before, mark, last = plain.rpartition("_")
        if mark and last in _UNITS:
            plain, unit = before, _UNITS[last]
    return re.sub(r"[\s_\-.]+", "", plain), unit


def _note_unit(path: Path, units: dict[str, str], part: str, unit: str | None) -> None:
    if unit is None:
        return
    if unit not in _OF_PART[part]:
        raise _wrong(path, f"{part} in one of {', '.join(_OF_PART[part])}", f"the unit {unit!r}")
    if units.setdefault(part, unit) != unit:
        raise _wrong(path, f"one unit for {part}", f"{units[part]} and {unit}")


def _numbers(
    path: Path, lines: list[tuple[int, str]], separator: str, places: list[int]
) -> NDArray[np.float64]:
    """The named columns of numbered lines; empty cells are NaN."""
    rows: list[list[float]] = []
    for number, line in lines:
        cells = line.split(separator)
        try:
            rows.append([float(cells[place].strip() or "nan") for place in places])
        except (ValueError, IndexError) as error:
            raise DataError(
                f"{path}, line {number}",
                wanted=f"numbers in {len(places)} columns",
                got=line[:100],
                fix="correct the line; the last one may be cut",
            ) from error
    if not rows:
        raise _wrong(path, "readings below the header", "none")
    return np.array(rows, dtype=np.float64)


def _wrong(path: Path, wanted: str, got: str) -> DataError:
    return DataError(
        str(path), wanted=wanted, got=got, fix="correct the file; see `read_imu` for its layout"
    )
