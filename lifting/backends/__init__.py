"""Who does the arithmetic of a lift: the plain torch reference or an accelerated backend.

The choice is always explicit or logged: `"auto"` picks by device and presence and says so once at
INFO, any other name either runs or raises `BackendUnavailableError`. Nothing falls back in silence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

__all__ = [
    "BackendName",
    "BackendUnavailableError",
    "Operation",
    "available_backends",
    "backend_problem",
    "csr_apply",
    "resolve_backend",
]

BackendName = Literal["torch", "numba", "torch_scatter", "triton", "gsplat"]
Operation = Literal["csr_apply", "segment_max", "voxelize", "splat_weights"]

_log = logging.getLogger(__name__)

# The backends of each operation on each kind of device, the preferred one first. numba comes before
# torch on a CPU: its gather-sum writes each output row once, where `embedding_bag` fills first.
_CHOICES: dict[Operation, dict[str, tuple[BackendName, ...]]] = {
    "csr_apply": {
        "cpu": ("numba", "torch", "torch_scatter"),
        "cuda": ("triton", "torch", "torch_scatter"),
    },
    "segment_max": {"cpu": ("numba", "torch"), "cuda": ("torch",)},
    "voxelize": {"cpu": ("numba", "torch"), "cuda": ("torch",)},
    "splat_weights": {"cpu": ("numba", "torch"), "cuda": ("gsplat", "torch")},
}
_IMPLEMENTATION: dict[BackendName, str] = {
    "torch": "lifting.backends.torch_csr",
    "numba": "lifting.backends.numba_csr",
    "torch_scatter": "lifting.backends.torch_scatter_csr",
    "triton": "lifting.backends.triton_csr",
}
_INSTALL: dict[BackendName, str] = {
    "torch": "pip install torch",
    "numba": "pip install numba",
    "torch_scatter": "pip install --no-build-isolation torch-scatter",
    "triton": "pip install triton",
    "gsplat": "pip install gsplat",
}


class BackendUnavailableError(RuntimeError):
    """The backend asked for cannot run here; the message says why and how to mend it."""


@cache
def backend_problem(name: BackendName) -> str | None:
    """Why a backend's package cannot be imported, or None when it can.

    Args:
        name: The backend; its package is imported to find out.
    """
    try:
        import_module(name)
    # A wheel built for another torch fails in the dynamic loader (OSError) or at registering its
    # operators (RuntimeError), not only with ImportError.
    except (ImportError, OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def available_backends() -> dict[BackendName, str | None]:
    """Every backend with the reason why it cannot be used here, or None when it can."""
    names: tuple[BackendName, ...] = get_args(BackendName)
    reasons: dict[BackendName, str | None] = {}
    for name in names:
        problem = backend_problem(name)
        if problem is not None:
            reasons[name] = f"{problem}; install it with: {_INSTALL[name]}"
        else:
            no_device = name in ("triton", "gsplat") and not torch.cuda.is_available()
            reasons[name] = "no CUDA device" if no_device else None
    return reasons


def resolve_backend(
    name: str, device: torch.device | str, op: Operation = "csr_apply"
) -> BackendName:
    """Settle who runs an operation.

    Args:
        name: `auto`, or a backend that must be used.
        device: Where the tensors are.
        op: The operation.

    Returns:
        The backend that will run.

    Raises:
        ValueError: If the name is unknown or the operation has no such backend.
        BackendUnavailableError: If the backend is not installed or does not run on this device.
    """
    kind = torch.device(device).type
    choices = _CHOICES[op]
    # Devices without a backend of their own (mps, xpu) have plain torch.
    usable = choices.get(kind, ("torch",))
    if name == "auto":
        chosen: BackendName = next(choice for choice in usable if backend_problem(choice) is None)
        _log_choice(op, kind, chosen)
        return chosen
    known: list[BackendName] = sorted(
        {choice for per_device in choices.values() for choice in per_device}
    )
    if name not in known:
        raise ValueError(f"{op} has the backends {', '.join(['auto', *known])}, got {name!r}")
    asked = known[known.index(name)]
    if asked not in usable:
        raise BackendUnavailableError(
            f"{op}: backend {name!r} does not run on device {kind!r}; "
            f"choose one of {', '.join(('auto', *usable))}"
        )
    problem = backend_problem(asked)
    if problem is not None:
        raise BackendUnavailableError(
            f"{op}: backend {name!r} is not usable here ({problem}); "
            f"install it with: {_INSTALL[asked]}"
        )
    return asked


@cache  # once per operation, device and choice: the log says it, and does not repeat it
def _log_choice(op: Operation, kind: str, chosen: BackendName) -> None:
    _log.info("%s on %s runs on backend %r", op, kind, chosen)


def csr_apply(
    crow: Int64[Tensor, " M1"],
    col: Int64[Tensor, " nnz"],
    weight: Float[Tensor, " nnz"],
    features: Float[Tensor, "S C"],
    backend: str = "auto",
    *,
    out: Float[Tensor, "M C"] | None = None,
    transpose: Callable[[], tuple[Tensor, Tensor, Tensor]] | None = None,
) -> Float[Tensor, "M C"]:
    """Product of a CSR matrix with dense rows, differentiable in weight and features.

    Args:
        crow: Row pointers, from 0 to nnz. The pattern is trusted: `LiftOperator` checks it.
        col: Source row of each entry.
        weight: Weight of each entry.
        features: Source rows, any width. Half precision is summed in float32 and returned in the
            dtype that came in.
        backend: `auto`, `torch`, `numba`, `torch_scatter` or `triton`.
        out: Written instead of fresh memory, which is several times slower to touch on a CPU than
            a buffer that is reused. Without gradients only.
        transpose: Gives pointers, columns and entry order of the transpose when the gradient of
            the features needs them; for callers that keep the transpose.

    Returns:
        One row per pointer pair, in the dtype of `features`; a row without entries is zero.

    Raises:
        ValueError: If `out` does not fit, or is given where gradients are wanted.
        BackendUnavailableError: If the backend cannot run here.
    """
    implementation = _implementation(resolve_backend(backend, features.device))
    dtype = torch.promote_types(features.dtype, torch.float32)
    weight, rows = weight.to(dtype), features.to(dtype)
    wants_grad = torch.is_grad_enabled() and (weight.requires_grad or rows.requires_grad)
    if out is not None:
        _check_out(out, (crow.numel() - 1, features.shape[1]), features, wants_grad=wants_grad)
    if not wants_grad:
        same = out is not None and out.dtype == dtype
        product = implementation.csr_product(
            crow, col, weight.detach(), rows.detach(), out=out if same else None
        )
        if out is None:
            return product.to(features.dtype)
        return out if same else out.copy_(product)
    if implementation.__name__ == _IMPLEMENTATION["torch"]:
        # The reference is differentiated by torch itself, so that parity means something.
        return implementation.csr_product(crow, col, weight, rows).to(features.dtype)
    product = _CsrProduct.apply(weight, rows, crow, col, implementation, transpose)
    return product.to(features.dtype)  # pyright: ignore[reportOptionalMemberAccess]  # untyped


def transpose_pattern(
    crow: Int64[Tensor, " M1"], col: Int64[Tensor, " nnz"], num_sources: int
) -> tuple[Int64[Tensor, " S1"], Int64[Tensor, " nnz"], Int64[Tensor, " nnz"]]:
    """Pattern of the transpose of a CSR matrix.

    Args:
        crow: Row pointers.
        col: Columns.
        num_sources: Number of columns.

    Returns:
        Row pointers and columns of the transpose, and the order in which it takes the weights.
    """
    order = torch.argsort(col, stable=True)
    pointers = torch.zeros(num_sources + 1, dtype=torch.int64, device=col.device)
    torch.cumsum(torch.bincount(col, minlength=num_sources), 0, out=pointers[1:])
    return pointers, entry_rows(crow, col.numel())[order], order


def entry_rows(crow: Int64[Tensor, " M1"], nnz: int) -> Int64[Tensor, " nnz"]:
    """Target row of each entry of a CSR pattern."""
    num, length = crow.numel() - 1, crow.diff()
    if crow.device.type == "cpu":
        # torch wakes all threads for this however short it is, and waits for them: a hundred
        # times the cost of the work on a busy machine.
        return torch.from_numpy(np.repeat(np.arange(num), length.numpy()))
    index = torch.arange(num, device=crow.device)
    return torch.repeat_interleave(index, length, output_size=nnz)


class _CsrProduct(torch.autograd.Function):
    """An accelerated backend's product with its gradients: W.T g, and <g, f> per entry."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch types it as *args
        ctx: Any,
        weight: Tensor,
        features: Tensor,
        crow: Tensor,
        col: Tensor,
        implementation: ModuleType,
        transpose: Callable[[], tuple[Tensor, Tensor, Tensor]] | None,
    ) -> Tensor:
        ctx.save_for_backward(weight, features, crow, col)
        ctx.implementation, ctx.transpose = implementation, transpose
        return implementation.csr_product(crow, col, weight, features)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch types it as *args
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        weight, features, crow, col = ctx.saved_tensors
        grad_weight = grad_features = None
        if ctx.needs_input_grad[0]:
            grad_weight = ctx.implementation.entry_dots(crow, col, grad, features)
        if ctx.needs_input_grad[1] and _scatters(ctx.implementation, col, features):
            grad_features = ctx.implementation.csr_scatter(
                crow, col, weight, grad, num_sources=features.shape[0]
            )
        elif ctx.needs_input_grad[1]:
            crow_t, col_t, order = (
                ctx.transpose()
                if ctx.transpose is not None
                else transpose_pattern(crow, col, features.shape[0])
            )
            grad_features = ctx.implementation.csr_product(crow_t, col_t, weight[order], grad)
        return grad_weight, grad_features, None, None, None, None


def _scatters(implementation: ModuleType, col: Tensor, features: Tensor) -> bool:
    """Whether a backend adds up the gradient of narrow features without a transpose."""
    if implementation.__name__ != _IMPLEMENTATION["numba"]:
        return False
    return implementation.scatter_pays(col.numel(), *features.shape)


def _implementation(name: BackendName) -> ModuleType:
    """The module of a backend, imported at first use: numba and triton are slow to import."""
    return import_module(_IMPLEMENTATION[name])


def _check_out(out: Tensor, shape: tuple[int, int], features: Tensor, *, wants_grad: bool) -> None:
    if wants_grad or out.requires_grad:
        raise ValueError("csr_apply writes into `out` only without gradients; leave `out` away")
    if tuple(out.shape) != shape or out.dtype != features.dtype or out.device != features.device:
        raise ValueError(
            f"csr_apply needs `out` of shape {shape}, {features.dtype} on {features.device}, got "
            f"{tuple(out.shape)}, {out.dtype} on {out.device}"
        )
    if not out.is_contiguous():
        raise ValueError("csr_apply needs a contiguous `out`")
