"""Text query: which of 20 prompts each of a million rows of 512 channels is most similar to.

Ours: `xmodal.query.best_vectors` on rows stored as `bf16`. Peer: float32 rows, one matrix product
and an arg-max, as OpenScene labels points. Charged on both sides: products with the prompts, given
as float32, and the arg-max; not charged: bringing rows to length 1 and into memory. `error` and
`agreement` compare arg-maxes with the peer's. `ratio_int8` and `agreement_int8` are of rows stored
as `int8`, `bytes_int8` is their size as a share of half precision. `_pq64`: product quantisation,
on the same rows; they are random, which no code book can learn, so its agreement is the least
possible. Rows are random directions: prompts are as close to each other's score as they ever are.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Benchmark, Case, Number, interleave, main
from xmodal.query import best_vectors
from xmodal.store.codecs import CODECS
from xmodal.store.rows import Codec, StoredRows


def build(*, num_rows: int, channels: int, num_prompts: int, compare: bool = True) -> Case:
    """Random directions as rows and as prompts."""
    generator = torch.Generator().manual_seed(0)
    prompts = functional.normalize(torch.randn(num_prompts, channels, generator=generator), dim=1)
    rows = torch.randn(num_rows, channels, generator=generator)
    rows /= rows.norm(dim=1, keepdim=True)
    brain = in_memory("bf16", rows)

    def peer() -> Tensor:
        return (rows @ prompts.T).argmax(dim=1)

    @cache
    def wanted() -> Tensor:
        return peer()

    def agreement(stored: StoredRows) -> float:
        return float((best_vectors(stored, prompts) == wanted()).float().mean())

    def extra() -> dict[str, Number]:
        found: dict[str, Number] = {"agreement": agreement(brain)}
        for codec in ("int8", "pq64"):
            stored = in_memory(codec, rows)
            ours_s, peer_s = interleave(lambda s=stored: best_vectors(s, prompts), peer)
            found[f"ratio_{codec}"] = peer_s / ours_s
            found[f"agreement_{codec}"] = agreement(stored)
            found[f"bytes_{codec}"] = stored.nbytes / (2 * num_rows * channels)
        return found

    return Case(
        ours=lambda: best_vectors(brain, prompts),
        peer=peer,
        error=lambda: 1.0 - agreement(brain),
        extra=extra if compare else dict,
    )


def in_memory(codec: Codec, rows: Tensor) -> StoredRows:
    """Rows as a store of this codec holds them, read from its files into memory."""
    kind = CODECS[codec]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kind.write(folder, rows.numpy())
        arrays = {file: np.load(folder / f"{file}.npy") for file in kind.files}
    return kind((rows.shape[0], rows.shape[1]), arrays)


BENCHMARK = Benchmark(
    name="query",
    build=build,
    settings={"": {"num_rows": 1_000_000, "channels": 512, "num_prompts": 20}},
    warm={"num_rows": 2000, "channels": 512, "num_prompts": 20, "compare": False},
    note="1M x 512 by 20 prompts, bf16",
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
