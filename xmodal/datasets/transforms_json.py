"""`transforms.json`: pictures and poses as nerfstudio, instant-ngp and Polycam write them.

Poses there are camera-to-world with OpenGL axes (x right, y up, z backward); they become OpenCV's
here. The world is that of the file: an `applied_transform` went into the poses and into the cloud
(`ply_file_path`) alike, so it is not applied again. Units are what the poses have; structure from
motion without a known length gives any scale.

Source:
    Tancik et al., Nerfstudio, SIGGRAPH 2023; Mueller et al., Instant neural graphics primitives,
    SIGGRAPH 2022; the keys are those of their documentation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from xmodal.datasets.calibration import Matrix4, Pose, to_pose
from xmodal.datasets.faults import Faults
from xmodal.datasets.frames import Frame, Layout, Lens, frame_names, natural_key, no_frames
from xmodal.datasets.settings import read_json
from xmodal.errors import DataError
from xmodal.images import read_header

FILE = "transforms.json"
_MAX_BYTES = 200_000_000
# Pictures whose names lack an ending, as in the synthetic scenes of NeRF.
_ENDINGS = (".png", ".jpg", ".jpeg")
_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_MODELS: Mapping[str, Literal["pinhole", "fisheye"]] = {
    "OPENCV": "pinhole",
    "PINHOLE": "pinhole",
    "SIMPLE_PINHOLE": "pinhole",
    "OPENCV_FISHEYE": "fisheye",
}
_COEFFICIENTS = ("k1", "k2", "k3", "k4", "p1", "p2")
_UNUSED = ("mask_path", "k5", "k6")


def is_transforms(root: Path) -> bool:
    """Whether `root` has `transforms.json`."""
    return (root / FILE).is_file()


def read_transforms(root: Path, faults: Faults) -> Layout:
    """Find the frames of a scene with `transforms.json`.

    Intrinsics stand in the file or in a frame: `fl_x fl_y cx cy` with `w h` (scaled when the
    pictures were resized since), or `camera_angle_x`; `k1 k2 k3 k4 p1 p2` and `camera_model` give
    the lens. Depth is `depth_file_path` or `depth_path`, 16-bit PNG in millimetres, or in units of
    `integer_depth_scale`.

    Args:
        root: The scene folder.
        faults: Receives what is wrong with single frames.

    Returns:
        The layout, one lens a frame.

    Raises:
        DataError: If the file is damaged or has no frame.
    """
    path = root / FILE
    data = read_json(path, max_bytes=_MAX_BYTES)
    listed = data.get("frames") if isinstance(data, dict) else None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise _wrong(path, 'an object with "frames": [{file_path, transform_matrix}]', _kind(data))
    if not listed:
        raise no_frames(path, "at least one entry in frames")
    shared = cast("dict[str, Any]", data)
    frames: list[Frame] = []
    names = frame_names([str(entry.get("file_path", "")) for entry in listed])
    repaired = 0.0
    for index, (entry, name) in enumerate(zip(listed, names, strict=True)):
        try:
            frame, error = _frame(root, shared | entry, name, f"{path}, frames[{index}]")
        except DataError as fault:
            faults.add_error(fault)
            continue
        frames.append(frame)
        repaired = max(repaired, error)
    if not frames:
        faults.check()
    _check_depths(frames, path, faults)
    frames.sort(key=lambda frame: natural_key(frame.name))
    assert frames[0].lens is not None, "every frame got one"
    return Layout(
        kind=FILE,
        frames=tuple(frames),
        K_color=frames[0].lens.K,
        depth_scale=_depth_scale(shared, path),
        calibration=(path,),
        notes=_notes(shared, listed),
        repaired=repaired,
        points_file=_cloud(root, shared, path),
    )


def _frame(root: Path, entry: dict[str, Any], name: str, where: str) -> tuple[Frame, float]:
    color = _inside(root, entry.get("file_path"), where, "file_path")
    depth = entry.get("depth_file_path", entry.get("depth_path"))
    pose = _pose(entry.get("transform_matrix"), where)
    frame = Frame(
        name=name,
        color=color,
        depth=None if depth is None else _inside(root, depth, where, "depth_file_path"),
        T_world_cam=pose.T_world_cam,
        lens=_lens(entry, read_header(color).hw, where),
    )
    return frame, pose.repaired


def _inside(root: Path, given: object, where: str, key: str) -> Path:
    """A file of the scene; an ending that the name lacks is found."""
    if not isinstance(given, str) or not given:
        raise _wrong(where, f"`{key}`, the path of a file", repr(given))
    path = (root / given).resolve()
    if not path.is_relative_to(root.resolve()):
        fix = f"put {FILE} into the folder that holds the pictures"
        raise DataError(where, wanted=f"`{key}` inside the scene folder", got=given, fix=fix)
    if not path.suffix:
        path = next((p for p in map(path.with_suffix, _ENDINGS) if p.is_file()), path)
    return path


def _pose(given: object, where: str) -> Pose:
    try:
        matrix = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape not in ((4, 4), (3, 4)):
        raise _wrong(where, "`transform_matrix`, four rows of four numbers", f"{given!r:.60}")
    if matrix.shape == (3, 4):
        matrix = np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])
    turned: Matrix4 = np.matmul(matrix, _OPENGL_TO_OPENCV, dtype=np.float64)
    return to_pose(turned, where)


def _lens(entry: dict[str, Any], hw: tuple[int, int], where: str) -> Lens:
    width = _number(entry, "w", where) or float(hw[1])
    height = _number(entry, "h", where) or float(hw[0])
    across, down = hw[1] / width, hw[0] / height
    # Half a pixel of rounding, as between colour and depth.
    if abs(across - down) * min(hw) > 1.0:
        got = f"{width:g} x {height:g} for a picture of {hw[1]} x {hw[0]}"
        raise _wrong(where, "`w` and `h` of the shape of the picture", got)
    fx, fy = _focal(entry, "x", width, where), _focal(entry, "y", height, where)
    # Where one direction is given alone the pixels are square.
    fx, fy = fx or fy, fy or fx
    if fx is None or fy is None:
        raise _wrong(where, "`fl_x` or `camera_angle_x`", "neither")
    cx, cy = _number(entry, "cx", where), _number(entry, "cy", where)
    K = np.eye(3)
    K[0] = fx * across, 0.0, (width / 2 if cx is None else cx) * across
    K[1] = 0.0, fy * down, (height / 2 if cy is None else cy) * down
    model, distortion = _distortion(entry, where)
    return Lens(K=K, distortion=distortion, model=model, hw=hw)


def _focal(entry: dict[str, Any], axis: str, side: float, where: str) -> float | None:
    focal = _number(entry, f"fl_{axis}", where)
    angle_rad = _number(entry, f"camera_angle_{axis}", where)
    if focal is not None or angle_rad is None:
        return focal
    if not 0 < angle_rad < math.pi:
        raise _wrong(where, "a field of view between 0 and pi rad", f"{angle_rad:g}")
    return 0.5 * side / math.tan(0.5 * angle_rad)


def _distortion(
    entry: dict[str, Any], where: str
) -> tuple[Literal["pinhole", "fisheye"], tuple[float, ...]]:
    name = str(entry.get("camera_model", "OPENCV"))
    model = "fisheye" if entry.get("is_fisheye") is True else _MODELS.get(name)
    if model is None:
        raise _wrong(where, f"`camera_model` {' or '.join(_MODELS)}", name)
    k1, k2, k3, k4, p1, p2 = (_number(entry, key, where) or 0.0 for key in _COEFFICIENTS)
    if model == "fisheye":
        return model, (k1, k2, k3, k4)
    if k4:
        raise _wrong(where, "`k4` of 0 for a pinhole camera", f"{k4:g}")
    found = (k1, k2, p1, p2, k3) if k3 else (k1, k2, p1, p2)
    return model, found if any(found) else ()


def _number(entry: dict[str, Any], key: str, where: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    # JSON's true is a number to Python.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(where, f"`{key}`, a finite number", repr(value))
    if key in ("w", "h", "fl_x", "fl_y") and value <= 0:
        raise _wrong(where, f"`{key}` above 0", repr(value))
    return float(value)


def _check_depths(frames: list[Frame], path: Path, faults: Faults) -> None:
    without = [frame.name for frame in frames if frame.depth is None]
    if 0 < len(without) < len(frames):
        faults.add(
            path,
            wanted="depth for every frame or for none",
            got=f"none for {len(without)} of {len(frames)} frames: {', '.join(without[:5])}",
            fix="add `depth_file_path` to these frames, or leave them out",
        )


def _depth_scale(shared: dict[str, Any], path: Path) -> float:
    metres = _number(shared, "integer_depth_scale", str(path))
    if metres is None:
        return 1000.0
    if not metres > 0:
        raise _wrong(path, "`integer_depth_scale` above 0", f"{metres:g}")
    return 1.0 / metres


def _cloud(root: Path, shared: dict[str, Any], path: Path) -> Path | None:
    given = shared.get("ply_file_path")
    return None if given is None else _inside(root, given, str(path), "ply_file_path")


def _notes(shared: dict[str, Any], listed: list[dict[str, Any]]) -> tuple[str, ...]:
    notes: list[str] = []
    if "applied_transform" in shared:
        notes.append("the world is that of transforms.json, after its applied_transform")
    unused = [key for key in _UNUSED if key in shared or any(key in entry for entry in listed)]
    if unused:
        notes.append(f"transforms.json: not used: {', '.join(unused)}")
    return tuple(notes)


def _kind(data: object) -> str:
    return (
        f"keys {', '.join(map(str, data))[:60]}" if isinstance(data, dict) else type(data).__name__
    )


def _wrong(where: Path | str, wanted: str, got: str) -> DataError:
    return DataError(str(where), wanted=wanted, got=got, fix="correct this entry or export again")
