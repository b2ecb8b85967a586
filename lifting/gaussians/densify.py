"""`Densify`: splats are cloned, split and pruned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.gaussians.projection import rotation_matrices
from lifting.gaussians.raw_splats import RawSplats
from lifting.gaussians.splats import Splats
from lifting.gaussians.strategies import Begin, check_positive, check_schedule

# Two halves of a split splat are smaller than it by this, as in 3D Gaussian splatting.
_SPLIT_RATIO = 1.6


@dataclass(frozen=True, kw_only=True)
class Densify:
    """Grow where the image pulls at the splats, drop what is transparent or too large.

    Every `every` steps, splats whose centres had a mean gradient above `grow_gradient` are cloned
    (small ones) or split in two (large ones), the strongest first; then splats of little opacity
    or, once opacities were reset, of great size are dropped. The defaults are for some thousand
    steps; the paper's, for 30,000, are `first_step` 500, `every` 100 and `until` 0.5.

    Attributes:
        max_splats: Never grow beyond this number.
        first_step: No change before.
        every: Steps between changes.
        until: Share of the fit after which the number stays.
        grow_gradient: Length of the loss's gradient in the centre, in units of half the image.
        large: From this greatest scale on, in extents of the scene, a splat is split, not cloned.
        prune_opacity: Splats of less opacity go.
        prune_scale: Splats of a greater scale go, in extents of the scene.
        reset_every: Steps between resets of all opacities to at most twice `prune_opacity`.

    Raises:
        ValueError: If a number is out of range.

    Source:
        Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, SIGGRAPH 2023,
        section 5.2.
    """

    max_splats: int = 1_000_000
    first_step: int = 100
    every: int = 50
    until: float = 0.6
    grow_gradient: float = 2e-4
    large: float = 0.01
    prune_opacity: float = 0.005
    prune_scale: float = 0.1
    reset_every: int = 3000

    def __post_init__(self) -> None:
        check_schedule(self.max_splats, self.first_step, self.every, self.until)
        if self.reset_every < 1:
            raise ValueError(f"reset_every must be at least 1, got {self.reset_every}")
        for name in ("grow_gradient", "large", "prune_scale"):
            check_positive(name, getattr(self, name))
        if not 0 <= self.prune_opacity < 0.5:
            raise ValueError(f"prune_opacity must be in [0, 0.5), got {self.prune_opacity}")

    def begin(self, about: Begin) -> Densifying:
        """Start on one fit."""
        return Densifying(self, about)


class Densifying:
    """`Densify` at work: mean gradients since the last change.

    Args:
        settings: The strategy.
        about: The fit.
    """

    def __init__(self, settings: Densify, about: Begin) -> None:
        self._settings, self._about = settings, about
        self._total = torch.zeros(0, device=about.generator.device)
        self._count = torch.zeros(0, device=about.generator.device)

    def penalty(self, splats: Splats) -> Tensor | None:
        """Nothing."""
        del splats
        return None

    def observe(
        self,
        uv_gradient: Float[Tensor, "M 2"],
        extent_px: Float[Tensor, "M 2"],
        hw: tuple[int, int],
    ) -> None:
        """Add the length of the gradient of each splat that was drawn."""
        if len(self._total) != len(uv_gradient):
            self._total = torch.zeros_like(uv_gradient[:, 0])
            self._count = torch.zeros_like(self._total)
        half = uv_gradient.new_tensor((hw[1] / 2, hw[0] / 2))
        self._total += torch.linalg.vector_norm(uv_gradient * half, dim=1)
        self._count += extent_px[:, 0] > 0

    def update(self, raw: RawSplats, step: int) -> None:
        """Grow, drop, and reset opacities, at the steps for it."""
        settings = self._settings
        if step > settings.until * self._about.steps:
            return
        if step >= settings.first_step and step % settings.every == 0:
            self.grow(raw)
            drop_splats(
                raw,
                prune_opacity=settings.prune_opacity,
                most_m=settings.prune_scale * self._about.extent_m
                if step > settings.reset_every
                else math.inf,
            )
            self._total, self._count = self._total[:0], self._count[:0]
        if step % settings.reset_every == 0:
            reset_opacities(raw, 2 * settings.prune_opacity)

    def grow(self, raw: RawSplats) -> None:
        """Clone and split what has a large mean gradient since the last time."""
        if len(self._total) != len(raw):
            return
        mean = self._total / self._count.clamp(min=1)
        room = max(self._settings.max_splats - len(raw), 0)
        order = torch.argsort(mean, descending=True, stable=True)
        chosen = order[mean[order] > self._settings.grow_gradient][:room]
        size = raw.parameters["log_scales"].detach().amax(1).exp()
        large = size[chosen] > self._settings.large * self._about.extent_m
        # In this order both lists stay right: clones are added behind all others.
        clone_splats(raw, chosen[~large])
        split_splats(raw, chosen[large], self._about.generator)


def clone_splats(raw: RawSplats, index: Int64[Tensor, " K"]) -> None:
    """Add a copy of each splat; the original keeps its moments, so that the two part."""
    raw.append(raw.rows(index))


def split_splats(raw: RawSplats, index: Int64[Tensor, " K"], generator: torch.Generator) -> None:
    """Put two smaller splats in the place of each, at points drawn from it.

    Args:
        raw: Splats; the halves come last.
        index: Splats to split.
        generator: Source of the points.
    """
    rows = raw.rows(index)
    rotation = rotation_matrices(rows["quats"])
    scales = rows["log_scales"].exp()
    halves: list[dict[str, Tensor]] = []
    for _ in range(2):
        noise = torch.randn(scales.shape, generator=generator, device=scales.device)
        offset = (rotation @ (noise.to(scales) * scales)[:, :, None]).squeeze(2)
        halves.append(
            {
                **rows,
                "means": rows["means"] + offset,
                "log_scales": rows["log_scales"] - math.log(_SPLIT_RATIO),
            }
        )
    stays = torch.ones(len(raw), dtype=torch.bool, device=index.device)
    stays[index] = False
    raw.keep(stays.nonzero().squeeze(1))
    raw.append({name: torch.cat([half[name] for half in halves]) for name in rows})


def drop_splats(raw: RawSplats, *, prune_opacity: float, most_m: float) -> None:
    """Drop splats of too little opacity or too great scale; never the last one.

    Args:
        raw: Splats.
        prune_opacity: Least opacity that stays.
        most_m: Greatest scale that stays, metres.
    """
    opacities = raw.parameters["logits"].detach().sigmoid()
    size = raw.parameters["log_scales"].detach().amax(1).exp()
    stays = (opacities >= prune_opacity) & (size <= most_m)
    if bool(stays.all()):
        return
    if not bool(stays.any()):
        stays[opacities.argmax()] = True
    raw.keep(stays.nonzero().squeeze(1))


def reset_opacities(raw: RawSplats, most: float) -> None:
    """Lower all opacities to at most `most`: what is needed rises again, the rest is dropped."""
    logits = raw.parameters["logits"].detach()
    everything = torch.arange(len(raw), device=raw.device)
    raw.overwrite(everything, {"logits": logits.clamp(max=math.log(most / (1 - most)))})
