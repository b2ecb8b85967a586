"""Several teachers of one student, of which a router takes the best for each row.

Rows are compared by direction, each teacher in its own space. The rules on rows that were not
observed are those of the package.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from detectors.fusion import dropped
from xmodal.loss_checks import check_counts, check_routing, check_temperature
from xmodal.losses.rows import direction, observed, weighted_mean


class RoutedTeachers(nn.Module):
    """A contrast with each teacher, weighted row by row by a router that sees the student.

    Each teacher has a layer from the student's width to its own and, if wanted, a mask: factors
    between 0 and 2 for its channels, made from the row itself, which leave out what the student's
    modality cannot tell. A mask is 1 at the start. A contrast cannot be won by masking all.

    The student learns from the `top` teachers of a row, by their shares. The router learns to
    expect the least loss over all teachers that the row has, and not to forget one.

    Args:
        channels: Width of the student.
        teacher_channels: Width of each teacher.
        hidden: Width of the router's hidden layer.
        mask: Whether teachers are masked.

    Raises:
        ValueError: If there are fewer than two teachers or a width is below 1.

    Source:
        Li et al., MST-Distill: Mixture of Specialized Teachers for Cross-Modal Knowledge
        Distillation, ACM MM 2025, section 3, with contrasts of rows in place of class scores, and
        masks that learn with the student instead of in a stage before.
    """

    def __init__(
        self,
        channels: int,
        teacher_channels: Sequence[int],
        *,
        hidden: int = 64,
        mask: bool = True,
    ) -> None:
        super().__init__()
        check_counts(channels=channels, hidden=hidden, teacher_channels=min(teacher_channels))
        if len(teacher_channels) < 2:
            msg = f"a router needs two teachers or more, not {len(teacher_channels)}"
            raise ValueError(msg)
        self.heads = nn.ModuleList(nn.Linear(channels, width) for width in teacher_channels)
        self.router = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, len(teacher_channels))
        )
        self.masks = nn.ModuleList()
        for width in teacher_channels if mask else ():
            layer = nn.Linear(width, width)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            self.masks.append(layer)

    def forward(
        self,
        teachers: Sequence[Float[Tensor, "M _"]],
        student: Float[Tensor, "M C"],
        present: Bool[Tensor, "M T"],
        *,
        weight: Float[Tensor, " M"] | None = None,
        temperature: float = 0.1,
        top: int = 1,
        drop: float = 0.0,
        balance: float = 0.1,
    ) -> Float[Tensor, ""]:
        """The loss.

        Args:
            teachers: Rows of each teacher, of any length; what they hold where they are missing has
                no effect.
            student: Predictions, of any length.
            present: Which teachers a row has; rows with none are left out.
            weight: Weights of the rows' terms, not negative; equal when None.
            temperature: Divides cosines, above 0.
            top: Teachers of a row that the student learns from.
            drop: While training, each teacher of a row is hidden with this chance; one stays.
            balance: Factor of the divergence between how much teachers are expected to be used and
                equal use of those that are there.

        Raises:
            ValueError: If a weight is negative or a setting is out of range.
        """
        check_temperature(temperature)
        check_routing(top, drop, balance)
        kept, weight = observed(student, present.any(dim=1), None, weight)
        if len(kept) == 0:
            return student[:0].sum()
        there = present[kept]
        if self.training and drop > 0:
            there = dropped(there, drop)
        given = student[kept]
        losses = self._losses([rows[kept] for rows in teachers], given, there, temperature)
        shares = self.shares(given, there)
        chosen = _of_the_best(shares.detach(), top)
        values = (chosen * losses).sum(dim=1)
        expected = (shares * losses.detach()).sum(dim=1)
        # A gradient for the router alone: the loss that people read is the student's.
        values = values + expected - expected.detach()
        loss = weighted_mean(values, weight, student)
        return loss + balance * _divergence(shares.mean(dim=0), there)

    def shares(
        self, student: Float[Tensor, "M C"], present: Bool[Tensor, "M T"]
    ) -> Float[Tensor, "M T"]:
        """How much the router trusts each teacher: 0 where it is missing, else they add up to 1."""
        scores = self.router(direction(student.detach()))
        return scores.masked_fill(~present, -torch.inf).softmax(dim=1)

    def _losses(
        self, teachers: Sequence[Tensor], student: Tensor, present: Tensor, temperature: float
    ) -> Float[Tensor, "M T"]:
        """Cross-entropy of each row against the teacher's rows of the batch; 0 where missing."""
        columns: list[Tensor] = []
        for index, (rows, head) in enumerate(zip(teachers, self.heads, strict=True)):
            has = present[:, index].nonzero().squeeze(1)
            told = direction(rows[has])
            if len(self.masks):
                told = direction(told * (2 * torch.sigmoid(self.masks[index](told))))
            asked = direction(head(student[has]))
            own = torch.arange(len(has), device=rows.device)
            values = nn.functional.cross_entropy(
                asked @ told.T / temperature, own, reduction="none"
            )
            columns.append(student.new_zeros(len(student)).index_copy(0, has, values))
        return torch.stack(columns, dim=1)


def _of_the_best(shares: Float[Tensor, "M T"], top: int) -> Float[Tensor, "M T"]:
    """Shares of the largest `top` alone, adding up to 1."""
    best = shares.topk(min(top, shares.shape[1]), dim=1).indices
    kept = torch.zeros_like(shares).scatter(1, best, 1.0) * shares
    return kept / kept.sum(dim=1, keepdim=True)


def _divergence(used: Float[Tensor, " T"], present: Bool[Tensor, "M T"]) -> Float[Tensor, ""]:
    """KL from equal use of the teachers that rows have to how they are used on average."""
    marks = present.to(used.dtype)
    equal = (marks / marks.sum(dim=1, keepdim=True)).mean(dim=0)
    # A teacher that no row has is used by none, and its term is 0.
    tiny = torch.finfo(used.dtype).tiny
    return (equal * (equal.clamp_min(tiny) / used.clamp_min(tiny)).log()).sum()
