"""NumPy files from strangers: sizes are checked before anything is allocated, pickle never runs."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from xmodal.errors import DataError

MAX_BYTES = 1 << 30
"""Largest array that is read, bytes: a map of 480 x 640 pixels with 768 channels fits."""

# RuntimeError and NotImplementedError are zipfile's for encryption and unknown compression.
_DAMAGED = (
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)

# Real features barely compress; a thousand to one is a bomb.
_MAX_RATIO = 100


def read_array(path: Path, *, max_bytes: int = MAX_BYTES) -> NDArray[Any]:
    """The array of a `.npy` file, or the only array of a `.npz` file.

    Args:
        path: The file.
        max_bytes: Most bytes the array may take in memory.

    Raises:
        DataError: If the file is missing, damaged, holds objects, several arrays or more bytes
            than allowed, or if its header does not match its size.
    """
    try:
        if path.suffix == ".npz":
            return _read_npz(path, max_bytes)
        with path.open("rb") as file:
            return _read_npy(file, path, path.stat().st_size, max_bytes)
    except FileNotFoundError:
        raise wrong_array(path, "an array file", "no such file") from None
    except _DAMAGED as error:
        raise wrong_array(path, "a NumPy file", str(error).splitlines()[0][:200]) from error


def read_arrays(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, NDArray[Any]]:
    """All arrays of a `.npz` file by name.

    Args:
        path: The file.
        max_bytes: Most bytes all arrays together may take in memory.

    Raises:
        DataError: As `read_array`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found: dict[str, NDArray[Any]] = {}
            left = max_bytes
            for member in archive.infolist():
                array = _read_member(archive, member, path, left)
                left -= array.nbytes
                found[member.filename.removesuffix(".npy")] = array
            return found
    except FileNotFoundError:
        raise wrong_array(path, "an array file", "no such file") from None
    except _DAMAGED as error:
        raise wrong_array(path, "a NumPy file", str(error).splitlines()[0][:200]) from error


def wrong_array(path: Path, wanted: str, got: str) -> DataError:
    """The error for an array file that cannot be used."""
    return DataError(str(path), wanted=wanted, got=got, fix="write it anew with numpy.save")


def _read_npz(path: Path, max_bytes: int) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) != 1 or not members[0].filename.endswith(".npy"):
            names = ", ".join(member.filename for member in members[:5]) or "nothing"
            raise wrong_array(path, "exactly one array", names)
        return _read_member(archive, members[0], path, max_bytes)


def _read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, max_bytes: int
) -> NDArray[Any]:
    if not member.filename.endswith(".npy"):
        raise wrong_array(path, "arrays and nothing else", member.filename)
    if member.file_size > _MAX_RATIO * max(member.compress_size, 1):
        got = f"{member.compress_size} bytes that unpack to {member.file_size}"
        raise wrong_array(path, f"data compressed at most {_MAX_RATIO} to one", got)
    # zipfile never gives more than the size it was told, and checks the checksum at the end.
    with archive.open(member) as file:
        stream = cast("io.BufferedIOBase", file)
        return _read_npy(stream, path, member.file_size, max_bytes)


def _read_npy(file: io.BufferedIOBase, path: Path, size: int, max_bytes: int) -> NDArray[Any]:
    shape, fortran, dtype, header = _header(file)
    if dtype.hasobject:
        raise wrong_array(path, "plain numbers", "Python objects")
    needed = math.prod(shape) * dtype.itemsize
    if needed > max_bytes:
        raise wrong_array(path, f"at most {max_bytes} bytes", f"{shape} of {dtype}: {needed} bytes")
    if needed != size - header:
        got = f"a header for {needed} bytes and {size - header} bytes of data"
        raise wrong_array(path, "a header that fits the data", got)
    data = file.read(needed)
    if len(data) != needed:
        raise wrong_array(path, f"{needed} bytes of data", f"{len(data)} bytes")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"unknown .npy version {version}")
    return shape, fortran, dtype, file.tell()
