"""`open_scene`: from a folder to a checked `Scene`."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lifting.cameras import Camera
from xmodal.datasets.boxes import FrameBoxes, moved_boxes, read_boxes
from xmodal.datasets.calibration import Matrix4
from xmodal.datasets.clouds import cloud_files, given_cloud
from xmodal.datasets.consistency import check_pose_direction
from xmodal.datasets.faults import Faults
from xmodal.datasets.frame_views import (
    PictureOptions,
    color_cameras,
    depth_cameras,
    depth_views,
    image_views,
    label_views,
)
from xmodal.datasets.frames import Frame, Layout
from xmodal.datasets.inspect import (
    check_spread,
    inspect_frames,
    sample_depth,
)
from xmodal.datasets.layouts import read_layout
from xmodal.datasets.scannet import axis_alignment, scannet_files
from xmodal.datasets.scene import Scene, SceneReport, no_points
from xmodal.datasets.settings import LabelSet, SceneSettings, read_settings
from xmodal.datasets.views import LazyViews
from xmodal.errors import DataError, UsageError
from xmodal.values import Image

Need = Literal["views", "points"]


def open_scene(
    path: str | Path,
    *,
    voxel_m: float = 0.02,
    max_frames: int | None = None,
    label_set: LabelSet | None = None,
    need: Collection[Need] = ("views", "points"),
    max_side_px: int | None = None,
    undistort: bool = False,
) -> Scene:
    """Open a scene of any known layout and check it; frames are decoded on access.

    Layouts: the posed RGB-D folder (also a ScanNet export), ScanNet's `.sens`, 7-Scenes, Replica,
    TUM, `transforms.json`, COLMAP; and, where points are all that is needed, a room of S3DIS or a
    folder with `points.ply`. Frames are ordered by name as a person would (2 before 10). Frames
    whose pose has infinite or NaN entries are dropped and counted in `report`.

    Args:
        path: The scene folder.
        voxel_m: Voxel side for points fused from depth, when the scene has no points; metres.
        max_frames: Use at most this many frames, evenly spaced.
        label_set: Classes of the point labels; those of `scene.json` or of the files if None.
        need: What the scene must have. Without `views` a cloud alone will do, without `points`
            colour pictures alone (`Scene.has_cloud` is then False and `cloud()` an error).
        max_side_px: Make colour pictures smaller by averaging, and their intrinsics with them, so
            that no side is longer; those that are not longer stay as they are.
        undistort: Resample pictures and depth as a pinhole camera would have taken them, where the
            lens bends. What renders splats needs this; lifting to points does not.

    Returns:
        The scene. Camera axes are OpenCV's; the world is that of the poses, after `axis_align`, or
        where there is none after ScanNet's `axisAlignment`.

    Raises:
        DataError: If the folder is missing or of no known layout, or if anything in it is damaged
            or contradictory; all faults of the frames come in one message.
        UsageError: If `voxel_m`, `max_frames` or `max_side_px` is not positive.
    """
    if not (voxel_m > 0 and math.isfinite(voxel_m)):
        raise _usage("voxel_m", "a positive number of metres", voxel_m)
    if max_frames is not None and max_frames < 1:
        raise _usage("max_frames", "at least 1", max_frames)
    if max_side_px is not None and max_side_px < 1:
        raise _usage("max_side_px", "at least 1 pixel", max_side_px)
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
        sparse_points=points_file is not None and points_file == layout.points_file,
        T_world_files=world.T,
        files=(*_files(used, layout, root, points_file, segments), *world.files),
        packed=layout.packed,
        label_set=label_set,
        segments_file=segments,
        max_side_px=max_side_px,
        undistort=undistort,
    )
    return _with_views(scene, layout, used, faults, need=need) if used else scene


def _with_views(
    scene: Scene, layout: Layout, used: list[Frame], faults: Faults, *, need: Collection[Need]
) -> Scene:
    """The scene with its frames, after they were checked."""
    root, settings, T = scene.root, scene.settings, scene.T_world_files
    sensors = inspect_frames(used, layout, settings, faults)
    faults.check()
    if layout.metric:
        check_spread(used, root)
    if sensors.K_depth is None and scene.points_file is None and "points" in need:
        raise no_points(root)
    scale = settings.depth_scale or layout.depth_scale
    sample = sample_depth(used, scale=scale, settings=settings)
    if sample is not None:
        scene.report.invalid_depth = sample.invalid_fraction
        scene.report.median_depth_m = sample.median_m
    names = [frame.name for frame in layout.frames]
    sizes = [f.lens.hw for f in used if f.lens and f.lens.hw] or [sensors.color_hw]
    largest = max(h for h, _ in sizes), max(w for _, w in sizes)
    boxes = read_boxes(root, settings, names=names, hw=largest)
    cameras = color_cameras(used, sensors, T)
    options = PictureOptions(max_side_px=scene.max_side_px, undistort=scene.undistort)
    images = image_views(used, cameras, options)
    stored = depth_cameras(used, sensors, T)
    depths = depth_views(used, stored, scale=scale, settings=settings, undistort=scene.undistort)
    if depths is not None:
        check_pose_direction(depths, root)
    return replace(
        scene,
        images=images,
        depths=depths,
        label_maps=label_views(used, cameras, stored),
        boxes=_boxes(boxes, cameras, images),
    )


def _boxes(
    boxes: Mapping[str, FrameBoxes], cameras: Sequence[Camera], images: LazyViews[Image]
) -> dict[str, FrameBoxes]:
    """Boxes of the frames in use, in pixels of their pictures as they are used."""
    moved: dict[str, FrameBoxes] = {}
    for name, old, new in zip(images.names, cameras, images.cameras, strict=True):
        if name in boxes:
            same = old.hw == new.hw and new.coefficients == old.coefficients
            moved[name] = boxes[name] if same else moved_boxes(boxes[name], old, new)
    return moved


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
