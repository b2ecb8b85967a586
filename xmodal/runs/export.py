"""`xmodal export`: a run's features as a coloured cloud, or as coloured splats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from lifting.gaussians.harmonics import sh_from_rgb
from xmodal.errors import UsageError
from xmodal.ply import write_points
from xmodal.runs.opened import open_run
from xmodal.runs.recorded.material import is_recorded
from xmodal.splats.files import write_dot_splat, write_splats
from xmodal.store import Features, Run

# Enough rows for three stable components; more only costs time.
_PCA_ROWS = 20_000


def export_run(path: Path, out: Path, source: str | None) -> str:
    """Write what a run is good for outside: a coloured cloud, or a student of recordings as ONNX.

    Args:
        path: The run.
        out: The file; its ending says what it is.
        source: Features whose colours are shown, `lifted` if None; of a run over recordings the
            student, the only one if None.
    """
    if is_recorded(Run(path)):
        from xmodal.runs.recorded.export import export_student

        return export_student(path, out, source)
    return export_ply(path, out, source or "lifted")


def export_ply(path: Path, out: Path, source: str) -> str:
    """Write the cloud or splats of a run, coloured by the principal components of its features.

    A source whose student shaped splats of its own is written with those.

    Raises:
        UsageError: If `out` is no .ply (or .splat, of a run over splats), or the run has no such
            source.
    """
    opened = open_run(path)
    own = opened.drawn(source)
    splats = opened.splats if own is None else own
    kinds = (".ply",) if splats is None else (".ply", ".splat")
    if out.suffix.lower() not in kinds:
        raise UsageError(
            f"--out {out}",
            wanted=f"a file ending in {' or '.join(kinds)}",
            got=out.suffix or "no ending",
            fix=f"--out {out.with_suffix('.ply')}",
        )
    opened.pick(source)
    colours = torch.from_numpy(principal_colours(opened.features(source)))
    what = "points"
    if splats is None:
        write_points(out, replace(opened.cloud, rgb=colours))
    else:
        what, splats = "splats", replace(splats, sh=sh_from_rgb(colours))
        (write_splats if out.suffix.lower() == ".ply" else write_dot_splat)(out, splats)
    return f"wrote {out}: {len(colours)} {what}, colours are principal components of {source}"


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
