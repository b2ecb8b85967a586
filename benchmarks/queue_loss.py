"""Likeness to a queue: time of loss and gradient against the length of the queue.

Ours: `xmodal.losses.QueueSimilarity`, 64 rows of 128 channels and a full queue. Peer: the same loss
by `torch.nn.functional.kl_div` of two soft-maxes over the concatenated rows. `slope_length` is the
slope of a straight line through log time over log length, from 8,192 to 65,536 rows, 1 for linear
growth; MoCo uses queues of up to 65,536. `error` is the largest difference of the gradients
relative to the largest gradient.
"""

from __future__ import annotations

import functools
import math
import time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Benchmark, Case, Number, main
from xmodal.losses import QueueSimilarity

_CHANNELS, _ROWS, _TEMPERATURE = 128, 64, 0.1
_LENGTHS = (8_192, 16_384, 32_768, 65_536)
_REPEATS = 7


def build(*, length: int) -> Case:
    """A full queue and a batch."""
    generator = torch.Generator().manual_seed(0)
    queue = QueueSimilarity(_CHANNELS, length).eval()
    rows = torch.randn(length, _CHANNELS, generator=generator)
    # Put in at once: filled by calls, a batch as long as the queue would take its square.
    state = {"keys": functional.normalize(rows, dim=1), "count": torch.tensor(length)}
    queue.load_state_dict(state)
    teacher, student = (torch.randn(_ROWS, _CHANNELS, generator=generator) for _ in range(2))
    student.requires_grad_()

    def ours() -> Tensor:
        return _gradient(queue(teacher, student), student)

    def peer() -> Tensor:
        keys, queries = (functional.normalize(rows, dim=1) for rows in (teacher, student))
        instances = torch.cat([queue.filled(), keys])
        told = functional.softmax(keys @ instances.T / _TEMPERATURE, dim=1)
        given = functional.log_softmax(queries @ instances.T / _TEMPERATURE, dim=1)
        return _gradient(functional.kl_div(given, told, reduction="batchmean"), student)

    def error() -> float:
        mine, theirs = ours(), peer()
        return float((mine - theirs).abs().max() / theirs.abs().max())

    return Case(ours=ours, peer=peer, error=error)


def _gradient(loss: Tensor, student: Tensor) -> Tensor:
    student.grad = None
    loss.backward()
    assert student.grad is not None
    return student.grad


@functools.cache
def slopes() -> dict[str, Number]:
    """Growth of time with the length of the queue."""
    seconds: list[float] = []
    for length in _LENGTHS:
        case = build(length=length)
        case.ours()
        best = math.inf
        for _ in range(_REPEATS):
            began = time.perf_counter()
            case.ours()
            best = min(best, time.perf_counter() - began)
        seconds.append(best)
    return {
        "slope_length": _slope(seconds),
        "ms_longest": round(1000 * seconds[-1], 2),
    }


def _slope(values: list[float]) -> float:
    line = np.polyfit(np.log(_LENGTHS), np.log(values), 1)
    return round(float(line[0]), 3)


BENCHMARK = Benchmark(
    name="queue_loss",
    build=build,
    settings={"": {"length": 16_384}, "_long": {"length": 65_536}},
    warm={"length": 256},
    extra=slopes,
    note="64 rows x 128-d against a queue, forward and backward",
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
