"""Graph and run files: a strict reader, typed settings, one report of all mistakes."""

from __future__ import annotations

from pathlib import Path


def configs_folder() -> Path:
    """The folder of graphs and run files that comes with the package."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"
