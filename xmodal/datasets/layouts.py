"""Which of the known layouts a folder has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from xmodal.datasets.clouds import given_cloud
from xmodal.datasets.colmap import is_colmap, read_colmap
from xmodal.datasets.faults import Faults
from xmodal.datasets.folder import is_posed_folder, read_posed_folder
from xmodal.datasets.frames import Layout
from xmodal.datasets.sens import read_sens, sens_file
from xmodal.datasets.seven_scenes import is_seven_scenes, read_seven_scenes
from xmodal.datasets.trajectories import is_replica, is_tum, read_replica, read_tum
from xmodal.datasets.transforms_json import is_transforms, read_transforms
from xmodal.errors import DataError

ACCEPTED = (
    "color/ depth/ pose/ with intrinsic.txt or intrinsic/ (posed RGB-D folder, ScanNet export); "
    "SCENE.sens (ScanNet); "
    "frame-XXXXXX.{color,depth,pose}.* (7-Scenes); traj.txt with results/ (Replica); "
    "groundtruth.txt with rgb.txt and depth.txt or associations.txt (TUM); "
    "transforms.json (nerfstudio, instant-ngp, Polycam); "
    "images/ with sparse/0/cameras.bin or .txt (COLMAP)"
)

_READERS: tuple[tuple[Callable[[Path], bool], Callable[[Path, Faults], Layout]], ...] = (
    (is_replica, read_replica),
    (is_tum, read_tum),
    (is_seven_scenes, read_seven_scenes),
    (is_transforms, read_transforms),
    (is_colmap, read_colmap),
)


def read_layout(root: Path, faults: Faults, *, need_views: bool = True) -> Layout:
    """Recognise the layout of a scene folder and find its frames.

    Args:
        root: The scene folder.
        faults: Receives what is wrong with single frames.
        need_views: Whether a cloud without pictures is an error, or a layout without frames.

    Returns:
        The layout found.

    Raises:
        DataError: If the folder is missing or has none of the known layouts.
    """
    if not root.is_dir():
        raise _not_a_scene(root, "a file" if root.exists() else "no such folder")
    if is_posed_folder(root):
        return read_posed_folder(root, faults)
    recording = sens_file(root)
    if recording is not None:
        return read_sens(recording, faults)
    for recognises, read in _READERS:
        if recognises(root):
            return read(root, faults)
    cloud = given_cloud(root)
    if cloud is not None and not need_views:
        kind = "S3DIS" if cloud == root else "cloud without pictures"
        return Layout(kind=kind, frames=(), K_color=np.eye(3))
    if cloud is not None:
        raise DataError(
            str(root),
            wanted="pictures with poses",
            got="a cloud without pictures",
            fix="add the pictures; training from labels, apply and eval take the cloud as it is",
        )
    inside = sorted(path.name for path in root.iterdir())
    shown = ", ".join(inside[:8]) + (", ..." if len(inside) > 8 else "")
    raise _not_a_scene(root, f"a folder with {shown}" if inside else "an empty folder")


def _not_a_scene(root: Path, got: str) -> DataError:
    fix = "check the path, or arrange the frames as one of these"
    if root.suffix == ".sens":
        fix = "give the folder that the .sens file lies in"
    return DataError(str(root), wanted=f"a scene folder: {ACCEPTED}", got=got, fix=fix)
