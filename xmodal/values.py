"""Values: what flows along an edge of the graph.

Frozen dataclasses. A value with features exposes `rows [M, C]`, `valid [M]` and `weight [M]`, so
that each loss is written once for every modality. Values of one sensor over several views come as
`Views`, a lazy sequence of single-view values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from lifting.cameras import Camera
from lifting.operator import LiftOperator

T = TypeVar("T", covariant=True)
Views = Sequence[T]


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """One colour view: `rgb` in [0, 1], and the camera that took it."""

    rgb: Float[Tensor, "3 H W"]
    camera: Camera
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Depth:
    """One depth view: z-depth in metres, 0 where the sensor gave no reading."""

    depth_m: Float[Tensor, "H W"]
    camera: Camera
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMap:
    """A teacher's patch features of one view; rows in row-major order over a grid `grid_hw`.

    The grid covers the whole image of `camera`; it is never up-sampled.
    """

    rows: Float[Tensor, "M C"]
    valid: Bool[Tensor, " M"]
    weight: Float[Tensor, " M"]
    grid_hw: tuple[int, int]
    camera: Camera
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Masks:
    """A teacher's mask features of one view.

    `membership` has one row per pixel of a grid `grid_hw` that covers the image of `camera`
    (row-major) and one column per mask; masks may overlap. Masks are never painted dense.
    """

    rows: Float[Tensor, "M C"]
    valid: Bool[Tensor, " M"]
    weight: Float[Tensor, " M"]
    membership: LiftOperator
    grid_hw: tuple[int, int]
    camera: Camera
    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """Points in the world frame, metres, with or without features.

    Samples are concatenated; `offsets [B + 1]` marks them. `weight` is coverage (sum of lift
    weights) and `valid` is False where nothing was observed.
    """

    xyz: Float[Tensor, "M 3"]
    offsets: Int[Tensor, " B1"]
    rgb: Float[Tensor, "M 3"] | None = None
    normals: Float[Tensor, "M 3"] | None = None
    rows: Float[Tensor, "M C"] | None = None
    valid: Bool[Tensor, " M"] | None = None
    weight: Float[Tensor, " M"] | None = None
    num_views: Int[Tensor, " M"] | None = None
    disagreement: Float[Tensor, " M"] | None = None
