"""Sampling a view's teacher map where points fall, as lift operators.

A map of 15 x 20 patches is read where it is: a point takes four patches with bilinear weights.
The result equals up-sampling the map to the image and reading the pixel there, without the
up-sampled map. Masks are read through their membership matrix, without painting them.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.backends import entry_rows
from lifting.operator import LiftOperator

SamplingMode = Literal["bilinear", "nearest"]


def patch_taps(
    uv: Float[Tensor, "N 2"],
    *,
    image_hw: tuple[int, int],
    grid_hw: tuple[int, int],
    mode: SamplingMode = "bilinear",
) -> LiftOperator:
    """Operator from a grid of patches that covers an image to pixels in it.

    At pixel centres it equals `F.interpolate(..., align_corners=False)` of the grid to the image;
    towards the image border the outermost patch is continued. Differentiable in `uv`.

    Args:
        uv: Pixels of the image, x then y. Outside the image, or not finite: weight 0.
        image_hw: Size of the image, pixels.
        grid_hw: Size of the grid; patches are numbered row by row.
        mode: `bilinear` (four entries a row) or `nearest` (one entry a row).

    Returns:
        N targets x h w patches; rows inside the image sum to 1.

    Raises:
        ValueError: If a size is not positive.
    """
    _check_sizes(image_hw, grid_hw)
    if mode == "bilinear":
        col, weight = bilinear_taps(uv, image_hw=image_hw, grid_hw=grid_hw)
    elif mode == "nearest":
        cell = nearest_cell(uv, image_hw=image_hw, grid_hw=grid_hw)
        col = cell.clamp_min(0)[:, None]
        weight = (cell >= 0).to(uv.dtype)[:, None]
    else:
        raise ValueError(f"sampling mode must be bilinear or nearest, got {mode!r}")
    taps = col.shape[1]
    return LiftOperator(
        crow=torch.arange(0, taps * len(uv) + 1, taps, device=uv.device),
        col=col.reshape(-1),
        weight=weight.reshape(-1),
        num_sources=grid_hw[0] * grid_hw[1],
    )


def membership_taps(
    uv: Float[Tensor, "N 2"],
    membership: LiftOperator,
    *,
    image_hw: tuple[int, int],
    grid_hw: tuple[int, int],
) -> LiftOperator:
    """Operator from the masks of an image to pixels in it: each takes the masks that cover it.

    Args:
        uv: Pixels of the image, x then y. Outside the image, or not finite: no entries.
        membership: Grid pixels (row by row) x masks; masks may overlap and be weighted. Its
            weights are differentiable here.
        image_hw: Size of the image, pixels.
        grid_hw: Size of the grid that covers it.

    Raises:
        ValueError: If a size is not positive, or `membership` has another number of grid pixels.
    """
    _check_sizes(image_hw, grid_hw)
    if membership.num_targets != grid_hw[0] * grid_hw[1]:
        raise ValueError(
            f"membership_taps: a grid of {grid_hw} has {grid_hw[0] * grid_hw[1]} pixels, but "
            f"membership has {membership.num_targets} rows"
        )
    cell = nearest_cell(uv, image_hw=image_hw, grid_hw=grid_hw)
    inside = cell >= 0
    cell = cell.clamp_min(0)
    start = membership.crow[cell]
    length = (membership.crow[cell + 1] - start) * inside
    crow = torch.zeros(len(uv) + 1, dtype=torch.int64, device=uv.device)
    torch.cumsum(length, 0, out=crow[1:])
    total = int(crow[-1])
    entry = (start - crow[:-1])[entry_rows(crow, total)]
    entry += torch.arange(total, device=uv.device)
    return LiftOperator(
        crow=crow,
        col=membership.col[entry],
        weight=membership.weight[entry],
        num_sources=membership.num_sources,
    )


def bilinear_taps(
    uv: Float[Tensor, "N 2"], *, image_hw: tuple[int, int], grid_hw: tuple[int, int]
) -> tuple[Int64[Tensor, "N 4"], Float[Tensor, "N 4"]]:
    """Patches and weights of `patch_taps`, as plain arrays for loops that join many views.

    On a CPU, and when no gradient is asked for, this is one compiled loop.

    Args:
        uv: Pixels of the image, x then y.
        image_hw: Size of the image, pixels.
        grid_hw: Size of the grid.
    """
    if uv.device.type != "cpu" or uv.requires_grad:
        return _bilinear_taps_torch(uv, image_hw, grid_hw)
    from lifting.backends import numba_geometry  # numba costs half a second to import

    col = torch.empty(len(uv), 4, dtype=torch.int64)
    weight = torch.empty(len(uv), 4, dtype=uv.dtype)
    numba_geometry.bilinear_taps(uv.numpy(), image_hw, grid_hw, col.numpy(), weight.numpy())
    return col, weight


def nearest_cell(
    uv: Float[Tensor, "N 2"], *, image_hw: tuple[int, int], grid_hw: tuple[int, int]
) -> Int64[Tensor, " N"]:
    """Grid cell (row-major) that holds each pixel of an image; -1 outside the image.

    Args:
        uv: Pixels of the image, x then y.
        image_hw: Size of the image, pixels.
        grid_hw: Size of the grid that covers it.
    """
    uv = uv.detach()
    (height, width), (rows, columns) = image_hw, grid_hw
    inside = (uv >= 0).all(-1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    uv = uv.where(inside[:, None], torch.zeros_like(uv))
    # Rounding may carry the last pixel's 0.9999999 to the next cell.
    column = (uv[:, 0] * (columns / width)).long().clamp(max=columns - 1)
    row = (uv[:, 1] * (rows / height)).long().clamp(max=rows - 1)
    return (row * columns + column).where(inside, -1)


def _bilinear_taps_torch(
    uv: Tensor, image_hw: tuple[int, int], grid_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Reference form; differentiable."""
    (height, width), (rows, columns) = image_hw, grid_hw
    inside = (uv >= 0).all(-1) & (uv[:, 0] < width) & (uv[:, 1] < height)
    uv = uv.where(inside[:, None], torch.zeros_like(uv))
    x = (uv[:, 0] * columns / width - 0.5).clamp(0, columns - 1)
    y = (uv[:, 1] * rows / height - 0.5).clamp(0, rows - 1)
    left, top = x.detach().long(), y.detach().long()
    right, bottom = (left + 1).clamp(max=columns - 1), (top + 1).clamp(max=rows - 1)
    fx, fy = x - left, y - top
    col = torch.stack((top * columns + left, top * columns + right), -1)
    col = torch.cat((col, torch.stack((bottom * columns + left, bottom * columns + right), -1)), -1)
    weight = torch.stack(((1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy), -1)
    return col, weight * inside[:, None]


def _check_sizes(image_hw: tuple[int, int], grid_hw: tuple[int, int]) -> None:
    for name, hw in (("image_hw", image_hw), ("grid_hw", grid_hw)):
        if len(hw) != 2 or min(hw) < 1:
            raise ValueError(f"{name} must be two positive sizes (height, width), got {hw}")
