"""`open_scene`: from a folder to a checked `Scene`."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lifting.cameras import Camera
from xmodal.datasets.boxes import read_boxes
from xmodal.datasets.calibration import Matrix3, Matrix4, scale_intrinsics
from xmodal.datasets.clouds import cloud_files, given_cloud
from xmodal.datasets.consistency import check_pose_direction
from xmodal.datasets.faults import Faults
from xmodal.datasets.frames import Frame, Layout, Lens
from xmodal.datasets.inspect import (
    Sensors,
    check_spread,
    frame_depth,
    inspect_frames,
    sample_depth,
)
from xmodal.datasets.layouts import read_layout
from xmodal.datasets.scannet import axis_alignment, scannet_files
from xmodal.datasets.scene import Scene, SceneReport, no_points
from xmodal.datasets.settings import LabelSet, SceneSettings, read_settings
from xmodal.datasets.views import LabelMap, LazyViews
from xmodal.errors import DataError, UsageError
from xmodal.images import read_header, read_label_map, read_rgb
from xmodal.values import Depth, Image

Need = Literal["views", "points"]


def open_scene(
    path: str | Path,
    *,
    voxel_m: float = 0.02,
    max_frames: int | None = None,
    label_set: LabelSet | None = None,
    need: Collection[Need] = ("views", "points"),
) -> Scene:
    """Open a scene of any known layout and check it; frames are decoded on access.

    Layouts: the posed RGB-D folder (also a ScanNet export), ScanNet's `.sens`, 7-Scenes, Replica,
    TUM, `transforms.json`; and, where points are all that is needed, a room of S3DIS or a folder
    with `points.ply`. Frames are ordered by name as a person would (2 before 10). Frames whose pose
    has infinite or NaN entries are dropped and counted in `report`.

    Args:
        path: The scene folder.
        voxel_m: Voxel side for points fused from depth, when the scene has no points; metres.
        max_frames: Use at most this many frames, evenly spaced.
        label_set: Classes of the point labels; those of `scene.json` or of the files if None.
        need: What the scene must have. Without `views` a cloud alone will do, without `points`
            colour pictures alone (`cloud()` is then an error).

    Returns:
        The scene. Camera axes are OpenCV's; the world is that of the poses, after `axis_align`, or
        where there is none after ScanNet's `axisAlignment`.

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
    layout = read_layout(root, faults, need_views="views" in need)
    settings, unknown = read_settings(root)
    frames = _usable(layout, root, faults)
    used = _evenly(frames, max_frames)
    world = _world(root, settings)
    points_file = given_cloud(root, layout.points_file)
    segments = scannet_files(root).segments if _is_mesh(points_file) else None
    scene = Scene(
        name=root.name,
        root=root,
        images=LazyViews(_nothing, cameras=(), names=()),
        depths=None,
        label_maps=None,
        label_names=dict(settings.label_ids),
        boxes={},
        up=world.up,
        voxel_m=voxel_m,
        report=SceneReport(
            layout=layout.kind,
            frames_found=len(layout.frames),
            frames_used=len(used),
            dropped_poses=tuple(f.name for f in layout.frames if f.T_world_cam is None),
            notes=(*_notes(layout, unknown), *world.notes),
        ),
        settings=settings,
        points_file=points_file,
        T_world_files=world.T,
        files=(*_files(used, layout, root, points_file, segments), *world.files),
        packed=layout.packed,
        label_set=label_set,
        segments_file=segments,
    )
    return _with_views(scene, layout, used, faults, need=need) if used else scene


def _with_views(
    scene: Scene, layout: Layout, used: list[Frame], faults: Faults, *, need: Collection[Need]
) -> Scene:
    """The scene with its frames, after they were checked."""
    root, settings, T = scene.root, scene.settings, scene.T_world_files
    sensors = inspect_frames(used, layout, settings, faults)
    faults.check()
    check_spread(used, root)
    if sensors.K_depth is None and scene.points_file is None and "points" in need:
        raise no_points(root)
    scale = settings.depth_scale or layout.depth_scale
    sample = sample_depth(used, scale=scale, settings=settings)
    if sample is not None:
        scene.report.invalid_depth = sample.invalid_fraction
        scene.report.median_depth_m = sample.median_m
    names = [frame.name for frame in layout.frames]
    boxes = read_boxes(root, settings, names=names, hw=sensors.color_hw)
    in_use = {frame.name for frame in used}
    images = _images(used, sensors, T)
    depths = _depths(used, sensors, T, scale=scale, settings=settings)
    if depths is not None:
        check_pose_direction(depths, root)
    return replace(
        scene,
        images=images,
        depths=depths,
        label_maps=_label_maps(used, images, depths),
        boxes={name: found for name, found in boxes.items() if name in in_use},
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _World:
    T: Matrix4
    up: Tensor | None
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def _world(root: Path, settings: SceneSettings) -> _World:
    """The world that the scene is used in, by `scene.json`, else by ScanNet's own alignment."""
    up = None if settings.up is None else torch.tensor(settings.up, dtype=torch.float32)
    if settings.axis_align is not None:
        return _World(T=np.array(settings.axis_align), up=up)
    info = scannet_files(root).info
    aligned = None if info is None else axis_alignment(info)
    if info is None or aligned is None:
        return _World(T=np.eye(4), up=up)
    return _World(
        T=aligned,
        up=torch.tensor((0.0, 0.0, 1.0)) if up is None else up,
        files=(info,),
        notes=(f"axisAlignment of {info.name} applied",),
    )


def _is_mesh(points_file: Path | None) -> bool:
    return points_file is not None and points_file.name.endswith("_vh_clean_2.ply")


def _nothing(index: int) -> Image:
    raise IndexError(f"view {index} of a scene without views")


def _usable(layout: Layout, root: Path, faults: Faults) -> list[Frame]:
    """Frames with a pose; none in a scene of points alone.

    Faults so far come first: they are the likely cause of having none.
    """
    frames = [frame for frame in layout.frames if frame.T_world_cam is not None]
    if not frames:
        faults.check()
    if not frames and layout.frames:
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


def _notes(layout: Layout, unknown: Sequence[str]) -> tuple[str, ...]:
    notes = list(layout.notes)
    # Below this the rotation was exact to the digits of the file.
    if layout.repaired > 1e-4:
        notes.append(f"rotations made exact, ||R R^T - I|| was up to {layout.repaired:.2g}")
    if unknown:
        notes.append(f"scene.json: keys without a meaning here: {', '.join(unknown)}")
    return tuple(notes)


def _camera(
    K: Matrix3, T: Matrix4, frame: Frame, hw: tuple[int, int], from_hw: tuple[int, int]
) -> Camera:
    """The camera of a frame: `K` belongs to `hw`, a lens of the frame's own to `from_hw`."""
    assert frame.T_world_cam is not None, "frames without a pose were dropped"
    lens = Lens(K=K)
    if frame.lens is not None:
        scaled = scale_intrinsics(frame.lens.K, from_hw=from_hw, to_hw=hw)
        lens = replace(frame.lens, K=scaled)
    return Camera(
        K=torch.from_numpy(lens.K).float(),
        T_world_cam=torch.from_numpy(T @ frame.T_world_cam).float(),
        hw=hw,
        distortion=torch.tensor(lens.distortion) if lens.distortion else None,
        model=lens.model,
        time_s=frame.time_s,
    )


def _images(frames: Sequence[Frame], sensors: Sensors, T: Matrix4) -> LazyViews[Image]:
    hw = sensors.color_hw
    cameras = [_camera(sensors.K_color, T, frame, hw, hw) for frame in frames]

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
    hw, color_hw = sensors.depth_hw, sensors.color_hw
    cameras = [_camera(sensors.K_depth, T, frame, hw, color_hw) for frame in frames]
    paths = [frame.depth for frame in frames if frame.depth is not None]

    def load(index: int) -> Depth:
        depth_m = frame_depth(paths[index], scale=scale, settings=settings)
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
    frames: Sequence[Frame],
    layout: Layout,
    root: Path,
    points_file: Path | None,
    segments: Path | None,
) -> tuple[Path, ...]:
    """Everything that features and points depend on, in a fixed order."""
    per_frame = [p for f in frames for p in (f.color, f.depth, f.pose) if isinstance(p, Path)]
    settings = [root / "scene.json"] if (root / "scene.json").exists() else []
    points = () if points_file is None else cloud_files(points_file)
    parts = () if segments is None else (segments,)
    return (*per_frame, *layout.calibration, *settings, *points, *parts)


def _usage(name: str, wanted: str, got: object) -> UsageError:
    return UsageError(name, wanted=wanted, got=str(got), fix="pass another value")
