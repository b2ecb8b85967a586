"""What networks give of windows, as values of recordings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.values import Embedding, Grids


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


def rows_and_maps(net: Any, inputs: Float[Tensor, "B ..."], has: Bool[Tensor, " N"]) -> Grids:
    """Dense maps of windows, with the maps of the network's layers; zeros where there is no window.

    Args:
        net: A network with dense maps inside, such as `GridDecoder`.
        inputs: One window of each recording that has any.
        has: Which recordings those are.
    """
    seen = net.see(inputs)
    found = scattered(net.decode(seen.maps[-1]), has, net)
    place = has.nonzero().squeeze(1)
    maps = tuple(
        one.new_zeros(len(has), *one.shape[1:]).index_copy(0, place, one) for one in seen.maps
    )
    assert isinstance(found, Grids), "a network with dense maps gives cells"
    return replace(found, maps=maps)


def _cells(net: Any) -> int | None:
    grid: tuple[int, int] | None = getattr(net, "grid_hw", None)
    return None if grid is None else grid[0] * grid[1]
