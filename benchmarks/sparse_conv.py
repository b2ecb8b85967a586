"""Sub-manifold convolution of a room: 58k voxels, 32 to 32 channels, 3x3x3, map and all.

Both arms get integer cells in the order of a voxelised scan, rows and weights, and give a row per
cell in the same order; what finds neighbours is built inside the clock. Peer: `SubMConv3d` of
spconv's CPU wheel on one thread, its only right number there (with more its sums are wrong, and
its gradients never work). `error` is the largest difference between the arms, with the same
weights. Everything here runs on one thread.

`ratio_dense` is against `conv3d` over the cells' bounding box (`dense_cells`), already filled.
`both_s` is our forward and backward. The other figures are of the tiny U-Net on a crop of 15k
voxels: `step_s` is forward, backward and AdamW; `gemm_s` is the matrix products of its layers
alone, on contiguous rows into memory that is there (torch.mm, one product per offset as in the
layers); `step_over_gemm` is their ratio. `conv_s`, `linear_s` and `norm_s` (with ReLU) are those
layers run one by one, forward and backward, `map_s` the kernel maps and `adam_s` the optimiser;
`rest_s` is what is left of the step. All take turns, and the least of nine runs counts.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.harness import Benchmark, Case, Number, interleave, main, need
from benchmarks.voxelize import room
from detectors.sparse_conv import SparseConv, sparse_conv
from detectors.sparse_grid import KernelMap, sparse_grid
from detectors.sparse_unet import SparseUNet
from lifting.points import voxelize

# spconv has an OpenMP of its own, which reads this when it is loaded, in `build`.
os.environ["OMP_NUM_THREADS"] = "1"

_STEP_VOXELS, _ROUNDS = 15_000, 9
_INPUTS, _OUTPUTS = 9, 96  # channels of a student's trunk: colour, normal, height and place


def room_cells(num_points: int, voxel_m: float) -> Tensor:
    """Cells of a room's walls, floor and ceiling, in the order of the voxeliser."""
    torch.set_num_threads(1)
    return voxelize(torch.from_numpy(room(num_points)), voxel_m).coords


def build(*, num_points: int, voxel_m: float, channels: int) -> Case:
    """One room; both arms and the dense convolution over it."""
    spconv = need("spconv.pytorch", "make bench-env")
    cells = room_cells(num_points, voxel_m)
    cells = cells - cells.amin(dim=0)
    sample = torch.zeros(len(cells), dtype=torch.int64)
    sides = (cells.amax(dim=0) + 1).tolist()
    indices = torch.cat([sample[:, None], cells], dim=1).int()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(len(cells), channels, generator=generator)
    weight = torch.randn(27, channels, channels, generator=generator) / channels
    layer = spconv.SubMConv3d(channels, channels, 3, bias=False)
    kernel = weight.unflatten(0, (3, 3, 3)).permute(4, 0, 1, 2, 3)
    layer.weight = nn.Parameter(kernel.contiguous(), requires_grad=False)

    def ours(weight: Tensor = weight, rows: Tensor = rows) -> Tensor:
        grid, order = sparse_grid(cells, sample)
        out = sparse_conv(rows[order], weight, grid.neighbours())
        return torch.empty_like(out).index_copy(0, order, out)

    def peer() -> Tensor:
        return layer(spconv.SparseConvTensor(rows, indices, sides, 1)).features

    def both() -> None:
        ours(weight.clone().requires_grad_(), rows.clone().requires_grad_()).sum().backward()

    def extra() -> dict[str, Number]:
        volume = rows.new_zeros(1, *sides, channels)
        volume[0, cells[:, 0], cells[:, 1], cells[:, 2]] = rows
        volume = volume.permute(0, 4, 1, 2, 3).contiguous()
        dense = weight.unflatten(0, (3, 3, 3)).permute(4, 3, 0, 1, 2).contiguous()
        ours_s, dense_s = interleave(ours, lambda: functional.conv3d(volume, dense, padding=1))
        pairs = sparse_grid(cells, sample)[0].neighbours().num_pairs
        return {
            "ratio_dense": dense_s / ours_s,
            "dense_s": dense_s,
            "both_s": interleave(both, lambda: None)[0],
            "voxels": len(cells),
            "pairs_per_voxel": pairs / len(cells),
            "dense_cells": sides[0] * sides[1] * sides[2],
        }

    return Case(
        ours=ours, peer=peer, error=lambda: float((ours() - peer()).abs().max()), extra=extra
    )


@dataclass(frozen=True)
class _Call:
    """One run of a layer: the layer, the shape of its input, and its kernel map if it has one."""

    layer: nn.Module
    rows: int
    channels: int
    kernel: KernelMap | None


def _calls(net: SparseUNet, run: Callable[[], object]) -> list[_Call]:
    """The layers of a network with their inputs, in the order in which they run."""
    found: list[_Call] = []

    def note(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        kernel = inputs[1] if len(inputs) > 1 else None
        found.append(_Call(layer, *inputs[0].shape, kernel))

    kinds = (SparseConv, nn.Linear, nn.LayerNorm)
    hooks = [m.register_forward_pre_hook(note) for m in net.modules() if isinstance(m, kinds)]
    run()
    for hook in hooks:
        hook.remove()
    return found


def _products(call: _Call, *, first: bool) -> list[Callable[[], object]]:
    """The matrix products of a layer's forward and backward; the first has no gradient of rows."""
    weight: Tensor = call.layer.weight.detach()  # pyright: ignore
    matrices, counts = (
        (weight, call.kernel.counts) if call.kernel else (weight.T[None], (call.rows,))
    )
    done: list[Callable[[], object]] = []
    for matrix, count in zip(matrices, counts, strict=True):
        if not count:
            continue
        a, b = torch.randn(count, matrix.shape[0]), torch.randn(count, matrix.shape[1])
        out, back, slope = torch.empty_like(b), torch.empty_like(a), torch.empty(matrix.shape)
        done.append(lambda a=a, m=matrix, o=out: torch.mm(a, m, out=o))
        done.append(lambda a=a, b=b, o=slope: torch.mm(a.T, b, out=o))
        if not first:
            done.append(lambda b=b, m=matrix, o=back: torch.mm(b, m.T, out=o))
    return done


def _both_ways(call: _Call, *, first: bool) -> Callable[[], object]:
    """A layer's forward and backward by itself."""
    rows = torch.randn(call.rows, call.channels, requires_grad=not first)
    inputs = (rows, call.kernel) if call.kernel else (rows,)
    grad = torch.randn_like(call.layer(*inputs).detach())

    def run() -> None:
        out = call.layer(*inputs)
        (out.relu() if isinstance(call.layer, nn.LayerNorm) else out).backward(grad)
        rows.grad = call.layer.weight.grad = None

    return run


def _least_seconds(runs: dict[str, list[Callable[[], object]]]) -> dict[str, float]:
    """Least seconds of each list of calls, over rounds in which all take turns."""
    least = dict.fromkeys(runs, math.inf)
    for _ in range(_ROUNDS):
        for name, calls in runs.items():
            start = time.perf_counter()
            for call in calls:
                call()
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def step_figures(voxels: int = _STEP_VOXELS) -> dict[str, Number]:
    """A training step of the tiny U-Net, its parts and the products that it cannot do without."""
    cells = room_cells(**_ROOM)
    cells = cells[(cells - cells.amin(dim=0)).square().sum(dim=1).argsort()[:voxels]]
    sample = torch.zeros(len(cells), dtype=torch.int64)
    torch.manual_seed(0)
    net, rows = SparseUNet(_INPUTS, _OUTPUTS), torch.randn(len(cells), _INPUTS)
    adam = torch.optim.AdamW(net.parameters())

    def step() -> None:
        adam.zero_grad()
        net(cells, sample, rows).square().mean().backward()
        adam.step()

    calls = list(enumerate(_calls(net, step)))
    gradients = [parameter.grad for parameter in net.parameters()]

    def adam_alone() -> None:
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter.grad = gradient
        adam.step()

    runs: dict[str, list[Callable[[], object]]] = {
        name: [_both_ways(call, first=i == 0) for i, call in calls if isinstance(call.layer, kind)]
        for name, kind in (("conv", SparseConv), ("linear", nn.Linear), ("norm", nn.LayerNorm))
    }
    runs |= {"map": [lambda: net.maps(cells, sample)], "adam": [adam_alone]}
    multiplied = [(i, call) for i, call in calls if not isinstance(call.layer, nn.LayerNorm)]
    gemms = [product for i, call in multiplied for product in _products(call, first=i == 0)]
    seconds = _least_seconds({"step": [step], "gemm": gemms, **runs})
    return {
        "step_over_gemm": seconds["step"] / seconds["gemm"],
        **{f"{name}_s": value for name, value in seconds.items()},
        "rest_s": seconds["step"] - sum(seconds[name] for name in runs),
        "step_voxels": len(cells),
    }


_ROOM = {"num_points": 600_000, "voxel_m": 0.0577}
BENCHMARK = Benchmark(
    name="sparse_conv",
    build=build,
    settings={"": {**_ROOM, "channels": 32}},
    warm={"num_points": 1000, "voxel_m": 0.3, "channels": 32},
    extra=step_figures,
    note="58k voxels of a room, 32 to 32 channels, 3x3x3, kernel map included, one thread",
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
