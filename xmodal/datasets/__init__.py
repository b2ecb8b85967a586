"""Scenes of pictures and points as lazy values: `open_scene`."""

from xmodal.datasets.boxes import Box, FrameBoxes
from xmodal.datasets.opening import open_scene
from xmodal.datasets.s3dis import convert_room
from xmodal.datasets.scannet import scannet_split
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
    "convert_room",
    "open_scene",
    "scannet_split",
]
