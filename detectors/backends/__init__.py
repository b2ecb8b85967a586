"""Who does the arithmetic of a sparse convolution: plain torch or an accelerated backend.

`"auto"` picks by device, type and presence and says so once at INFO; any other name either runs or
raises. Nothing falls back in silence, and every backend runs the same weights over the same kernel
maps.
"""

from __future__ import annotations

import logging
import warnings
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Literal, get_args

import torch

from lifting.backends import BackendUnavailableError

__all__ = [
    "BackendUnavailableError",
    "ConvBackend",
    "available_backends",
    "implementation",
    "resolve_backend",
    "spconv_problem",
]

ConvBackend = Literal["auto", "torch", "numba", "spconv"]

_log = logging.getLogger(__name__)

# The accelerated backend of each kind of device, and the types that it computes in.
_ACCELERATED: dict[str, tuple[ConvBackend, frozenset[torch.dtype]]] = {
    "cpu": ("numba", frozenset({torch.float32, torch.float64})),
    "cuda": ("spconv", frozenset({torch.float32, torch.float16})),
}
_INSTALL = "pip install spconv-cu126"


@cache
def spconv_problem() -> str | None:
    """Why spconv cannot run convolutions on CUDA here, or None when it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what its imports use is deprecated
            import_module("spconv.pytorch.ops")
            constants = import_module("spconv.cppconstants")
    # A wheel built for another CUDA fails in the dynamic loader, not only with ImportError.
    except (ImportError, OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    if constants.CPU_ONLY_BUILD:
        # Never used: with more than one thread it gives wrong sums, and its gradients do not work.
        return "the installed spconv is the build without CUDA"
    return None


def available_backends() -> dict[str, str | None]:
    """Every backend that the base install lacks, with why it cannot be used here, or None."""
    if not torch.cuda.is_available():
        return {"spconv": "no CUDA device"}
    problem = spconv_problem()
    return {"spconv": problem and f"{problem}; install it with: {_INSTALL}"}


def resolve_backend(name: str, device: torch.device, dtype: torch.dtype) -> ConvBackend:
    """Settle who runs a sparse convolution.

    Args:
        name: `auto`, or a backend that must be used.
        device: Where the tensors are.
        dtype: Type of the rows.

    Returns:
        `torch`, `numba` or `spconv`.

    Raises:
        ValueError: If the name is unknown.
        BackendUnavailableError: If the backend is not installed, or does not run on this device or
            in this type.
    """
    if name not in get_args(ConvBackend):
        names = ", ".join(get_args(ConvBackend))
        raise ValueError(f"sparse convolutions have the backends {names}, got {name!r}")
    accelerated, dtypes = _ACCELERATED.get(device.type, ("torch", frozenset[torch.dtype]()))
    if name == "auto":
        fits = dtype in dtypes and _problem(accelerated) is None
        chosen: ConvBackend = accelerated if fits else "torch"
        _log_choice(device.type, dtype, chosen)
        return chosen
    if name == "torch":
        return "torch"
    if name != accelerated or dtype not in dtypes:
        raise BackendUnavailableError(
            f"sparse convolution: backend {name!r} does not run in {dtype} on {device.type!r}; "
            "choose 'auto' or 'torch'"
        )
    problem = _problem(accelerated)
    if problem is not None:
        raise BackendUnavailableError(
            f"sparse convolution: backend {name!r} is not usable here ({problem}); "
            f"install it with: {_INSTALL}"
        )
    return accelerated


def _problem(name: ConvBackend) -> str | None:
    return spconv_problem() if name == "spconv" else None


def implementation(name: ConvBackend) -> ModuleType:
    """The module of a backend, imported at first use: numba and spconv are slow to import."""
    return import_module(f"detectors.backends.{name}_conv")


@cache  # once per device, type and choice: the log says it, and does not repeat it
def _log_choice(kind: str, dtype: torch.dtype, chosen: ConvBackend) -> None:
    _log.info("sparse convolution in %s on %s runs on backend %r", dtype, kind, chosen)
