"""Losses over a queue of teacher rows of earlier steps: many comparisons at a linear cost.

Rows are compared by direction. The rules on rows that were not observed are those of the package.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from xmodal.loss_checks import check_counts, check_temperature
from xmodal.losses.rows import direction, observed_directions, spread, take, weighted_mean

# Instances that are worked on together: products with 64 rows take 1 MB and stay in a cache.
_BLOCK = 4096


class TeacherQueue(nn.Module):
    """Teacher rows of earlier steps, oldest out first; they are part of a checkpoint.

    Args:
        channels: Width of the teacher's rows.
        size: Length of the queue.
        per_call: At most that many rows of a call enter, evenly spaced, so that several samples are
            in the queue together.

    Raises:
        ValueError: If a size is below 1.
    """

    def __init__(self, channels: int, size: int = 4096, per_call: int = 256) -> None:
        super().__init__()
        check_counts(channels=channels, size=size, per_call=per_call)
        self.size, self.per_call = size, min(per_call, size)
        self.register_buffer("keys", torch.zeros(size, channels))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def filled(self) -> Float[Tensor, "K C"]:
        """The keys in the queue, in no order that matters."""
        # a copy: the step's backward still needs these when new ones have entered
        return self._view().clone()

    def _view(self) -> Tensor:
        return cast("Tensor", self.keys)[: min(int(cast("Tensor", self.count)), self.size)]

    def _enter(self, keys: Tensor) -> None:
        mine, count = cast("Tensor", self.keys), cast("Tensor", self.count)
        new = keys[spread(len(keys), self.per_call).to(keys.device)]
        new = new[torch.isfinite(new).all(dim=1)]  # one bad row must not spoil later steps
        place = (int(count) + torch.arange(len(new), device=mine.device)) % self.size
        mine[place] = new.to(mine)
        count += len(new)


class QueueSimilarity(TeacherQueue):
    """How alike a row is to many instances, as the teacher sees it: KL between the two soft-maxes.

    Instances are the teacher rows of the queue and of the call itself. Row i adds KL(p || q) with
    p over t_i . k_j / `teacher_temperature` and q over s_i . k_j / `student_temperature`, over all
    instances k_j, with unit rows. In training the call's teacher rows enter the queue once the loss
    is known. Time is linear in the queue's length; beside the queue itself, memory does not depend
    on it.

    Args:
        channels: Width of the teacher's rows.
        size: Length of the queue.
        per_call: See `TeacherQueue`.

    Raises:
        ValueError: If a size is below 1.

    Source:
        Chen et al., COMODO: Cross-Modal Video-to-IMU Distillation for Efficient Egocentric Human
        Activity Recognition, 2025, section 3; the loss is that of Fang et al., SEED, ICLR 2021,
        equations 2 to 4, where the own teacher row is among the instances, too.
    """

    def forward(
        self,
        teacher: Float[Tensor, "M C"],
        student: Float[Tensor, "M C"],
        *,
        valid: Bool[Tensor, " M"] | None = None,
        weight: Float[Tensor, " M"] | None = None,
        teacher_temperature: float = 0.1,
        student_temperature: float = 0.1,
    ) -> Float[Tensor, ""]:
        """The loss.

        Args:
            teacher: Targets, of any length; rows of length 0 are left out.
            student: Predictions, of any length.
            valid: Rows that were observed; all when None.
            weight: Weights of the rows' terms, not negative; equal when None.
            teacher_temperature: Divides the teacher's cosines, above 0.
            student_temperature: Divides the student's; where it is the teacher's, the loss is 0 at
                equality. A smaller one asks for a smaller spread of the student's cosines.

        Raises:
            ValueError: If a weight is negative or a temperature is not above 0.
        """
        check_temperature(teacher_temperature)
        check_temperature(student_temperature)
        kept, weight = observed_directions(teacher, valid, weight)
        keys, queries = direction(take(teacher, kept)), direction(take(student, kept))
        # No copy: all that the way back needs is made before new rows enter.
        queue = self._view().to(keys)
        values = _Divergence.apply(
            queries, keys.detach(), queue, teacher_temperature, student_temperature
        )
        if self.training:
            self._enter(keys.detach())
        return weighted_mean(cast("Tensor", values), weight, student)


class _Divergence(torch.autograd.Function):
    """KL of each row between soft-maxes over products with instances, in blocks of instances.

    Soft-maxes of many rows over a long queue are larger than caches, and several of them would be
    kept for the way back. Here products are made twice, once for the sums and once for the loss and
    its gradient, which is all that is kept.
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, queue: Tensor, told: float, asked: float
    ) -> Tensor:
        """Values of the rows, by the temperatures of teacher (`told`) and student (`asked`)."""
        blocks = [*queue.split(_BLOCK), keys]
        nothing = queries.new_full((len(queries),), -torch.inf)
        sum_told, sum_asked = nothing, nothing
        for block in blocks:
            sum_told = torch.logaddexp(sum_told, (keys @ block.T / told).logsumexp(dim=1))
            sum_asked = torch.logaddexp(sum_asked, (queries @ block.T / asked).logsumexp(dim=1))
        values, gradient = torch.zeros_like(nothing), torch.zeros_like(queries)
        for block in blocks:
            log_p = (keys @ block.T).div_(told).sub_(sum_told[:, None])
            log_q = (queries @ block.T).div_(asked).sub_(sum_asked[:, None])
            p = log_p.exp()
            values += torch.linalg.vecdot(p, log_p.sub_(log_q))
            gradient.addmm_(log_q.exp_().sub_(p), block)
        ctx.save_for_backward(gradient.div_(asked))
        return values

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch types it as *args
        ctx: Any, scale: Tensor
    ) -> tuple[Tensor, None, None, None, None]:
        """Through the student's rows alone: teachers are frozen."""
        (gradient,) = ctx.saved_tensors
        return scale[:, None] * gradient, None, None, None, None
