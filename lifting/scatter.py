"""Reductions of rows by segment: sum, mean and, as a step of its own, maximum.

Sum and mean are lift operators whose pattern is an index; the maximum is not linear and is none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lifting.backends import BackendName, csr_apply, resolve_backend

__all__ = ["SegmentMax", "scatter_mean", "scatter_sum", "segment_max", "segment_pattern"]


class SegmentMax(NamedTuple):
    """Maxima per segment.

    Attributes:
        rows: Largest value per segment and channel; zero in a segment without rows.
        valid: False where a segment has no rows.
        source: The row each maximum came from, the first among equals; -1 without rows.
    """

    rows: Float[Tensor, "M C"]
    valid: Bool[Tensor, " M"]
    source: Int64[Tensor, "M C"]


def scatter_sum(
    rows: Float[Tensor, "N C"], index: Int64[Tensor, " N"], num: int, *, backend: str = "auto"
) -> Float[Tensor, "num C"]:
    """Sum rows by segment, differentiable in the rows.

    Args:
        rows: One row per point.
        index: Segment of each row, in [0, num).
        num: Number of segments; a segment without rows sums to zero.
        backend: See `lifting.backends.resolve_backend`.

    Raises:
        ValueError: If an index is out of range or there is not one index per row.
    """
    return _reduce(rows, index, num, backend=backend, mean=False)


def scatter_mean(
    rows: Float[Tensor, "N C"], index: Int64[Tensor, " N"], num: int, *, backend: str = "auto"
) -> Float[Tensor, "num C"]:
    """Average rows by segment, differentiable in the rows.

    Args:
        rows: One row per point.
        index: Segment of each row, in [0, num).
        num: Number of segments; a segment without rows is zero. Use a `LiftOperator` where the
            difference between zero and nothing matters.
        backend: See `lifting.backends.resolve_backend`.

    Raises:
        ValueError: If an index is out of range or there is not one index per row.
    """
    return _reduce(rows, index, num, backend=backend, mean=True)


def segment_max(
    rows: Float[Tensor, "N C"], index: Int64[Tensor, " N"], num: int, *, backend: str = "auto"
) -> SegmentMax:
    """Largest value per segment and channel; its gradient flows to the row that holds it.

    Args:
        rows: One row per point, without NaN.
        index: Segment of each row, in [0, num).
        num: Number of segments.
        backend: `auto`, `torch` or `numba`.

    Raises:
        ValueError: If an index is out of range, a row holds NaN, or the lengths differ.
    """
    _check_lengths(rows, index)
    if bool(rows.detach().isnan().any()):
        raise ValueError("a maximum of rows with NaN is not defined; drop those rows first")
    chosen = resolve_backend(backend, rows.device, "segment_max")
    crow, order = segment_pattern(index, num, backend=chosen)
    if chosen == "numba":
        source = _argmax_numba(rows.detach(), crow, order)
    else:
        source = _argmax_torch(rows.detach(), index, num)
    valid = crow.diff() > 0
    if not rows.shape[0]:
        return SegmentMax(rows.new_zeros(num, rows.shape[1]), valid, source)
    found = rows.gather(0, source.clamp(min=0))
    return SegmentMax(torch.where(valid[:, None], found, 0), valid, source)


def segment_pattern(
    index: Int64[Tensor, " N"], num: int, *, backend: str = "auto"
) -> tuple[Int64[Tensor, " M1"], Int64[Tensor, " N"]]:
    """Sort positions by segment: the CSR pattern of a membership.

    Args:
        index: Segment of each position, in [0, num).
        num: Number of segments.
        backend: As for `csr_apply`.

    Returns:
        Where each segment begins and ends, and the positions in order of segment, stable.

    Raises:
        ValueError: If an index is out of range.
    """
    if resolve_backend(backend, index.device) == "numba":
        from lifting.backends.numba_csr import sort_index

        return sort_index(index, num)
    if index.numel():
        low, high = (int(bound) for bound in torch.aminmax(index))
        if low < 0 or high >= num:
            wrong = low if low < 0 else high
            raise ValueError(f"segment index {wrong} lies outside [0, {num})")
    crow = torch.zeros(num + 1, dtype=torch.int64, device=index.device)
    torch.cumsum(torch.bincount(index, minlength=num), 0, out=crow[1:])
    return crow, torch.argsort(index, stable=True)


def _reduce(rows: Tensor, index: Tensor, num: int, *, backend: str, mean: bool) -> Tensor:
    _check_lengths(rows, index)
    chosen: BackendName = resolve_backend(backend, rows.device)
    crow, order = segment_pattern(index, num, backend=chosen)
    count = crow.diff()
    each = 1 / count.clamp(min=1).to(rows.dtype) if mean else rows.new_ones(num)
    weight = torch.repeat_interleave(each, count, output_size=order.numel())

    def transpose() -> tuple[Tensor, Tensor, Tensor]:
        # Each row belongs to one segment, so the transpose needs no sort.
        every = torch.arange(order.numel() + 1, device=order.device)
        return every, index, torch.empty_like(order).index_copy_(0, order, every[:-1])

    return csr_apply(crow, order, weight, rows, chosen, transpose=transpose)


def _argmax_numba(rows: Tensor, crow: Tensor, order: Tensor) -> Tensor:
    from lifting.backends.jit import even_bounds, run_ranges
    from lifting.backends.numba_points import segment_argmax

    # numba has no half precision on a CPU; float32 holds every half exactly.
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32)).contiguous()
    source = torch.empty(crow.numel() - 1, rows.shape[1], dtype=torch.int64)
    run_ranges(
        segment_argmax,
        even_bounds(source.shape[0], rows.numel()),
        *(crow.numpy(), order.numpy(), wide.numpy(), source.numpy()),
    )
    return source


def _argmax_torch(rows: Tensor, index: Tensor, num: int) -> Tensor:
    """Forward only: the backward of `scatter_reduce` is the slow part of it."""
    size, channels = rows.shape
    spread = index[:, None].expand(size, channels)
    top = torch.full((num, channels), -torch.inf, dtype=rows.dtype, device=rows.device)
    top.scatter_reduce_(0, spread, rows, "amax")
    position = torch.arange(size, device=rows.device)[:, None]
    candidate = torch.where(rows == top[index], position, size)
    source = torch.full((num, channels), size, dtype=torch.int64, device=rows.device)
    source.scatter_reduce_(0, spread, candidate, "amin")
    return torch.where(source < size, source, -1)


def _check_lengths(rows: Tensor, index: Tensor) -> None:
    if rows.ndim != 2 or index.ndim != 1 or rows.shape[0] != index.numel():
        raise ValueError(
            f"needs rows [N, C] and one index per row, got rows {list(rows.shape)} and index "
            f"{list(index.shape)}"
        )
