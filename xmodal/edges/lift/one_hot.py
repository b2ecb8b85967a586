"""The op `one_hot`: labels as rows, so that truth can teach like any other teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from xmodal.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from xmodal.values import Embedding, Labels, Points


@dataclass(frozen=True, kw_only=True)
class OneHot:
    """Turn the label of each point, or recording, into a row: 1 at its class and 0 elsewhere.

    Attributes:
        names: Classes, one column each. Points of other classes are not valid. Of recordings, all
            classes of the data set if empty.
        other: A last column for points of all other classes.
        fraction: Share of each class's labelled points that is kept, from 0 to 1: what a student
            learns from few labels.
        min_points: Of a class with any points at least so many are kept.
        labels_per_class: Keep so many labels of each class, or all that there are; what `fraction`
            says if None.
        seed: Which points are kept.
    """

    op: Literal["one_hot"] = "one_hot"
    names: tuple[str, ...] = ()
    other: bool = False
    fraction: float = 1.0
    min_points: int = 1
    labels_per_class: int | None = None
    seed: int = 0

    space: ClassVar[str] = "simplex"

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names must be different classes, not {self.names}")
        if self.other and not self.names:
            raise ValueError("other needs names: without them every class has a column")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], not {self.fraction}")
        if self.min_points < 1:
            raise ValueError(f"min_points must be 1 or more, not {self.min_points}")
        if self.labels_per_class is not None and (self.labels_per_class < 1 or self.fraction < 1):
            raise ValueError(
                f"labels_per_class must be 1 or more and stand alone, without fraction, not "
                f"{self.labels_per_class} and {self.fraction}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, not {self.seed}")

    @property
    def channels(self) -> int | None:
        """One column for each name and one for all others; None where the data decides."""
        return len(self.names) + self.other if self.names else None

    @property
    def row_names(self) -> tuple[str, ...]:
        """What each column stands for."""
        return (*self.names, *(("other",) if self.other else ()))

    def __call__(self, labels: Labels, cloud: Points | None = None) -> Points | Embedding:
        """The cloud with one row per point, or a row per recording; valid where a label is kept.

        Raises:
            DataError: If there is not one label per point, or the data has none of the classes.
        """
        import torch

        from xmodal.values import Embedding

        if cloud is None:
            rows, kept = self._rows(labels, self.names or labels.classes)
            weight, offsets = kept.to(torch.float32), torch.arange(len(rows) + 1)
            return Embedding(rows=rows, valid=kept, weight=weight, offsets=offsets)
        if not self.names:
            raise DataError(
                "lift labels to points",
                wanted="names, the classes that have a column each",
                got="none",
                fix="write `names: [...]`; only recordings can do without",
            )
        if len(labels.ids) != len(cloud.xyz):
            raise DataError(
                "lift labels to points",
                wanted=f"a label for each of {len(cloud.xyz)} points",
                got=f"{len(labels.ids)} labels",
                fix="label the points of this cloud: without another voxel_m or a crop",
            )
        rows, kept = self._rows(labels, self.names)
        return replace(cloud, rows=rows, valid=kept, weight=kept.to(torch.float32))

    def _rows(self, labels: Labels, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Rows, and which of them are kept."""
        import torch

        column = self._columns(labels, names)
        num = len(names) + self.other
        kept = self._keep(column, num)
        rows = torch.zeros(len(column), num)
        rows[kept, column[kept]] = 1
        return rows, kept

    def _columns(self, labels: Labels, names: tuple[str, ...]) -> Tensor:
        """Column of each point, -1 for none."""
        import torch

        if not set(names) & set(labels.classes):
            raise DataError(
                "lift labels",
                wanted=f"at least one of the classes {', '.join(names)}",
                got=f"labels of {', '.join(labels.classes) or 'no class'}",
                fix="write the names as the data has them",
            )
        rest = len(names) if self.other else -1
        of_class = [names.index(c) if c in names else rest for c in labels.classes]
        # The last entry is what an id of -1 (not labelled) finds.
        return torch.tensor([*of_class, -1])[labels.ids.long()]

    def _keep(self, column: Tensor, num_columns: int) -> Tensor:
        """Which points keep their label."""
        import torch

        if self.fraction == 1 and self.labels_per_class is None:
            return column >= 0
        generator = torch.Generator().manual_seed(self.seed)
        kept = torch.zeros(len(column), dtype=torch.bool)
        for value in range(num_columns):
            points = (column == value).nonzero().squeeze(1)
            share = max(self.min_points, round(self.fraction * len(points)))
            num = min(len(points), self.labels_per_class or share)
            kept[points[torch.randperm(len(points), generator=generator)[:num]]] = True
        return kept
