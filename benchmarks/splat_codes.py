"""Queries on compressed rows: which of 20 prompts 200,000 rows of 512 channels are most similar to.

Ours: `xmodal.query.best_vectors` on rows stored as `components`, without decoding them. Peer: the
same codes decoded to float32 rows first, then one matrix product and an arg-max, as systems with
coded feature fields do. Both give the similarity of unit rows; prompts come as float32 on both
sides, codes lie in memory. `error` is the share of rows where ours differs from the peer. Rows are
made as scenes are: each shows three of a hundred things, in any proportion, and a little noise.
`agreement` compares with the rows as they were before they were coded, `cosine_error` is their mean
1 - cosine, `bytes_row` counts codes without the 0.26 MB of components. `_pq64` and `_int8`: the
same rows in those codecs, each against decoding it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Benchmark, Case, Number, interleave, main
from benchmarks.query import in_memory
from xmodal.query import best_vectors
from xmodal.store.rows import StoredRows, cosine_errors

_THINGS = 100


def build(*, num_rows: int, channels: int, num_prompts: int, compare: bool = True) -> Case:
    """Rows of a made-up scene, and some of its things as prompts."""
    generator = torch.Generator().manual_seed(0)
    things = functional.normalize(torch.randn(_THINGS, channels, generator=generator), dim=1)
    rows = _scene(things, num_rows, generator)
    prompts = things[:num_prompts]
    coded = in_memory("components", rows)

    @cache
    def wanted() -> Tensor:
        return (rows @ prompts.T).argmax(dim=1)

    def figures(stored: StoredRows) -> dict[str, Number]:
        best = best_vectors(stored, prompts)
        return {
            "agreement": float((best == wanted()).float().mean()),
            "cosine_error": cosine_errors(rows.numpy(), stored, None)[0],
            "bytes_row": (stored.nbytes - _shared(stored)) / num_rows,
        }

    def extra() -> dict[str, Number]:
        found = figures(coded)
        for codec in ("pq64", "int8"):
            stored = in_memory(codec, rows)
            ours_s, peer_s = interleave(
                lambda s=stored: best_vectors(s, prompts), lambda s=stored: _decoded(s, prompts)
            )
            here = figures(stored) | {"ratio": peer_s / ours_s}
            found |= {f"{name}_{codec}": value for name, value in here.items()}
        return found

    return Case(
        ours=lambda: best_vectors(coded, prompts),
        peer=lambda: _decoded(coded, prompts),
        error=lambda: float(
            (best_vectors(coded, prompts) != _decoded(coded, prompts)).float().mean()
        ),
        extra=extra if compare else dict,
    )


def _decoded(stored: StoredRows, prompts: Tensor) -> Tensor:
    return (torch.from_numpy(np.asarray(stored)) @ prompts.T).argmax(dim=1)


def _scene(things: Tensor, num_rows: int, generator: torch.Generator) -> Tensor:
    """Unit rows, each a mixture of three things."""
    rows = torch.randn(num_rows, things.shape[1], generator=generator)
    rows *= 0.2 / things.shape[1] ** 0.5
    for _ in range(3):
        picked = torch.randint(0, len(things), (num_rows,), generator=generator)
        rows += torch.rand(num_rows, 1, generator=generator) * things[picked]
    return functional.normalize(rows, dim=1)


def _shared(stored: StoredRows) -> int:
    """Bytes that all rows have in common."""
    channels = stored.shape[1]
    return {"components": 2 * 256 * channels, "pq64": 4 * 256 * channels}.get(stored.codec, 0)


BENCHMARK = Benchmark(
    name="splat_codes",
    build=build,
    settings={"": {"num_rows": 200_000, "channels": 512, "num_prompts": 20}},
    warm={"num_rows": 300, "channels": 512, "num_prompts": 20, "compare": False},
    note="200k x 512 by 20 prompts, component codes of 28 bytes",
)

if __name__ == "__main__":
    raise SystemExit(main(BENCHMARK))
