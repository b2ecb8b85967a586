"""Sets of points as operators: rows are sets, columns are points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lifting.operator import LiftOperator
from lifting.views import spread_rows

__all__ = ["saturating", "sets_of_view", "stack_rows"]


def stack_rows(operators: Sequence[LiftOperator], *, num_sources: int) -> LiftOperator:
    """Put the targets of several operators over the same sources below each other.

    Args:
        operators: Any number of operators, also none.
        num_sources: Number of sources that all of them have.

    Raises:
        ValueError: If one has another number of sources.
    """
    wrong = [o.num_sources for o in operators if o.num_sources != num_sources]
    if wrong:
        raise ValueError(f"operators over {num_sources} and {wrong[0]} sources do not stack")
    if not operators:
        empty = torch.zeros(0, dtype=torch.int64)
        return LiftOperator(
            crow=torch.zeros(1, dtype=torch.int64),
            col=empty,
            weight=torch.zeros(0),
            num_sources=num_sources,
        )
    pointers, start = [operators[0].crow[:1]], 0
    for operator in operators:
        pointers.append(operator.crow[1:] + start)
        start += operator.nnz
    return LiftOperator(
        crow=torch.cat(pointers),
        col=torch.cat([operator.col for operator in operators]),
        weight=torch.cat([operator.weight for operator in operators]),
        num_sources=num_sources,
    )


def sets_of_view(
    taps: LiftOperator,
    targets: Int64[Tensor, " n"],
    num_points: int,
    *,
    least_weight: float,
    min_points: int,
) -> tuple[LiftOperator, Int64[Tensor, " S"]]:
    """What each source of a view covers among the points: the transpose of the view's lift.

    Args:
        taps: The view's lift, seen points x the view's rows (masks or patches).
        targets: Point of each row of `taps`, ascending.
        num_points: Number of points of the cloud.
        least_weight: Entries below this do not make a point a member.
        min_points: Sources with fewer members are left out.

    Returns:
        Sets x points, and the source behind each set.
    """
    members = spread_rows(taps, targets, num_points).transpose()
    enough = (members.weight >= least_weight) & (members.weight > 0)
    members = members.with_weight(members.weight * enough).drop_zeros()
    kept = (members.crow.diff() >= min_points).nonzero().squeeze(1)
    return members.select_rows(kept), kept


def saturating(count: Int64[Tensor, " S"], half: float) -> Float[Tensor, " S"]:
    """`n / (n + half)`: how much a set of n points says; half as much at `half` points."""
    return count / (count + half) if half > 0 else (count > 0).to(torch.float32)
