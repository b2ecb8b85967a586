"""Patches, masks and single pixels of a view as sets of the splats that are drawn in them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.gaussians.closed_form import SplatView, composed
from lifting.operator import LiftOperator


class ShownSets(NamedTuple):
    """What rows of a view show.

    Attributes:
        members: Sets x splats: light that a splat sends into the set's pixels.
        kept: The view's row behind each set.
        alpha: How much of each set is covered by splats, 0 to 1.
    """

    members: LiftOperator
    kept: Int64[Tensor, " S"]
    alpha: Float[Tensor, " S"]


def shown_sets(view: SplatView, *, least_alpha: float = 0.0, keep: float = 1.0) -> ShownSets:
    """The splats that each row of a view shows.

    Args:
        view: The view.
        least_alpha: Rows of which less is covered are left out, as are rows without pixels.
        keep: Of each set, the largest shares that make up this part of it.

    Raises:
        ValueError: If `least_alpha` or `keep` lie outside [0, 1] or (0, 1].
    """
    _check_shares(least_alpha, keep)
    members = composed(view).transpose()
    pixels = members.weight.new_zeros(len(view.rows))
    if view.taps is None:
        pixels += 1.0
    else:
        pixels.index_add_(0, view.taps.col, view.taps.weight.to(pixels.dtype))
    covered = members.row_sum()
    alpha = (covered / pixels.clamp_min(torch.finfo(pixels.dtype).tiny)).clamp(max=1.0)
    kept = ((covered > 0) & (alpha >= least_alpha)).nonzero().squeeze(1)
    return ShownSets(_largest(members.select_rows(kept), keep), kept, alpha[kept])


class PixelSets(NamedTuple):
    """What some pixels of a view show.

    Attributes:
        members: Sets x splats: how much of the pixel is each splat.
        rows: The view's row (mask) that each pixel was drawn from.
        pixels: Which pixels of the drawing, row by row.
        alpha: How much of each pixel is covered by splats, 0 to 1.
    """

    members: LiftOperator
    rows: Int64[Tensor, " S"]
    pixels: Int64[Tensor, " S"]
    alpha: Float[Tensor, " S"]


def pixel_sets(
    view: SplatView,
    *,
    per_row: int,
    generator: torch.Generator | None = None,
    least_alpha: float = 0.0,
    keep: float = 1.0,
) -> PixelSets:
    """Some pixels of each row of a view, drawn at random without return, and their splats.

    Args:
        view: The view; rows are usually masks. Pixels that read several rows may be drawn for each.
        per_row: So many pixels of each row, or all where it has fewer.
        generator: Where chance comes from; torch's own if None.
        least_alpha: Pixels of which less is covered are never drawn, nor are those without splats.
        keep: Of each pixel, the largest shares that make up this part of it.

    Returns:
        Pixels in the order of rows, and of pixels within a row.

    Raises:
        ValueError: If `per_row` is below 1, or as `shown_sets`.

    Source:
        Zheng et al., GaussianGrasper, RA-L 2024 (some pixels of each mask).
    """
    if per_row < 1:
        raise ValueError(f"per_row must be 1 or more, got {per_row}")
    _check_shares(least_alpha, keep)
    covered = view.weights.row_sum()
    alpha = covered.clamp(max=1.0)
    if view.taps is None:
        pixel = row = torch.arange(len(covered))
    else:
        taps = view.taps.drop_zeros()
        pixel, row = taps.row, taps.col
    seen = ((covered > 0) & (alpha >= least_alpha))[pixel]
    pixel, row = pixel[seen], row[seen]
    mixed = torch.randperm(len(pixel), generator=generator)
    order = mixed[torch.argsort(row[mixed], stable=True)]
    count = torch.bincount(row, minlength=len(view.rows))
    place = torch.arange(len(order)) - (count.cumsum(0) - count)[row[order]]
    chosen = order[place < per_row]
    chosen = chosen[torch.argsort(row[chosen] * len(covered) + pixel[chosen])]
    pixel, row = pixel[chosen], row[chosen]
    return PixelSets(_largest(view.weights.select_rows(pixel), keep), row, pixel, alpha[pixel])


def _check_shares(least_alpha: float, keep: float) -> None:
    if not 0 <= least_alpha <= 1 or not 0 < keep <= 1:
        raise ValueError(
            f"least_alpha must lie in [0, 1] and keep in (0, 1], got {least_alpha} and {keep}"
        )


def _largest(members: LiftOperator, keep: float) -> LiftOperator:
    """Of each row, its largest entries that make up a part of the row's sum."""
    if keep == 1.0 or members.nnz == 0:
        return members
    by_weight = torch.argsort(members.weight, descending=True, stable=True)
    order = by_weight[torch.argsort(members.row[by_weight], stable=True)]
    sizes = members.weight[order].double()
    before = torch.cumsum(sizes, 0) - sizes
    start = members.crow[:-1].clamp(max=members.nnz - 1)
    before -= before[start][members.row]
    wanted = torch.zeros(members.nnz, dtype=torch.bool)
    wanted[order] = before < keep * members.row_sum().double()[members.row]
    return members.with_weight(members.weight * wanted).drop_zeros()
