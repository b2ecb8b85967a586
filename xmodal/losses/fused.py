"""Row-wise losses that keep nothing but a few numbers a row between forward and backward pass.

A plain loss writes a matrix as large as the student's rows for every step of its formula and keeps
several until the backward pass. Here rows pass through the cache once in each direction: forward
for their sums, backward to write the gradient where it ends up. Values and gradients are those of
`xmodal.losses.rowwise`, up to the order of sums, and these plain forms do the work where a gradient
of weights or of the teacher's probabilities is asked for. No second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from lifting.backends.jit import jit
from xmodal.losses import rowwise
from xmodal.losses.rows import LEAST_PROBABILITY, SHORTEST

# Rows of a block: 1000 channels of 256 rows are 1 MB, which stays in the second-level cache.
_BLOCK_ROWS = 256

Array = npt.NDArray[Any]


def cosine(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M C"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
) -> Float[Tensor, ""]:
    """`rowwise.cosine` in two passes over the rows; the teacher may be of lower precision.

    Args:
        teacher: Targets, of any length; rows of length 0 are left out.
        student: Predictions, of any length. One of length 0 has cosine 0 and gradient 0.
        valid: Rows that were observed; all when None.
        weight: Coverage of the rows, not negative; equal when None.

    Raises:
        ValueError: If a weight is negative.

    Source:
        Peng et al., OpenScene, CVPR 2023, equation 2.
    """
    if (weight is not None and weight.requires_grad) or student.numel() == 0:
        return rowwise.cosine(teacher, student, valid=valid, weight=weight)
    return _Cosine.apply(teacher, student, _row_weights(student, valid, weight))


def kl(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M C"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """`rowwise.kl` block by block at temperature 1; other temperatures take the plain form.

    Args:
        teacher: Probabilities; rows are normalised, rows that sum to 0 are left out.
        student: Probabilities, positive.
        valid: Rows that were observed; all when None.
        weight: Coverage of the rows, not negative; equal when None.
        temperature: Softens both, above 0.

    Raises:
        ValueError: If a probability of an observed row or a weight is negative, or the temperature
            is not above 0.

    Source:
        Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2.
    """
    learnt = teacher.requires_grad or (weight is not None and weight.requires_grad)
    if temperature != 1.0 or learnt or student.numel() == 0:
        return rowwise.kl(teacher, student, valid=valid, weight=weight, temperature=temperature)
    return _Kl.apply(teacher, student, _row_weights(student, valid, weight))


def _row_weights(student: Tensor, valid: Tensor | None, weight: Tensor | None) -> Tensor:
    """Weight of every row, 0 for rows that must not be looked at."""
    if weight is None:
        found = student.new_ones(len(student))
    else:
        if bool((weight < 0).any()):
            msg = f"weights of rows must not be negative; the least is {float(weight.min()):g}"
            raise ValueError(msg)
        found = weight.to(student.dtype)
    return found if valid is None else torch.where(valid, found, 0.0)


def _shares(weight: Tensor) -> Tensor:
    """Weights that sum to 1, or zeros where there is no row left."""
    # The largest is divided out first, so that tiny coverages do not underflow.
    scaled = weight / weight.amax().clamp_min(torch.finfo(weight.dtype).tiny)
    return scaled / scaled.sum().clamp_min(torch.finfo(weight.dtype).tiny)


class _Cosine(torch.autograd.Function):
    """Forward keeps, per row, the factors of the teacher's and the student's row in the gradient.

    d cos / d s = t / (|s| |t|) - cos s / |s|^2, and the same with s and t exchanged.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, teacher: Tensor, student: Tensor, weight: Tensor) -> Tensor:
        dot, ss, tt = _sums(teacher, student, weight)
        least = SHORTEST**2
        # NaN compares as false: a row with NaN stays in, so that the loss says so.
        weight = torch.where(tt <= least, 0.0, weight)
        share = _shares(weight)
        short = (ss <= least) | (share == 0)
        inverse = torch.where(short, 0.0, torch.where(short, 1.0, ss).rsqrt())
        of_teacher = torch.where(share == 0, 0.0, torch.where(share == 0, 1.0, tt).rsqrt())
        cos = torch.where(short, 0.0, dot) * inverse * of_teacher
        cross = -share * inverse * of_teacher
        along_student = share * cos * inverse.square()
        along_teacher = share * cos * of_teacher.square()
        ctx.save_for_backward(teacher, student, cross, along_student, along_teacher)
        return (share * (1.0 - cos)).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        teacher, student, cross, along_student, along_teacher = ctx.saved_tensors
        to_teacher = to_student = None
        cross = cross * scale
        if ctx.needs_input_grad[1]:
            to_student = _combine(teacher, student, cross, along_student * scale)
        if ctx.needs_input_grad[0]:
            to_teacher = _combine(student, teacher, cross, along_teacher * scale)
        return to_teacher, to_student, None


class _Kl(torch.autograd.Function):
    """Sum over channels of t (log t - log s), t normalised; d / d s = -t / s."""

    @staticmethod
    def forward(ctx: FunctionCtx, teacher: Tensor, student: Tensor, weight: Tensor) -> Tensor:
        value, total = student.new_zeros(len(student)), student.new_ones(len(student))
        lowest: list[Tensor] = []
        for part in _parts(student):
            rows = _looked_at(weight[part])
            t, s = _pick(teacher[part], rows).to(student.dtype), _pick(student[part], rows)
            mass = t.sum(dim=1)
            # A row without mass says nothing: whatever it is compared with does not count.
            silent = mass == 0
            if bool(silent.any()):
                rows, t, s, mass = rows[~silent], t[~silent], s[~silent], mass[~silent]
            if len(rows) == 0:
                continue
            lowest += [t.amin(), s.amin()]
            target = t / mass[:, None]
            log_ratio = target.clamp_min(LEAST_PROBABILITY).log_()
            log_ratio -= s.clamp_min(LEAST_PROBABILITY).log_()
            value[part][rows] = torch.linalg.vecdot(target, log_ratio)
            total[part][rows] = mass
            weight = _without(weight, part, rows)
        if lowest and float(torch.stack(lowest).amin()) < 0:
            msg = (
                "kl compares probabilities, but some are negative; use cosine or mse for other rows"
            )
            raise ValueError(msg)
        share = _shares(weight)
        ctx.save_for_backward(teacher, student, share / total)
        return (share * value).sum()
