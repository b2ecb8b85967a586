"""Splats in and out: the PLY of 3D Gaussian splatting, and `.splat` for viewers in a browser.

A splat PLY stores what an optimiser holds: logarithms of the scales, logits of the opacities, and
rotations w x y z of any length. Colour is spherical harmonics, `f_dc_*` for the constant and
`f_rest_*` for the others, all of red first, then green, then blue. Splats leave here as standard
deviations and opacities, checked.

Source:
    Kerbl et al., 3D Gaussian splatting for real-time radiance field rendering, SIGGRAPH 2023: the
    files of its trainer, which gsplat writes as well (without normals); `.splat` is the layout of
    the viewer github.com/antimatter15/splat.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from numpy.typing import NDArray
from plyfile import PlyData, PlyElement
from torch import Tensor

from lifting.gaussians.splats import SH_SIZES, Splats
from xmodal.atomic import atomic_path
from xmodal.errors import DataError
from xmodal.ply import read_vertices, scalar_names

_MEANS = ("x", "y", "z")
_NORMALS = ("nx", "ny", "nz")
_DC = tuple(f"f_dc_{i}" for i in range(3))
_SCALES = tuple(f"scale_{i}" for i in range(3))
_QUATS = tuple(f"rot_{i}" for i in range(4))
_NEEDED = (*_MEANS, *_DC, "opacity", *_SCALES, *_QUATS)
_REST = re.compile(r"f_rest_(0|[1-9]\d*)")
# Names that readers of splats find by how they start; a score must not be taken for a rotation.
_TAKEN = re.compile(r"f_dc_|f_rest_|scale_|rot")
# Sizes of `f_rest`: three colours times the harmonics beyond the constant one.
_REST_SIZES = {3 * (size - 1): size for size in SH_SIZES}
# Where a float32 sigmoid is exactly 0 and 1: opacities of 0 and 1 have no finite logit.
_LOGIT_OF_0, _LOGIT_OF_1 = -104.0, 20.0
# Value of the constant harmonic, 1 / (2 sqrt(pi)).
_Y0 = 0.28209479177387814
_DOT_SPLAT = np.dtype(
    [("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rot", "u1", 4)]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SplatFile:
    """What a splat PLY holds.

    Attributes:
        splats: The usable splats, in file order.
        kept: For every row of the file, whether it is in `splats`.
        scalars: Further properties (labels, scores) of the kept rows.
    """

    splats: Splats
    kept: Bool[Tensor, " V"]
    scalars: dict[str, Shaped[NDArray[Any], " M"]]

    @property
    def num_dropped(self) -> int:
        """Rows left out because their numbers make no splat."""
        return int((~self.kept).sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class _Raw:
    """Splats as the file stores them, float32."""

    means: NDArray[np.float32]
    dc: NDArray[np.float32]
    rest: NDArray[np.float32]
    logits: NDArray[np.float32]
    log_scales: NDArray[np.float32]
    quats: NDArray[np.float32]


def read_splats(path: Path) -> Splats:
    """Read the splats of a PLY file; a row that makes no splat is an error. See `read_splat_file`.

    Args:
        path: The file.

    Raises:
        DataError: As `read_splat_file` with `on_bad="raise"`.
    """
    return read_splat_file(path).splats


def read_splat_file(path: Path, *, on_bad: Literal["raise", "drop"] = "raise") -> SplatFile:
    """Read a splat PLY, ASCII or binary of either byte order, with properties in any order.

    A row makes a splat when its mean, harmonics and quaternion are finite, the quaternion is not
    zero, its opacity is not NaN, and its scales are neither 0 nor infinite as float32. Quaternions
    keep the length they are stored with.

    Args:
        path: The file. Normals are ignored; harmonics may be of degree 0 to 3.
        on_bad: Whether rows that make no splat are refused, or dropped and counted.

    Returns:
        The splats, float32, and which rows of the file they are.

    Raises:
        DataError: If the file is missing, not PLY, shorter or longer than its header says, text
            without an end of its last line, lacks a property, has harmonics of no degree, holds a
            plain cloud, or has a bad row while `on_bad="raise"`.
    """
    vertex = read_vertices(path, needed=())
    _check_end(path)
    num_rest = _check_properties(scalar_names(vertex), path)
    raw = _Raw(
        means=_columns(vertex, _MEANS),
        dc=_columns(vertex, _DC),
        rest=_columns(vertex, [f"f_rest_{i}" for i in range(num_rest)]),
        logits=_columns(vertex, ["opacity"])[:, 0],
        log_scales=_columns(vertex, _SCALES),
        quats=_columns(vertex, _QUATS),
    )
    scales, opacities = _exp(raw.log_scales), _sigmoid(raw.logits)
    faults = _faults(raw, scales)
    kept = np.logical_and.reduce(list(faults.values()))
    if on_bad == "raise":
        _refuse_bad(faults, kept, path)
    harmonics = raw.rest.reshape(len(kept), 3, num_rest // 3).transpose(0, 2, 1)
    sh = np.concatenate((raw.dc[:, None], harmonics), axis=1)
    splats = Splats(
        means=torch.from_numpy(raw.means[kept]),
        quats=torch.from_numpy(raw.quats[kept]),
        scales=torch.from_numpy(scales[kept]),
        opacities=torch.from_numpy(opacities[kept]),
        sh=torch.from_numpy(sh[kept]),
    )
    used = {*_NEEDED, *_NORMALS, *(f"f_rest_{i}" for i in range(num_rest))}
    scalars = {
        name: vertex[name][kept].astype(vertex.dtype[name].newbyteorder("="))
        for name in scalar_names(vertex)
        if name not in used
    }
    return SplatFile(splats=splats, kept=torch.from_numpy(kept), scalars=scalars)


def write_splats(
    path: Path, splats: Splats, *, scalars: Mapping[str, Shaped[Tensor, " M"]] | None = None
) -> None:
    """Write splats as the reference trainer does: binary PLY, float32, normals of zero; atomically.

    Reading gives them back to the rounding of float32 logarithms and logits (a relative error below
    1e-6 of scales up to a kilometre); opacities of exactly 0 and 1 stay what they are. Splats
    without colour are written as middle grey.

    Args:
        path: Final name; an old file is replaced.
        splats: The splats, of any precision, on any device.
        scalars: Further numbers per splat by property name, such as a score or a label; viewers
            ignore them.

    Raises:
        DataError: If the file cannot be written.
        ValueError: If a scalar has another length than the splats or a name that is taken.
    """
    count = len(splats)
    raw = _raw(splats)
    names = [*_MEANS, *_NORMALS, *_DC, *(f"f_rest_{i}" for i in range(raw.rest.shape[1]))]
    names += ["opacity", *_SCALES, *_QUATS]
    normals, logits = np.zeros((count, 3), np.float32), raw.logits[:, None]
    parts = (raw.means, normals, raw.dc, raw.rest, logits, raw.log_scales, raw.quats)
    values = np.concatenate(parts, axis=1)
    further = {
        name: _number_column(name, column, count) for name, column in (scalars or {}).items()
    }
    kinds: list[tuple[str, Any]] = [(name, "<f4") for name in names]
    table = np.empty(
        count, dtype=kinds + [(name, column.dtype) for name, column in further.items()]
    )
    for index, name in enumerate(names):
        table[name] = values[:, index]
    for name, column in further.items():
        table[name] = column
    with atomic_path(path) as temporary:
        PlyData([PlyElement.describe(table, "vertex")], byte_order="<").write(str(temporary))


def write_dot_splat(path: Path, splats: Splats) -> None:
    """Write splats in the 32-byte layout `.splat` of viewers in a browser; atomically.

    Per splat: position and standard deviations (float32), colour and opacity (8 bits each), and the
    unit quaternion w x y z as `128 + 128 q`, 8 bits each. Colour is that of the constant harmonic:
    what changes with the direction is lost. Large and opaque splats come first, so that a part of
    the file is a picture already.

    Args:
        path: Final name; an old file is replaced.
        splats: The splats; those without colour are middle grey.

    Raises:
        DataError: If the file cannot be written.
    """
    quats = _numpy(splats.quats).astype(np.float64)
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    opacities = _numpy(splats.opacities)
    rgb = np.full((len(splats), 3), 0.5)
    if splats.sh is not None:
        rgb = 0.5 + _Y0 * _numpy(splats.sh[:, 0])
    rgba = np.concatenate((rgb, opacities[:, None]), axis=1)
    scales = _numpy(splats.scales)
    table = np.empty(len(splats), dtype=_DOT_SPLAT)
    table["mean"], table["scale"] = _numpy(splats.means), scales
    table["rgba"] = np.rint(255 * rgba).clip(0, 255)
    table["rot"] = np.rint(128 * quats + 128).clip(0, 255)
    # Logarithms: a product of three tiny scales would be zero.
    with np.errstate(divide="ignore"):
        weight = np.log(scales.astype(np.float64)).sum(1) + np.log(opacities.astype(np.float64))
    order = np.argsort(-weight, kind="stable")
    with atomic_path(path) as temporary:
        temporary.write_bytes(table[order].tobytes())


def _check_properties(names: Sequence[str], path: Path) -> int:
    """Number of `f_rest_*`; refuses tables that are not of splats."""
    fix = "give the point_cloud.ply of a trainer of splats, or write it with write_splats"
    found = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "none"
    if "packed_position" in names:
        got = "a compressed splat PLY (packed_position)"
        raise _error(path, "uncompressed splats", got, "export the splats as an uncompressed PLY")
    if set(_MEANS) <= set(names) and not set(names) & {*_DC, "opacity", *_SCALES, *_QUATS}:
        raise _error(path, "splats", f"a plain point cloud with the properties {found}", fix)
    missing = [name for name in _NEEDED if name not in names]
    if missing == ["scale_2"]:
        got = "scale_0 and scale_1 alone: flat (2D) splats"
        raise _error(path, "splats with three scales", got, "export them with a scale_2")
    if missing:
        wanted = f"a splat PLY with the properties {', '.join(missing)}"
        raise _error(path, wanted, f"the properties {found}", fix)
    rest = [name for name in names if _REST.fullmatch(name)]
    if len(rest) not in _REST_SIZES or set(rest) != {f"f_rest_{i}" for i in range(len(rest))}:
        sizes = ", ".join(str(size) for size in sorted(_REST_SIZES))
        wanted = f"{sizes} properties f_rest_0, f_rest_1, ... (harmonics of degree 0 to 3)"
        got = f"{len(rest)}" + (f", the last one {rest[-1]}" if rest else "")
        raise _error(path, wanted, got, "export the splats again with one of these degrees")
    return len(rest)


def _faults(raw: _Raw, scales: NDArray[np.float32]) -> dict[str, NDArray[np.bool_]]:
    """What a row must be, and which rows are."""
    # As `Splats` measures it, so that what passes here passes there.
    length = torch.linalg.vector_norm(torch.from_numpy(raw.quats), dim=1).numpy()
    coloured = np.isfinite(raw.dc).all(1) & np.isfinite(raw.rest).all(1)
    return {
        "finite x, y, z": np.isfinite(raw.means).all(1),
        "finite harmonics f_dc_*, f_rest_*": coloured,
        "an opacity that is a number": ~np.isnan(raw.logits),
        "quaternions rot_* that are finite and not zero": np.isfinite(length) & (length > 0),
        "logarithms scale_* between -103 and 88": (np.isfinite(scales) & (scales > 0)).all(1),
    }


def _exp(logarithms: NDArray[np.float32]) -> NDArray[np.float32]:
    # In double precision, so that writing gives the numbers of the file back.
    with np.errstate(over="ignore"):
        return np.exp(logarithms.astype(np.float64)).astype(np.float32)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def _check_end(path: Path) -> None:
    """Text that is cut inside its last number still reads, as another number."""
    with path.open("rb") as file:
        is_text = b"format ascii" in file.read(64)
        file.seek(-1, 2)
        ends = file.read(1) in b"\r\n"
    if is_text and not ends:
        got = "a file that ends inside a line"
        raise _error(path, "a last row with an end of line", got, "copy or export it again")


def _refuse_bad(faults: Mapping[str, NDArray[Any]], kept: NDArray[Any], path: Path) -> None:
    if kept.all():
        return
    row = int(np.argmin(kept))
    wanted = "; ".join(text for text, good in faults.items() if not good[row])
    got = f"{int((~kept).sum())} bad rows of {len(kept)}, first in row {row}"
    raise _error(path, wanted, got, 'drop them with read_splat_file(PATH, on_bad="drop")')


def _raw(splats: Splats) -> _Raw:
    count = len(splats)
    sh = torch.zeros(count, 1, 3) if splats.sh is None else splats.sh
    harmonics = _numpy(sh)
    opacities = _numpy(splats.opacities).astype(np.float64)
    with np.errstate(divide="ignore"):
        logits = np.log(opacities) - np.log1p(-opacities)
    return _Raw(
        means=_numpy(splats.means),
        dc=harmonics[:, 0],
        rest=harmonics[:, 1:].transpose(0, 2, 1).reshape(count, 3 * (harmonics.shape[1] - 1)),
        logits=logits.clip(_LOGIT_OF_0, _LOGIT_OF_1).astype(np.float32),
        log_scales=np.log(_numpy(splats.scales).astype(np.float64)).astype(np.float32),
        quats=_numpy(splats.quats),
    )


def _number_column(name: str, values: Tensor, count: int) -> NDArray[Any]:
    taken = name in (*_MEANS, *_NORMALS, "opacity") or _TAKEN.match(name) is not None
    if taken or values.shape != (count,) or not re.fullmatch(r"[!-~]+", name):
        raise ValueError(
            f"scalar {name!r} must have a new name without blanks and {count} values, got shape "
            f"{tuple(values.shape)}"
        )
    column = values.detach().cpu().numpy()
    # PLY has no 64-bit integers and no booleans.
    if column.dtype == np.bool_:
        return column.astype(np.uint8)
    return column.astype(np.int32) if column.dtype == np.int64 else column


def _columns(vertex: NDArray[Any], names: Sequence[str]) -> NDArray[np.float32]:
    """Properties as one float32 table."""
    table = np.empty((len(vertex), len(names)), np.float32)
    # A double beyond float32's range becomes infinite here and is then refused.
    with np.errstate(over="ignore"):
        for index, name in enumerate(names):
            table[:, index] = vertex[name]
    return table


def _numpy(values: Tensor) -> NDArray[np.float32]:
    return values.detach().cpu().float().numpy()


def _error(path: Path, wanted: str, got: str, fix: str) -> DataError:
    return DataError(str(path), wanted=wanted, got=got, fix=fix)
