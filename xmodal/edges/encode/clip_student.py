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


def window_starts(num: int, size: int, hop: int) -> list[int]:
    """First samples of windows that cover all of `num` samples.

    The last window ends with the recording, whatever the hop, so that nothing is left out; a
    recording that is shorter than a window has one, and one without samples has none.
    """
    if num == 0:
        return []
    last = max(num - size, 0)
    starts = list(range(0, last + 1, hop))
    return starts if starts[-1] == last else [*starts, last]


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

    if bool(torch.isfinite(values).all()):
        return
    bad = (~torch.isfinite(values)).flatten(1).any(dim=1).nonzero()
    place = int(torch.searchsorted(offsets, bad[0], right=True)) - 1
    raise DataError(
        f"recording {place} of the batch",
        wanted=f"{what} that are numbers",
        got=f"{len(bad)} samples with NaN or infinity",
        fix="repair or leave out the file; readers can drop such samples",
    )
