"""Windows at one rate of readings that were taken at any times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xmodal.clock_span import check_length
from xmodal.edges.encode.clip_student import Fit

if TYPE_CHECKING:
    from torch import Tensor


# A sample that lies on the last reading but for rounding is there too; parts of a sample.
_NEAR = 1e-3


def even_windows(
    values: Tensor,
    time_s: Tensor,
    *,
    rate_hz: float,
    num: int,
    hop_s: float,
    fit: Fit,
    max_gap_s: float,
) -> tuple[Tensor, Tensor]:
    """Windows of one recording, and where they stand on readings.

    Args:
        values: Readings, [N, C]; one with a NaN counts as missing.
        time_s: When they were taken, rising.
        rate_hz: Rate of the windows.
        num: Samples of a window.
        hop_s: From one window to the next.
        fit: Windows of a fixed length, or one window that the whole recording is stretched to.
        max_gap_s: Between readings that are farther apart nothing is known.

    Returns:
        Windows [W, num, C] and marks [W, num]; windows without any reading are left out.

    Raises:
        DataError: If the clock spans more than fits in memory.
    """
    import torch

    from lifting.signals.resampling import to_rate
    from lifting.signals.windows import cut, windows

    if not len(values):
        return values.new_zeros(0, num, values.shape[1]), torch.zeros(0, num, dtype=torch.bool)
    # From zero and in double precision: clocks that count from years ago are coarse in single.
    time_s = (time_s.double() - time_s[0].double()).clone()
    long_s = float(time_s[-1])
    if fit == "stretch":
        # A recording of one moment has no length: the window holds it once.
        rate_hz, total = (num - 1) / long_s if long_s > 0 and num > 1 else rate_hz, num
    else:
        total = int(long_s * rate_hz + _NEAR) + 1
    check_length(time_s, total * values.shape[1], rate_hz)
    if len(time_s) > 1:
        time_s[-1] = max(long_s, (total - 1) / rate_hz)
    even, seen = to_rate(values, time_s, rate_hz, 0.0, total, max_gap_s=max_gap_s)
    if fit == "stretch":
        return even[None][: int(seen.any())], seen[None][: int(seen.any())]
    spans = windows(total, rate_hz, num / rate_hz, hop_s, cover=True)
    marks = cut(seen.to(values.dtype), spans) > 0
    kept = marks.any(dim=1)
    return cut(even, spans)[kept], marks[kept]


def unblended(values: Tensor, num_marks: int) -> Tensor:
    """Readings after time was warped, without the zeros of gaps that were mixed into them.

    Args:
        values: [B, C, N]; the last `num_marks` channels are marks, which are 1 where there is a
            reading; the channels before them are as many for each mark, mark by mark.
        num_marks: Number of marks.

    Returns:
        The same with marks of 0 or 1, and zeros where the mark is 0.
    """
    import torch

    rows, marks = values[:, :-num_marks], values[:, -num_marks:]
    seen = marks > 0.5
    each = rows.unflatten(1, (num_marks, -1)) / marks.clamp_min(0.5)[:, :, None]
    kept = torch.where(seen[:, :, None], each, 0.0).flatten(1, 2)
    return torch.cat([kept, seen.to(values.dtype)], dim=1)
