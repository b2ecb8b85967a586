"""Windows at one rate of readings that were taken at any times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xmodal.edges.encode.clip_student import Fit, window_starts

if TYPE_CHECKING:
    from torch import Tensor


def even_windows(
    values: Tensor,
    time_s: Tensor,
    *,
    rate_hz: float,
    num: int,
    hop: int,
    fit: Fit,
    max_gap_s: float,
) -> tuple[Tensor, Tensor]:
    """Windows of one recording, and where they stand on readings.

    Args:
        values: Readings, [N, C].
        time_s: When they were taken, rising.
        rate_hz: Rate of the windows.
        num: Samples of a window.
        hop: Samples from one window to the next.
        fit: Windows of a fixed length, or one window that the whole recording is stretched to.
        max_gap_s: Between readings that are farther apart nothing is known.

    Returns:
        Windows [W, C, num] and marks [W, num]; windows without any reading are left out.
    """
    import torch

    channels = values.shape[1]
    if not len(values):
        return values.new_zeros(0, channels, num), torch.zeros(0, num, dtype=torch.bool)
    from lifting.signals.resampling import to_rate

    start_s, long_s = float(time_s[0]), float(time_s[-1] - time_s[0])
    if fit == "stretch":
        # A recording of one moment has no length: the window holds it once.
        rate = (num - 1) / long_s if long_s > 0 and num > 1 else rate_hz
        total, starts = num, [0]
    else:
        rate, total = rate_hz, int(long_s * rate_hz + 1e-6) + 1
        starts = window_starts(total, num, hop)
    even, seen = to_rate(values, time_s, rate, start_s, total, max_gap_s=max_gap_s)
    index = torch.tensor(starts)[:, None] + torch.arange(num)
    inside = (index < total) & seen[index.clamp_max(total - 1)]
    windows = even[index.clamp_max(total - 1)].movedim(2, 1)
    kept = inside.any(dim=1)
    return windows[kept] * inside[kept][:, None].to(windows.dtype), inside[kept]
