"""Binary files of a COLMAP model, read entry by entry; counts are believed as far as bytes go."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from xmodal.datasets.colmap_entries import (
    MODELS,
    ColmapCamera,
    ColmapImage,
    Numbers,
    read_bytes,
    wrong,
)
from xmodal.errors import DataError

_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<iiQQ")
_IMAGE = struct.Struct("<i7di")
_POINT = struct.Struct("<Q3d3BdQ")
_SEEN_BYTES = struct.calcsize("<ddq")
_TRACK_BYTES = struct.calcsize("<ii")


def binary_cameras(path: Path) -> Iterator[tuple[int, ColmapCamera, str]]:
    """Number, camera and place of every entry of `cameras.bin`."""
    file = _File(path)
    (count,) = file.take(_COUNT, "a count of cameras")
    for index in range(int(count)):
        what = f"camera {index + 1} of {count}"
        number, kind, width, height = (int(n) for n in file.take(_CAMERA, what))
        if kind not in MODELS:
            raise wrong(f"{path}, {what}", f"a camera model from 0 to {max(MODELS)}", f"{kind}")
        model, size = MODELS[kind]
        parameters = file.take(struct.Struct(f"<{size}d"), what)
        camera = ColmapCamera(model=model, width=width, height=height, parameters=parameters)
        yield number, camera, f"{path}, {what}"
    file.finish()


def binary_images(path: Path) -> Iterator[ColmapImage]:
    """Every entry of `images.bin`."""
    file = _File(path)
    (count,) = file.take(_COUNT, "a count of images")
    for index in range(int(count)):
        what = f"image {index + 1} of {count}"
        _, *pose, camera_id = file.take(_IMAGE, what)
        name = file.text(what)
        (seen,) = file.take(_COUNT, what)
        file.skip(int(seen) * _SEEN_BYTES, f"{what} with {seen} points in it")
        yield ColmapImage(
            name=name,
            camera_id=int(camera_id),
            q_wxyz=tuple(pose[:4]),
            t=tuple(pose[4:]),
            where=f"{path}, {what}",
        )
    file.finish()


def binary_points(path: Path) -> Iterator[Numbers]:
    """Position, colour, error and track length of every entry of `points3D.bin`."""
    file = _File(path)
    (count,) = file.take(_COUNT, "a count of points")
    for index in range(int(count)):
        what = f"point {index + 1} of {count}"
        _, *row, track = file.take(_POINT, what)
        file.skip(int(track) * _TRACK_BYTES, f"{what} with a track of {track}")
        yield (*row, float(track))
    file.finish()


class _File:
    """A binary file that is read from front to back, and refused where it ends too early."""

    def __init__(self, path: Path) -> None:
        self._data, self._offset, self._path = read_bytes(path), 0, path

    def take(self, form: struct.Struct, what: str) -> tuple[int | float, ...]:
        """The next numbers."""
        self._need(form.size, what)
        numbers = form.unpack_from(self._data, self._offset)
        self._offset += form.size
        return numbers

    def skip(self, size: int, what: str) -> None:
        """Pass over bytes."""
        self._need(size, what)
        self._offset += size

    def text(self, what: str) -> str:
        """The text up to the next zero byte."""
        end = self._data.find(b"\0", self._offset)
        if end < 0:
            raise self._cut(what)
        try:
            found = self._data[self._offset : end].decode()
        except UnicodeDecodeError as error:
            raise wrong(f"{self._path}, {what}", "a name in UTF-8", str(error)) from error
        self._offset = end + 1
        return found

    def finish(self) -> None:
        """Refuse bytes after the last entry."""
        extra = len(self._data) - self._offset
        if extra:
            got = f"{extra} more bytes than its counts account for"
            raise wrong(self._path, "nothing after the last entry", got)

    def _need(self, size: int, what: str) -> None:
        if size > len(self._data) - self._offset:
            raise self._cut(what)

    def _cut(self, what: str) -> DataError:
        return DataError(
            str(self._path),
            wanted=f"{what}, as the counts of the file say",
            got=f"the end of the file at byte {len(self._data)}",
            fix="copy the file again or export the model again; it is truncated or its counts lie",
        )
