"""Readings at an even rate: how many there may be where a clock was set while it ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xmodal.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

MAX_VALUES = 1 << 28
"""Most values of one recording at an even rate: 1 GiB, a week of nine channels at 50 Hz."""


def check_length(time_s: Tensor, num_values: int, rate_hz: float) -> None:
    """Refuse to fill memory with the time between two readings.

    Args:
        time_s: When readings were taken, rising.
        num_values: How many values there are to be at an even rate.
        rate_hz: That rate.

    Raises:
        DataError: If there are more than `MAX_VALUES`.
    """
    if num_values <= MAX_VALUES:
        return
    pause_s = float(time_s.diff().max())
    raise DataError(
        "readings of one recording",
        wanted=f"a clock that spans what fits in memory at {rate_hz:g} Hz",
        got=f"{float(time_s[-1] - time_s[0]):.6g} s, with a pause of {pause_s:.6g} s",
        fix="if the clock was set while it ran, correct its times; else cut the recording",
    )
