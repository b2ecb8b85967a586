"""COLMAP: pictures, poses, lenses and points from structure from motion.

Poses in the files are world-to-camera; they are inverted here. Camera axes are OpenCV's already and
pixel centres lie at +0.5 there as here. The world and its unit are those of the model: structure
from motion knows no metres.

Source:
    Schoenberger and Frahm, Structure-from-motion revisited, CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from lifting.lens import LensModel
from xmodal.datasets.calibration import quaternion_pose, to_pose
from xmodal.datasets.colmap_entries import ColmapCamera, ColmapImage, Counted
from xmodal.datasets.colmap_files import read_cameras, read_images, read_points3d
from xmodal.datasets.faults import Faults
from xmodal.datasets.frames import (
    COLOUR_SUFFIXES,
    Frame,
    Layout,
    Lens,
    frame_names,
    natural_key,
    no_frames,
)
from xmodal.datasets.settings import read_settings
from xmodal.errors import DataError
from xmodal.images import ImageHeader, read_header
from xmodal.ply import PlyCloud
from xmodal.values import Points

_ENDINGS = (".bin", ".txt")
# Where the tools of the field put a model, likeliest first.
_PLACES = (
    *("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", "colmap", "."),
    *("dense/sparse", "dense/0/sparse"),
)
# EXIF orientations that swap width and height.
_QUARTER_TURNS = (5, 6, 7, 8)
_CLOUDS = ("points3D.bin", "points3D.txt")
# Places of fx fy cx cy among the parameters, and what the others are, in the order of `Camera`;
# None stands for a coefficient that is zero.
_SQUARE, _OBLONG = (0, 0, 1, 2), (0, 1, 2, 3)
_Order = tuple[int | None, ...]
_LENSES: Mapping[str, tuple[tuple[int, int, int, int], LensModel, _Order]] = {
    "SIMPLE_PINHOLE": (_SQUARE, "pinhole", ()),
    "PINHOLE": (_OBLONG, "pinhole", ()),
    "SIMPLE_RADIAL": (_SQUARE, "pinhole", (3, None, None, None)),
    "RADIAL": (_SQUARE, "pinhole", (3, 4, None, None)),
    "OPENCV": (_OBLONG, "pinhole", (4, 5, 6, 7)),
    "FULL_OPENCV": (_OBLONG, "pinhole", (4, 5, 6, 7, 8, 9, 10, 11)),
    "OPENCV_FISHEYE": (_OBLONG, "fisheye", (4, 5, 6, 7)),
    "SIMPLE_RADIAL_FISHEYE": (_SQUARE, "fisheye", (3, None, None, None)),
    "RADIAL_FISHEYE": (_SQUARE, "fisheye", (3, 4, None, None)),
}


def is_colmap(root: Path) -> bool:
    """Whether a COLMAP model lies in `root` or where such models usually lie below it."""
    return _model(root) is not None


def read_colmap(root: Path, faults: Faults) -> Layout:
    """Find the frames of a scene with a COLMAP model.

    The model is `sparse/0`, `sparse`, `colmap/sparse/0`, `colmap/sparse`, `colmap`, the folder
    itself, what the undistorter left in `dense`, or the only sub-folder with one; binary goes
    before text. The pictures lie in
    `images/`, or in whichever folder has most of them; intrinsics are scaled when they were resized
    since. EXIF orientations are ignored, as COLMAP ignores them, unless the camera has the shape of
    the turned picture only. `points3D` is the cloud, all of it.

    Args:
        root: The scene folder.
        faults: Receives what is wrong with single pictures.

    Returns:
        The layout, one lens a frame.

    Raises:
        DataError: If a file of the model is missing or damaged, or no picture is found.
    """
    model = _model(root)
    assert model is not None, "is_colmap was asked first"
    camera_file, image_file = _files(model)
    cameras, cameras_counted = read_cameras(camera_file)
    images, images_counted = read_images(image_file)
    if not images:
        raise no_frames(image_file, "at least one registered picture")
    folder = _pictures(root, images)
    skip = read_settings(root)[0].skip_missing
    present = _present(images, folder, faults, skip=skip)
    if not present:
        faults.check()
        raise no_frames(folder, f"the pictures of {image_file.name}")
    frames: list[Frame] = []
    for image, name in zip(present, frame_names([i.name for i in present]), strict=True):
        try:
            frames.append(_frame(image, name, folder / image.name, cameras))
        except DataError as fault:
            faults.add_error(fault)
    if not frames:
        faults.check()
    frames.sort(key=lambda frame: natural_key(frame.name))
    assert frames[0].lens is not None, "every frame got one"
    cloud = _cloud(model)
    notes = (
        f"COLMAP model {_short(model, root)}, lengths in its own unit",
        *_other_models(root, model),
        *_count_note(camera_file, cameras_counted, "cameras"),
        *_count_note(image_file, images_counted, "images"),
        *_cut_note(camera_file),
        *((f"{len(images) - len(present)} listed pictures are not there",) if skip else ()),
        *_unlisted(folder, images, deep=folder != root),
        *(("the model has no points",) if cloud is None else _points_note(cloud)),
    )
    return Layout(
        kind="COLMAP",
        frames=tuple(frames),
        K_color=frames[0].lens.K,
        calibration=(camera_file, image_file),
        notes=notes,
        points_file=cloud,
        metric=False,
    )


def is_colmap_cloud(path: Path) -> bool:
    """Whether a file is the points of a COLMAP model."""
    return path.name in _CLOUDS


def read_colmap_cloud(
    path: Path, *, min_track: int = 0, max_error_px: float | None = None
) -> PlyCloud:
    """Read the points of a COLMAP model as a cloud.

    Args:
        path: `points3D.bin` or `points3D.txt`.
        min_track: Leave out points found in fewer pictures; 0 keeps all.
        max_error_px: Leave out points with a larger mean reprojection error, pixels; None keeps
            all.

    Returns:
        The points in file order, with `error_px` and `track_length` as scalars. Points with NaN or
        infinite coordinates are left out as well.

    Raises:
        DataError: If the file is missing or damaged.
    """
    found, _ = read_points3d(path)
    # A double beyond float32's range becomes infinite here and is left out.
    with np.errstate(over="ignore"):
        xyz = found.xyz.astype(np.float32)
    kept = np.isfinite(xyz).all(axis=1) & (found.track_length >= min_track)
    if max_error_px is not None:
        kept &= found.error_px <= max_error_px
    points = Points(
        xyz=torch.from_numpy(xyz[kept]),
        offsets=torch.tensor([0, int(kept.sum())]),
        rgb=torch.from_numpy(found.rgb[kept].astype(np.float32) / np.float32(255.0)),
    )
    scalars = {"error_px": found.error_px[kept], "track_length": found.track_length[kept]}
    return PlyCloud(points=points, kept=torch.from_numpy(kept), scalars=scalars)


def _model(root: Path) -> Path | None:
    for place in _PLACES:
        if _is_model(root / place):
            return root / place if place != "." else root
    bases = [base for base in (root, root / "sparse", root / "colmap/sparse") if base.is_dir()]
    others = [path for base in bases for path in sorted(base.iterdir()) if _is_model(path)]
    return others[0] if len(others) == 1 else None


def _is_model(folder: Path) -> bool:
    return any((folder / f"cameras{ending}").is_file() for ending in _ENDINGS)


def _files(model: Path) -> tuple[Path, Path]:
    """Cameras and images of one format."""
    for ending in _ENDINGS:
        pair = model / f"cameras{ending}", model / f"images{ending}"
        if all(path.is_file() for path in pair):
            return pair
    raise DataError(
        str(model),
        wanted="cameras and images of a COLMAP model, both .bin or both .txt",
        got=", ".join(sorted(path.name for path in model.iterdir())),
        fix="complete the model; `colmap model_converter` writes all its files",
    )


def _pictures(root: Path, images: Sequence[ColmapImage]) -> Path:
    """The folder that the names of the model start from."""
    below = [path for path in sorted(root.iterdir()) if path.is_dir()]
    # The undistorter of COLMAP puts both under dense/.
    bases = [root / "images", root, *below, root / "dense/images", root / "dense/0/images"]
    counts = [sum((base / image.name).is_file() for image in images) for base in bases]
    if not any(counts):
        raise DataError(
            str(root),
            wanted=f"the pictures of the COLMAP model, such as images/{images[0].name}",
            got=f"none of {len(images)} in {', '.join(p.name for p in below) or 'any folder'}",
            fix="put the pictures into images/, under the names that the model has",
        )
    return bases[counts.index(max(counts))]


def _present(
    images: Sequence[ColmapImage], folder: Path, faults: Faults, *, skip: bool
) -> list[ColmapImage]:
    """Pictures that are there; the others are one fault, or left out."""
    present = [image for image in images if (folder / image.name).is_file()]
    if len(present) < len(images) and not skip:
        there = {image.name for image in present}
        missing = [image.name for image in images if image.name not in there]
        faults.add(
            folder,
            wanted=f"the {len(images)} pictures that the COLMAP model lists",
            got=f"{len(missing)} are missing: {', '.join(missing[:5])}",
            fix='complete the pictures, or set "skip_missing": true in scene.json',
        )
    return present


def _frame(image: ColmapImage, name: str, path: Path, cameras: Mapping[int, ColmapCamera]) -> Frame:
    if PurePosixPath(image.name).is_absolute() or ".." in PurePosixPath(image.name).parts:
        raise _wrong(image.where, "names of pictures inside their folder", image.name)
    camera = cameras.get(image.camera_id)
    if camera is None:
        got = f"camera {image.camera_id}, which is not among the {len(cameras)} cameras"
        raise _wrong(image.where, "the number of a camera of the model", got)
    w, x, y, z = image.q_wxyz
    T_cam_world = quaternion_pose(image.t, (x, y, z, w))
    if T_cam_world is None or not np.isfinite(T_cam_world).all():
        got = " ".join(f"{number:g}" for number in (*image.q_wxyz, *image.t))
        raise _wrong(image.where, "QW QX QY QZ of length 1 and a finite TX TY TZ", got)
    pose = to_pose(np.linalg.inv(T_cam_world), image.where)
    header = read_header(path)
    as_stored = not _is_turned(camera, header)
    hw = header.hw if as_stored else _swapped(header.hw)
    lens = _lens(camera, hw, image.where)
    return Frame(
        name=name,
        color=path,
        depth=None,
        T_world_cam=pose.T_world_cam,
        lens=lens,
        as_stored=as_stored,
        turned=not as_stored,
    )


def _is_turned(camera: ColmapCamera, header: ImageHeader) -> bool:
    """Whether a model was made of the picture as its EXIF tag turns it, by a quarter."""
    return (
        header.orientation in _QUARTER_TURNS
        and not _fits(camera, header.hw)
        and _fits(camera, _swapped(header.hw))
    )


def _swapped(hw: tuple[int, int]) -> tuple[int, int]:
    return hw[1], hw[0]


def _fits(camera: ColmapCamera, hw: tuple[int, int]) -> bool:
    across, down = hw[1] / camera.width, hw[0] / camera.height
    # Half a pixel of rounding where one was resized, in pixels of the smaller.
    return abs(across - down) * min(hw) <= max(1.0, across, down)


def _lens(camera: ColmapCamera, hw: tuple[int, int], where: str) -> Lens:
    if camera.model not in _LENSES:
        raise DataError(
            where,
            wanted=f"a camera model of {', '.join(_LENSES)}",
            got=camera.model,
            fix="run `colmap image_undistorter`, or map again with one of these models",
        )
    places, model, order = _LENSES[camera.model]
    across, down = hw[1] / camera.width, hw[0] / camera.height
    if not _fits(camera, hw):
        got = f"a camera of {camera.width} x {camera.height} for a picture of {hw[1]} x {hw[0]}"
        raise _wrong(where, "pictures of the shape that the model was made from", got)
    fx, fy, cx, cy = (camera.parameters[place] for place in places)
    K = np.array([[fx * across, 0, cx * across], [0, fy * down, cy * down], [0, 0, 1.0]])
    found = tuple(0.0 if place is None else camera.parameters[place] for place in order)
    bends = model == "fisheye" or any(found)
    return Lens(K=K, distortion=found if bends else (), model=model, hw=hw)


def _cloud(model: Path) -> Path | None:
    """The points of a model; None when it has none, as models of known poses."""
    for name in _CLOUDS:
        path = model / name
        if path.is_file():
            return path if _has_points(path) else None
    ply = model / "points3D.ply"
    return ply if ply.is_file() else None


def _has_points(path: Path) -> bool:
    with path.open("rb") as file:
        if path.suffix == ".bin":
            return file.read(8) != bytes(8)
        return any(line.strip() and not line.lstrip().startswith(b"#") for line in file)


def _points_note(path: Path) -> tuple[str, ...]:
    """Whether a text file of points has as many as it announces; it is read line by line."""
    if path.suffix != ".txt":
        return ()
    said, found = None, 0
    with path.open("rb") as file:
        for line in file:
            if not line.startswith(b"#"):
                found += bool(line.strip())
            elif said is None and line.lower().startswith(b"# number of points:"):
                digits = line.partition(b":")[2].split(b",")[0].strip()
                said = int(digits) if digits.isdigit() else None
    return _count_note(path, Counted(said=said, found=found), "points")


def _short(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path != root else "beside the pictures"


def _other_models(root: Path, model: Path) -> tuple[str, ...]:
    parts = [p for p in sorted(model.parent.iterdir()) if p.name.isdecimal() and _is_model(p)]
    others = [path.name for path in parts if path != model] if model != root else []
    return (f"other parts of the reconstruction are not used: {', '.join(others)}",) * bool(others)


def _count_note(path: Path, counted: Counted, what: str) -> tuple[str, ...]:
    if counted.said is None or counted.said == counted.found:
        return ()
    return (f"{path.name} announces {counted.said} {what} and has {counted.found}",)


def _cut_note(path: Path) -> tuple[str, ...]:
    """A text file cut inside its last number still reads: COLMAP ends every line."""
    if path.suffix != ".txt" or path.read_bytes().endswith(b"\n"):
        return ()
    return (f"{path.name} ends inside a line: check that it is whole",)


def _unlisted(folder: Path, images: Sequence[ColmapImage], *, deep: bool) -> tuple[str, ...]:
    listed = {PurePosixPath(image.name) for image in images}
    found = [
        path.relative_to(folder)
        for path in (folder.rglob("*") if deep else folder.iterdir())
        if path.suffix.lower() in COLOUR_SUFFIXES and not path.name.startswith(".")
    ]
    left = sum(PurePosixPath(path.as_posix()) not in listed for path in found)
    return (f"{left} pictures are not in the COLMAP model",) if left else ()


def _wrong(where: str, wanted: str, got: str) -> DataError:
    fix = "correct this entry or export the model again"
    return DataError(where, wanted=wanted, got=got, fix=fix)
