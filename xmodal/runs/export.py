"""`xmodal export`: a run's features as a coloured cloud."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from xmodal.errors import UsageError
from xmodal.ply import write_points
from xmodal.runs.opened import open_run
from xmodal.store import Features

# Enough rows for three stable components; more only costs time.
_PCA_ROWS = 20_000


def export_ply(path: Path, out: Path, source: str) -> str:
    """Write the cloud of a run, coloured by the three principal components of its features.

    Raises:
        UsageError: If `out` is no .ply, or the run has no such source.
    """
    if out.suffix.lower() != ".ply":
        raise UsageError(
            f"--out {out}", wanted="a file ending in .ply", got=out.suffix or "no ending",
            fix=f"--out {out.with_suffix('.ply')}",
        )  # fmt: skip
    opened = open_run(path)
    opened.pick(source)
    colours = principal_colours(opened.features(source))
    write_points(out, replace(opened.cloud, rgb=torch.from_numpy(colours)))
    return f"wrote {out}: {len(colours)} points, colours are principal components of {source}"


def principal_colours(features: Features) -> npt.NDArray[np.float32]:
    """RGB `[N, 3]` in [0, 1] from three principal components; grey where not observed."""
    valid = np.asarray(features.valid)
    colours = np.full((len(valid), 3), 0.25, dtype=np.float32)
    seen = np.flatnonzero(valid)
    if len(seen) < 4:
        return colours
    picked = seen[:: max(1, len(seen) // _PCA_ROWS)]
    sample = torch.from_numpy(features.take(picked))
    mean = sample.mean(0)
    torch.manual_seed(0)
    axes = torch.pca_lowrank(sample - mean, q=3, center=False)[2]
    shown = (sample - mean) @ axes
    low, high = torch.quantile(shown, 0.02, dim=0), torch.quantile(shown, 0.98, dim=0)
    for part, rows in features.blocks():
        coordinate = (torch.from_numpy(rows) - mean) @ axes
        scaled = ((coordinate - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).numpy()
        colours[part][valid[part]] = scaled[valid[part]]
    return colours
