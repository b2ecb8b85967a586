"""What the ops of students of recordings share: windows of inputs, and rows of whole recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from xmodal.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from detectors.clip_student import ClipStudent
    from xmodal.recordings.inputs import Clips
    from xmodal.values import Embedding, Grids

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


def check_grid(grid_hw: tuple[int, int], slices: int, levels: int) -> None:
    """Refuse a dense map whose slices are not whole, or too small to be doubled to.

    Raises:
        ValueError: Naming the settings.
    """
    if slices < 1 or grid_hw[0] % slices:
        raise ValueError(
            f"slices ({slices}) must be at least 1 and divide the rows of grid_hw ({grid_hw})"
        )
    if levels < 1 or min(grid_hw[0] // slices, grid_hw[1]) < 2**levels:
        of = "both sides of a slice of grid_hw" if slices > 1 else "both sides of grid_hw"
        raise ValueError(
            f"levels ({levels}) must be at least 1, and {of} ({grid_hw}) 2 to the power of it"
        )


def hop_of(hop_s: float | None, window_s: float) -> float:
    """From one window to the next, seconds: half a window where nothing is said."""
    return window_s / 2 if hop_s is None else hop_s


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


def rows_of_clips(net: Any, clips: Clips) -> Embedding | Grids:
    """One row, or one map, for each recording: the mean over its windows; differentiable.

    Rows are in the network's space. A recording without windows is not valid and weighs nothing.
    """
    import torch

    from detectors.spaces import to_space
    from xmodal.train.pooling import run_windows, scattered

    device = next(net.parameters()).device
    rows = torch.cat([run_windows(net, part.to(device)) for part in clips.inputs.split(_BATCH)])
    sizes = clips.offsets.diff().to(device)
    index = torch.arange(len(sizes), device=device).repeat_interleave(sizes)
    total = rows.new_zeros(len(sizes), *rows.shape[1:]).index_add(0, index, rows)
    has = sizes > 0
    mean = total[has] / sizes[has].view(-1, *(1,) * (rows.ndim - 1))
    if net.space == "unit":
        mean = to_space(mean.reshape(-1, mean.shape[-1]), "unit").view(mean.shape)
    return scattered(mean, has, net)


def embedded(net: ClipStudent, clips: Clips) -> Embedding:
    """One row for each recording; see `rows_of_clips`."""
    return cast("Embedding", rows_of_clips(net, clips))


def refuse_non_finite(values: Tensor, offsets: Tensor, what: str) -> None:
    """Refuse samples that are not numbers.

    Args:
        values: Samples, [N] or [N, C].
        offsets: Where each recording begins.
        what: What they are, for the message.

    Raises:
        DataError: Naming the first recording that has some, by its place.
    """
    import torch

    bad = ~torch.isfinite(values)
    bad = bad if bad.ndim == 1 else bad.any(dim=1)
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
