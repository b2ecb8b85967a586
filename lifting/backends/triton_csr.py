"""CSR product on a CUDA device, in Triton.

One program owns one output row and one block of channels, so nothing is written twice, no atomics
are needed, and the sums run in the order of the entries: results do not vary from run to run.
"""

# triton has wheels for Linux alone, comes with CUDA builds of torch, and has no types.
# pyright: reportMissingImports=false, reportUntypedFunctionDecorator=false
# pyright: reportUnknownParameterType=false, reportIndexIssue=false

from __future__ import annotations

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.backends import entry_rows

# Wide enough to load 128-byte lines of float32 whole, small enough to fill a device when targets
# are few. Not tuned.
_MAX_BLOCK = 128


@triton.jit
@no_type_check  # triton compiles the source; a run-time checker must not wrap it
def gather_sum(
    crow: Any,
    col: Any,
    weight: Any,
    features: Any,
    out: Any,
    channels: Any,
    BLOCK: tl.constexpr,
) -> None:
    """One row and one block of channels of the product."""
    # 64-bit: row x channels passes 2^31 at two million targets of 1024 channels.
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    total = tl.zeros([BLOCK], dtype=out.dtype.element_ty)
    begin = tl.load(crow + row)
    end = tl.load(crow + row + 1)
    for p in range(begin, end):
        source = tl.load(col + p) * channels
        total += tl.load(weight + p) * tl.load(features + source + channel, mask=inside, other=0.0)
    tl.store(out + row * channels + channel, total, mask=inside)


@triton.jit
@no_type_check  # triton compiles the source; a run-time checker must not wrap it
def pair_dot(
    row: Any,
    col: Any,
    a: Any,
    b: Any,
    dots: Any,
    channels: Any,
    BLOCK: tl.constexpr,
) -> None:
    """<a[row], b[col]> of one entry."""
    p = tl.program_id(0).to(tl.int64)
    first = tl.load(row + p) * channels
    second = tl.load(col + p) * channels
    total = tl.zeros([BLOCK], dtype=dots.dtype.element_ty)
    for start in range(0, channels, BLOCK):
        channel = start + tl.arange(0, BLOCK)
        inside = channel < channels
        left = tl.load(a + first + channel, mask=inside, other=0.0)
        total += left * tl.load(b + second + channel, mask=inside, other=0.0)
    tl.store(dots + p, tl.sum(total, axis=0))


def csr_product(
    crow: Int64[Tensor, " M1"],
    col: Int64[Tensor, " nnz"],
    weight: Float[Tensor, " nnz"],
    features: Float[Tensor, "S C"],
    *,
    out: Float[Tensor, "M C"] | None = None,
) -> Float[Tensor, "M C"]:
    """Weighted sum of gathered rows, without gradients.

    Args:
        crow: Row pointers.
        col: Source row of each entry.
        weight: Weight of each entry, same dtype as the features.
        features: Source rows, on the device.
        out: Contiguous buffer that is overwritten, if given.
    """
    num_targets, channels = crow.numel() - 1, features.shape[1]
    result = features.new_empty(num_targets, channels) if out is None else out
    if not result.numel():
        return result
    block = _block(channels)
    grid = (num_targets, triton.cdiv(channels, block))
    with _on_device(features):
        gather_sum[grid](
            crow.contiguous(),
            col.contiguous(),
            weight.contiguous(),
            features.contiguous(),
            result,
            channels,
            BLOCK=block,
        )
    return result


def entry_dots(
    crow: Int64[Tensor, " M1"],
    col: Int64[Tensor, " nnz"],
    a: Float[Tensor, "M C"],
    b: Float[Tensor, "S C"],
) -> Float[Tensor, " nnz"]:
    """<a[row], b[col]> for each entry: the gradient of a product in its weights.

    Args:
        crow: Row pointers.
        col: Source row of each entry.
        a: One row per target.
        b: One row per source.
    """
    nnz, channels = col.numel(), a.shape[1]
    dots = a.new_zeros(nnz)
    if not nnz or not channels:
        return dots
    with _on_device(a):
        pair_dot[(nnz,)](
            entry_rows(crow, nnz),
            col.contiguous(),
            a.contiguous(),
            b.contiguous(),
            dots,
            channels,
            BLOCK=_block(channels),
        )
    return dots


def _block(channels: int) -> int:
    return min(_MAX_BLOCK, triton.next_power_of_2(channels))


def _on_device(x: Tensor) -> Any:
    """Launch on the device that holds the tensor, not on the current one."""
    return torch.cuda.device_of(x)
