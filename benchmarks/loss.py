"""Distillation loss: 1 - cosine over 100k rows of 768 channels, forward and backward.

Ours: `xmodal.losses.cosine`. Peer: `1 - torch.nn.functional.cosine_similarity(..).mean()`, as
OpenScene trains. Both leave the gradient of the student's rows, which is 307 MB and counts as extra
memory on both sides. `error` is the largest difference of the gradients relative to the largest
gradient. Suffix `_fp16`: the teacher's rows are half precision, as a store has them; the peer
brings them to float32 first. `_kl`: KL divergence of 1000 probabilities, against the plain formula.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Benchmark, Case, main
from xmodal import losses


def build(*, num_rows: int, channels: int, half: bool = False, kl: bool = False) -> Case:
    """Random rows; for `kl` soft-maxes of them."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(num_rows, channels, generator=generator) for _ in range(2))
    if kl:
        student, teacher = student.softmax(dim=1), teacher.softmax(dim=1)
    teacher = teacher.half() if half else teacher
    student.requires_grad_()

    def plain() -> Tensor:
        target = teacher.float()
        if kl:
            return functional.kl_div(student.log(), target, reduction="batchmean")
        return 1 - functional.cosine_similarity(student, target).mean()

    def fused() -> Tensor:
        return losses.kl(teacher, student) if kl else losses.cosine(teacher, student)

    def gradient(loss: Callable[[], Tensor]) -> Tensor:
        student.grad = None
        loss().backward()
        assert student.grad is not None
        return student.grad

    def error() -> float:
        ours, peer = gradient(fused), gradient(plain)
        return float((ours - peer).abs().max() / peer.abs().max())

    return Case(ours=lambda: gradient(fused), peer=lambda: gradient(plain), error=error)


_MAIN = {"num_rows": 100_000, "channels": 768}
BENCHMARK = Benchmark(
    name="loss",
    build=build,
    settings={
        "": _MAIN,
        "_fp16": {**_MAIN, "half": True},
        "_kl": {"num_rows": 50_000, "channels": 1000, "kl": True},
    },
    warm={"num_rows": 1000, "channels": 768},
    note="cosine, 100k x 768, forward and backward",
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
