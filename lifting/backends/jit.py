"""Compiling kernels with numba, and running them on several threads.

Kernels release the GIL and take a range of rows, and plain Python threads share the ranges out.
numba's own `parallel=True` would compile three times as long, and its OpenMP layer ends a process
that forks after first use, as data-loader workers do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar, cast

import numba
import torch

_F = TypeVar("_F", bound=Callable[..., Any])

# Sums may be reordered (vector lanes) and multiply-adds fused; NaN and infinity keep their meaning.
_FASTMATH = {"reassoc", "contract", "nsz"}


def jit(function: _F) -> _F:
    """Compile a kernel at its first call, without the GIL, and remember the machine code on disk.

    Args:
        function: The kernel, in the subset of Python that numba knows. Stays at `.py_func`.
    """
    return _compile(function, fastmath=_FASTMATH)


def jit_exact(function: _F) -> _F:
    """Like `jit`, but in the order of operations as written; division by zero gives infinity.

    Args:
        function: The kernel, in the subset of Python that numba knows. Stays at `.py_func`.
    """
    return _compile(function, error_model="numpy")


def _compile(function: _F, **options: Any) -> _F:
    # A runtime type checker may have wrapped the function; numba needs the bare one.
    kernel = inspect.unwrap(function)
    try:
        compiled = numba.njit(cache=True, nogil=True, **options)(kernel)
    except RuntimeError:
        # Neither the package's folder nor the user's cache can be written: compile every time.
        compiled = numba.njit(cache=False, nogil=True, **options)(kernel)
    return cast(_F, compiled)


def run_ranges(kernel: Callable[..., Any], bounds: list[int], *arguments: Any) -> None:
    """Call `kernel(*arguments, begin, end)` between consecutive bounds, on torch's thread count.

    Args:
        kernel: Work on a half-open range; must release the GIL to gain from threads.
        bounds: Rising range borders; n + 1 borders make n calls.
        *arguments: What every call gets first.
    """
    ranges = list(pairwise(bounds))
    threads = min(torch.get_num_threads(), len(ranges))
    if threads <= 1:
        for begin, end in ranges:
            kernel(*arguments, begin, end)
        return
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(kernel, *arguments, begin, end) for begin, end in ranges]
    for future in running:
        future.result()  # raises here what was raised in the thread


def even_bounds(total: int, work: int) -> list[int]:
    """Borders that cut `total` items into pieces for the threads.

    Args:
        total: Number of items.
        work: Elementary operations in all; small work stays in one piece.
    """
    # Below about 0.1 ms of work a thread costs more than it saves; four pieces a thread even out
    # rows of unequal length.
    pieces = 1 if work < 1 << 18 else min(total, 4 * torch.get_num_threads())
    return [total * i // max(pieces, 1) for i in range(pieces + 1)]
