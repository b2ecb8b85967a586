"""Rows of windows, and of whole recordings: the mean over a recording's windows."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from detectors.spaces import to_space
from xmodal.recordings.inputs import Clips
from xmodal.values import Embedding, Grids

# Windows that a network looks at together.
_AT_ONCE = 256


def run_windows(net: Any, inputs: Float[Tensor, "B ..."]) -> Tensor:
    """What a network gives of windows: rows, or the cells of maps, [B, C] or [B, cells, C]."""
    if len(inputs) == 0:
        cells = _cells(net)
        shape = (0, net.out_channels) if cells is None else (0, cells, net.out_channels)
        return torch.zeros(shape, device=inputs.device)
    return net(inputs)


def scattered(rows: Tensor, has: Bool[Tensor, " B"], net: Any) -> Embedding | Grids:
    """Rows of those recordings that have a window, beside empty ones of those that have none.

    Args:
        rows: What `run_windows` gave of the former.
        has: Which recordings those are.
        net: The network.
    """
    whole = rows.new_zeros((len(has), *rows.shape[1:]))
    whole = whole.index_copy(0, has.nonzero().squeeze(1), rows)
    if rows.ndim == 2:
        return Embedding(
            rows=whole, valid=has, weight=has.to(rows.dtype), offsets=torch.arange(len(has) + 1)
        )
    cells = rows.shape[1]
    valid = has.repeat_interleave(cells)
    return Grids(
        rows=whole.reshape(-1, rows.shape[2]),
        valid=valid,
        weight=valid.to(rows.dtype),
        grid_hw=tuple(net.grid_hw),
        offsets=torch.arange(len(has) + 1) * cells,
    )


@torch.no_grad()
def pool_windows(net: Any, clips: Clips, *, device: str = "cpu") -> Embedding | Grids:
    """One row, or one map, for each recording: the mean over all its windows, in evaluation mode.

    Rows of the space `unit` are brought back to length 1.

    Args:
        net: The network; it is left as it was.
        clips: Inputs of all windows.
        device: Where it works.
    """
    training = net.training
    net.eval()
    blocks = clips.inputs.split(_AT_ONCE) if len(clips.inputs) else (clips.inputs,)
    parts = [run_windows(net, block.to(device)).float() for block in blocks]
    net.train(training)
    rows, sizes = torch.cat(parts), clips.sizes.to(device)
    sample = torch.arange(len(sizes), device=device).repeat_interleave(sizes)
    total = rows.new_zeros((len(sizes), *rows.shape[1:])).index_add(0, sample, rows)
    has = sizes > 0
    mean = total[has] / sizes[has].reshape(-1, *[1] * (rows.ndim - 1))
    if net.space == "unit" and rows.ndim == 2:
        mean = to_space(mean, "unit")
    return scattered(mean, has, net)


def _cells(net: Any) -> int | None:
    grid: tuple[int, int] | None = getattr(net, "grid_hw", None)
    return None if grid is None else grid[0] * grid[1]
