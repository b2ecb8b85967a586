"""Windows in seconds, and means of what falls in them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.operator import LiftOperator


def windows(
    num_samples: int, rate_hz: float, window_s: float, hop_s: float, *, cover: bool = False
) -> Int64[Tensor, "W 2"]:
    """First sample of each window and the sample after its last.

    All windows are equally long. Starts are rounded from exact times, so they do not drift where
    the hop is no whole number of samples.

    Args:
        num_samples: Length of the signal.
        rate_hz: Samples per second.
        window_s: Length of a window.
        hop_s: Time from one window to the next.
        cover: Whether every sample must fall in a window: the last window then ends with the
            signal, and a signal shorter than a window gets one window, with the signal in its
            middle, that reaches beyond both ends. Otherwise only whole windows are given.

    Raises:
        ValueError: If a window or hop is shorter than one sample.
    """
    if rate_hz <= 0 or num_samples < 0:
        raise ValueError(f"need rate_hz > 0 and num_samples >= 0: {rate_hz:g}, {num_samples}")
    length = round(window_s * rate_hz)
    if length < 1 or hop_s * rate_hz < 1:
        raise ValueError(
            f"a window of {window_s:g} s and a hop of {hop_s:g} s must be a sample or longer at "
            f"{rate_hz:g} Hz"
        )
    most = int(max(num_samples - length, 0) / (hop_s * rate_hz)) + 2
    start = (torch.arange(most, dtype=torch.float64) * (hop_s * rate_hz)).round().to(torch.int64)
    start = start[start + length <= num_samples]
    if cover and num_samples:
        last = num_samples - length
        if last < 0:
            start = torch.tensor([-((length - num_samples) // 2)])
        elif int(start[-1]) < last:
            start = torch.cat([start, torch.tensor([last])])
    return torch.stack([start, start + length], 1)


def cut(values: Float[Tensor, "N ..."], spans: Int64[Tensor, "W 2"]) -> Float[Tensor, "W L ..."]:
    """The samples of each window; zeros where a window reaches beyond the signal.

    Args:
        values: Samples, time first.
        spans: As `windows` gives them, equally long.

    Raises:
        ValueError: If windows differ in length or end before they start.
    """
    length = spans[:, 1] - spans[:, 0]
    if len(spans) and not bool((length == length[0]).all() & (length[0] > 0)):
        raise ValueError("windows to cut must be equally long and not empty")
    num = int(length[0]) if len(spans) else 0
    index = spans[:, :1] + torch.arange(num, device=spans.device)
    inside = (index >= 0) & (index < len(values))
    if not len(values):
        return values.new_zeros(*index.shape, *values.shape[1:])
    found = values[index.clamp(0, len(values) - 1)]
    return found * inside.reshape(*inside.shape, *(1,) * (values.ndim - 1)).to(values.dtype)


def pooling_operator(time_s: Float[Tensor, " N"], spans_s: Float[Tensor, "W 2"]) -> LiftOperator:
    """Operator from samples to windows: the mean of the samples that fall in each.

    Args:
        time_s: Times of samples, in order; equal times are allowed.
        spans_s: Start and end of each window; a sample at the end is not in it.

    Returns:
        W x N; rows sum to one, and are empty where no sample falls in a window.

    Raises:
        ValueError: If times decrease or a window ends before it starts.
    """
    if bool((time_s.diff() < 0).any()) or not bool(time_s.isfinite().all()):
        raise ValueError("times to pool must be finite and in order")
    if bool((spans_s[:, 1] < spans_s[:, 0]).any()):
        raise ValueError("a window must not end before it starts")
    edges = torch.searchsorted(time_s, spans_s.to(time_s.dtype).contiguous())
    count = edges[:, 1] - edges[:, 0]
    crow = torch.zeros(len(spans_s) + 1, dtype=torch.int64, device=time_s.device)
    torch.cumsum(count, 0, out=crow[1:])
    row = torch.repeat_interleave(torch.arange(len(spans_s), device=time_s.device), count)
    col = edges[row, 0] + torch.arange(len(row), device=time_s.device) - crow[row]
    weight = 1 / count.to(time_s.dtype)[row]
    return LiftOperator(crow=crow, col=col, weight=weight, num_sources=len(time_s))
