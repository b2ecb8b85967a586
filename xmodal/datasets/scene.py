"""A scene: lazy views, a cloud, and whatever truth comes with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from lifting.cameras import project
from xmodal.atomic import sha256_file
from xmodal.datasets.boxes import FrameBoxes
from xmodal.datasets.clouds import read_cloud
from xmodal.datasets.fusion import fuse_depth
from xmodal.datasets.labels import read_instances, read_labels
from xmodal.datasets.scannet import read_segments
from xmodal.datasets.settings import LabelSet, SceneSettings
from xmodal.datasets.views import LabelMap, LazyViews
from xmodal.errors import DataError
from xmodal.ply import PlyCloud
from xmodal.values import Depth, Image, Labels, Points

Progress = Callable[[int, int], None]


@dataclass(kw_only=True)
class SceneReport:
    """What was found, used and left out; grows when the cloud is made.

    Attributes:
        layout: Name of the recognised layout.
        frames_found: Frames with all their files.
        frames_used: Frames after dropping lost poses and after `max_frames`.
        dropped_poses: Names of frames whose pose is infinite or NaN.
        invalid_depth: Share of depth pixels without a reading, in eight evenly spaced frames.
        median_depth_m: Median reading of the same frames.
        dropped_points: Given points left out for NaN or infinite numbers.
        fused: How many readings and voxels fusion left out, and why; empty for given points.
        notes: What was assumed or repaired.
    """

    layout: str
    frames_found: int
    frames_used: int
    dropped_poses: tuple[str, ...] = ()
    invalid_depth: float | None = None
    median_depth_m: float | None = None
    dropped_points: int = 0
    fused: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report as short lines for people."""
        lines = [f"{self.layout}: {self.frames_used} of {self.frames_found} frames used"]
        if self.dropped_poses:
            lines.append(f"{len(self.dropped_poses)} frames dropped: pose lost")
        if self.invalid_depth is not None:
            lines.append(
                f"depth: median {self.median_depth_m:.2f} m, {self.invalid_depth:.0%} no reading"
            )
        if self.dropped_points:
            lines.append(f"{self.dropped_points} points dropped: not finite")
        if self.fused:
            lines.append("fusion: " + ", ".join(f"{n} {what}" for what, n in self.fused.items()))
        return [*lines, *self.notes]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A scene on disk: posed pictures, points, or both. Nothing is decoded before it is asked for.

    Attributes:
        name: Name of the folder.
        root: The folder.
        images: Colour views; none in a scene of points alone.
        depths: Depth views of the same frames in the same order; None in a colour-only scene.
        label_maps: Label pictures of the frames that have one; None when there are none.
        label_names: Names of the ids in `label_maps`.
        boxes: Frame name -> text -> boxes, of the frames in use.
        up: Up in the world frame, unit length; None when unknown.
        voxel_m: Voxel side for fusing points from depth, metres.
        report: What was dropped, counted.
        settings: `scene.json`.
        points_file: Points that came with the scene (a folder for a room of S3DIS), or None.
        sparse_points: Whether they are those of structure from motion: corners of the photos, with
            nothing between them.
        T_world_files: From the world of the files to the world used here (`axis_align`).
        files: Everything the fingerprint covers, in order.
        packed: Whether all frames lie in one file, so that their names tell which are in use.
        label_set: Classes of `labels()`; those of the files if None.
        segments_file: Super-points of the given points, or None.
        max_side_px: Longest side that pictures were made smaller to; None for as they are.
        undistort: Whether the bend of lenses was taken out of the pictures.
    """

    name: str
    root: Path
    images: LazyViews[Image]
    depths: LazyViews[Depth] | None
    label_maps: LazyViews[LabelMap] | None
    label_names: dict[int, str]
    boxes: dict[str, FrameBoxes]
    up: Float[Tensor, 3] | None
    voxel_m: float
    report: SceneReport
    settings: SceneSettings
    points_file: Path | None
    T_world_files: Float64[NDArray[np.float64], "4 4"]
    files: tuple[Path, ...]
    packed: bool = False
    sparse_points: bool = False
    label_set: LabelSet | None = None
    segments_file: Path | None = None
    max_side_px: int | None = None
    undistort: bool = False
    _made: Points | None = field(default=None, init=False, repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, sizes and contents of the files in use, as 64 hex digits.

        Covers colour, depth, poses, intrinsics, `scene.json`, given points and their super-points,
        the label set asked for, how pictures were made smaller or straight and, where points are
        fused, the voxel side; not labels and boxes.
        It does not depend on where the folder lies.
        """
        digest = hashlib.sha256()
        for path in self.files:
            name = path.relative_to(self.root) if path.is_relative_to(self.root) else path.name
            entry = f"{name}\0{path.stat().st_size}\0{sha256_file(path)}\n"
            digest.update(entry.encode())
        if self.label_set is not None:
            digest.update(f"label_set {self.label_set}\n".encode())
        if self.packed:
            digest.update(f"frames {' '.join(self.images.names)}\n".encode())
        if self.max_side_px is not None:
            digest.update(f"max_side_px {self.max_side_px}\n".encode())
        if self.undistort:
            digest.update(b"undistort\n")
        if self.points_file is None and self.depths is not None:
            digest.update(f"voxel_m {self.voxel_m!r}\n".encode())
        return digest.hexdigest()

    @property
    def has_cloud(self) -> bool:
        """Whether there are points, given or to be fused; without, `cloud()` is an error."""
        return self.points_file is not None or self.depths is not None

    def depth(self, index: int) -> Depth | None:
        """Depth view of a frame, None in a colour-only scene."""
        return None if self.depths is None else self.depths[index]

    def cloud(self, progress: Progress | None = None) -> Points:
        """The points to lift to, in the world frame: those given, or else fused from depth.

        Given points (`points.ply`, ScanNet's `*_vh_clean_2.ply`, COLMAP's `points3D`, a room of
        S3DIS) keep their order;
        those that are not finite are dropped and counted. ScanNet's super-points, where they are
        there, become `segments`. Fused points are the average of the depth readings
        per voxel, weighted by inverse variance, with colours and normals: see
        `xmodal.datasets.fusion` for why not a TSDF. Computed once.

        Args:
            progress: Called with frames fused and frames in all.

        Raises:
            DataError: If the given points are damaged or no camera sees any of them, or if no depth
                reading survives fusion, or if there is neither (see `has_cloud`).
        """
        if self._made is None:
            made = self._check_given(self._given) if self._given else self._fuse(progress)
            object.__setattr__(self, "_made", made)
            return made
        return self._made

    def labels(self) -> Labels | None:
        """Class of every point of `cloud()`, or None when the scene has no point labels.

        Raises:
            DataError: If the labels do not fit the points, or refer to points that were not given.
        """
        if self._given is not None:
            return read_labels(self.root, self.settings, self._given, self.label_set)
        found = [
            p for p in (self.root / "labels.npy", *self.root.glob("*.labels.ply")) if p.exists()
        ]
        if found:
            raise DataError(
                str(found[0]),
                wanted="the points that these labels belong to",
                got="neither points.ply nor *_vh_clean_2.ply",
                fix="add the points, or remove the labels; fused points have another order",
            )
        return None

    def instances(self) -> Int64[Tensor, " N"] | None:
        """Number of the thing of every point of `cloud()`, -1 for none; None when unknown.

        Raises:
            DataError: If the things do not fit the points.
        """
        ids = None if self._given is None else read_instances(self.root, self._given)
        return None if ids is None else torch.from_numpy(ids)

    @cached_property
    def _given(self) -> PlyCloud | None:
        return None if self.points_file is None else read_cloud(self.points_file)

    def _fuse(self, progress: Progress | None) -> Points:
        if self.depths is None:
            raise no_points(self.root)
        try:
            fused = fuse_depth(self.images, self.depths, voxel_m=self.voxel_m, progress=progress)
        except ValueError as error:
            raise DataError(
                str(self.root / "depth"),
                wanted=f"a scene that voxels of {self.voxel_m:g} m can be numbered in",
                got=str(error),
                fix="check depth_scale and the poses, or use larger voxels",
            ) from error
        self.report.fused = {
            "points": len(fused.points.xyz),
            "readings": fused.num_readings,
            "readings dropped at depth edges": fused.num_edges,
            "readings dropped as noisy": fused.num_far,
            "voxels dropped for want of support": fused.num_weak,
            "voxels dropped as seen through": fused.num_carved,
        }
        if not len(fused.points.xyz):
            raise DataError(
                str(self.root / "depth"),
                wanted="depth readings that agree on surfaces",
                got="; ".join(f"{n} {what}" for what, n in self.report.fused.items()),
                fix="check depth_scale and the poses, or give points.ply",
            )
        return fused.points

    def _check_given(self, given: PlyCloud) -> Points:
        self.report.dropped_points = given.num_dropped
        points = _moved(given.points, self.T_world_files)
        if self.segments_file is not None:
            found = read_segments(self.segments_file, len(given.kept))
            numbered = np.unique(found, return_inverse=True)[1][given.kept.numpy()]
            points = replace(points, segments=torch.from_numpy(numbered))
        if not len(points.xyz):
            raise DataError(
                str(self.points_file),
                wanted="at least one finite point",
                got=f"{len(given.kept)} vertices, {given.num_dropped} of them not finite",
                fix="export the cloud again, or remove it to fuse points from depth",
            )
        cameras = self.images.cameras
        if not cameras:
            return points
        step = max(1, len(cameras) // 16)
        # A cloud and poses in different frames or units would lift nothing, or worse, something.
        if not any(bool(project(points.xyz, c).in_image.any()) for c in cameras[::step]):
            low, high = points.xyz.amin(0).tolist(), points.xyz.amax(0).tolist()
            raise DataError(
                str(self.points_file),
                wanted="points that the cameras look at, in metres and in the frame of the poses",
                got=f"points from {_triple(low)} to {_triple(high)}, none in any image; first "
                f"camera at {_triple(cameras[0].centre.tolist())}",
                fix="bring points and poses into one frame (axis_align applies to both)",
            )
        return points


def no_points(root: Path) -> DataError:
    """The error for a scene of colour pictures that is asked for points."""
    return DataError(
        str(root),
        wanted="depth/ to fuse points from, or points.ply to lift to",
        got="colour frames and poses alone",
        fix="add depth maps (16-bit PNG), or points (points.ply, or points3D of COLMAP) in the "
        "frame of the poses; splats can be fitted to the pictures alone",
    )


def _moved(points: Points, T: NDArray[np.float64]) -> Points:
    if np.array_equal(T, np.eye(4)):
        return points
    R, t = torch.from_numpy(T[:3, :3]), torch.from_numpy(T[:3, 3])
    xyz = (points.xyz.double() @ R.T + t).float()
    normals = None if points.normals is None else (points.normals.double() @ R.T).float()
    return Points(xyz=xyz, offsets=points.offsets, rgb=points.rgb, normals=normals)


def _triple(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"
