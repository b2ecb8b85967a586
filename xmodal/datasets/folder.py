"""The posed RGB-D folder, which is also what a ScanNet export looks like.

`color/NAME.{jpg,png}`, `depth/NAME.png`, `pose/NAME.txt` (camera-to-world, OpenCV axes, metres) and
`intrinsic.txt` for both sensors, or `intrinsic/intrinsic_color.txt` and `intrinsic_depth.txt`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xmodal.datasets.calibration import Matrix3, Pose, read_intrinsics, read_matrix, read_pose
from xmodal.datasets.faults import Faults
from xmodal.datasets.frames import (
    COLOUR_SUFFIXES,
    DEPTH_SUFFIXES,
    Frame,
    Layout,
    files_by_name,
    match_names,
    no_frames,
)
from xmodal.errors import DataError

_SHARED = ("intrinsic.txt", "intrinsics.txt", "camera-intrinsics.txt")


def is_posed_folder(root: Path) -> bool:
    """Whether `root` has the sub-folder that marks this layout."""
    return (root / "color").is_dir()


def read_posed_folder(root: Path, faults: Faults) -> Layout:
    """Find the frames of a posed RGB-D folder.

    Args:
        root: The scene folder.
        faults: Receives mismatched names and bad poses.

    Returns:
        The layout. Frames whose pose has infinite entries are kept, without a pose.

    Raises:
        DataError: If there is no frame at all or no intrinsics.
    """
    colors = files_by_name(root / "color", COLOUR_SUFFIXES, faults, ending=".color")
    if not colors:
        raise no_frames(root, "pictures in color/ (.jpg or .png)")
    poses = _optional(root / "pose", (".txt",), faults, ending=".pose")
    depths = _optional(root / "depth", DEPTH_SUFFIXES, faults, ending=".depth")
    groups = {"color": colors, "pose": poses}
    has_depth = (root / "depth").is_dir()
    if has_depth:
        groups["depth"] = depths
    labels = _optional(root / "label", DEPTH_SUFFIXES, faults, ending=".label")
    frames: list[Frame] = []
    repaired = 0.0
    for name in match_names(dict(groups), faults):
        pose = read_pose_or_fault(poses[name], faults)
        repaired = max(repaired, pose.repaired)
        frames.append(
            Frame(
                name=name,
                color=colors[name],
                depth=depths.get(name),
                T_world_cam=pose.T_world_cam,
                label=labels.get(name),
                pose=poses[name],
            )
        )
    K_color, K_depth, files = find_intrinsics(root)
    return Layout(
        kind="posed RGB-D folder",
        frames=tuple(frames),
        K_color=K_color,
        K_depth=K_depth,
        calibration=files,
        repaired=repaired,
    )


def read_pose_or_fault(path: Path, faults: Faults) -> Pose:
    """Read a pose; a bad one is noted and comes back as lost, so that all bad ones are seen."""
    try:
        return read_pose(path)
    except DataError as error:
        faults.add_error(error)
        return Pose(T_world_cam=None)


def find_intrinsics(root: Path) -> tuple[Matrix3, Matrix3 | None, tuple[Path, ...]]:
    """Read the intrinsics of a scene folder.

    Returns:
        Colour intrinsics, depth intrinsics (None when one file serves both), and the files.

    Raises:
        DataError: If there are none, or colour and depth are posed differently.
    """
    pair = root / "intrinsic"
    if (pair / "intrinsic_color.txt").exists():
        _refuse_extrinsics(pair)
        files = [pair / "intrinsic_color.txt"]
        K_depth = None
        if (pair / "intrinsic_depth.txt").exists():
            files.append(pair / "intrinsic_depth.txt")
            K_depth = read_intrinsics(files[1])
        return read_intrinsics(files[0]), K_depth, tuple(files)
    for name in _SHARED:
        if (root / name).exists():
            return read_intrinsics(root / name), None, (root / name,)
    raise DataError(
        str(root / "intrinsic.txt"),
        wanted="camera intrinsics, 3x3 or 4x4, in pixels",
        got="no such file",
        fix="add intrinsic.txt, or intrinsic/intrinsic_color.txt and intrinsic_depth.txt",
    )


def _optional(
    folder: Path, suffixes: tuple[str, ...], faults: Faults, *, ending: str
) -> dict[str, Path]:
    return files_by_name(folder, suffixes, faults, ending=ending) if folder.is_dir() else {}


def _refuse_extrinsics(folder: Path) -> None:
    """ScanNet writes identity here; anything else would move depth against colour, unseen."""
    for name in ("extrinsic_color.txt", "extrinsic_depth.txt"):
        path = folder / name
        if not path.exists():
            continue
        matrix = read_matrix(path)
        # One millimetre and a twentieth of a degree are below what the poses resolve.
        if matrix.shape != (4, 4) or not np.allclose(matrix, np.eye(4), atol=1e-3):
            raise DataError(
                str(path),
                wanted="the identity: colour and depth share the pose",
                got="another transform",
                fix="register depth to the colour camera (or the reverse) when exporting",
            )
