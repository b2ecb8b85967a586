"""PLY clouds in and out, with every lie of a header caught before memory is asked for.

plyfile parses; this module adds what it does not check: the declared counts against the size of
the file, bytes after the last row, and coordinates or colours that are not finite.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from io import BufferedReader, StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement, PlyElementParseError, PlyParseError
from torch import Tensor

from xmodal.atomic import atomic_path
from xmodal.errors import DataError
from xmodal.values import Points

_MAX_HEADER_BYTES = 1 << 16
_SIZES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}
_FORMATS = ("ascii", "binary_little_endian", "binary_big_endian")
_COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
_NORMALS = ("nx", "ny", "nz")
# Meshes are triangles almost always; telling plyfile so lets it map the faces instead of looping.
_TRIANGLES = {"face": {"vertex_indices": 3, "vertex_index": 3}}


@dataclass(frozen=True, kw_only=True, eq=False)
class PlyCloud:
    """The vertices of a PLY file.

    Attributes:
        points: Vertices with finite coordinates and colours, in file order; metres are assumed.
            Colours in [0, 1]; normals of length one, zero where the file's normal is unusable.
        kept: For every vertex of the file, whether it is in `points`.
        scalars: Further vertex properties (labels, scores) of the kept vertices.
    """

    points: Points
    kept: Bool[Tensor, " V"]
    scalars: dict[str, Shaped[NDArray[Any], " M"]]

    @property
    def num_dropped(self) -> int:
        """Vertices left out because a coordinate or colour was NaN or infinite."""
        return int((~self.kept).sum())


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    min_row_bytes: int  # exact for binary rows without lists
    properties: int


@dataclass(frozen=True)
class _Header:
    format: str
    elements: tuple[_Element, ...]
    num_bytes: int


def read_points(path: Path, *, on_bad: Literal["drop", "raise"] = "drop") -> PlyCloud:
    """Read the vertices of a PLY file, ASCII or binary of either byte order.

    Args:
        path: The file. Elements other than `vertex` are checked and ignored.
        on_bad: Whether vertices with NaN or infinite coordinates or colours are dropped (and
            counted) or refused.

    Returns:
        The vertices and which of the file's were kept.

    Raises:
        DataError: If the file is missing, not PLY, shorter or longer than its header says, has no
            x, y, z, or holds a bad vertex while `on_bad="raise"`.
    """
    return _to_cloud(read_vertices(path), path, on_bad)


def read_vertices(path: Path, *, needed: Collection[str] = ("x", "y", "z")) -> NDArray[Any]:
    """Read the element `vertex` of a PLY file as a table, with all checks but those of its values.

    Args:
        path: The file. Other elements are checked and ignored.
        needed: Properties that the element must have, one number each.

    Returns:
        A structured array with the properties of the file, in its byte order.

    Raises:
        DataError: If the file is missing, not PLY, shorter or longer than its header says, or lacks
            a needed property.
    """
    try:
        with path.open("rb") as file:
            header = _read_header(file, path)
            _check_size(header, path)
            data = _parse(file, path, text=header.format == "ascii")
    except FileNotFoundError as error:
        raise _error(path, "a PLY file", "no such file", "check the path") from error
    except OSError as error:
        raise _error(path, "a readable PLY file", str(error), "check the file") from error
    if "vertex" not in data or not set(needed) <= set(scalar_names(data["vertex"].data)):
        got = ", ".join(element.name for element in data.elements) or "no element"
        properties = f" with {', '.join(needed)}" if needed else ""
        wanted = f"an element `vertex`{properties}"
        raise _error(path, wanted, got, "export a point cloud or mesh")
    _check_faces(data, path)
    return data["vertex"].data


def scalar_names(vertex: NDArray[Any]) -> tuple[str, ...]:
    """Names of the properties of a table of vertices that are one number each."""
    names = vertex.dtype.names or ()
    return tuple(name for name in names if vertex.dtype[name] != np.dtype(object))


def write_points(
    path: Path, points: Points, *, scalars: Mapping[str, Shaped[Tensor, " M"]] | None = None
) -> None:
    """Write points as a binary PLY file, atomically; rows keep their order.

    Args:
        path: Final name; an old file is replaced.
        points: Coordinates, and colours (as 8 bits) and normals when present. Features are not
            written.
        scalars: Further per-point numbers by property name, such as a score or a label.

    Raises:
        DataError: If the file cannot be written.
        ValueError: If a scalar has another length than the points or a reserved name.
    """
    xyz = points.xyz.detach().cpu().numpy().astype(np.float32, copy=False)
    columns: dict[str, NDArray[Any]] = {name: xyz[:, i] for i, name in enumerate("xyz")}
    if points.normals is not None:
        normals = points.normals.detach().cpu().numpy().astype(np.float32, copy=False)
        columns |= {name: normals[:, i] for i, name in enumerate(_NORMALS)}
    if points.rgb is not None:
        rgb = np.rint(points.rgb.detach().cpu().numpy().clip(0, 1) * 255).astype(np.uint8)
        columns |= {name: rgb[:, i] for i, name in enumerate(_COLOURS[0])}
    for name, values in (scalars or {}).items():
        if name in columns or values.shape != xyz.shape[:1]:
            raise ValueError(
                f"scalar {name!r} must be a new name with {len(xyz)} values, "
                f"got shape {tuple(values.shape)}"
            )
        columns[name] = _storable(values.detach().cpu().numpy())
    table = np.empty(len(xyz), dtype=[(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        table[name] = column
    with atomic_path(path) as temporary:
        PlyData([PlyElement.describe(table, "vertex")], byte_order="<").write(str(temporary))


def _storable(values: NDArray[Any]) -> NDArray[Any]:
    # PLY has no 64-bit integers and no booleans.
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        return values.astype(np.int32)
    return values


def _read_header(file: BufferedReader, path: Path) -> _Header:
    head = file.read(_MAX_HEADER_BYTES)
    file.seek(0)
    lines = head.splitlines(keepends=True)
    if not lines or lines[0].strip() != b"ply":
        raise _error(path, "a PLY file, first line `ply`", repr(head[:16]), "check the format")
    used, texts = 0, list[str]()
    for line in lines:
        used += len(line)
        texts.append(line.decode("ascii", "replace").strip())
        if texts[-1] == "end_header":
            break
    else:
        got = f"no `end_header` in the first {len(head)} bytes"
        raise _error(
            path, "a PLY header", got, "export the cloud again; the file is cut or damaged"
        )
    words = [text.split() for text in texts[1:]]
    kind = next((w[1] for w in words if w[:1] == ["format"] and len(w) == 3), "none")
    if kind not in _FORMATS:
        wanted = f"a format line with one of {', '.join(_FORMATS)}"
        raise _error(path, wanted, kind, "export the cloud again")
    return _Header(kind, _elements(words, kind, path), used)


def _elements(words: list[list[str]], kind: str, path: Path) -> tuple[_Element, ...]:
    elements: list[_Element] = []
    for word in words:
        if word[:1] == ["element"]:
            if len(word) != 3 or not word[2].isdecimal():
                got = " ".join(word)
                raise _error(
                    path, "`element NAME COUNT`, count >= 0", got, "export the cloud again"
                )
            elements.append(_Element(word[1], int(word[2]), 0, 0))
        elif word[:1] == ["property"] and elements:
            size = _property_bytes(word, kind, path)
            last = elements[-1]
            elements[-1] = _Element(
                last.name, last.count, last.min_row_bytes + size, last.properties + 1
            )
    return tuple(elements)


def _property_bytes(word: list[str], kind: str, path: Path) -> int:
    """Fewest bytes this property takes in a row; a list may be empty."""
    types = word[2:4] if word[1:2] == ["list"] else word[1:2]
    if not types or any(name not in _SIZES for name in types):
        raise _error(path, "properties of PLY's types", " ".join(word), "export the cloud again")
    return 2 if kind == "ascii" else _SIZES[types[0]]


def _check_size(header: _Header, path: Path) -> None:
    """Refuse counts that the file is too short for, before anything is allocated."""
    available = path.stat().st_size - header.num_bytes
    # The last line of a text file may lack its newline.
    available += 1 if header.format == "ascii" else 0
    for element in header.elements:
        needed = element.count * element.min_row_bytes
        if needed > available:
            rows = available // element.min_row_bytes
            raise _error(
                path,
                f"{element.count} rows of element `{element.name}`, at least {needed} bytes",
                f"{available} bytes, enough for {rows} rows",
                "copy or export the cloud again; it is truncated or its header is wrong",
            )
        available -= needed
    if header.format == "ascii":
        _check_lines(header, path)


def _check_lines(header: _Header, path: Path) -> None:
    """A text body has one line a row; fewer means cut, more means a header that lies."""
    body = path.read_bytes()[header.num_bytes :]
    lines = sum(1 for line in body.splitlines() if line.strip())
    wanted = sum(element.count for element in header.elements)
    if lines != wanted:
        raise _error(
            path,
            f"{wanted} rows, as the header says",
            f"{lines} rows",
            "copy or export the cloud again; it is truncated or its header is wrong",
        )


def _parse(file: BufferedReader, path: Path, *, text: bool) -> PlyData:
    try:
        data = _parse_text(path) if text else _parse_binary(file)
    except (PlyParseError, ValueError, OverflowError) as error:
        got = f"{type(error).__name__}: {error}"
        raise _error(path, "a valid PLY body", got, "copy or export the cloud again") from error
    if not text:
        extra = os.fstat(file.fileno()).st_size - file.tell()
        _refuse_trailing(extra, path)
    return data


def _check_faces(data: PlyData, path: Path) -> None:
    """Refuse polygons that cannot be: the sign of a vertex count that is off by a few rows.

    A header that promises one vertex too many shifts the faces by the size of a vertex, and twelve
    bytes of coordinates happen to look like an empty polygon followed by proper triangles.
    """
    if "face" not in data:
        return
    names = set(data["face"].data.dtype.names or ()) & set(_TRIANGLES["face"])
    for name in names:
        polygons = data["face"].data[name]
        sizes = [len(polygon) for polygon in polygons] if polygons.ndim == 1 else [3]
        corners = _corners(polygons)
        fits = not corners.size or 0 <= corners.min() <= corners.max() < data["vertex"].count
        if not fits or min(sizes, default=3) < 3:
            raise _error(
                path,
                f"polygons of at least 3 of the {data['vertex'].count} vertices",
                "polygons with fewer corners, or corners that do not exist",
                "export the cloud again; its header and its rows do not belong together",
            )


def _corners(polygons: NDArray[Any]) -> NDArray[Any]:
    if polygons.ndim == 2 or not len(polygons):
        return polygons.reshape(-1)
    return np.concatenate(list(polygons))


def _parse_text(path: Path) -> PlyData:
    # plyfile would wrap a binary stream and leave it to the garbage collector to close.
    return PlyData.read(StringIO(path.read_text("ascii")))


def _parse_binary(file: BufferedReader) -> PlyData:
    try:
        return PlyData.read(file, known_list_len=_TRIANGLES)
    except PlyElementParseError as error:
        if error.element is None or error.element.name != "face":
            raise
    file.seek(0)  # faces that are not all triangles take the general, slower path
    return PlyData.read(file)


def _refuse_trailing(extra: int, path: Path) -> None:
    if extra:
        raise _error(
            path,
            "nothing after the last row",
            f"{extra} more bytes than the header accounts for",
            "export the cloud again; its header and its rows do not belong together",
        )


def _to_cloud(vertex: NDArray[Any], path: Path, on_bad: str) -> PlyCloud:
    scalar = scalar_names(vertex)
    xyz = _stack(vertex, ("x", "y", "z"))
    colours = next((c for c in _COLOURS if set(c) <= set(scalar)), None)
    rgb = None if colours is None else _unit_colours(vertex, colours, path)
    kept = np.isfinite(xyz).all(axis=1)
    if rgb is not None:
        kept &= np.isfinite(rgb).all(axis=1)
    if on_bad == "raise" and not kept.all():
        got = f"{int((~kept).sum())} of {len(kept)}, first in row {int(np.argmin(kept))}"
        raise _error(path, "finite coordinates and colours", got, 'drop them with on_bad="drop"')
    xyz = xyz[kept]
    used = {"x", "y", "z", *(colours or ()), *_NORMALS}
    points = Points(
        xyz=torch.from_numpy(xyz),
        offsets=torch.tensor([0, len(xyz)]),
        rgb=None if rgb is None else torch.from_numpy(rgb[kept]),
        normals=_normals(vertex, kept) if set(_NORMALS) <= set(scalar) else None,
    )
    scalars = {n: _native(vertex[n])[kept] for n in scalar if n not in used}
    return PlyCloud(points=points, kept=torch.from_numpy(kept), scalars=scalars)


def _native(column: NDArray[Any]) -> NDArray[Any]:
    return column.astype(column.dtype.newbyteorder("="))


def _stack(vertex: NDArray[Any], names: tuple[str, ...]) -> NDArray[np.float32]:
    # A double beyond float32's range becomes infinite here and is then counted as bad.
    with np.errstate(over="ignore"):
        return np.stack([vertex[name].astype(np.float32) for name in names], axis=1)


def _unit_colours(vertex: NDArray[Any], names: tuple[str, ...], path: Path) -> NDArray[np.float32]:
    rgb = _stack(vertex, names)
    kind = vertex.dtype[names[0]]
    if kind.kind in "iu":
        return rgb / np.float32(np.iinfo(kind).max)
    finite = rgb[np.isfinite(rgb)]
    largest = float(finite.max()) if finite.size else 0.0
    if largest > 255.0 or (finite.size and float(finite.min()) < 0.0):
        got = f"values up to {largest:g}"
        raise _error(path, "float colours in [0, 1] or [0, 255]", got, "export colours as uchar")
    return rgb / np.float32(255.0 if largest > 1.0 else 1.0)


def _normals(vertex: NDArray[Any], kept: NDArray[np.bool_]) -> Tensor:
    normals = torch.from_numpy(_stack(vertex, _NORMALS)[kept])
    length = torch.linalg.vector_norm(normals, dim=1, keepdim=True)
    usable = torch.isfinite(length) & (length > 0)
    return torch.where(usable, normals / length.clamp_min(1e-30), torch.zeros_like(normals))


def _error(path: Path, wanted: str, got: str, fix: str) -> DataError:
    return DataError(str(path), wanted=wanted, got=got, fix=fix)
