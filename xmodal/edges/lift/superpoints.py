"""The op `superpoints`: average features over segments that hardly bend or change colour."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from xmodal.values import Points


@dataclass(frozen=True, kw_only=True)
class LiftSuperpoints:
    """Give every point the average of its super-point.

    A super-point is a piece of surface that hardly bends and hardly changes colour, so its points
    most likely belong to one thing. The result has the cloud's own points: each carries the
    features and the number (`segments`) of its segment, also where it was not observed itself.

    Attributes:
        scale: How much a segment may bend or change colour before it ends; larger gives larger
            segments.
        min_size: Smaller segments join a neighbour, points.
        colour_weight: How much colour counts beside orientation; 0 ignores it.
        num_neighbours: Neighbours that a point may join.
    """

    op: Literal["superpoints"] = "superpoints"
    scale: float = 0.3
    min_size: int = 20
    colour_weight: float = 1.0
    num_neighbours: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale must be above 0, not {self.scale}")
        if not 0 <= self.colour_weight < float("inf"):
            raise ValueError(f"colour_weight must be 0 or more, not {self.colour_weight}")
        if self.min_size < 1 or self.num_neighbours < 2:
            raise ValueError(
                f"min_size must be 1 or more and num_neighbours 2 or more, "
                f"not {self.min_size} and {self.num_neighbours}"
            )

    def __call__(self, cloud: Points) -> Points:
        """The cloud, its features averaged over segments; of bare points the segments alone.

        Raises:
            DataError: If a coordinate or feature is not finite.
        """
        from lifting.points import segment_operator
        from xmodal.edges.lift.pooling import pool
        from xmodal.errors import DataError

        try:
            ids = self._segments(cloud)
            pooled = pool(segment_operator(ids), cloud)
        except ValueError as error:
            raise DataError(
                "lift to super-points",
                wanted="a cloud of finite points and features",
                got=str(error),
                fix="drop such points before lifting",
            ) from error
        if pooled is None:
            return replace(cloud, segments=ids)
        return replace(
            cloud,
            rows=pooled.rows[ids],
            valid=pooled.valid[ids],
            weight=pooled.weight[ids],
            segments=ids,
        )

    def _segments(self, cloud: Points) -> Tensor:
        """Segment of each point; no segment reaches over two samples."""
        from itertools import pairwise

        import torch

        from lifting.superpoints import superpoints

        ids = torch.empty(len(cloud.xyz), dtype=torch.int64)
        total, bounds = 0, [int(b) for b in cloud.offsets]
        for start, stop in pairwise(bounds):
            part = slice(start, stop)
            local = superpoints(
                cloud.xyz[part],
                None if cloud.normals is None else cloud.normals[part],
                None if cloud.rgb is None else cloud.rgb[part],
                scale=self.scale,
                min_size=self.min_size,
                colour_weight=self.colour_weight,
                num_neighbours=self.num_neighbours,
            )
            ids[part] = local + total
            total += int(local.max()) + 1 if len(local) else 0
        return ids
