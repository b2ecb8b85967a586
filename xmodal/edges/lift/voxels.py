"""The op `voxels`: average the points of each cell of a regular grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from xmodal.values import Points, Voxels


@dataclass(frozen=True, kw_only=True)
class LiftVoxels:
    """Average the observed points of each cell of a regular grid.

    A point counts by its coverage, so a cell takes after the points that were seen well. Cells of
    which no point was observed are there, but not valid.

    Attributes:
        voxel_m: Side of a cell, metres.
    """

    op: Literal["voxels"] = "voxels"
    voxel_m: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.voxel_m < float("inf"):
            raise ValueError(f"voxel_m must be above 0 metres, not {self.voxel_m}")

    def __call__(self, cloud: Points) -> Voxels:
        """The occupied cells, with features where the cloud has any.

        Raises:
            DataError: If a coordinate or feature is not finite.
        """
        from lifting.points import voxelize
        from xmodal.edges.lift.pooling import pool
        from xmodal.errors import DataError
        from xmodal.values import Voxels

        try:
            cells = voxelize(cloud.xyz, self.voxel_m, cloud.offsets.long())
            pooled = pool(cells.operator(), cloud)
        except ValueError as error:
            raise DataError(
                "lift to voxels",
                wanted="a cloud of finite points and features",
                got=str(error),
                fix="drop such points before lifting, or use larger cells",
            ) from error
        return Voxels(
            coords=cells.coords,
            voxel_m=self.voxel_m,
            offsets=cells.offsets,
            rows=None if pooled is None else pooled.rows,
            valid=None if pooled is None else pooled.valid,
            weight=None if pooled is None else pooled.weight,
        )
