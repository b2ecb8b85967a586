"""`Mcmc`: splats are samples, which relocate and are stirred by noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.gaussians.projection import covariances
from lifting.gaussians.raw_splats import RawSplats
from lifting.gaussians.splats import Splats
from lifting.gaussians.strategies import Begin, check_schedule

# Copies of one splat that are counted: the sums of the formula stay exact in float64 up to here.
_MOST_COPIES = 51


@dataclass(frozen=True, kw_only=True)
class Mcmc:
    """Splats as samples: dead ones move to live ones, all are stirred by noise.

    Every `every` steps, splats of less opacity than `dead_opacity` become copies of others, drawn
    by their opacity, and the number grows by the share `growth` up to `max_splats`. A splat and
    its copies together look as it did before. After every step noise moves the centres, mostly of
    transparent splats. Two penalties make splats that nobody needs fade and shrink. The defaults
    are for some thousand steps; the paper's, for 30,000, are `first_step` 500, `every` 100 and
    penalties of 0.01.

    Attributes:
        max_splats: Number to grow to.
        first_step: No relocation before.
        every: Steps between relocations.
        until: Share of the fit after which none moves.
        dead_opacity: Splats of at most this opacity are dead.
        growth: Share of splats that is added each time.
        noise: Strength of the noise relative to the learning rate of the means.
        opacity_penalty: Weight of the mean opacity in the loss.
        scale_penalty: Weight of the mean scale, in extents of the scene.

    Raises:
        ValueError: If a number is out of range.

    Source:
        Kheradmand et al., 3D Gaussian Splatting as Markov Chain Monte Carlo, NeurIPS 2024,
        equations 8 to 10.
    """

    max_splats: int = 1_000_000
    first_step: int = 100
    every: int = 50
    until: float = 0.8
    dead_opacity: float = 0.005
    growth: float = 0.05
    noise: float = 5e5
    opacity_penalty: float = 0.001
    scale_penalty: float = 0.001

    def __post_init__(self) -> None:
        check_schedule(self.max_splats, self.first_step, self.every, self.until)
        if not 0 < self.dead_opacity < 1:
            raise ValueError(f"dead_opacity must be in (0, 1), got {self.dead_opacity}")
        for name in ("growth", "noise", "opacity_penalty", "scale_penalty"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and at least 0, got {value}")

    def begin(self, about: Begin) -> Sampling:
        """Start on one fit."""
        return Sampling(self, about)


class Sampling:
    """`Mcmc` at work.

    Args:
        settings: The strategy.
        about: The fit.
    """

    def __init__(self, settings: Mcmc, about: Begin) -> None:
        self._settings, self._about = settings, about

    def penalty(self, splats: Splats) -> Tensor | None:
        """Mean opacity and mean scale, weighted."""
        scale = self._settings.scale_penalty / self._about.extent_m
        return (
            self._settings.opacity_penalty * splats.opacities.mean() + scale * splats.scales.mean()
        )

    def observe(
        self,
        uv_gradient: Float[Tensor, "M 2"],
        extent_px: Float[Tensor, "M 2"],
        hw: tuple[int, int],
    ) -> None:
        """Gradients do not matter here."""
        del uv_gradient, extent_px, hw

    def update(self, raw: RawSplats, step: int) -> None:
        """Relocate and grow, at the steps for it, and stir."""
        settings, about = self._settings, self._about
        due = step >= settings.first_step and step % settings.every == 0
        if due and step <= settings.until * about.steps:
            relocate_dead(raw, settings.dead_opacity, about.generator)
            room = settings.max_splats - len(raw)
            add_splats(raw, min(room, int(settings.growth * len(raw))), about.generator)
        if settings.noise > 0:
            # The rate is a length; in extents of the scene the noise is the same in any unit.
            rate = raw.means_rate_m(step / about.steps) / about.extent_m**2
            stir(raw, settings.noise * rate, about.generator)


def shared_opacity_and_scales(
    opacities: Float[Tensor, " M"], scales: Float[Tensor, "M 3"], copies: Int64[Tensor, " M"]
) -> tuple[Float[Tensor, " M"], Float[Tensor, "M 3"]]:
    """What opacity and size each of `copies` equal splats needs to look like the one.

    Copies one behind the other have the opacity of the one at its centre, and the same integral of
    opacity along any line through the centre.

    Args:
        opacities: Of the single splats, in (0, 1).
        scales: Of the single splats.
        copies: How many take the place of each, at least 1; more than 51 count as 51.

    Source:
        Kheradmand et al., 3D Gaussian Splatting as Markov Chain Monte Carlo, NeurIPS 2024,
        equation 9, with its double sum of binomials summed over rows (the hockey stick).
    """
    number = copies.clamp(1, _MOST_COPIES)
    old = opacities.double()
    new = -torch.expm1(torch.log1p(-old) / number)
    # sum_j C(n, j) (-1)^(j-1) new^j / sqrt(j): the integral over the copies, of unit size.
    order = torch.arange(1, _MOST_COPIES + 1, dtype=torch.float64, device=old.device)
    table = torch.tensor(
        [[math.comb(n, j) for j in range(1, _MOST_COPIES + 1)] for n in range(_MOST_COPIES + 1)],
        dtype=torch.float64,
        device=old.device,
    )
    sign = 1 - 2 * ((order - 1) % 2)
    terms = table[number] * sign * new[:, None] ** order / order.sqrt()
    ratio = old / terms.sum(1)
    return new.to(opacities), (scales.double() * ratio[:, None]).to(scales)


@torch.no_grad()
def relocate_dead(raw: RawSplats, dead_opacity: float, generator: torch.Generator) -> int:
    """Move dead splats to live ones, drawn by opacity; returns how many moved.

    Args:
        raw: Splats.
        dead_opacity: Splats of at most this opacity are dead.
        generator: Source of the choice.
    """
    opacities = raw.parameters["logits"].sigmoid()
    dead = (opacities <= dead_opacity).nonzero().squeeze(1)
    alive = (opacities > dead_opacity).nonzero().squeeze(1)
    if len(dead) == 0 or len(alive) == 0:
        return 0
    target = alive[_drawn(opacities[alive], len(dead), generator)]
    _share(raw, target)
    raw.overwrite(dead, raw.rows(target))
    return len(dead)


@torch.no_grad()
def add_splats(raw: RawSplats, count: int, generator: torch.Generator) -> None:
    """Add `count` copies of splats drawn by opacity.

    Args:
        raw: Splats; the copies come last.
        count: How many; none if it is not positive.
        generator: Source of the choice.
    """
    if count <= 0:
        return
    target = _drawn(raw.parameters["logits"].sigmoid(), count, generator)
    _share(raw, target)
    raw.append(raw.rows(target))


@torch.no_grad()
def stir(raw: RawSplats, strength: float, generator: torch.Generator) -> None:
    """Move centres by noise of each splat's own shape; splats of some opacity hardly move.

    Args:
        raw: Splats.
        strength: Metres of noise per square metre of covariance.
        generator: Source of the noise.
    """
    values = raw.parameters
    covariance = covariances(values["quats"], values["log_scales"].exp())
    # Nearly a step: 0.5 at an opacity of 0.005, under 1e-4 from 0.1 on.
    share = torch.sigmoid(100 * (0.005 - values["logits"].sigmoid()))
    noise = torch.randn(values["means"].shape, generator=generator, device=raw.device)
    noise = noise.to(values["means"]) * (strength * share)[:, None]
    values["means"] += (covariance @ noise[:, :, None]).squeeze(2)


def _drawn(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices drawn with replacement, by weight."""
    # By the inverse of the sums: `multinomial` takes at most 2^24 weights.
    sums = weights.double().cumsum(0)
    chance = torch.rand(count, generator=generator, device=weights.device, dtype=torch.float64)
    found = torch.searchsorted(sums, chance * sums[-1], right=True)
    return found.clamp(max=len(weights) - 1)


def _share(raw: RawSplats, target: Tensor) -> None:
    """Give each target the opacity and size of one among its new copies and itself."""
    copies = torch.bincount(target, minlength=len(raw)) + 1
    index = (copies > 1).nonzero().squeeze(1)
    rows = raw.rows(index)
    opacities, scales = shared_opacity_and_scales(
        rows["logits"].sigmoid(), rows["log_scales"].exp(), copies[index]
    )
    raw.overwrite(index, {"logits": opacities.logit(), "log_scales": scales.log()})
    raw.forget(index)
