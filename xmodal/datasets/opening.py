"""`open_scene`: from a folder to a checked `Scene`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lifting.cameras import Camera
from xmodal.datasets.boxes import read_boxes
from xmodal.datasets.calibration import Matrix3, Matrix4
from xmodal.datasets.consistency import check_pose_direction
from xmodal.datasets.faults import Faults
from xmodal.datasets.frames import Frame, Layout
from xmodal.datasets.inspect import Sensors, check_spread, inspect_frames, sample_depth
from xmodal.datasets.layouts import read_layout
from xmodal.datasets.scene import Scene, SceneReport
from xmodal.datasets.settings import SceneSettings, read_settings
from xmodal.datasets.views import LabelMap, LazyViews
from xmodal.errors import DataError, UsageError
from xmodal.images import read_depth, read_header, read_label_map, read_rgb
from xmodal.values import Depth, Image


def open_scene(
    path: str | Path,
    *,
    voxel_m: float = 0.02,
    max_frames: int | None = None,
) -> Scene:
    """Open a posed RGB-D scene of any known layout and check it; frames are decoded on access.

    Layouts: the posed RGB-D folder (also a ScanNet export), 7-Scenes, Replica, TUM. Frames are
    ordered by name as a person would (2 before 10). Frames whose pose has infinite or NaN entries
    are dropped and counted in `report`.

    Args:
        path: The scene folder.
        voxel_m: Voxel side for points fused from depth, when the scene has no points; metres.
        max_frames: Use at most this many frames, evenly spaced.

    Returns:
        The scene. Camera axes are OpenCV's; the world is that of the poses, after `axis_align`.

    Raises:
        DataError: If the folder is missing or of no known layout, or if anything in it is damaged
            or contradictory; all faults of the frames come in one message.
        UsageError: If `voxel_m` or `max_frames` is not positive.
    """
    if not (voxel_m > 0 and math.isfinite(voxel_m)):
        raise _usage("voxel_m", "a positive number of metres", voxel_m)
    if max_frames is not None and max_frames < 1:
        raise _usage("max_frames", "at least 1", max_frames)
    root = Path(path).expanduser().resolve()
    faults = Faults(root)
    layout = read_layout(root, faults)
    settings, unknown = read_settings(root)
    frames = _usable(layout, root, faults)
    used = _evenly(frames, max_frames)
    sensors = inspect_frames(used, layout, settings, faults)
    faults.check()
    check_spread(used, root)
    points_file = _points_file(root)
    if sensors.K_depth is None and points_file is None:
        raise DataError(
            str(root),
            wanted="depth/ to fuse points from, or points.ply to lift to",
            got="colour frames and poses alone",
            fix="add depth maps (16-bit PNG), or points.ply in the frame of the poses",
        )
    scale = settings.depth_scale or layout.depth_scale
    sample = sample_depth(used, scale=scale, settings=settings)
    report = SceneReport(
        layout=layout.kind,
        frames_found=len(layout.frames),
        frames_used=len(used),
        dropped_poses=tuple(f.name for f in layout.frames if f.T_world_cam is None),
        invalid_depth=None if sample is None else sample.invalid_fraction,
        median_depth_m=None if sample is None else sample.median_m,
        notes=_notes(layout, unknown),
    )
    names = [frame.name for frame in layout.frames]
    boxes = read_boxes(root, settings, names=names, hw=sensors.color_hw)
    in_use = {frame.name for frame in used}
    T = np.eye(4) if settings.axis_align is None else np.array(settings.axis_align)
    images = _images(used, sensors, T)
    depths = _depths(used, sensors, T, scale=scale, settings=settings)
    if depths is not None:
        check_pose_direction(depths, root)
    return Scene(
        name=root.name,
        root=root,
        images=images,
        depths=depths,
        label_maps=_label_maps(used, images, depths),
        label_names=dict(settings.label_ids),
        boxes={name: found for name, found in boxes.items() if name in in_use},
        up=None if settings.up is None else torch.tensor(settings.up, dtype=torch.float32),
        voxel_m=voxel_m,
        report=report,
        settings=settings,
        points_file=points_file,
        T_world_files=T,
        files=_files(used, layout, root, points_file),
    )


def _usable(layout: Layout, root: Path, faults: Faults) -> list[Frame]:
    """Frames with a pose. Faults so far come first: they are the likely cause of having none."""
    frames = [frame for frame in layout.frames if frame.T_world_cam is not None]
    if not frames:
        faults.check()
        raise DataError(
            str(root),
            wanted="at least one frame with a finite pose",
            got=f"{len(layout.frames)} frames, every pose infinite or NaN",
            fix="export the poses again; tracking failed in all of them",
        )
    return frames


def _evenly(frames: list[Frame], max_frames: int | None) -> list[Frame]:
    if max_frames is None or len(frames) <= max_frames:
        return frames
    chosen = np.linspace(0, len(frames) - 1, max_frames).round().astype(int)
    return [frames[i] for i in chosen]


def _points_file(root: Path) -> Path | None:
    if (root / "points.ply").exists():
        return root / "points.ply"
    found = sorted(p for p in root.glob("*_vh_clean_2.ply") if not p.name.startswith("."))
    if len(found) > 1:
        raise DataError(
            str(root),
            wanted="at most one cloud",
            got=", ".join(p.name for p in found),
            fix="keep the one to lift to, or name it points.ply",
        )
    return found[0] if found else None


def _notes(layout: Layout, unknown: Sequence[str]) -> tuple[str, ...]:
    notes = list(layout.notes)
    # Below this the rotation was exact to the digits of the file.
    if layout.repaired > 1e-4:
        notes.append(f"rotations made exact, ||R R^T - I|| was up to {layout.repaired:.2g}")
    if unknown:
        notes.append(f"scene.json: keys without a meaning here: {', '.join(unknown)}")
    return tuple(notes)


def _camera(K: Matrix3, T: NDArray[np.float64], frame: Frame, hw: tuple[int, int]) -> Camera:
    assert frame.T_world_cam is not None, "frames without a pose were dropped"
    return Camera(
        K=torch.from_numpy(K).float(),
        T_world_cam=torch.from_numpy(T @ frame.T_world_cam).float(),
        hw=hw,
        time_s=frame.time_s,
    )


def _images(frames: Sequence[Frame], sensors: Sensors, T: Matrix4) -> LazyViews[Image]:
    cameras = [_camera(sensors.K_color, T, frame, sensors.color_hw) for frame in frames]

    def load(index: int) -> Image:
        rgb = torch.from_numpy(read_rgb(frames[index].color)).permute(2, 0, 1)
        return Image(
            rgb=rgb.contiguous().float() / 255.0, camera=cameras[index], name=frames[index].name
        )

    return LazyViews(load, cameras=cameras, names=[frame.name for frame in frames])


def _depths(
    frames: Sequence[Frame],
    sensors: Sensors,
    T: Matrix4,
    *,
    scale: float,
    settings: SceneSettings,
) -> LazyViews[Depth] | None:
    if sensors.K_depth is None or sensors.depth_hw is None:
        return None
    cameras = [_camera(sensors.K_depth, T, frame, sensors.depth_hw) for frame in frames]
    paths = [frame.depth for frame in frames if frame.depth is not None]

    def load(index: int) -> Depth:
        depth_m = read_depth(paths[index], scale=scale, encoding=settings.depth_encoding)
        return Depth(
            depth_m=torch.from_numpy(depth_m), camera=cameras[index], name=frames[index].name
        )

    return LazyViews(load, cameras=cameras, names=[frame.name for frame in frames])


def _label_maps(
    frames: Sequence[Frame], images: LazyViews[Image], depths: LazyViews[Depth] | None
) -> LazyViews[LabelMap] | None:
    labelled = [(index, frame.label) for index, frame in enumerate(frames) if frame.label]
    if not labelled:
        return None
    cameras: list[Camera] = []
    for index, path in labelled:
        hw = read_header(path).hw
        options = [images.cameras[index], *(depths.cameras[index : index + 1] if depths else ())]
        fitting = [camera for camera in options if camera.hw == hw]
        if not fitting:
            raise DataError(
                str(path),
                wanted="a label map of the size of the colour or the depth frames",
                got=f"{hw[1]} x {hw[0]}",
                fix="export the labels without resizing",
            )
        cameras.append(fitting[0])

    def load(index: int) -> LabelMap:
        ids = torch.from_numpy(read_label_map(labelled[index][1]))
        return LabelMap(ids=ids, camera=cameras[index], name=frames[labelled[index][0]].name)

    names = [frames[index].name for index, _ in labelled]
    return LazyViews(load, cameras=cameras, names=names)


def _files(
    frames: Sequence[Frame], layout: Layout, root: Path, points_file: Path | None
) -> tuple[Path, ...]:
    """Everything that features and points depend on, in a fixed order."""
    per_frame = [p for f in frames for p in (f.color, f.depth, f.pose) if p is not None]
    settings = [root / "scene.json"] if (root / "scene.json").exists() else []
    points = [] if points_file is None else [points_file]
    return (*per_frame, *layout.calibration, *settings, *points)


def _usage(name: str, wanted: str, got: object) -> UsageError:
    return UsageError(name, wanted=wanted, got=str(got), fix="pass another value")
