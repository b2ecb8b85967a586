"""Which of the known layouts a folder has."""

from __future__ import annotations

from pathlib import Path

from xmodal.datasets.faults import Faults
from xmodal.datasets.folder import is_posed_folder, read_posed_folder
from xmodal.datasets.frames import Layout
from xmodal.datasets.seven_scenes import is_seven_scenes, read_seven_scenes
from xmodal.datasets.trajectories import is_replica, is_tum, read_replica, read_tum
from xmodal.errors import DataError

ACCEPTED = (
    "color/ depth/ pose/ with intrinsic.txt or intrinsic/ (posed RGB-D folder, ScanNet export); "
    "frame-XXXXXX.{color,depth,pose}.* (7-Scenes); traj.txt with results/ (Replica); "
    "groundtruth.txt with rgb.txt and depth.txt or associations.txt (TUM)"
)


def read_layout(root: Path, faults: Faults) -> Layout:
    """Recognise the layout of a scene folder and find its frames.

    Args:
        root: The scene folder.
        faults: Receives what is wrong with single frames.

    Returns:
        The layout found.

    Raises:
        DataError: If the folder is missing or has none of the known layouts.
    """
    if not root.is_dir():
        raise _not_a_scene(root, "a file" if root.exists() else "no such folder")
    if is_posed_folder(root):
        return read_posed_folder(root, faults)
    if is_replica(root):
        return read_replica(root, faults)
    if is_tum(root):
        return read_tum(root, faults)
    if is_seven_scenes(root):
        return read_seven_scenes(root, faults)
    inside = sorted(path.name for path in root.iterdir())
    shown = ", ".join(inside[:8]) + (", ..." if len(inside) > 8 else "")
    raise _not_a_scene(root, f"a folder with {shown}" if inside else "an empty folder")


def _not_a_scene(root: Path, got: str) -> DataError:
    fix = "check the path, or arrange the frames as one of these"
    if root.suffix == ".sens" or (root.is_dir() and next(root.glob("*.sens"), None)):
        fix = (
            "export the .sens file first with ScanNet's SensReader (color, depth, pose, intrinsic)"
        )
    return DataError(str(root), wanted=f"a scene folder: {ACCEPTED}", got=got, fix=fix)
