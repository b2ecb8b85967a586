"""What the ops of students of recordings share: windows of inputs, and rows of whole recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from xmodal.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from detectors.clip_student import ClipStudent
    from xmodal.recordings.inputs import Clips
    from xmodal.values import Embedding

Fit = Literal["windows", "stretch"]

# Windows that a network looks at together when whole recordings are asked for.
_BATCH = 128
# Width of the layer before the last; a wide teacher's rows would make it the largest of `micro`.
_HEAD_CHANNELS = {"micro": 96}


def head_channels(size: str) -> int:
    """Width of the layer before the last, for a preset."""
    return _HEAD_CHANNELS.get(size, 128)


def check_positive(**numbers: float) -> None:
    """Refuse settings that are not above zero and finite.

    Raises:
        ValueError: Naming the first that is not.
    """
    for name, number in numbers.items():
        if not 0 < number < float("inf"):
            raise ValueError(f"{name} must be above 0, not {number}")


def check_shares(**numbers: float) -> None:
    """Refuse settings that are not parts of a whole: 0 or more, below 1.

    Raises:
        ValueError: Naming the first that is not.
    """
    for name, number in numbers.items():
        if not 0 <= number < 1:
            raise ValueError(f"{name} must be 0 or more and below 1, not {number}")


def whole(value: float, rate_hz: float) -> int:
    """Seconds in samples, at least one."""
    return max(1, round(value * rate_hz))


def clips_of(parts: Sequence[Tensor], shape: tuple[int, ...]) -> Clips:
    """Windows of all recordings, one after the other.

    Args:
        parts: Windows of each recording, [W, ...]; W may be 0.
        shape: Shape of one window.
    """
    import torch

    from xmodal.recordings.inputs import Clips

    sizes = torch.tensor([0, *(len(part) for part in parts)])
    kept = [part for part in parts if len(part)]
    inputs = torch.cat(kept) if kept else torch.zeros(0, *shape)
    return Clips(inputs.to(torch.float32), sizes.cumsum(0))


def window_rows(net: ClipStudent, clips: Clips) -> Tensor:
    """Rows of all windows, batch by batch; differentiable."""
    import torch

    device = next(net.parameters()).device
    batches = clips.inputs.split(_BATCH) if len(clips.inputs) else ()
    rows = [net(batch.to(device)) for batch in batches]
    return torch.cat(rows) if rows else torch.zeros(0, net.out_channels, device=device)


def embed_clips(net: ClipStudent, clips: Clips) -> Embedding:
    """One row for each recording: the mean over its windows, in the network's space.

    A recording without windows has a row of zeros that is not valid and weighs nothing.
    """
    from detectors.spaces import to_space

    rows = window_rows(net, clips)
    mean, seen = mean_of_windows(rows, clips)
    return _embedding(to_space(mean, "unit") if net.space == "unit" else mean, seen)


def mean_of_windows(rows: Tensor, clips: Clips) -> tuple[Tensor, Tensor]:
    """Mean over the windows of each recording, zeros without any, and which have some."""
    import torch

    counts = clips.offsets.diff().to(rows.device)
    index = torch.arange(len(counts), device=rows.device).repeat_interleave(counts)
    total = rows.new_zeros(len(counts), *rows.shape[1:]).index_add(0, index, rows)
    shape = (-1,) + (1,) * (rows.ndim - 1)
    return total / counts.clamp_min(1).view(shape).to(rows.dtype), counts > 0


def _embedding(rows: Tensor, valid: Tensor) -> Embedding:
    import torch

    from xmodal.values import Embedding

    offsets = torch.arange(len(rows) + 1, device=rows.device)
    return Embedding(rows=rows, valid=valid, weight=valid.to(rows.dtype), offsets=offsets)


def refuse_non_finite(values: Tensor, offsets: Tensor, what: str) -> None:
    """Refuse samples that are not numbers.

    Args:
        values: Samples along the first axis.
        offsets: Where each recording begins.
        what: What they are, for the message.

    Raises:
        DataError: Naming the first recording that has some, by its place.
    """
    import torch

    bad = (~torch.isfinite(values)).reshape(len(values), -1).any(dim=1)
    if not bool(bad.any()):
        return
    raise DataError(
        _place_of(bad, offsets),
        wanted=f"{what} that are numbers",
        got=f"{int(bad.sum())} samples with NaN or infinity",
        fix="repair or leave out the file; readers can drop such samples",
    )


def refuse_unordered(time_s: Tensor, offsets: Tensor) -> None:
    """Refuse clocks that stand still, run back or are not numbers.

    Raises:
        DataError: Naming the first recording whose clock does, by its place.
    """
    import torch

    refuse_non_finite(time_s, offsets, "times")
    back = torch.zeros(len(time_s), dtype=torch.bool)
    if len(time_s):
        back[1:] = (time_s[1:] <= time_s[:-1]).cpu()
    # The first time of a recording has nothing to do with the last of the one before.
    back[offsets[:-1][offsets.diff() > 0].cpu()] = False
    if bool(back.any()):
        raise DataError(
            _place_of(back, offsets),
            wanted="times that rise from one sample to the next",
            got=f"{int(back.sum())} that do not",
            fix="repair the clock of the file; readers can drop repeated times",
        )


def _place_of(bad: Tensor, offsets: Tensor) -> str:
    import torch

    first = bad.nonzero()[0, 0].to(offsets)
    return f"recording {int(torch.searchsorted(offsets, first, right=True)) - 1} of the batch"
