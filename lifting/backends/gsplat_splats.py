"""Compositing splats on a CUDA device, by gsplat.

gsplat sorts the splats into tiles and says which splats each pixel meets; what they weigh is worked
out again from those pairs in torch, which differentiates it. So the rules are those of the
reference, whatever limits gsplat's own kernels have. Plain drawing leaves all to gsplat.
"""

# The package is optional and has no types.
# pyright: reportMissingImports=false

from __future__ import annotations

import torch
from gsplat.cuda import _wrapper as kernels
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.backends import entry_rows
from lifting.gaussians.projection import LEAST_ALPHA, Projected
from lifting.gaussians.reference import LEAST_TRANSMITTANCE, MOST_ALPHA

_TILE = 16
# gsplat caps alpha at 0.999 and not at 0.99, so behind one capped splat it believes to have a tenth
# of the light that there is; behind two nobody has any left. Starting with 16 times the light, it
# lists all that counts, also where rounding differs; the rule of the reference then decides.
_LIGHT = 16.0
# gsplat compiles kernels for up to 513 channels; wider rows are drawn in pieces.
_CHANNELS = 512
# More than any image; the radii are 32-bit integers.
_WIDEST_PX = 1 << 24


def view_weights(
    projected: Projected, opacities: Float[Tensor, " M"], hw: tuple[int, int]
) -> tuple[Int64[Tensor, " P1"], Int64[Tensor, " nnz"], Float[Tensor, " nnz"]]:
    """Compositing weights of all pixels, differentiable in centres, conics and opacities.

    Args:
        projected: Splats in the image, float32.
        opacities: In [0, 1].
        hw: Height and width of the image.

    Returns:
        Row pointers (one row per pixel), columns (splats, near to far) and weights.

    Raises:
        ValueError: If the splats are not float32.
    """
    col, pixel = _pairs(projected, opacities, hw)
    alpha = _alphas(projected, opacities, col, pixel, hw[1])
    kept = alpha.detach() >= LEAST_ALPHA
    col, pixel, alpha = col[kept], pixel[kept], alpha[kept]
    front = _light_in_front(alpha, _pointers(pixel, hw))
    # It never grows along a row, so all behind the first splat that is left out are, too.
    kept = front.detach() * (1 - alpha.detach()) > LEAST_TRANSMITTANCE
    weight = (alpha * front)[kept]
    return _pointers(pixel[kept], hw), col[kept], weight


def draw_rows(
    projected: Projected,
    opacities: Float[Tensor, " M"],
    rows: Float[Tensor, "M C"],
    hw: tuple[int, int],
) -> Float[Tensor, "P C"]:
    """Draw rows without the matrix: less memory, differentiable in everything.

    Here alpha is capped at 0.999, as gsplat does, not at 0.99: pixels at the centre of splats more
    opaque than that differ by up to 0.01 from the product with `view_weights`.

    Args:
        projected: Splats in the image, float32.
        opacities: In [0, 1].
        rows: One row per splat, any width.
        hw: Height and width of the image.

    Raises:
        ValueError: If the splats are not float32.
    """
    if not bool(projected.drawn.any()):  # gsplat divides by the number of splats
        return rows.new_zeros(hw[0] * hw[1], rows.shape[1]) + rows[:0].sum()
    offsets, splats = _tiles(projected, hw)
    splat_parts = projected.uv[None], projected.conics[None]
    image_parts = opacities[None], hw[1], hw[0], _TILE, offsets, splats
    pieces = [
        kernels.rasterize_to_pixels(*splat_parts, piece[None].to(opacities), *image_parts)[0]
        for piece in rows.split(_CHANNELS, 1)
        if piece.shape[1]
    ]
    if not pieces:
        return rows.new_zeros(hw[0] * hw[1], 0)
    return torch.cat(pieces, 3).flatten(0, 2)


@torch.no_grad()
def _tiles(projected: Projected, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where the list of each tile begins, [1, rows, columns], and the lists, near to far."""
    if projected.uv.dtype != torch.float32:
        raise ValueError(
            f"gsplat composites float32 splats, got {projected.uv.dtype}; use backend 'torch' for "
            "small images in that precision"
        )
    rows, columns = -(-hw[0] // _TILE), -(-hw[1] // _TILE)
    radii = projected.extent_px.ceil().clamp_max(_WIDEST_PX).to(torch.int32)
    _, keys, splats = kernels.isect_tiles(
        projected.uv[None], radii[None], projected.depth_m[None], _TILE, columns, rows
    )
    return kernels.isect_offset_encode(keys, 1, columns, rows).reshape(1, rows, columns), splats


@torch.no_grad()
def _pairs(projected: Projected, opacities: Tensor, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Splat and pixel of all that may count: by pixel, then near to far."""
    if not bool(projected.drawn.any()):  # gsplat divides by the number of splats
        none = torch.zeros(0, dtype=torch.int64, device=opacities.device)
        return none, none
    offsets, splats = _tiles(projected, hw)
    col, pixel, _ = kernels.rasterize_to_indices_in_range(
        0,
        1 << 30,  # batches of splats of a tile: all
        opacities.new_full((1, *hw), _LIGHT),
        projected.uv[None],
        projected.conics[None],
        opacities[None],
        hw[1],
        hw[0],
        _TILE,
        offsets,
        splats,
    )
    return col, pixel


def _alphas(
    projected: Projected, opacities: Tensor, col: Tensor, pixel: Tensor, width: int
) -> Tensor:
    """Alpha of each pair, as the reference has it."""
    places = torch.stack((pixel % width, pixel // width), 1) + 0.5
    dx, dy = (places - projected.uv[col]).unbind(1)
    a, b, c = projected.conics[col].unbind(1)
    distance = (a * dx * dx + 2 * b * dx * dy + c * dy * dy).clamp_min(0)
    return (opacities[col] * torch.exp(-0.5 * distance)).clamp_max(MOST_ALPHA)


def _light_in_front(alpha: Tensor, crow: Tensor) -> Tensor:
    """Product of 1 - alpha over the entries of the same row in front of each.

    One running sum of logarithms over all rows; in double precision the difference of two of its
    values keeps nine digits up to tens of millions of entries.
    """
    logs = torch.log1p(-alpha.double())
    before = torch.cumsum(logs, 0) - logs
    first = before[crow[:-1].clamp_max(max(len(alpha) - 1, 0))] if len(alpha) else before
    return torch.exp(before - first[entry_rows(crow, len(alpha))]).to(alpha)


def _pointers(pixel: Tensor, hw: tuple[int, int]) -> Tensor:
    """CSR row pointers of pixels in order."""
    num = hw[0] * hw[1]
    crow = torch.zeros(num + 1, dtype=torch.int64, device=pixel.device)
    torch.cumsum(torch.bincount(pixel, minlength=num), 0, out=crow[1:])
    return crow
