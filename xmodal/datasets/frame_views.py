"""Views of frames: the cameras that belong to them, and what is decoded on access."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lifting.cameras import Camera, scale_camera
from xmodal.datasets.calibration import Matrix3, Matrix4, scale_intrinsics
from xmodal.datasets.frames import Frame, Lens
from xmodal.datasets.inspect import Sensors, frame_depth
from xmodal.datasets.photos import fitting_hw, pinhole_camera, resized, undistorted
from xmodal.datasets.settings import SceneSettings
from xmodal.datasets.views import LabelMap, LazyViews
from xmodal.errors import DataError
from xmodal.images import read_header, read_label_map, read_rgb
from xmodal.values import Depth, Image


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """How pictures are changed after they were decoded: first made straight, then smaller.

    Attributes:
        max_side_px: Longest side; None for as they are.
        undistort: Whether the bend of a lens is taken out.
    """

    max_side_px: int | None = None
    undistort: bool = False

    def camera(self, camera: Camera) -> Camera:
        """The camera of a picture after the changes."""
        straight = pinhole_camera(camera) if self.undistort else camera
        hw = fitting_hw(camera.hw, self.max_side_px)
        return straight if hw == camera.hw else scale_camera(straight, hw)


def color_cameras(frames: Sequence[Frame], sensors: Sensors, T: Matrix4) -> list[Camera]:
    """Cameras of the colour pictures as the files have them; `T` moves the world."""
    hw = sensors.color_hw
    return [_camera(sensors.K_color, T, frame, hw, hw) for frame in frames]


def depth_cameras(frames: Sequence[Frame], sensors: Sensors, T: Matrix4) -> list[Camera]:
    """Cameras of the depth pictures as the files have them; none in a colour-only scene."""
    hw = sensors.depth_hw
    if sensors.K_depth is None or hw is None:
        return []
    return [_camera(sensors.K_depth, T, frame, hw, sensors.color_hw) for frame in frames]


def image_views(
    frames: Sequence[Frame], cameras: Sequence[Camera], options: PictureOptions
) -> LazyViews[Image]:
    """Colour views of frames, changed as the options say.

    Args:
        frames: The frames in use.
        cameras: Their cameras as the files have them.
        options: What to change.
    """

    def load(index: int) -> Image:
        frame, camera = frames[index], cameras[index]
        stored = torch.from_numpy(read_rgb(frame.color, upright=not frame.as_stored))
        rgb = stored.permute(2, 0, 1).contiguous().float() / 255.0
        if options.undistort:
            straight = undistorted(rgb, camera)
            rgb, camera = straight.image, straight.camera
        rgb, _ = resized(rgb, camera, options.max_side_px)
        return Image(rgb=rgb, camera=changed[index], name=frame.name)

    changed = [options.camera(camera) for camera in cameras]
    return LazyViews(load, cameras=changed, names=[frame.name for frame in frames])


def depth_views(
    frames: Sequence[Frame],
    cameras: Sequence[Camera],
    *,
    scale: float,
    settings: SceneSettings,
    undistort: bool = False,
) -> LazyViews[Depth] | None:
    """Depth views of frames, in their own size.

    Args:
        frames: The frames in use.
        cameras: Their depth cameras as the files have them; none in a colour-only scene.
        scale: Stored units per metre.
        settings: The encoding.
        undistort: Whether the bend of a lens is taken out; readings are then the nearest ones,
            never mixed.

    Returns:
        The views; None in a colour-only scene.
    """
    if not cameras:
        return None
    paths = [frame.depth for frame in frames if frame.depth is not None]

    def load(index: int) -> Depth:
        depth_m = torch.from_numpy(frame_depth(paths[index], scale=scale, settings=settings))
        if undistort:
            depth_m = undistorted(depth_m[None], cameras[index], mode="nearest").image[0]
        return Depth(depth_m=depth_m, camera=changed[index], name=frames[index].name)

    options = PictureOptions(undistort=undistort)
    changed = [options.camera(camera) for camera in cameras]
    return LazyViews(load, cameras=changed, names=[frame.name for frame in frames])


def label_views(
    frames: Sequence[Frame], cameras: Sequence[Camera], depths: Sequence[Camera]
) -> LazyViews[LabelMap] | None:
    """Label pictures of the frames that have one, each with the camera whose size it has.

    Args:
        frames: The frames in use.
        cameras: Colour cameras as the files have them, of all frames.
        depths: Depth cameras as the files have them, of all frames, if there are.

    Returns:
        The views; None when no frame has labels.

    Raises:
        DataError: If a label picture has the size of neither.
    """
    labelled = [(index, frame.label) for index, frame in enumerate(frames) if frame.label]
    if not labelled:
        return None
    fitting: list[Camera] = []
    for index, path in labelled:
        hw = read_header(path).hw
        options = [cameras[index], *depths[index : index + 1]]
        same = [camera for camera in options if camera.hw == hw]
        if not same:
            raise DataError(
                str(path),
                wanted="a label map of the size of the colour or the depth frames",
                got=f"{hw[1]} x {hw[0]}",
                fix="export the labels without resizing",
            )
        fitting.append(same[0])

    def load(index: int) -> LabelMap:
        ids = torch.from_numpy(read_label_map(labelled[index][1]))
        return LabelMap(ids=ids, camera=fitting[index], name=frames[labelled[index][0]].name)

    names = [frames[index].name for index, _ in labelled]
    return LazyViews(load, cameras=fitting, names=names)


def _camera(
    K: Matrix3, T: Matrix4, frame: Frame, hw: tuple[int, int], from_hw: tuple[int, int]
) -> Camera:
    """The camera of a frame: `K` belongs to `hw`, a lens of the frame's own to `from_hw`.

    Pictures of different sizes say their own; there is no depth then.
    """
    assert frame.T_world_cam is not None, "frames without a pose were dropped"
    lens = Lens(K=K)
    if frame.lens is not None:
        if frame.depth is None and frame.lens.hw is not None:
            hw = from_hw = frame.lens.hw
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
