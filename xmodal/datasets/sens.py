"""ScanNet's `.sens` recordings: one file with all frames of a scan, read in place.

Version 4, little-endian: the sensor's name; intrinsics and extrinsics of colour and depth (4x4, row
by row); compression of both; sizes; depth units per metre; the number of frames; then for each
frame its camera-to-world pose, two time stamps in microseconds, two sizes and two pictures. Frames
are found by one pass over their headers; pictures are decoded when they are asked for. Poses are
camera-to-world with OpenCV axes in metres.

Source:
    Dai et al., ScanNet, CVPR 2017; the format is that of its SensReader.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from numpy.typing import NDArray

from xmodal.datasets.calibration import Matrix3, Matrix4, Pose, to_pose
from xmodal.datasets.faults import Faults
from xmodal.datasets.frames import Frame, Layout, no_frames
from xmodal.errors import DataError
from xmodal.images import MAX_PIXELS, Span

_VERSION = 4
_COLOUR = {1: "png", 2: "jpeg"}
_DEPTH = {0: "raw_ushort", 1: "zlib_ushort"}
_OTHERS = {-1: "unknown", 0: "raw", 2: "occi_ushort"}
_SHAPE = struct.Struct("<iiIIIIfQ")
_FRAME = struct.Struct("<16f4Q")
# A sensor's name is a few words; a longer one is a file of another kind.
_MAX_NAME_BYTES = 4096
# Deflate makes nothing more than 1032 times smaller.
_MAX_RATIO = 1032
# A compressed picture is never much larger than its pixels; the slack covers headers.
_SLACK_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class SensDepth:
    """Depth of one frame of a `.sens` file.

    Attributes:
        span: Where it lies.
        hw: Its height and width.
        packed: Whether it is deflated.
    """

    span: Span
    hw: tuple[int, int]
    packed: bool

    def __str__(self) -> str:
        return str(self.span)

    def stored(self) -> UInt16[NDArray[np.uint16], "H W"]:
        """The depth as stored, in units of the recording.

        Raises:
            DataError: If the frame is damaged or of another size than the recording says.
        """
        wanted = 2 * self.hw[0] * self.hw[1]
        raw = self.span.read_bytes()
        if self.packed:
            try:
                packer = zlib.decompressobj()
                # One byte more than wanted shows a frame that is too long, and never a bomb.
                raw = packer.decompress(raw, wanted + 1)
            except zlib.error as error:
                raise self._wrong(str(error)) from error
        if len(raw) != wanted:
            got = f"{len(raw)} bytes" if len(raw) <= wanted else f"more than {wanted} bytes"
            raise self._wrong(got)
        return np.frombuffer(raw, dtype="<u2").astype(np.uint16).reshape(self.hw)

    def _wrong(self, got: str) -> DataError:
        return DataError(
            str(self),
            wanted=f"depth of {self.hw[1]} x {self.hw[0]} pixels, two bytes each",
            got=got,
            fix="download the .sens file again; this frame is damaged",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Header:
    K_color: Matrix3
    K_depth: Matrix3
    color_hw: tuple[int, int]
    depth_hw: tuple[int, int]
    packed: bool
    units_per_metre: float
    num_frames: int


@dataclass(frozen=True, eq=False)
class _Entry:
    pose: Matrix4
    color_us: int
    color_bytes: int
    depth_bytes: int


def sens_file(root: Path) -> Path | None:
    """The recording of a scene folder; the one named like the folder where there are several."""
    found = sorted(p for p in root.glob("*.sens") if not p.name.startswith("."))
    named = [path for path in found if path.stem == root.name]
    return next(iter(named or found), None)


def read_sens(path: Path, faults: Faults) -> Layout:
    """Find the frames of a recording without decoding any.

    Args:
        path: The `.sens` file.
        faults: Receives poses that are no rigid transform.

    Returns:
        The layout; frames are named 0, 1, ... as ScanNet's own export names them. Where the file
        ends early, or goes on after the frames that it counts, the whole frames are kept and the
        notes say so.

    Raises:
        DataError: If the header is damaged, of another version or compression, or if not one frame
            is whole.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            header = _read_header(file, path, size)
            frames, notes, repaired = _read_frames(file, path, header, faults)
            rest = size - file.tell()
    except OSError as error:
        raise _wrong(path, "a readable .sens file", str(error)) from error
    if not frames:
        raise no_frames(path, f"{header.num_frames} frames, as the header says")
    if rest and not notes:
        notes = (f"{rest} bytes follow the {len(frames)} frames that the header counts; not read",)
    return Layout(
        kind="ScanNet .sens",
        frames=tuple(frames),
        K_color=header.K_color,
        K_depth=header.K_depth,
        depth_scale=header.units_per_metre,
        calibration=(path,),
        notes=notes,
        repaired=repaired,
        packed=True,
    )


def _read_header(file: BufferedReader, path: Path, size: int) -> _Header:
    version, name_bytes = struct.unpack("<IQ", _take(file, 12, path))
    if version != _VERSION:
        raise _wrong(path, f"version {_VERSION} of the .sens format", f"version {version}")
    if name_bytes > _MAX_NAME_BYTES:
        raise _wrong(path, "the name of a sensor", f"a name of {name_bytes} bytes")
    _take(file, name_bytes, path)
    matrices = np.frombuffer(_take(file, 4 * 64, path), dtype="<f4").astype(np.float64)
    K_color, T_color, K_depth, T_depth = matrices.reshape(4, 4, 4)
    values = _SHAPE.unpack(_take(file, _SHAPE.size, path))
    color_tag, depth_tag, color_w, color_h, depth_w, depth_h, shift, count = values
    for sensor, tag, known in (("colour", color_tag, _COLOUR), ("depth", depth_tag, _DEPTH)):
        if tag not in known:
            wanted = " or ".join(f"{i} ({name})" for i, name in known.items())
            got = f"{tag} ({_OTHERS.get(tag, 'no known tag')})"
            raise _wrong(path, f"{sensor} compression {wanted}", got)
    for sensor, w, h in (("colour", color_w, color_h), ("depth", depth_w, depth_h)):
        if not 0 < w * h <= MAX_PIXELS:
            raise _wrong(path, f"1 to {MAX_PIXELS} {sensor} pixels", f"{w} x {h}")
    if not (np.isfinite(shift) and shift > 0):
        raise _wrong(path, "depth units per metre above 0", f"{shift:g}")
    for sensor, T in (("colour", T_color), ("depth", T_depth)):
        # As in an export: one millimetre and a twentieth of a degree are below what poses resolve.
        if not np.allclose(T, np.eye(4), atol=1e-3):
            raise _wrong(path, f"the identity as extrinsics of {sensor}", "another transform")
    return _Header(
        K_color=K_color[:3, :3].copy(),
        K_depth=K_depth[:3, :3].copy(),
        color_hw=(color_h, color_w),
        depth_hw=(depth_h, depth_w),
        packed=_DEPTH[depth_tag] == "zlib_ushort",
        units_per_metre=float(shift),
        num_frames=count,
    )


def _read_frames(
    file: BufferedReader, path: Path, header: _Header, faults: Faults
) -> tuple[list[Frame], tuple[str, ...], float]:
    """The whole frames, what was wrong after them, and the largest repair of a rotation."""
    size = path.stat().st_size
    frames: list[Frame] = []
    repaired = 0.0
    while len(frames) < header.num_frames:
        number = len(frames)
        entry = _entry(file, header, number, size)
        if isinstance(entry, str):
            return frames, (f"{number} of {header.num_frames} frames are there: {entry}",), repaired
        pose = _pose(entry.pose, f"{path}, frame {number}", faults)
        repaired = max(repaired, pose.repaired)
        frames.append(_frame(entry, pose, header, file.tell(), path, number))
        file.seek(file.tell() + entry.color_bytes + entry.depth_bytes)
    return frames, (), repaired


def _entry(file: BufferedReader, header: _Header, number: int, size: int) -> _Entry | str:
    """What stands before a frame's pictures, or why the frame cannot be used."""
    raw = file.read(_FRAME.size)
    if len(raw) < _FRAME.size:
        return f"frame {number} is cut"
    *pose, color_us, _, color_bytes, depth_bytes = _FRAME.unpack(raw)
    fault = _fault(header, number, color_bytes, depth_bytes, size - file.tell())
    matrix = np.array(pose, dtype=np.float64).reshape(4, 4)
    return fault or _Entry(matrix, color_us, color_bytes, depth_bytes)


def _frame(
    entry: _Entry, pose: Pose, header: _Header, offset: int, path: Path, number: int
) -> Frame:
    name = f"frame {number}"
    color = Span(path=path, offset=offset, num_bytes=entry.color_bytes, name=f"{name} colour")
    depth = Span(
        path=path,
        offset=offset + entry.color_bytes,
        num_bytes=entry.depth_bytes,
        name=f"{name} depth",
    )
    return Frame(
        name=str(number),
        color=color,
        depth=SensDepth(span=depth, hw=header.depth_hw, packed=header.packed),
        T_world_cam=pose.T_world_cam,
        time_s=entry.color_us / 1e6 if entry.color_us else None,
    )


def _fault(
    header: _Header, number: int, color_bytes: int, depth_bytes: int, left: int
) -> str | None:
    """Why the sizes of a frame cannot be, or None when they can."""
    color_hw, depth_hw = header.color_hw, header.depth_hw
    most_color = 4 * color_hw[0] * color_hw[1] + _SLACK_BYTES
    most_depth = 2 * depth_hw[0] * depth_hw[1] + _SLACK_BYTES
    least_depth = 2 * depth_hw[0] * depth_hw[1] // (_MAX_RATIO if header.packed else 1)
    if not 0 < color_bytes <= most_color or not least_depth <= depth_bytes <= most_depth:
        return f"frame {number} says {color_bytes} bytes of colour and {depth_bytes} of depth"
    if color_bytes + depth_bytes > left:
        return f"frame {number} is cut"
    return None


def _pose(matrix: Matrix4, where: str, faults: Faults) -> Pose:
    try:
        return to_pose(matrix, where)
    except DataError as error:
        faults.add_error(error)
        return Pose(T_world_cam=None)


def _take(file: BufferedReader, count: int, path: Path) -> bytes:
    found = file.read(count)
    if len(found) < count:
        raise _wrong(path, "a whole .sens header", f"a file of {path.stat().st_size} bytes")
    return found


def _wrong(path: Path, wanted: str, got: str) -> DataError:
    fix = "download the .sens file again, or export it with SensReader"
    return DataError(str(path), wanted=wanted, got=got, fix=fix)
