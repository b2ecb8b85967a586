"""Masks as a sparse operator, and the compact form in which they are stored."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lifting.operator import LiftOperator


def membership_of(members: Bool[Tensor, "M h w"]) -> LiftOperator:
    """Which masks each pixel belongs to, as an operator pixels x masks with weights of one."""
    by_pixel = members.flatten(1).T.contiguous()
    col = by_pixel.nonzero()[:, 1].contiguous()
    crow = torch.zeros(by_pixel.shape[0] + 1, dtype=torch.int64)
    torch.cumsum(by_pixel.sum(dim=1), 0, out=crow[1:])
    return LiftOperator(
        crow=crow, col=col, weight=torch.ones(col.numel()), num_sources=members.shape[0]
    )


def runs_of(membership: LiftOperator) -> tuple[Int[Tensor, " R"], Int[Tensor, " R"]]:
    """Run-length code of a membership with weights of one.

    Returns:
        Start and length of each run, counted over the masks' pixels laid end to end.

    Raises:
        ValueError: If a pixel belongs to a mask by other than one.
    """
    if not bool((membership.weight == 1).all()):
        raise ValueError("only a membership with weights of one has a run-length code")
    position = membership.col * membership.num_targets + membership.row
    position = position.sort().values
    if not position.numel():
        empty = torch.zeros(0, dtype=torch.int32)
        return empty, empty
    first = torch.cat([torch.ones(1, dtype=torch.bool), position.diff() != 1])
    start = position[first]
    ends = torch.cat([first.nonzero()[1:, 0], torch.tensor([position.numel()])])
    length = ends - first.nonzero()[:, 0]
    small = membership.num_targets * membership.num_sources < 2**31
    dtype = torch.int32 if small else torch.int64
    return start.to(dtype), length.to(dtype)


def membership_from_runs(
    start: Int[Tensor, " R"], length: Int[Tensor, " R"], *, num_masks: int, grid_hw: tuple[int, int]
) -> LiftOperator:
    """Undo `runs_of`.

    Raises:
        ValueError: If the runs do not fit the masks.
    """
    start, length = start.long(), length.long()
    pixels = grid_hw[0] * grid_hw[1]
    inside = (start >= 0) & (length > 0) & (start + length <= num_masks * pixels)
    if start.shape != length.shape or not bool(inside.all()):
        raise ValueError(f"runs do not fit {num_masks} masks of {grid_hw[0]} x {grid_hw[1]} pixels")
    # Each run adds one at its start and takes it away behind its end.
    change = torch.zeros(num_masks * pixels + 1, dtype=torch.int32)
    change.index_add_(0, start, torch.ones_like(start, dtype=torch.int32))
    change.index_add_(0, start + length, torch.full_like(start, -1, dtype=torch.int32))
    members = change[:-1].cumsum(0) > 0
    return membership_of(members.view(num_masks, *grid_hw))
