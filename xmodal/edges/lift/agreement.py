"""The op `agreement`: a teacher counts less where other teachers see things otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from xmodal.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from xmodal.values import Points


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The first teacher's points, each weighing by how far the other teachers agree.

    Teachers of different kinds are wrong in different places. Where they find the same points alike
    both are more likely right. Rows stay as they are; only weights change.

    Attributes:
        least: What is left of the weight where they do not agree at all, from 0 to 1.
        power: The agreement counts to this power.
        num_anchors: Points that all others are compared with.
        seed: Which ones.
    """

    op: Literal["agreement"] = "agreement"
    least: float = 0.1
    power: float = 1.0
    num_anchors: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1:
            raise ValueError(f"least must lie in [0, 1], not {self.least}")
        if not 0 < self.power < float("inf"):
            raise ValueError(f"power must be above 0, not {self.power}")
        if self.num_anchors < 3:
            raise ValueError(f"num_anchors must be 3 or more, not {self.num_anchors}")

    def __call__(self, teacher: Points, *others: Points) -> Points:
        """The first teacher's points with new weights.

        Raises:
            DataError: If there is no other teacher, one has no rows, or their numbers differ.
        """
        import torch

        from lifting.agreement import agreement

        sizes = [-1 if side.rows is None else len(side.rows) for side in (teacher, *others)]
        if len(sizes) < 2 or sizes[0] < 0 or len(set(sizes)) > 1:
            raise DataError(
                "agreement of teachers",
                wanted="two or more teachers with rows on the same points",
                got=", ".join("no rows" if n < 0 else f"{n} rows" for n in sizes),
                fix="name all teachers in the arrow, on the same support",
            )
        assert teacher.rows is not None  # just checked
        share = torch.zeros(sizes[0])
        for other in others:
            assert other.rows is not None  # just checked
            seen = _seen(teacher) & _seen(other)
            found = agreement(
                teacher.rows, other.rows, seen, num_anchors=self.num_anchors, seed=self.seed
            )
            share += found**self.power / len(others)
        weight = torch.ones(sizes[0]) if teacher.weight is None else teacher.weight
        return replace(teacher, weight=weight * (self.least + (1 - self.least) * share))


def _seen(points: Points) -> Tensor:
    import torch

    if points.valid is None:
        return torch.ones(len(points.xyz), dtype=torch.bool)
    return points.valid
