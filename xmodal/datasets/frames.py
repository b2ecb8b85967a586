"""What a layout finds in a scene folder: frames with their files, and the shared calibration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt16
from numpy.typing import NDArray

from lifting.lens import LensModel
from xmodal.datasets.calibration import Matrix3, Matrix4
from xmodal.datasets.faults import Faults
from xmodal.errors import DataError
from xmodal.images import Source

COLOUR_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
DEPTH_SUFFIXES = (".png",)
_DIGITS = re.compile(r"(\d+)")


@runtime_checkable
class StoredDepth(Protocol):
    """Depth of one frame inside a larger file; its text is what messages call it."""

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width."""
        ...

    def stored(self) -> UInt16[NDArray[np.uint16], "H W"]:
        """The depth as stored.

        Raises:
            DataError: If it is damaged.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Lens:
    """Calibration of one frame: intrinsics in pixels of its picture, and OpenCV's coefficients.

    `hw` is the size of the picture where frames may differ in size; that of all frames if None.
    """

    K: Matrix3
    distortion: tuple[float, ...] = ()
    model: LensModel = "pinhole"
    hw: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One frame on disk.

    Attributes:
        name: Unique in the scene; used in the names of caches and figures.
        color: Colour picture.
        depth: Depth PNG, or depth inside a larger file; None in a scene without depth.
        T_world_cam: Camera pose as the files have it, or None where tracking was lost.
        label: Label picture, if the scene has one for this frame.
        time_s: Time of exposure, seconds, where the layout tells.
        pose: The file the pose came from.
        lens: Its own calibration, which colour and depth share, where frames differ or the lens
            bends; the layout's if None.
        as_stored: Whether the calibration is of the pixels as the file has them, whatever its EXIF
            orientation says.
        turned: Whether it is of the upright picture, which EXIF turns by a quarter.
    """

    name: str
    color: Source
    depth: Path | StoredDepth | None
    T_world_cam: Matrix4 | None
    label: Path | None = None
    time_s: float | None = None
    pose: Path | None = None
    lens: Lens | None = None
    as_stored: bool = False
    turned: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """All that a layout found, before any picture is opened.

    Attributes:
        kind: The layout's name, for messages and reports.
        frames: In numeric order of names, or of time.
        K_color: Intrinsics of the colour pictures, pixels.
        K_depth: Intrinsics of the depth pictures; None when one file serves both.
        depth_scale: Default stored units per metre.
        calibration: Files the intrinsics came from; empty for documented defaults.
        notes: What was assumed, for the report.
        repaired: Largest ||R R^T - I|| that was removed from a pose.
        packed: Whether `calibration` holds the frames too, all in one file.
        points_file: A cloud that the layout names.
        metric: Whether lengths are metres; structure from motion alone gives any unit.
    """

    kind: str
    frames: tuple[Frame, ...]
    K_color: Matrix3
    K_depth: Matrix3 | None = None
    depth_scale: float = 1000.0
    calibration: tuple[Path, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)
    repaired: float = 0.0
    packed: bool = False
    points_file: Path | None = None
    metric: bool = True


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts frame 2 before frame 10 and is defined for any mixture of names."""
    parts = _DIGITS.split(name)
    return [(0, int(p), p) if p.isdigit() and p.isascii() else (1, 0, p) for p in parts if p]


def frame_names(paths: Sequence[str]) -> list[str]:
    """Names of frames by the paths of their pictures: stems, with folders where two are alike."""
    stems = [Path(path).stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return ["-".join(Path(path).with_suffix("").parts) for path in paths]


def files_by_name(
    folder: Path, suffixes: tuple[str, ...], faults: Faults, *, ending: str = ""
) -> dict[str, Path]:
    """Files of a folder by frame name, in natural order.

    Args:
        folder: Where to look; sub-folders are not searched.
        suffixes: Accepted endings, lower case.
        faults: Receives names that occur with two suffixes.
        ending: A second ending before the suffix that is not part of the name (`.color`). In a
            folder of its own it may be absent.

    Returns:
        Frame name to path.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda p: natural_key(p.name)):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes or not path.is_file():
            continue
        name = path.stem.removesuffix(ending)
        if name in found:
            faults.add(
                path,
                wanted="one file per frame name",
                got=f"also {found[name].name}",
                fix="remove one of the two",
            )
        found[name] = path
    return found


def match_names(groups: dict[str, Iterable[str]], faults: Faults) -> list[str]:
    """Names that all groups have; every other name becomes part of one fault per group.

    Args:
        groups: For instance `{"color": names, "depth": names, "pose": names}`.
        faults: Receives what is missing where.

    Returns:
        The common names, in natural order.
    """
    sets = {what: set(names) for what, names in groups.items()}
    everything = set[str]().union(*sets.values())
    for what, names in sets.items():
        missing = sorted(everything - names, key=natural_key)
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            counts = ", ".join(f"{len(s)} {w}" for w, s in sets.items())
            faults.add(
                what,
                wanted=f"one {what} file per frame",
                got=f"none for {len(missing)} frames: {shown} ({counts})",
                fix="complete the export, or remove the frames that have no counterpart",
            )
    return sorted(set.intersection(*sets.values()), key=natural_key)


def no_frames(root: Path, wanted: str) -> DataError:
    """The error for a layout that was recognised but holds no frame."""
    return DataError(
        str(root), wanted=wanted, got="no frame", fix="complete the download or export"
    )
