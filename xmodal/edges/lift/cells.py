"""The op `cells`: a dense map that was recorded, as rows that teach a student of maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from xmodal.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from xmodal.values import Grids


@dataclass(frozen=True, kw_only=True)
class MapCells:
    """Turn a map of one value, or class number, a cell into rows, maybe on a coarser grid.

    Attributes:
        names: Classes by number, one column each; a cell's row is 1 at its class. Values stay as
            they are if empty.
        grid_hw: Rows and columns of the result, whole parts of the map's; the map's own if None. A
            coarser cell is the mean of its valid parts: the mean depth, the shares of classes.
    """

    op: Literal["cells"] = "cells"
    names: tuple[str, ...] = ()
    grid_hw: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names) or len(self.names) == 1:
            raise ValueError(f"names must be two or more different classes, not {self.names}")
        if self.grid_hw is not None and min(self.grid_hw) < 1:
            raise ValueError(f"grid_hw must be 1 or more, not {self.grid_hw}")

    @property
    def channels(self) -> int:
        """One column for each name, or the value's."""
        return len(self.names) or 1

    @property
    def space(self) -> Literal["simplex", "raw"]:
        """Classes are shares that sum to 1, values are what they are."""
        return "simplex" if self.names else "raw"

    @property
    def row_names(self) -> tuple[str, ...]:
        """What each column stands for."""
        return self.names

    def __call__(self, grid: Grids) -> Grids:
        """The map's rows; a cell without anything known is not valid.

        Raises:
            DataError: If class numbers have no name, or the grid cannot be made coarser so.
        """
        import torch

        if grid.rows.shape[1] != 1:
            raise DataError(
                "lift a map to rows",
                wanted="a map of one value a cell",
                got=f"{grid.rows.shape[1]} channels",
                fix="give a map as recorded, such as depths or class numbers",
            )
        known = grid.valid & (grid.weight > 0)
        rows = self._one_hot(grid.rows, known) if self.names else grid.rows
        rows = torch.where(known[:, None], rows, 0.0)
        weight = torch.where(known, grid.weight, 0.0)
        if self.grid_hw is None or self.grid_hw == grid.grid_hw:
            return replace(grid, rows=rows, valid=known, weight=weight)
        weight_sum = self._blocks(weight[:, None], grid.grid_hw)[:, 0]
        total = self._blocks(rows * weight[:, None], grid.grid_hw)
        some = weight_sum > 0
        parts = (grid.grid_hw[0] // self.grid_hw[0]) * (grid.grid_hw[1] // self.grid_hw[1])
        cells = self.grid_hw[0] * self.grid_hw[1]
        return replace(
            grid,
            rows=total / weight_sum.where(some, 1.0)[:, None],
            valid=some,
            weight=weight_sum / parts,
            grid_hw=self.grid_hw,
            offsets=torch.arange(len(grid.offsets)) * cells,
        )

    def _one_hot(self, rows: Tensor, known: Tensor) -> Tensor:
        import torch

        numbers = rows[:, 0].round().long()
        wrong = known & ((numbers < 0) | (numbers >= len(self.names)) | (rows[:, 0] != numbers))
        if bool(wrong.any()):
            raise DataError(
                "lift a map to rows of classes",
                wanted=f"class numbers from 0 to {len(self.names) - 1}",
                got=f"{float(rows[wrong][0, 0]):g}",
                fix="name all classes of the map, or leave `names` out for values",
            )
        columns = numbers.clamp(0, len(self.names) - 1)
        return torch.nn.functional.one_hot(columns, len(self.names)).to(torch.float32)

    def _blocks(self, rows: Tensor, hw: tuple[int, int]) -> Tensor:
        """Sums over the parts of each coarser cell."""
        assert self.grid_hw is not None, "asked for a coarser grid only"
        height, width = self.grid_hw
        if hw[0] % height or hw[1] % width:
            raise DataError(
                "lift a map to coarser cells",
                wanted=f"a grid that {height} x {width} divides",
                got=f"{hw[0]} x {hw[1]}",
                fix="choose grid_hw so that each side divides the map's",
            )
        parts = rows.view(-1, height, hw[0] // height, width, hw[1] // width, rows.shape[1])
        return parts.sum(dim=(2, 4)).flatten(0, 2)
