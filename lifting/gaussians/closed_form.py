"""Lifting features to splats in closed form: one pass over the views, no training.

A view's compositing weights W [pixels x splats] say how much of each pixel is each splat; its taps
U [pixels x patches] say how each pixel reads the teacher's map. Lifting needs only W' U, splats x
patches: composed once, it takes features of any width, and no per-pixel feature is ever made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lifting.backends import resolve_backend
from lifting.gaussians.conjugate import conjugate_gradients
from lifting.moments import Lifted
from lifting.operator import LiftOperator
from lifting.robust import RobustLift
from lifting.schedules import fuse_parts
from lifting.views import ViewPart

Method = Literal["mean", "robust", "solve"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SplatView:
    """What a teacher saw in one view of the splats.

    Attributes:
        weights: Pixels x splats: alpha x transmittance. `weights.mean()` in its place tells the
            solve that the teacher describes what is there and knows no background.
        rows: The teacher's features: of patches, of masks, or of pixels.
        taps: Pixels x rows: how pixels read them, from `patch_taps` or a mask membership; None
            when `rows` are per pixel. A pixel whose taps sum to s counts s times, so a pixel
            that no mask covers does not count.
        name: What messages call the view.

    Raises:
        ValueError: If the parts do not fit together.
    """

    weights: LiftOperator
    rows: Float[Tensor, "P C"]
    taps: LiftOperator | None = None
    name: str = "view"

    def __post_init__(self) -> None:
        pixels, wanted = self.weights.num_targets, self.weights.num_targets
        if self.taps is not None:
            if self.taps.num_targets != pixels:
                raise ValueError(
                    f"{self.name}: the splats' weights are of {pixels} pixels, the taps of "
                    f"{self.taps.num_targets}"
                )
            wanted = self.taps.num_sources
        if len(self.rows) != wanted:
            what = "pixels" if self.taps is None else "columns of the taps"
            raise ValueError(
                f"{self.name}: {wanted} {what} need as many rows, got {len(self.rows)}"
            )


@dataclass(frozen=True, kw_only=True)
class Tikhonov:
    """The solve: rows x that minimise sum over views |W x - U f|^2 + ridge |x - x0|^2.

    Attributes:
        ridge: How much x0 counts, in pixels that one splat covers alone: its square weights add up
            to the same. 0 for plain least squares.
        prior: x0: `mean`, the mean lift, or `zero`.
        tolerance: Stop at this relative residual.
        max_iterations: Stop after so many passes over the views for each block of channels.
        block_channels: Channels solved together; a few copies of splats x block are kept.

    Raises:
        ValueError: If a setting is out of range.
    """

    ridge: float = 1.0
    prior: Literal["mean", "zero"] = "mean"
    tolerance: float = 1e-3
    max_iterations: int = 100
    block_channels: int = 64

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ridge) and self.ridge >= 0):
            raise ValueError(f"the solve needs a ridge of 0 or more, got {self.ridge}")
        if self.prior not in ("mean", "zero"):
            raise ValueError(f"the solve's prior must be mean or zero, got {self.prior!r}")
        if not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise ValueError(f"the solve needs a tolerance above 0, got {self.tolerance}")
        if self.max_iterations < 1 or self.block_channels < 1:
            raise ValueError(
                "the solve needs max_iterations and block_channels of 1 or more, got "
                f"{self.max_iterations} and {self.block_channels}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class LiftedSplats(Lifted):
    """Features of splats. `weight`, `num_views` and `disagreement` are those of the mean lift.

    Attributes:
        uncertainty: In [0, 1], 1 where nothing was observed. Of the mean and the robust lift, the
            disagreement; of the solve, variance after by variance before, with the neighbours
            taken as known: ridge / (ridge + sum of squared weights). It is the exact marginal
            where splats do not overlap and too low where they do; with a ridge of 0 it is 0
            wherever anything was observed.
        residuals: Of the solve, the largest relative residual before the first and after each
            iteration; empty otherwise.
    """

    uncertainty: Float[Tensor, " M"]
    residuals: tuple[float, ...] = ()


@torch.no_grad()
def lift_splats(
    views: Iterable[SplatView],
    num_splats: int,
    *,
    how: Method = "mean",
    robust: RobustLift | None = None,
    solve: Tikhonov | None = None,
    half_px: float | None = None,
    backend: str = "auto",
    out: Float[Tensor, "M C"] | None = None,
) -> LiftedSplats:
    """Features of splats from what a teacher saw in the views. The order of views is no matter.

    - `mean`: the mean of all rows, weighted by the share of the splat in their pixels.
    - `robust`: the same, with rows that disagree with that mean weighed down (`RobustLift`).
    - `solve`: rows that, rendered, come closest to what the teacher saw (`Tikhonov`). The matrix
      splats x splats is never formed: each iteration is one pass over the weights of all views.

    Memory beside the views and the result is that of the composed operators, 12 bytes for each
    splat and patch that meet in a view, whatever the width; the solve adds a few copies of
    splats x `block_channels`.

    Args:
        views: The views. `mean` and `robust` iterate once, each view's weights are dropped before
            the next is asked for. `solve` iterates once for each pass: give a list to keep all
            weights in memory, or an object that makes the views anew each time it is iterated.
        num_splats: Number of splats.
        how: The method.
        robust: Its settings.
        solve: Its settings.
        half_px: Pixels of a view that a splat must fill to count half as much as one that fills
            many: a view with s pixels counts s / (s + half_px), so views near and far speak alike.
            None: every pixel counts, so the nearest views speak alone. Not for the solve, which
            is about pixels.
        backend: Who multiplies; see `lifting.backends.resolve_backend`.
        out: Where the rows go; a contiguous buffer.

    Returns:
        The rows with their confidence. Without gradients.

    Raises:
        ValueError: If there is no view, a view has another number of splats or channels or a
            negative weight, a feature that is used is not finite, or a setting has no effect.

    Source:
        The mean: gradient-weighted back-projection (Joseph et al., Gradient-weighted feature
        back-projection, 2024). The solve: Tikhonov, 1963.
    """
    _check_settings(how, robust, solve, views)
    _check_half(half_px, how)
    parts = [_part(view, num_splats, half_px, backend) for view in views]
    rows = _result_rows(parts, num_splats, out)
    robust = (robust or RobustLift()) if how == "robust" else None
    weight, count, disagreement = fuse_parts(parts, rows, robust=robust, backend=backend)
    del parts
    weight, disagreement = weight.to(rows.dtype), disagreement.to(rows.dtype)
    valid = weight > 0
    uncertainty = torch.where(valid, disagreement, torch.ones_like(disagreement))
    residuals: tuple[float, ...] = ()
    if how == "solve":
        chosen = solve or Tikhonov()
        diagonal = _diagonal(views, num_splats, rows)
        residuals = _solve(views, rows, weight, diagonal, chosen, backend)
        rows[~valid] = 0
        ridge = max(chosen.ridge, torch.finfo(rows.dtype).tiny)
        uncertainty = ridge / (ridge + diagonal)
    return LiftedSplats(
        rows=rows,
        valid=valid,
        weight=weight,
        num_views=count,
        disagreement=disagreement,
        uncertainty=uncertainty,
        residuals=residuals,
    )


def composed(view: SplatView, *, backend: str = "auto") -> LiftOperator:
    """W' U, splats x rows: how much of each row falls to each splat. Differentiable only by torch.

    Args:
        view: The view; its features are not read.
        backend: `torch` composes by `@`, which sorts all pairs; the compiled loop merges them as
            it finds them. Entries of weight zero are left out.
    """
    weights, taps = view.weights, view.taps
    if resolve_backend(backend, weights.weight.device) != "numba":
        transposed = weights.transpose()
        return (transposed if taps is None else transposed @ taps).drop_zeros()
    from lifting.backends import numba_splat_lift  # numba costs half a second to import

    taps = taps or LiftOperator.identity(weights.num_targets, dtype=weights.weight.dtype)
    crow, col, weight = numba_splat_lift.compose_transposed(
        (weights.crow, weights.col, weights.weight),
        (taps.crow, taps.col, taps.weight),
        (weights.num_sources, taps.num_sources),
    )
    return LiftOperator(crow=crow, col=col, weight=weight, num_sources=taps.num_sources)


def _part(view: SplatView, num_splats: int, half_px: float | None, backend: str) -> ViewPart:
    """What a view gives to the splats that it sees, without its weights per pixel."""
    if view.weights.num_sources != num_splats:
        raise ValueError(
            f"{view.name}: its weights are of {view.weights.num_sources} splats, expected "
            f"{num_splats}"
        )
    operator = composed(view, backend=backend)
    if operator.nnz and bool((operator.weight < 0).any()):
        raise ValueError(f"{view.name}: weights of splats and taps must be zero or more")
    seen = operator.crow.diff() > 0
    targets = seen.nonzero().squeeze(1)
    compact = LiftOperator(
        crow=torch.cat((operator.crow[:1], operator.crow[1:][seen])),
        col=operator.col,
        weight=operator.weight,
        num_sources=operator.num_sources,
    )
    if half_px is not None:
        compact = compact.scale_rows(1 / (compact.row_sum() + half_px))
    return ViewPart(view.name, targets, compact, view.rows.detach())


def _solve(
    views: Iterable[SplatView],
    rows: Tensor,
    weight: Tensor,
    diagonal: Tensor,
    options: Tikhonov,
    backend: str,
) -> tuple[float, ...]:
    """Replace the mean lift in `rows` by the solution; returns the residuals."""
    ridge = options.ridge

    def product(x: Tensor) -> Tensor:
        total = x * ridge
        for view in views:
            _add_normal(view, x, total, backend)
        return total

    history: list[float] = []
    for begin in range(0, rows.shape[1], options.block_channels):
        block = rows[:, begin : begin + options.block_channels]
        mean = block.contiguous()
        target = mean * weight[:, None]  # the mean times its weight is W' U f, summed over views
        if options.prior == "mean":
            target.add_(mean, alpha=ridge)
        found = conjugate_gradients(
            product,
            target,
            start=mean,  # closer than zero, whatever the prior
            diagonal=diagonal + ridge,
            tolerance=options.tolerance,
            max_iterations=options.max_iterations,
        )
        block.copy_(found.x)
        history = _worse(history, found.residuals)
    return tuple(history)


def _add_normal(view: SplatView, x: Tensor, total: Tensor, backend: str) -> None:
    """Add one view's W' W x, its pixels weighed by their taps."""
    weights, share = view.weights, _share(view).to(x.dtype)
    if resolve_backend(backend, x.device) != "numba":
        total += weights.adjoint(weights.apply(x, backend=backend) * share[:, None])
        return
    from lifting.backends import numba_splat_lift  # numba costs half a second to import

    pattern = (weights.crow, weights.col, weights.weight)
    numba_splat_lift.add_normal_product(pattern, share, x, total)


def _diagonal(views: Iterable[SplatView], num_splats: int, like: Tensor) -> Tensor:
    """Diagonal of the normal matrix: the sum of squared weights of each splat."""
    total = like.new_zeros(num_splats)
    for view in views:
        square = view.weights.weight.square() * _share(view)[view.weights.row]
        total.index_add_(0, view.weights.col, square.to(total.dtype))
    return total


def _share(view: SplatView) -> Tensor:
    """How often each pixel counts."""
    if view.taps is None:
        return view.weights.weight.new_ones(view.weights.num_targets)
    return view.taps.row_sum().to(view.weights.weight.dtype)


def _result_rows(parts: list[ViewPart], num_splats: int, out: Tensor | None) -> Tensor:
    """A buffer for the result, of the parts' width and precision."""
    if not parts:
        raise ValueError("lift_splats needs at least one view, got none")
    first = parts[0]
    channels, dtype = first.rows.shape[1], torch.float32
    for part in parts:
        if part.rows.shape[1] != channels:
            raise ValueError(
                f"{part.name}: all views must have {channels} channels as {first.name} has, got "
                f"{part.rows.shape[1]}"
            )
        dtype = torch.promote_types(dtype, part.rows.dtype)
    if out is None:
        return torch.empty(num_splats, channels, dtype=dtype, device=first.rows.device)
    if tuple(out.shape) != (num_splats, channels) or out.dtype != dtype or not out.is_contiguous():
        raise ValueError(
            f"lift_splats needs `out` contiguous of shape {(num_splats, channels)}, {dtype}, got "
            f"{tuple(out.shape)}, {out.dtype}"
        )
    return out


def _check_settings(
    how: str, robust: RobustLift | None, solve: Tikhonov | None, views: Iterable[SplatView]
) -> None:
    if how not in ("mean", "robust", "solve"):
        raise ValueError(f"lift_splats: how must be mean, robust or solve, got {how!r}")
    for name, given in (("robust", robust), ("solve", solve)):
        if given is not None and how != name:
            raise ValueError(f"lift_splats: `{name}` has no effect with how={how!r}")
    if how == "solve" and isinstance(views, Iterator):
        raise ValueError(
            "lift_splats: the solve iterates over the views many times, and this iterator would "
            "be used up after one; give a list, or an object whose __iter__ makes the views anew"
        )


def _check_half(half_px: float | None, how: str) -> None:
    if half_px is None:
        return
    if not (math.isfinite(half_px) and half_px >= 0):
        raise ValueError(f"lift_splats: half_px must be 0 or more, got {half_px}")
    if how == "solve":
        raise ValueError("lift_splats: `half_px` has no effect with how='solve'")


def _worse(history: list[float], residuals: tuple[float, ...]) -> list[float]:
    """Elementwise the larger of two histories; the shorter stays at its last value."""
    if not history:
        return list(residuals)
    length = max(len(history), len(residuals))
    first = history + history[-1:] * (length - len(history))
    second = [*residuals, *residuals[-1:] * (length - len(residuals))]
    return [max(pair) for pair in zip(first, second, strict=True)]
