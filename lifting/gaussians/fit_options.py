"""How splats are fitted to photos."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from lifting.gaussians.mcmc import Mcmc
from lifting.gaussians.raw_splats import Rates
from lifting.gaussians.splats import SH_SIZES
from lifting.gaussians.strategies import Strategy

# Rates for some thousand steps; those of `Rates` are made for 30,000. Chosen on photos of a room.
SHORT_FIT = Rates(means=1.6e-3, scales=1e-2, quats=2e-3, sh_first=2.5e-2, sh_rest=1.25e-3)


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Settings of a fit.

    Attributes:
        steps: Number of photos shown, one a step.
        strategy: What changes the number of splats; None keeps them.
        rates: Learning rates, `SHORT_FIT` by default; a fit of 30,000 steps is better off with
            `Rates()`.
        sh_degree: Highest degree of colour, 0 to 3.
        sh_every: Steps after which each next degree joins in.
        dssim: Share of D-SSIM in the loss of colour, the rest is L1.
        depth_weight: Weight of the L1 of depth, in extents of the scene; 0 leaves depth out.
        background: Colour behind the splats, or `random` for another one each step, which keeps
            splats from leaving holes where the photos happen to have that colour.
        levels: Sizes of photos: the fit starts at 1 / 2^(levels - 1) and ends at full size.
        level_steps: Steps at each size below the full one.
        extent_m: Size of the scene, metres; None takes that of the cameras (`scene_extent_m`).
        seed: Of all chance: order of photos, strategy, background.
        log_every: Steps between records of the history.
        backend: Who draws; see `lifting.gaussians.rendering`.

    Raises:
        ValueError: Naming the setting, what it must be and what it is.
    """

    steps: int = 3000
    strategy: Strategy | None = field(default_factory=Mcmc)
    rates: Rates = SHORT_FIT
    sh_degree: int = 3
    sh_every: int = 1000
    dssim: float = 0.2
    depth_weight: float = 0.0
    background: tuple[float, float, float] | Literal["random"] = (0.0, 0.0, 0.0)
    levels: int = 1
    level_steps: int = 250
    extent_m: float | None = None
    seed: int = 0
    log_every: int = 50
    backend: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "sh_every", "levels", "level_steps", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.sh_degree not in SH_SIZES.values():
            raise ValueError(f"sh_degree must be 0 to 3, got {self.sh_degree}")
        if not 0 <= self.dssim <= 1:
            raise ValueError(f"dssim must be a share in [0, 1], got {self.dssim}")
        if not (math.isfinite(self.depth_weight) and self.depth_weight >= 0):
            raise ValueError(f"depth_weight must be finite and at least 0, got {self.depth_weight}")
        if self.extent_m is not None and not (math.isfinite(self.extent_m) and self.extent_m > 0):
            raise ValueError(f"extent_m must be finite and above 0 metres, got {self.extent_m}")
        if self.background != "random" and not (
            len(self.background) == 3 and all(0 <= part <= 1 for part in self.background)
        ):
            raise ValueError(
                f"background must be 'random' or three numbers in [0, 1], got {self.background!r}"
            )
        if (self.levels - 1) * self.level_steps >= self.steps:
            raise ValueError(
                f"{self.levels} levels of {self.level_steps} steps leave none of {self.steps} "
                "steps for photos of full size; lower levels or level_steps"
            )

    def reduction(self, step: int) -> int:
        """By how much photos are reduced at a step (the first is 1): 1 for full size."""
        return 2 ** max(self.levels - 1 - (step - 1) // self.level_steps, 0)

    def degree(self, step: int) -> int:
        """Degree of colour that is fitted at a step (the first is 1)."""
        return min((step - 1) // self.sh_every, self.sh_degree)
