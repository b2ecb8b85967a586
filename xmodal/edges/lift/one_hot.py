"""The op `one_hot`: labels as rows, so that truth can teach like any other teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from xmodal.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from xmodal.values import Labels, Points


@dataclass(frozen=True, kw_only=True)
class OneHot:
    """Turn the label of each point into a row: 1 at its class and 0 elsewhere.

    Attributes:
        names: Classes, one column each. Points of other classes are not valid.
        other: A last column for points of all other classes.
        fraction: Share of each class's labelled points that is kept, from 0 to 1: what a student
            learns from few labels.
        min_points: Of a class with any points at least so many are kept.
        seed: Which points are kept.
    """

    op: Literal["one_hot"] = "one_hot"
    names: tuple[str, ...]
    other: bool = False
    fraction: float = 1.0
    min_points: int = 1
    seed: int = 0

    space: ClassVar[str] = "simplex"

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"names must be one or more classes, each once, not {self.names}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], not {self.fraction}")
        if self.min_points < 1:
            raise ValueError(f"min_points must be 1 or more, not {self.min_points}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, not {self.seed}")

    @property
    def channels(self) -> int:
        """One column for each name, and one for all others if there is such."""
        return len(self.names) + self.other

    @property
    def row_names(self) -> tuple[str, ...]:
        """What each column stands for."""
        return (*self.names, *(("other",) if self.other else ()))

    def __call__(self, labels: Labels, cloud: Points) -> Points:
        """The cloud with one row per point; valid where a label is known and kept.

        Raises:
            DataError: If there is not one label per point, or the scene has none of the classes.
        """
        import torch

        if len(labels.ids) != len(cloud.xyz):
            raise DataError(
                "lift labels to points",
                wanted=f"a label for each of {len(cloud.xyz)} points",
                got=f"{len(labels.ids)} labels",
                fix="label the points of this cloud: without another voxel_m or a crop",
            )
        column = self._columns(labels)
        kept = self._keep(column)
        rows = torch.zeros(len(column), self.channels)
        rows[kept, column[kept]] = 1
        return replace(cloud, rows=rows, valid=kept, weight=kept.to(torch.float32))

    def _columns(self, labels: Labels) -> Tensor:
        """Column of each point, -1 for none."""
        import torch

        if not set(self.names) & set(labels.classes):
            raise DataError(
                "lift labels to points",
                wanted=f"at least one of the classes {', '.join(self.names)}",
                got=f"labels of {', '.join(labels.classes) or 'no class'}",
                fix="write the names as the scene's classes.json has them",
            )
        rest = len(self.names) if self.other else -1
        of_class = [self.names.index(c) if c in self.names else rest for c in labels.classes]
        # The last entry is what an id of -1 (not labelled) finds.
        return torch.tensor([*of_class, -1])[labels.ids.long()]

    def _keep(self, column: Tensor) -> Tensor:
        """Which points keep their label."""
        import torch

        if self.fraction == 1:
            return column >= 0
        generator = torch.Generator().manual_seed(self.seed)
        kept = torch.zeros(len(column), dtype=torch.bool)
        for value in range(self.channels):
            points = (column == value).nonzero().squeeze(1)
            num = min(len(points), max(self.min_points, round(self.fraction * len(points))))
            kept[points[torch.randperm(len(points), generator=generator)[:num]]] = True
        return kept
