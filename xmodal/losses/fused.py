"""Row-wise losses that keep nothing but a few numbers a row between forward and backward pass.

A plain loss writes a matrix as large as the student's rows for every step of its formula and keeps
several until the backward pass. Here rows pass through the cache once in each direction: forward
for their sums, backward to write the gradient where it ends up. Values and gradients are those of
`xmodal.losses.rowwise`, up to the order of sums, and these plain forms do the work where a gradient
of weights or of the teacher's probabilities is asked for. No second derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import FunctionCtx

from lifting.backends.jit import jit
from xmodal.losses import rowwise
from xmodal.losses.rows import LEAST_PROBABILITY, SHORTEST

# Half of a usual second-level cache, so that a block and its logarithms stay there.
_BLOCK_BYTES = 1 << 19

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
    mixed = teacher.requires_grad and teacher.dtype != student.dtype
    if mixed or not _can_fuse(student, weight):
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
    if temperature != 1.0 or teacher.requires_grad or not _can_fuse(student, weight):
        return rowwise.kl(teacher, student, valid=valid, weight=weight, temperature=temperature)
    return _Kl.apply(teacher, student, _row_weights(student, valid, weight))


def _can_fuse(student: Tensor, weight: Tensor | None) -> bool:
    """Whether the kernels take these rows; they give no gradient of weights."""
    learnt = weight is not None and weight.requires_grad
    return not learnt and student.numel() > 0 and student.dtype in (torch.float32, torch.float64)


def _row_weights(student: Tensor, valid: Tensor | None, weight: Tensor | None) -> Tensor:
    """Weight of every row, 0 for rows that must not be looked at."""
    if weight is None:
        found = student.new_ones(len(student))
    else:
        if bool((weight < 0).any()):
            msg = f"weights of rows must not be negative; the least is {float(weight.min()):g}"
            raise ValueError(msg)
        found = torch.where(weight > 0, weight, 0.0).to(student.dtype)
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
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch types it as *args
        ctx: Any, scale: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        _only_first_derivatives()
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
        value, mass, lowest = (torch.zeros_like(weight) for _ in range(3))
        for part in _parts(student):
            rows = weight[part].nonzero().squeeze(1)
            t, s = (_pick(x[part], rows).to(student.dtype) for x in (teacher, student))
            mass[part][rows] = t.sum(dim=1)
            lowest[part][rows] = torch.minimum(t.amin(dim=1), s.amin(dim=1))
            target = t / mass[part][rows, None]
            log_ratio = target.clamp_min(LEAST_PROBABILITY).log_()
            log_ratio -= s.clamp_min(LEAST_PROBABILITY).log_()
            value[part][rows] = torch.linalg.vecdot(target, log_ratio)
        # A row without mass says nothing: whatever it is compared with does not count.
        weight = torch.where(mass == 0, 0.0, weight)
        if bool(((lowest < 0) & (weight > 0)).any()):
            msg = "kl compares probabilities, but some are negative; use cosine or mse for others"
            raise ValueError(msg)
        share = _shares(weight)
        counts = share > 0
        ctx.save_for_backward(
            teacher, student, torch.where(counts, -share / torch.where(counts, mass, 1.0), 0.0)
        )
        return torch.where(counts, share * value, 0.0).sum()

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch types it as *args
        ctx: Any, scale: Tensor
    ) -> tuple[None, Tensor, None]:
        _only_first_derivatives()
        teacher, student, factor = ctx.saved_tensors
        found = _like(student)
        for part in _parts(student):
            s, out = student[part], found[part]
            torch.div(teacher[part].to(s.dtype), s.clamp_min(LEAST_PROBABILITY), out=out)
            out *= (factor[part] * scale)[:, None]
            out.masked_fill_(s < LEAST_PROBABILITY, 0.0)
            out[factor[part] == 0] = 0.0
        return None, found, None


def _only_first_derivatives() -> None:
    # torch's own decorator would let a graph through that silently lacks the way to the rows.
    if torch.is_grad_enabled():
        msg = (
            "fused losses have no second derivatives (create_graph=True); "
            "use xmodal.losses.rowwise, which has"
        )
        raise RuntimeError(msg)


def _sums(teacher: Tensor, student: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per row t.s, s.s and t.t; 0 for rows of weight 0, which are not looked at."""
    dot, ss, tt = (torch.zeros_like(weight) for _ in range(3))
    for part in _parts(student):
        t, s = teacher[part].to(student.dtype), student[part]
        found = dot[part], ss[part], tt[part]
        if s.device.type == "cpu":
            _sum_rows(*(_array(x) for x in (t, s, weight[part], *found)))
        else:
            rows = weight[part].nonzero().squeeze(1)
            t, s = _pick(t, rows), _pick(s, rows)
            for out, (a, b) in zip(found, ((t, s), (s, s), (t, t)), strict=True):
                out[rows] = torch.linalg.vecdot(a, b)
    return dot, ss, tt


def _combine(first: Tensor, second: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a first + b second` row by row, in the second's dtype; rows with a = b = 0 are 0."""
    found = _like(second)
    for part in _parts(second):
        x, y, out = first[part].to(second.dtype), second[part], found[part]
        if out.device.type == "cpu":
            _combine_rows(*(_array(v) for v in (x, y, a[part], b[part], out)))
        else:
            torch.mul(x, a[part, None], out=out)
            out.addcmul_(y, b[part, None])
            out[(a[part] == 0) & (b[part] == 0)] = 0.0
    return found


def _parts(rows: Tensor) -> Iterator[slice]:
    """Blocks of rows that fit the second-level cache."""
    size = max(1, _BLOCK_BYTES // (rows.shape[1] * rows.element_size()))
    for start in range(0, len(rows), size):
        yield slice(start, start + size)


def _pick(block: Tensor, rows: Tensor) -> Tensor:
    """Some rows of a block; without a copy in the usual case that all are wanted."""
    return block if len(rows) == len(block) else block[rows]


def _like(rows: Tensor) -> Tensor:
    """An empty contiguous tensor like another."""
    if rows.device.type != "cpu":
        return torch.empty_like(rows, memory_format=torch.contiguous_format)
    # numpy asks for huge pages, torch does not: a third of the time goes into touching small ones.
    return torch.from_numpy(np.empty(tuple(rows.shape), dtype=_array(rows[:0]).dtype))


def _array(tensor: Tensor) -> Array:
    return tensor.detach().contiguous().numpy()


@jit
def _sum_rows(t: Array, s: Array, weight: Array, dot: Array, ss: Array, tt: Array) -> None:
    for i in range(s.shape[0]):
        if weight[i] == 0:
            continue
        # Starting from a product keeps the sums in the dtype of the rows.
        a, b, c = t[i, 0] * s[i, 0], s[i, 0] * s[i, 0], t[i, 0] * t[i, 0]
        for j in range(1, s.shape[1]):
            a += t[i, j] * s[i, j]
            b += s[i, j] * s[i, j]
            c += t[i, j] * t[i, j]
        dot[i], ss[i], tt[i] = a, b, c


@jit
def _combine_rows(x: Array, y: Array, a: Array, b: Array, out: Array) -> None:
    for i in range(y.shape[0]):
        if a[i] == 0 and b[i] == 0:
            out[i] = 0
        else:
            for j in range(y.shape[1]):
                out[i, j] = a[i] * x[i, j] + b[i] * y[i, j]
