"""Makes `import torchvision` work beside a torch build that its wheel was not compiled for.

torchvision's wheel does not load its compiled operators beside a CPU torch and then fails at import
(`operator torchvision::nms does not exist`), because its Python code attaches shape rules to two
operators. timm and open_clip import torchvision but call neither operator, so declaring the two
schemas is enough; whoever calls them still gets torch's own error.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@cache
def declare_operators() -> tuple[str, ...]:
    """Declare what torchvision needs to be imported; call before importing timm or open_clip.

    Returns:
        The names that had to be declared: none where torchvision's own operators load, where it
        was imported already, or where it is not installed.
    """
    spec = None if "torchvision" in sys.modules else find_spec("torchvision")
    if spec is None:
        return ()
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if any(_loads(library) for folder in folders for library in sorted(folder.glob("_C.*"))):
        return ()
    declared = [name for name in _SCHEMAS if not _exists(name)]
    for name in declared:
        _library().define(_SCHEMAS[name])
    return tuple(declared)


def _loads(library: Path) -> bool:
    try:
        torch.ops.load_library(str(library))
    except OSError:
        return False
    return True


def _exists(name: str) -> bool:
    try:
        getattr(torch.ops.torchvision, name)
    except AttributeError:
        return False
    return True


@cache
def _library() -> torch.library.Library:
    """Kept alive: a library object that is collected takes its schemas with it."""
    return torch.library.Library("torchvision", "FRAGMENT")
