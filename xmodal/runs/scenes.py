"""RUN folders over several scenes, and what a run takes over from another one.

RUN/run.yaml graph.yaml checkpoints/ manifest.json    what all scenes share
RUN/scenes/NAME/                                      a RUN folder of one scene
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from xmodal.atomic import atomic_folder
from xmodal.errors import DataError
from xmodal.store import Run

SCENES = "scenes"


def scene_runs(run: Run) -> list[Run]:
    """The runs of single scenes in a run: those under `scenes`, or the run itself."""
    folder = run.path / SCENES
    if not folder.is_dir():
        return [run]
    return [Run(path.parent) for path in sorted(folder.glob("*/manifest.json"))]


def home_of(run: Run) -> Run:
    """The run that holds the checkpoints: of a scene's run, the one that it lies in."""
    above = run.path.resolve().parent
    return Run(above.parent) if above.name == SCENES else run


def scene_folder(store: Path | None, name: str) -> Path | None:
    """Where a store keeps a scene; None if it has none of that name."""
    if store is None:
        return None
    inner = store / SCENES / name
    return inner if inner.is_dir() else None


def adopt(store: Path | None, run: Run, name: str, fingerprint: str) -> bool:
    """Take a node's features over from another run, without a copy, if they are the same.

    Args:
        store: The other run of the same scene; None for none.
        run: The run that gets them.
        name: The node.
        fingerprint: What the node depends on.

    Returns:
        Whether the run has the node's features now.
    """
    if run.has(name) and _fingerprint(run, name) == fingerprint:
        return True
    other = None if store is None else Run(store)
    if other is None or not other.has(name) or _fingerprint(other, name) != fingerprint:
        return False
    final = run.path / "features" / name
    final.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(final) as work:
        for file in sorted((other.path / "features" / name).iterdir()):
            _link(file, work / file.name)
    return True


def _fingerprint(run: Run, name: str) -> str | None:
    try:
        return run.info(name).fingerprint
    except DataError:
        return None  # damaged: it is computed again


def _link(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
