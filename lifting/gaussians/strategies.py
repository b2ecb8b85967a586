"""What a strategy is: it changes the number of splats while they are fitted.

`Densify` clones, splits and prunes; `Mcmc` relocates and stirs. A strategy is a set of numbers;
`begin` starts its work on one fit. The same seed makes the same choices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lifting.gaussians.raw_splats import RawSplats
from lifting.gaussians.splats import Splats


@dataclass(frozen=True, kw_only=True)
class Begin:
    """What a strategy is told of the fit that it serves.

    Attributes:
        steps: Length of the fit.
        extent_m: Size of the scene, metres.
        generator: Source of all chance; on the device of the splats.
    """

    steps: int
    extent_m: float
    generator: torch.Generator


@runtime_checkable
class Running(Protocol):
    """A strategy at work."""

    def penalty(self, splats: Splats) -> Tensor | None:
        """What is added to the loss."""
        ...

    def observe(
        self,
        uv_gradient: Float[Tensor, "M 2"],
        extent_px: Float[Tensor, "M 2"],
        hw: tuple[int, int],
    ) -> None:
        """See the gradient of the loss in the centres in one image, pixels."""
        ...

    def update(self, raw: RawSplats, step: int) -> None:
        """Change the splats after step `step` (the first is 1)."""
        ...


@runtime_checkable
class Strategy(Protocol):
    """Settings of a strategy."""

    def begin(self, about: Begin) -> Running:
        """Start on one fit."""
        ...


def check_schedule(max_splats: int, first_step: int, every: int, until: float) -> None:
    """Check what both strategies have.

    Raises:
        ValueError: If a number is out of range.
    """
    if max_splats < 1:
        raise ValueError(f"max_splats must be at least 1, got {max_splats}")
    if first_step < 0 or every < 1:
        raise ValueError(
            f"a strategy needs first_step >= 0 and every >= 1, got {first_step} and {every}"
        )
    if not 0 <= until <= 1:
        raise ValueError(f"until must be a share of the fit in [0, 1], got {until}")


def check_positive(name: str, value: float) -> None:
    """Check a setting.

    Raises:
        ValueError: If it is not finite or not above 0.
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and above 0, got {value}")
