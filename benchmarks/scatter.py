"""Scatter-mean of point features into segments: index in, means out, sorting included.

Ours: `lifting.scatter.scatter_mean`, which sorts the index by counting and sums each segment's rows
in place. Peer: `torch_scatter.scatter_mean`. Both allocate their own result. `error` is the largest
absolute difference to a float64 mean, over a sample of segments. Suffixes: `_64` and `_1000`
channels; `_sorted` is an index that is in order already, as after voxelisation along a scan.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness import Benchmark, Case, main, need
from lifting.scatter import scatter_mean

_SAMPLE = 2000  # segments compared with float64: enough to meet every thread's share of rows


def build(*, num_rows: int, num_segments: int, channels: int, ordered: bool = False) -> Case:
    """Random rows, each in a random segment."""
    peer = need("torch_scatter", "make bench-env")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(num_rows, channels, generator=generator)
    index = torch.randint(0, num_segments, (num_rows,), generator=generator)
    if ordered:
        index = index.sort().values

    def ours() -> Tensor:
        return scatter_mean(rows, index, num_segments)

    def error() -> float:
        found = ours()
        chosen = torch.randperm(num_segments, generator=generator)[:_SAMPLE]
        position = torch.full((num_segments,), -1)
        position[chosen] = torch.arange(chosen.numel())
        member = position[index] >= 0
        exact = torch.zeros(chosen.numel(), channels, dtype=torch.float64)
        exact.index_add_(0, position[index[member]], rows[member].double())
        count = torch.bincount(position[index[member]], minlength=chosen.numel())
        exact /= count.clamp(min=1)[:, None]
        return float((found[chosen] - exact).abs().max())

    return Case(
        ours=ours,
        peer=lambda: peer.scatter_mean(rows, index, dim=0, dim_size=num_segments),
        error=error,
    )


_MAIN = {"num_rows": 400_000, "num_segments": 150_000, "channels": 512}
BENCHMARK = Benchmark(
    name="scatter",
    build=build,
    settings={
        "": _MAIN,
        "_64": {**_MAIN, "channels": 64},
        "_1000": {**_MAIN, "channels": 1000},
        "_sorted": {**_MAIN, "ordered": True},
    },
    warm={"num_rows": 2000, "num_segments": 500, "channels": 512},
    note="400k x 512 into 150k, index to mean",
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
