"""Looking at the frames of a scene before it is used: sizes, rotation, calibration, depth unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from xmodal.datasets.calibration import Matrix3, check_intrinsics, scale_intrinsics
from xmodal.datasets.faults import Faults
from xmodal.datasets.frames import Frame, Layout, StoredDepth
from xmodal.datasets.settings import SceneSettings
from xmodal.errors import DataError
from xmodal.images import ImageHeader, Source, depth_in_metres, read_depth, read_header

_Picture = Source | StoredDepth
_HeaderCheck = Callable[[_Picture, ImageHeader, Faults], None]

# RGB-D sensors read from a hand's breadth to the end of a hall.
PLAUSIBLE_DEPTH_M = (0.1, 20.0)
_SAMPLED_FRAMES = 8
# Camera positions of one scene further apart than this are millimetres, not metres.
_SPREAD_M = 200.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Sensors:
    """Intrinsics and size of both sensors, as they belong together.

    Attributes:
        K_color: Pixels of the colour frames.
        color_hw: Their height and width.
        K_depth: Pixels of the depth frames; None without depth.
        depth_hw: Their height and width; None without depth.
    """

    K_color: Matrix3
    color_hw: tuple[int, int]
    K_depth: Matrix3 | None
    depth_hw: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class DepthSample:
    """What a few evenly spaced depth frames say: share without a reading, and median, metres."""

    invalid_fraction: float
    median_m: float


def inspect_frames(
    frames: Sequence[Frame], layout: Layout, settings: SceneSettings, faults: Faults
) -> Sensors:
    """Check all headers of the frames in use against each other and the intrinsics.

    Args:
        frames: The frames in use; at least one.
        layout: Calibration.
        settings: `intrinsic_hw` and `cropped` bend the checks.
        faults: Receives every frame that does not fit.

    Returns:
        The sensors. Meaningful only if `faults` stayed empty.

    Raises:
        DataError: If no colour (or no depth) header can be read at all, or one file of intrinsics
            cannot serve both sensors.
    """
    color_hw = _common_size(
        [frame.color for frame in frames],
        _color_check(frames),
        faults,
        alike=any(frame.depth or frame.lens is None or frame.lens.hw is None for frame in frames),
    )
    depths = [frame.depth for frame in frames if frame.depth is not None]
    depth_hw = _common_size(depths, _check_depth, faults) if depths else None
    K_color = layout.K_color
    if settings.intrinsic_hw is not None:
        K_color = scale_intrinsics(K_color, from_hw=settings.intrinsic_hw, to_hw=color_hw)
    K_depth = None
    if depth_hw is not None:
        K_depth = layout.K_depth
        if K_depth is None:
            K_depth = _shared(K_color, color_hw, depth_hw, layout)
    for K, hw in _distinct(frames, color_hw) or [(K_color, color_hw)]:
        _check_sensor("color", K, hw, layout, settings, faults)
    if K_depth is not None and depth_hw is not None:
        _check_sensor("depth", K_depth, depth_hw, layout, settings, faults)
    return Sensors(K_color=K_color, color_hw=color_hw, K_depth=K_depth, depth_hw=depth_hw)


def sample_depth(
    frames: Sequence[Frame], *, scale: float, settings: SceneSettings
) -> DepthSample | None:
    """Decode a few depth frames and check that their unit is plausible.

    Args:
        frames: The frames in use.
        scale: Stored units per metre.
        settings: The encoding.

    Returns:
        Their statistics, or None when the scene has no depth.

    Raises:
        DataError: If the median lies outside what RGB-D sensors measure, or nothing was measured.
    """
    paths = [frame.depth for frame in frames if frame.depth is not None]
    if not paths:
        return None
    chosen = np.unique(np.linspace(0, len(paths) - 1, _SAMPLED_FRAMES).round().astype(int))
    valid: list[NDArray[np.float32]] = []
    pixels = 0
    for index in chosen:
        depth_m = frame_depth(paths[index], scale=scale, settings=settings)
        pixels += depth_m.size
        valid.append(depth_m[depth_m > 0][::7])
    readings = np.concatenate(valid)
    if not readings.size:
        raise DataError(
            _folder(paths[0]),
            wanted="depth readings",
            got=f"none in {len(chosen)} frames",
            fix="export the depth again; 0 and 65535 mean no reading",
        )
    median_m = float(np.median(readings))
    low, high = PLAUSIBLE_DEPTH_M
    if not low <= median_m <= high:
        raise DataError(
            _folder(paths[0]),
            wanted=f"a median depth between {low:g} and {high:g} m",
            got=f"{median_m:.4g} m, reading {scale:g} stored units as one metre",
            fix=f'set "depth_scale" in scene.json to the units per metre (now {scale:g}; '
            "1000 for millimetres, 5000 for TUM, 10000 for tenths of a millimetre)",
        )
    invalid = 1.0 - 7 * readings.size / pixels
    return DepthSample(invalid_fraction=min(max(invalid, 0.0), 1.0), median_m=median_m)


def frame_depth(
    depth: Path | StoredDepth, *, scale: float, settings: SceneSettings
) -> Float32[NDArray[np.float32], "H W"]:
    """Depth of one frame in metres, wherever it is stored; see `read_depth`."""
    if isinstance(depth, StoredDepth):
        stored = depth.stored()
        return depth_in_metres(stored, scale=scale, encoding=settings.depth_encoding)
    return read_depth(depth, scale=scale, encoding=settings.depth_encoding)


def check_spread(frames: Sequence[Frame], root: Path) -> None:
    """Refuse camera positions that are too far apart to be metres.

    Raises:
        DataError: Naming the extent.
    """
    t = np.array([frame.T_world_cam[:3, 3] for frame in frames if frame.T_world_cam is not None])
    extent = float(np.ptp(t, axis=0).max())
    if extent > _SPREAD_M:
        raise DataError(
            str(root),
            wanted=f"camera positions within {_SPREAD_M:g} m of each other",
            got=f"{extent:.4g} m",
            fix="write the translations of the poses in metres; these look like millimetres",
        )


def _folder(depth: Path | StoredDepth) -> str:
    return str(depth.parent) if isinstance(depth, Path) else str(depth)


def _header(picture: _Picture) -> ImageHeader:
    if isinstance(picture, StoredDepth):
        return ImageHeader(hw=picture.hw, mode="I;16", orientation=1)
    return read_header(picture)


def _common_size(
    paths: Sequence[_Picture], check: _HeaderCheck, faults: Faults, *, alike: bool = True
) -> tuple[int, int]:
    """Size of the first readable frame; where sizes must be alike, every other frame must have it.

    Frames of a colour-only scene that bring a lens of their own each may differ.
    """
    hw: tuple[int, int] | None = None
    for path in paths:
        try:
            header = _header(path)
        except DataError as error:
            faults.add_error(error)
            continue
        check(path, header, faults)
        hw = hw or header.hw
        if alike and header.hw != hw:
            faults.add(
                str(path),
                wanted=f"{hw[1]} x {hw[0]} pixels like the other frames",
                got=f"{header.hw[1]} x {header.hw[0]}",
                fix="resize the frames to one size; the intrinsics belong to one size",
            )
    if hw is None:
        faults.check()
        raise DataError("frames", wanted="at least one frame", got="none", fix="add frames")
    return hw


def _color_check(frames: Sequence[Frame]) -> _HeaderCheck:
    known = {frame.color for frame in frames if frame.as_stored or frame.turned}

    def check(path: _Picture, header: ImageHeader, faults: Faults) -> None:
        if path not in known:
            _check_color(path, header, faults)

    return check


def _check_color(path: _Picture, header: ImageHeader, faults: Faults) -> None:
    if header.orientation != 1:
        faults.add(
            str(path),
            wanted="upright pixels, EXIF orientation 1",
            got=f"EXIF orientation {header.orientation}",
            fix="rotate the pixels into the file, drop the tag, and give intrinsics of the rotated "
            "picture; as it is, they could mean either",
        )


def _check_depth(path: _Picture, header: ImageHeader, faults: Faults) -> None:
    if not header.mode.startswith("I;16"):
        faults.add(
            str(path),
            wanted="a depth PNG of one 16-bit channel",
            got=f"mode {header.mode}",
            fix="export the raw depth as 16-bit PNG; previews have lost the metres",
        )


def _distinct(
    frames: Sequence[Frame], hw: tuple[int, int]
) -> list[tuple[Matrix3, tuple[int, int]]]:
    """Intrinsics that frames bring themselves, each with the size that it belongs to."""
    lenses = [frame.lens for frame in frames if frame.lens is not None]
    return list({(lens.K.tobytes(), lens.hw): (lens.K, lens.hw or hw) for lens in lenses}.values())


def _shared(
    K: Matrix3, color_hw: tuple[int, int], depth_hw: tuple[int, int], layout: Layout
) -> Matrix3:
    """One file for both sensors: depth is registered to colour, perhaps at another resolution."""
    across, down = depth_hw[1] / color_hw[1], depth_hw[0] / color_hw[0]
    # Half a pixel of rounding in the smaller picture.
    if abs(across - down) * min(color_hw) > 1.0:
        raise DataError(
            str(layout.calibration[0] if layout.calibration else "intrinsics"),
            wanted="intrinsics of the depth camera",
            got=f"one matrix for colour {color_hw[1]} x {color_hw[0]} and depth "
            f"{depth_hw[1]} x {depth_hw[0]}, which differ in shape",
            fix="give intrinsic/intrinsic_color.txt and intrinsic/intrinsic_depth.txt",
        )
    return scale_intrinsics(K, from_hw=color_hw, to_hw=depth_hw)


def _check_sensor(
    sensor: str,
    K: Matrix3,
    hw: tuple[int, int],
    layout: Layout,
    settings: SceneSettings,
    faults: Faults,
) -> None:
    source = next((p for p in layout.calibration if sensor in p.stem), None)
    source = source or next(iter(layout.calibration), "intrinsics")
    for got in check_intrinsics(K, hw=hw, where=f"the {sensor} camera", cropped=settings.cropped):
        faults.add(
            source,
            wanted=f"intrinsics of {hw[1]} x {hw[0]} {sensor} frames: fx, fy > 0, no skew, "
            "centre near the middle",
            got=got,
            fix='correct the matrix; if the frames were resized set "intrinsic_hw": [height, '
            'width] in scene.json, if they are crops "cropped": true',
        )
