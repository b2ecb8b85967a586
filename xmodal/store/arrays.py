"""`.npy` files that may come from anywhere: mapped, never executed, never believed on size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xmodal.errors import DataError

_MAGIC = b"\x93NUMPY"
_FIX = "run `xmodal verify RUN` to see what is damaged, then lift again with --overwrite"


def load_array(path: Path) -> npt.NDArray[Any]:
    """Memory-map a .npy file, copy-on-write.

    The header is checked against the size of the file before anything is mapped, so neither a cut
    file nor one that claims a shape it does not hold is ever read, and Python objects are refused.

    Raises:
        DataError: If it is missing, no .npy file, cut, too long, or holds objects.
    """
    try:
        shape, fortran, dtype, begin = _header(path)
        wanted = begin + dtype.itemsize * _count(shape)
        size = path.stat().st_size
    except (OSError, ValueError, EOFError) as error:
        raise DataError(str(path), wanted="a whole .npy array", got=str(error), fix=_FIX) from error
    if size != wanted:
        raise DataError(
            str(path),
            wanted=f"a whole .npy array: {wanted} bytes for {dtype} of shape {shape}",
            got=f"{size} bytes",
            fix=_FIX,
        )
    order = "F" if fortran else "C"
    return np.memmap(path, dtype=dtype, mode="c", offset=begin, shape=shape, order=order)


def _header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether columns come first, dtype, and where the data begin."""
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
        if start != _MAGIC:
            raise ValueError(
                "a zip archive (.npz)" if start[:2] == b"PK" else f"a file that begins {start!r}"
            )
        file.seek(0)
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f".npy format {version}")
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise ValueError("an array of Python objects, which is never loaded")
        return shape, fortran, dtype, file.tell()


def _count(shape: tuple[int, ...]) -> int:
    """Number of elements, in whole numbers that cannot overflow."""
    total = 1
    for length in shape:
        if length < 0:
            raise ValueError(f"a negative length in shape {shape}")
        total *= length
    return total
