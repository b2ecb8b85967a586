"""MATLAB files of plain numbers (UTD-MHAD), through scipy."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from xmodal.errors import DataError
from xmodal.recordings.containers import refuse_empty

MAX_BYTES = 200_000_000
"""Largest MATLAB file that is read, bytes: hours of readings."""


def read_matrix(path: Path, name: str, shape: str) -> Float64[NDArray[np.float64], " ..."]:
    """One array of a MATLAB file (version 5 to 7.2).

    Args:
        path: The file.
        name: Its variable.
        shape: What its shape means, for messages.

    Raises:
        DataError: If the file is missing, empty, too large or damaged, or has no such numbers.
    """
    from scipy.io import loadmat  # a second of imports that other formats do without
    from scipy.io.matlab import MatReadError

    if refuse_empty(path, "a MATLAB file") > MAX_BYTES:
        raise _wrong(path, f"at most {MAX_BYTES} bytes", f"{path.stat().st_size}")
    try:
        found = loadmat(str(path), variable_names=[name])
    # scipy meets damage wherever its reader happens to be.
    except (
        MatReadError, ValueError, TypeError, OSError, EOFError, IndexError, KeyError,
        NotImplementedError, OverflowError, MemoryError, zlib.error,
    ) as error:  # fmt: skip
        got = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise _wrong(path, "a whole MATLAB file of version 5 to 7.2", got) from error
    if name not in found:
        raise _wrong(path, f"a variable `{name}`, {shape}", "none of this name")
    array = np.asarray(found[name])
    if array.dtype.kind not in "fiu":
        raise _wrong(path, f"numbers in `{name}`", f"{array.dtype}")
    return array.astype(np.float64)


def _wrong(path: Path, wanted: str, got: str) -> DataError:
    return DataError(
        str(path), wanted=wanted, got=got, fix="fetch the file again, or convert it to npz"
    )
