"""Fitting splats to photos with poses: one photo a step, Adam, and a strategy for their number."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lifting.cameras import Camera
from lifting.gaussians.compositing import compositing_operator
from lifting.gaussians.fit_options import FitOptions
from lifting.gaussians.harmonics import sh_colours
from lifting.gaussians.image_loss import depth_l1, photo_loss, psnr, ssim
from lifting.gaussians.photos import Photo, scene_extent_m
from lifting.gaussians.projection import Projected, project_splats
from lifting.gaussians.raw_splats import RawSplats
from lifting.gaussians.splats import Splats
from lifting.gaussians.strategies import Begin, Running


@dataclass(frozen=True, kw_only=True)
class FitRecord:
    """A moment of a fit.

    Attributes:
        step: Steps done.
        loss: Mean since the last record.
        num_splats: Number of splats now.
        seconds: Wall time since the start.
    """

    step: int
    loss: float
    num_splats: int
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """What a fit gives.

    Attributes:
        splats: The scene, without gradients.
        history: Records in order; the last is that of the last step.
        seconds: Wall time of all steps.
    """

    splats: Splats
    history: tuple[FitRecord, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ViewScore:
    """How close a rendered view is to its photo.

    Attributes:
        name: Of the photo.
        psnr_db: Peak signal-to-noise ratio, dB.
        ssim: Structural similarity, at most 1.
    """

    name: str
    psnr_db: float
    ssim: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Drawing:
    """One view of the splats while they are fitted."""

    rgb: Tensor
    depth_m: Tensor | None
    projected: Projected


def fit_splats(
    photos: Sequence[Photo],
    start: Splats,
    options: FitOptions | None = None,
    progress: Callable[[FitRecord], None] | None = None,
) -> Fitted:
    """Fit splats to photos, on the device of `start`.

    Args:
        photos: At least one, of any sizes.
        start: Splats to start from; without colour they start grey.
        options: How; the defaults are those of 3D Gaussian splatting for short fits.
        progress: Told of every record of the history.

    Raises:
        ValueError: If there is no photo or no splat, depth is asked for and no photo has it, or
            the fit diverges (a loss that is not finite).

    Source:
        Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, SIGGRAPH 2023.
    """
    options = options or FitOptions()
    _check_start(photos, start, options)
    extent_m = options.extent_m or scene_extent_m(photos, start)
    raw = RawSplats(start, sh_degree=options.sh_degree, rates=options.rates, extent_m=extent_m)
    chance = torch.Generator(device=raw.device).manual_seed(options.seed)
    running = None
    if options.strategy is not None:
        about = Begin(steps=options.steps, extent_m=extent_m, generator=chance)
        running = options.strategy.begin(about)
    history: list[FitRecord] = []
    since: list[float] = []
    began = time.monotonic()
    for step, photo in enumerate(_shown(photos, options, raw.device), start=1):
        since.append(_step(raw, photo, running, options, (step, extent_m, chance)))
        if running is not None:
            running.update(raw, step)
        if step % options.log_every == 0 or step == options.steps:
            record = FitRecord(
                step=step,
                loss=math.fsum(since) / len(since),
                num_splats=len(raw),
                seconds=time.monotonic() - began,
            )
            history.append(record)
            since.clear()
            if progress is not None:
                progress(record)
    with torch.no_grad():
        splats = _detached(raw.splats())
    return Fitted(splats=splats, history=tuple(history), seconds=time.monotonic() - began)


@torch.no_grad()
def evaluate_views(
    splats: Splats,
    photos: Sequence[Photo],
    *,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    backend: str = "auto",
) -> list[ViewScore]:
    """Compare renderings with photos; only valid pixels count.

    Args:
        splats: With colour.
        photos: Usually photos that the fit did not see.
        background: Colour behind the splats.
        backend: Who draws.

    Raises:
        ValueError: If the splats have no colour.
    """
    _colour_of(splats)
    behind = splats.means.new_tensor(background)
    scores: list[ViewScore] = []
    for photo in photos:
        here = photo.to(splats.means.device)
        # As a picture would be stored: without values that no screen shows.
        rgb = _draw(splats, here.camera, behind, with_depth=False, backend=backend).rgb.clamp(0, 1)
        scores.append(
            ViewScore(
                name=photo.name,
                psnr_db=float(psnr(rgb, here.rgb, here.valid)),
                ssim=float(ssim(rgb, here.rgb, here.valid)),
            )
        )
    return scores


def _step(
    raw: RawSplats,
    photo: Photo,
    running: Running | None,
    options: FitOptions,
    at: tuple[int, float, torch.Generator],
) -> float:
    """Show one photo; the loss."""
    step, extent_m, chance = at
    try:
        splats = raw.splats(options.degree(step))
    except ValueError as error:
        raise ValueError(
            f"the fit diverged before step {step}: {error}; lower the learning rates"
        ) from error
    depth_m = photo.depth_m if options.depth_weight > 0 else None
    behind = _background(options, splats.means, chance)
    drawing = _draw(
        splats, photo.camera, behind, with_depth=depth_m is not None, backend=options.backend
    )
    loss = photo_loss(drawing.rgb, photo.rgb, dssim=options.dssim, valid=photo.valid)
    if depth_m is not None and drawing.depth_m is not None:
        error_m = depth_l1(drawing.depth_m, depth_m, photo.valid)
        loss = loss + options.depth_weight / extent_m * error_m
    value = float(loss.detach())
    if not math.isfinite(value):
        raise ValueError(
            f"the fit diverged: at step {step} the loss of {photo.name} is {value} with "
            f"{len(raw)} splats; lower the learning rates, or check poses and depth of this photo"
        )
    penalty = None if running is None else running.penalty(splats)
    uv = drawing.projected.uv
    if running is not None:
        uv.retain_grad()
    (loss if penalty is None else loss + penalty).backward()
    if running is not None and uv.grad is not None:
        running.observe(uv.grad, drawing.projected.extent_px, photo.camera.hw)
    raw.step(step / options.steps)
    return value


def _draw(
    splats: Splats, camera: Camera, behind: Tensor, *, with_depth: bool, backend: str
) -> _Drawing:
    """Colour, and depth if asked for, in one product."""
    projected = project_splats(splats, camera)
    directions = splats.means.detach() - camera.centre.to(splats.means)
    columns = [sh_colours(_colour_of(splats), directions), torch.ones_like(splats.means[:, :1])]
    if with_depth:
        columns.append(projected.depth_m[:, None])
    weights = compositing_operator(projected, splats.opacities, camera.hw, backend=backend)
    rows = weights.apply(torch.cat(columns, 1))
    alpha = rows[:, 3:4]
    rgb = rows[:, :3] + (1 - alpha) * behind
    depth_m = None
    if with_depth:
        seen = alpha > 0
        depth_m = (rows[:, 4:] / alpha.where(seen, torch.ones_like(alpha))).view(camera.hw)
    return _Drawing(rgb=rgb.T.view(3, *camera.hw), depth_m=depth_m, projected=projected)


def _shown(photos: Sequence[Photo], options: FitOptions, device: torch.device) -> Iterator[Photo]:
    """The photo of each step: all in a new order, again and again."""
    chance = torch.Generator().manual_seed(options.seed)
    reduced: dict[int, list[Photo]] = {}
    order: list[int] = []
    for step in range(1, options.steps + 1):
        if not order:
            order = torch.randperm(len(photos), generator=chance).tolist()
        factor = options.reduction(step)
        if factor not in reduced:
            # Only one size is needed at a time, and never a larger factor again.
            reduced = {factor: [photo.reduced(factor).to(device) for photo in photos]}
        yield reduced[factor][order.pop()]


def _background(options: FitOptions, like: Tensor, chance: torch.Generator) -> Tensor:
    if options.background == "random":
        return torch.rand(3, generator=chance, device=like.device).to(like)
    return like.new_tensor(options.background)


def _colour_of(splats: Splats) -> Float[Tensor, "M K 3"]:
    if splats.sh is None:
        raise ValueError("splats without colour cannot be compared with photos; give them sh")
    return splats.sh


def _check_start(photos: Sequence[Photo], start: Splats, options: FitOptions) -> None:
    if not photos:
        raise ValueError("a fit needs at least one photo, got none")
    if len(start) == 0:
        raise ValueError("a fit needs at least one splat to start from, got none")
    if options.depth_weight > 0 and all(photo.depth_m is None for photo in photos):
        raise ValueError(
            f"depth_weight is {options.depth_weight} but no photo has depth; give depth or "
            "leave depth_weight at 0"
        )


def _detached(splats: Splats) -> Splats:
    return Splats(
        means=splats.means.detach().clone(),
        quats=splats.quats.detach().clone(),
        scales=splats.scales.detach(),
        opacities=splats.opacities.detach(),
        sh=None if splats.sh is None else splats.sh.detach(),
    )
