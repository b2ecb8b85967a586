"""Posed RGB-D scenes as lazy values: `open_scene`."""

from xmodal.datasets.boxes import Box, FrameBoxes
from xmodal.datasets.opening import open_scene
from xmodal.datasets.scene import Scene, SceneReport
from xmodal.datasets.views import LabelMap, LazyViews
from xmodal.values import Labels

__all__ = [
    "Box",
    "FrameBoxes",
    "LabelMap",
    "Labels",
    "LazyViews",
    "Scene",
    "SceneReport",
    "open_scene",
]
