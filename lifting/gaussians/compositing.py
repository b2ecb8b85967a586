"""Alpha compositing as a sparse matrix: the share that each splat has in each pixel.

The matrix W has a row per pixel and a column per splat; entry = alpha x transmittance in front.
`W.apply(rows)` renders rows of any width, `W.transpose()` lifts pixels to splats. Gradients reach
the splats through the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lifting.backends import resolve_backend
from lifting.gaussians.projection import Projected
from lifting.gaussians.reference import dense_weights
from lifting.operator import LiftOperator

__all__ = ["compositing_operator"]


def compositing_operator(
    projected: Projected,
    opacities: Float[Tensor, " M"],
    hw: tuple[int, int],
    *,
    backend: str = "auto",
) -> LiftOperator:
    """Compositing weights of one view, [H*W pixels x M splats], entries of a row near to far.

    Splats are sorted by depth, equal ones by index. alpha = min(0.99, opacity x Gaussian at the
    pixel's centre); below 1/255 a splat is skipped; before the splat that would bring the light
    that passes to 1e-4 or less, compositing stops. Differentiable in `uv`, `conics` and opacities.

    Args:
        projected: Splats in the image, float32 or float64.
        opacities: In [0, 1].
        hw: Height and width of the image; the rows of the matrix are its rows laid end to end.
        backend: `auto`, `numba` (CPU), `gsplat` (CUDA) or `torch`: brute force, memory pixels x
            splats.

    Raises:
        ValueError: If the lengths, precisions or numbers do not make splats in an image.
        BackendUnavailableError: If the backend cannot run here.

    Source:
        Kerbl et al., 3D Gaussian splatting, SIGGRAPH 2023, equation 3 and appendix C.
    """
    _check(projected, opacities, hw)
    chosen = resolve_backend(backend, projected.uv.device, "splat_weights")
    if chosen == "torch":
        return _brute_force(projected, opacities, hw)
    if chosen == "gsplat":
        from lifting.backends.gsplat_splats import view_weights  # CUDA only: not on every machine

        crow, col, weight = view_weights(projected, opacities, hw)
    else:
        parts = (projected.uv, projected.conics, opacities)
        crow, col, weight = _Compositing.apply(*parts, projected, hw)  # pyright: ignore[reportGeneralTypeIssues]  # untyped
    return LiftOperator(crow=crow, col=col, weight=weight, num_sources=len(opacities))


class _Compositing(torch.autograd.Function):
    """The compiled weights and their gradients."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch types it as *args
        ctx: Any,
        uv: Tensor,
        conics: Tensor,
        opacities: Tensor,
        projected: Projected,
        hw: tuple[int, int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        from lifting.backends.numba_splats import view_weights  # numba is slow to import
        from lifting.gaussians.tiles import tile_lists

        tiles = tile_lists(projected, opacities, hw)
        wants_grad = any(ctx.needs_input_grad)
        crow, col, weight, alpha = view_weights(tiles, keep_alphas=wants_grad)
        ctx.mark_non_differentiable(crow, col)
        if wants_grad:
            ctx.save_for_backward(uv, conics, opacities, crow, col, weight, alpha)
            ctx.width = hw[1]
        return crow, col, weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch types it as *args
        ctx: Any, _crow: Tensor, _col: Tensor, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        from lifting.backends.numba_splats import splat_gradients

        uv, conics, opacities, crow, col, weight, alpha = ctx.saved_tensors
        splats = (uv, conics, opacities)
        found = splat_gradients((crow, col), (weight, alpha, grad), splats, ctx.width)
        needed = zip(found, ctx.needs_input_grad[:3], strict=True)
        return *(part if wanted else None for part, wanted in needed), None, None


def _brute_force(projected: Projected, opacities: Tensor, hw: tuple[int, int]) -> LiftOperator:
    """The reference, as a matrix; torch differentiates it."""
    dense = dense_weights(projected, opacities, hw)
    order = torch.argsort(projected.depth_m.detach(), stable=True)
    row, rank = dense.detach()[:, order].nonzero().unbind(1)
    col = order[rank]
    crow = torch.zeros(len(dense) + 1, dtype=torch.int64, device=dense.device)
    torch.cumsum(torch.bincount(row, minlength=len(dense)), 0, out=crow[1:])
    return LiftOperator(crow=crow, col=col, weight=dense[row, col], num_sources=len(opacities))


def _check(projected: Projected, opacities: Tensor, hw: tuple[int, int]) -> None:
    if hw[0] < 1 or hw[1] < 1:
        raise ValueError(f"an image needs a height and a width of at least 1 pixel, got {hw}")
    if opacities.shape != (len(projected),):
        raise ValueError(
            f"{len(projected)} projected splats need as many opacities, got {list(opacities.shape)}"
        )
    parts = (projected.uv, projected.conics, projected.depth_m, projected.extent_px, opacities)
    kinds = {(part.dtype, part.device) for part in parts}
    if len(kinds) != 1 or opacities.dtype not in (torch.float32, torch.float64):
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ValueError(
            "projected splats and opacities must share one precision, float32 or float64, and one "
            f"device, got {found}"
        )
