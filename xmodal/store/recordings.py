"""Rows of recordings in a feature store: one row, some rows, or one map for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmodal.errors import DataError
from xmodal.store.features import FeatureInfo, open_samples, write_store
from xmodal.store.run import Run
from xmodal.values import Embedding, Grids


def write_samples(
    run: Run,
    node: str,
    info: FeatureInfo,
    value: Embedding | Grids,
    *,
    made_from: Mapping[str, Any] | None = None,
) -> None:
    """Store rows of recordings under `features/NODE`; numbers of `info` are set from the value.

    Args:
        run: The run; its recordings are those of the value, in the same order.
        node: Node of the graph.
        info: What the rows are.
        value: The rows.
        made_from: What the fingerprint is a hash of.

    Raises:
        DataError: If rows are not finite, do not fit the codec, or cannot be written.
    """
    info = replace(
        info,
        kind="recordings",
        channels=value.rows.shape[1],
        num_points=len(value.rows),
        num_valid=int(value.valid.sum()),
        num_sources=len(value.offsets) - 1,
    )
    tensors = {
        "rows": value.rows.detach().cpu(),
        "valid": value.valid.cpu(),
        "weight": value.weight.detach().cpu().float(),
        "offsets": value.offsets.cpu(),
    }
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    if isinstance(value, Grids):
        arrays["grid_hw"] = np.array(value.grid_hw, dtype=np.int64)
    write_store(run.path / "features" / node, info, made_from or {}, arrays)


def read_samples(run: Run, node: str) -> Embedding | Grids:
    """Rows of recordings, in float32, after checking every byte of them.

    Raises:
        DataError: If they are missing, damaged, or do not fit together.
    """
    if not run.has(node):
        raise DataError(
            str(run.path / "features" / node),
            wanted=f"rows of `{node}`",
            got=f"the run has: {', '.join(run.sources()) or 'none'}",
            fix=f"xmodal train {run.runfile} --out {run.path}",
        )
    _, arrays, rows = open_samples(_folder(run, node))
    found = Embedding(
        rows=torch.from_numpy(np.asarray(rows, dtype=np.float32)),
        valid=torch.from_numpy(np.array(arrays["valid"])),
        weight=torch.from_numpy(np.array(arrays["weight"])),
        offsets=torch.from_numpy(np.array(arrays["offsets"])),
    )
    if "grid_hw" not in arrays:
        return found
    height, width = arrays["grid_hw"].tolist()
    return Grids(
        rows=found.rows,
        valid=found.valid,
        weight=found.weight,
        offsets=found.offsets,
        grid_hw=(height, width),
    )


def _folder(run: Run, node: str) -> Path:
    return run.path / "features" / node
