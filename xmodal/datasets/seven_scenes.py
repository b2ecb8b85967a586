"""7-Scenes as downloaded: `frame-000000.{color,depth,pose}.*` in one folder or in `seq-XX/`.

Poses are camera-to-world with OpenCV axes in metres; depth is millimetres with 65535 for no
reading. The data set publishes no calibration: 585 px and a centre of (320, 240) are the values its
authors name for depth, and the colour camera, which is not registered to depth, is customarily
given the same. `intrinsic.txt` in the folder overrides them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xmodal.datasets.faults import Faults
from xmodal.datasets.folder import find_intrinsics, read_pose_or_fault
from xmodal.datasets.frames import (
    COLOUR_SUFFIXES,
    DEPTH_SUFFIXES,
    Frame,
    Layout,
    files_by_name,
    match_names,
    natural_key,
    no_frames,
)
from xmodal.errors import DataError

DEFAULT_K = ((585.0, 0.0, 320.0), (0.0, 585.0, 240.0), (0.0, 0.0, 1.0))


def is_seven_scenes(root: Path) -> bool:
    """Whether `root` or one of its `seq-*` folders holds frames named as 7-Scenes names them."""
    return any(next(folder.glob("*.color.*"), None) for folder in _sequences(root))


def read_seven_scenes(root: Path, faults: Faults) -> Layout:
    """Find the frames of a 7-Scenes sequence, or of all sequences of a scene.

    Args:
        root: A sequence, or a scene with `seq-*` folders (frame names then start with theirs).
        faults: Receives mismatched names and bad poses.

    Returns:
        The layout.
    """
    frames: list[Frame] = []
    repaired = 0.0
    for folder in _sequences(root):
        prefix = "" if folder == root else f"{folder.name}-"
        colors = _with(".color", folder, COLOUR_SUFFIXES, faults)
        depths = _with(".depth", folder, DEPTH_SUFFIXES, faults)
        poses = _with(".pose", folder, (".txt",), faults)
        groups = {"color": list(colors), "pose": list(poses), "depth": list(depths)}
        for name in match_names(dict(groups), faults):
            pose = read_pose_or_fault(poses[name], faults)
            repaired = max(repaired, pose.repaired)
            frames.append(
                Frame(
                    name=prefix + name,
                    color=colors[name],
                    depth=depths[name],
                    T_world_cam=pose.T_world_cam,
                    pose=poses[name],
                )
            )
    if not frames:
        faults.check()
        raise no_frames(root, "frame-XXXXXX.color.*, .depth.png and .pose.txt")
    notes: tuple[str, ...] = ()
    try:
        K_color, K_depth, files = find_intrinsics(root)
    except DataError as error:
        if error.got != "no such file":
            raise
        K_color, K_depth, files = np.array(DEFAULT_K), None, ()
        notes = ("no intrinsics: 585 px and centre (320, 240) of the 7-Scenes page",)
    return Layout(
        kind="7-Scenes",
        frames=tuple(frames),
        K_color=K_color,
        K_depth=K_depth,
        calibration=files,
        notes=notes,
        repaired=repaired,
    )


def _sequences(root: Path) -> list[Path]:
    nested = [p for p in root.glob("seq-*") if p.is_dir()]
    return [root, *sorted(nested, key=lambda p: natural_key(p.name))]


def _with(ending: str, folder: Path, suffixes: tuple[str, ...], faults: Faults) -> dict[str, Path]:
    found = files_by_name(folder, suffixes, Faults(folder), ending="")
    return {n.removesuffix(ending): p for n, p in found.items() if n.endswith(ending)}
