"""xmodal: teach any sensor what vision foundation models see.

Users import from here: the values, `load_graph`, `open_scene` and the error types. Names are
loaded on first use, so that `import xmodal` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xmodal.datasets import open_scene
    from xmodal.errors import (
        BackendError,
        CheckpointError,
        ConfigError,
        DataError,
        UsageError,
        XmodalError,
    )
    from xmodal.graph import Graph, load_graph
    from xmodal.values import Depth, FeatureMap, Image, Masks, Points, Views

__all__ = [
    "BackendError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Depth",
    "FeatureMap",
    "Graph",
    "Image",
    "Masks",
    "Points",
    "UsageError",
    "Views",
    "XmodalError",
    "load_graph",
    "open_scene",
]

try:
    __version__ = version("xmodal")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+source"

_HOME = {
    "graph": ("Graph", "load_graph"),
    "datasets": ("open_scene",),
    "errors": tuple(n for n in __all__ if n.endswith("Error")),
    "values": ("Depth", "FeatureMap", "Image", "Masks", "Points", "Views"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"xmodal.{module}"), name)
    raise AttributeError(f"module 'xmodal' has no attribute {name!r}")
