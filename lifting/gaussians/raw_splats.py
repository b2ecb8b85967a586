"""`RawSplats`: the numbers that a fit changes, with the state of their optimiser.

Splats are optimised as logarithms of scales and logits of opacities, so that every value makes
splats. Whatever adds, removes or overwrites splats does so here, for the parameters and the moments
of Adam alike: a row always keeps its own moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.gaussians.splats import Splats

NAMES = ("means", "log_scales", "quats", "logits", "sh_first", "sh_rest")
_MOMENTS = ("exp_avg", "exp_avg_sq")
# Logits of 0 and 1 are infinite; beyond these a pixel of 8 bits shows no difference.
_OPACITY_RANGE = (1e-4, 1 - 1e-4)
# Gradients of means are tiny numbers: an epsilon of 1e-8 would damp them.
_EPSILON = 1e-15


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Learning rates of Adam, those of 3D Gaussian splatting by default.

    Attributes:
        means: Of the centres, in extents of the scene; falls exponentially over the fit.
        means_last: Share of `means` that is left at the end.
        scales: Of the logarithms of the scales.
        quats: Of the rotations.
        opacities: Of the logits of the opacities.
        sh_first: Of the colour that does not depend on the direction.
        sh_rest: Of the other coefficients of colour.

    Raises:
        ValueError: If a rate is negative or not finite, or `means_last` is no share above 0.

    Source:
        Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, SIGGRAPH 2023,
        and its published settings.
    """

    means: float = 1.6e-4
    means_last: float = 0.01
    scales: float = 5e-3
    quats: float = 1e-3
    opacities: float = 5e-2
    sh_first: float = 2.5e-3
    sh_rest: float = 1.25e-4

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"learning rate {field.name} must be finite and at least 0, got {value}"
                )
        if not 0 < self.means_last <= 1:
            raise ValueError(f"means_last must be a share in (0, 1], got {self.means_last}")


class RawSplats:
    """Parameters of splats as leaves, and Adam over them.

    Args:
        start: Where to start. Without colour it starts grey.
        sh_degree: Highest degree of colour; `start` is cut or filled with zeros.
        rates: Learning rates.
        extent_m: Size of the scene, metres: what the rate of the means is a share of.

    Attributes:
        parameters: Leaf tensors by name (`NAMES`), one row per splat.
    """

    def __init__(self, start: Splats, *, sh_degree: int, rates: Rates, extent_m: float) -> None:
        self._rates, self._extent_m = rates, extent_m
        sh = _with_degree(start, sh_degree)
        opacities = start.opacities.clamp(*_OPACITY_RANGE)
        values = {
            "means": start.means,
            "log_scales": start.scales.log(),
            "quats": start.quats / torch.linalg.vector_norm(start.quats, dim=1, keepdim=True),
            "logits": opacities.logit(),
            "sh_first": sh[:, :1],
            "sh_rest": sh[:, 1:],
        }
        self.parameters: dict[str, Tensor] = {
            name: value.detach().clone().contiguous().requires_grad_()
            for name, value in values.items()
        }
        speeds = {
            "means": rates.means * extent_m,
            "log_scales": rates.scales,
            "quats": rates.quats,
            "logits": rates.opacities,
            "sh_first": rates.sh_first,
            "sh_rest": rates.sh_rest,
        }
        groups: list[dict[str, Any]] = [
            {"params": [self.parameters[name]], "lr": speeds[name]} for name in NAMES
        ]
        self._adam = torch.optim.Adam(groups, eps=_EPSILON, fused=True)

    def __len__(self) -> int:
        return len(self.parameters["means"])

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.parameters["means"].device

    def splats(self, sh_degree: int | None = None) -> Splats:
        """The splats that the parameters mean; gradients flow back to the parameters.

        Args:
            sh_degree: Leave higher degrees of colour out; all are used by default.
        """
        values = self.parameters
        rest = values["sh_rest"]
        if sh_degree is not None:
            rest = rest[:, : (sh_degree + 1) ** 2 - 1]
        return Splats(
            means=values["means"],
            quats=values["quats"],
            scales=values["log_scales"].exp(),
            opacities=values["logits"].sigmoid(),
            sh=torch.cat((values["sh_first"], rest), 1),
        )

    def step(self, progress: float) -> None:
        """One step of Adam, and no gradients afterwards.

        Args:
            progress: Share of the fit that is done, in [0, 1].
        """
        self._adam.param_groups[0]["lr"] = self.means_rate_m(progress)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def means_rate_m(self, progress: float) -> float:
        """Learning rate of the means after a share of the fit, metres."""
        return self._rates.means * self._extent_m * self._rates.means_last**progress

    # ---- rows -----------------------------------------------------------------------------

    def rows(self, index: Int64[Tensor, " K"]) -> dict[str, Tensor]:
        """Copies of the parameters of some splats."""
        return {name: value.detach()[index] for name, value in self.parameters.items()}

    def keep(self, index: Int64[Tensor, " K"]) -> None:
        """Keep splats `index`, in that order, each with its moments."""
        self._replace(lambda _, rows: rows[index], lambda moment: moment[index])

    def append(self, rows: Mapping[str, Float[Tensor, "K ..."]]) -> None:
        """Add splats at the end; their moments start at zero.

        Raises:
            ValueError: If a parameter is missing or has rows of another shape.
        """
        self._check(rows, NAMES)
        added = len(rows["means"])
        self._replace(
            lambda name, old: torch.cat((old, rows[name])),
            lambda moment: torch.cat((moment, moment.new_zeros(added, *moment.shape[1:]))),
        )

    @torch.no_grad()
    def overwrite(
        self, index: Int64[Tensor, " K"], rows: Mapping[str, Float[Tensor, "K ..."]]
    ) -> None:
        """Set some parameters of some splats; the moments of what is set start again at zero.

        Args:
            index: Splats, each at most once.
            rows: New values by name of the parameter; others stay.

        Raises:
            ValueError: If a name is unknown or the rows have another shape.
        """
        self._check(rows, tuple(rows))
        for name, values in rows.items():
            if len(values) != len(index):
                raise ValueError(f"{name} must have {len(index)} rows, got {len(values)}")
            self.parameters[name][index] = values
        self.forget(index, tuple(rows))

    @torch.no_grad()
    def forget(self, index: Int64[Tensor, " K"], names: tuple[str, ...] = NAMES) -> None:
        """Set the moments of some splats to zero."""
        for name in names:
            state = self._adam.state.get(self.parameters[name], {})
            for moment in _MOMENTS:
                if moment in state:
                    state[moment][index] = 0

    def moments(self, name: str) -> tuple[Tensor, Tensor]:
        """First and second moments of a parameter; zeros before the first step."""
        value = self.parameters[name]
        state = self._adam.state.get(value, {})
        first, second = (state.get(moment, torch.zeros_like(value)) for moment in _MOMENTS)
        return first, second

    def _replace(
        self, values: Callable[[str, Tensor], Tensor], moments: Callable[[Tensor], Tensor]
    ) -> None:
        """Put other tensors in the place of all parameters and moments."""
        for name, group in zip(NAMES, self._adam.param_groups, strict=True):
            old = self.parameters[name]
            new = values(name, old.detach()).contiguous().requires_grad_()
            state = self._adam.state.pop(old, None)
            if state:
                kept = {moment: moments(state[moment]) for moment in _MOMENTS}
                self._adam.state[new] = {**state, **kept}
            group["params"] = [new]
            self.parameters[name] = new

    def _check(self, rows: Mapping[str, Tensor], names: tuple[str, ...]) -> None:
        for name in names:
            if name not in NAMES or name not in rows:
                raise ValueError(
                    f"rows of splats must name {', '.join(NAMES)}; got {', '.join(rows)}"
                )
            wanted = self.parameters[name].shape[1:]
            if rows[name].shape[1:] != wanted:
                raise ValueError(
                    f"rows of {name} must have shape {list(wanted)}, got "
                    f"{list(rows[name].shape[1:])}"
                )


def _with_degree(start: Splats, sh_degree: int) -> Tensor:
    """Colour of exactly this degree."""
    size = (sh_degree + 1) ** 2
    sh = start.means.new_zeros(len(start), size, 3)
    if start.sh is not None:
        shared = min(size, start.sh.shape[1])
        sh[:, :shared] = start.sh[:, :shared]
    return sh
