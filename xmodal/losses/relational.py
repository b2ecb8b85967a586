"""Relations: the student's rows must be as alike among themselves as the teacher's are.

Only cosines among rows of one side are compared, so widths may differ and no projection is needed.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.loss_checks import check_temperature
from xmodal.losses.rows import direction, observed_directions, take


def similarity(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M D"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
    rows_cap: int = 1024,
) -> Float[Tensor, ""]:
    """Mean squared difference of the two matrices of cosines, over pairs of different rows.

    Args:
        teacher: Rows of any width and length; rows of length 0 are left out.
        student: Rows of any width and length.
        valid: Rows that were observed; all when None.
        weight: Weights of rows; a pair weighs the product of its two. Equal when None.
        rows_cap: At most that many rows, evenly spaced, are compared: memory is its square.

    Raises:
        ValueError: If a weight is negative or `rows_cap` is below 1.

    Source:
        Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, with
        cosines in place of row-normalised inner products, so that the loss does not depend on
        the number of rows; Park et al., Relational Knowledge Distillation, CVPR 2019.
    """
    kept, weight = observed_directions(teacher, valid, weight, rows_cap)
    if len(kept) < 2:
        return _nothing(student, kept)
    first, second = direction(take(teacher, kept)), direction(take(student, kept))
    weight = weight / weight.max()
    pair = weight[:, None] * weight
    pair = pair - torch.diag(pair.diagonal())
    return (pair * (first @ first.T - second @ second.T).square()).sum() / pair.sum()


def affinity(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M D"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
    temperature: float = 0.1,
    rows_cap: int = 1024,
) -> Float[Tensor, ""]:
    """KL divergence between the soft-max over each row's cosines to all other rows.

    Near rows count more than in `similarity`: which neighbours a row has is told apart from how far
    all the rest is.

    Args:
        teacher: See `similarity`.
        student: See `similarity`.
        valid: See `similarity`.
        weight: Weights of the rows' terms; equal when None.
        temperature: Divides cosines on both sides, above 0.
        rows_cap: See `similarity`.

    Raises:
        ValueError: If a weight is negative or a setting is out of range.

    Source:
        Wu et al., TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight Inheritance, ICCV
        2023, with rows of one sensor in place of images and captions.
    """
    check_temperature(temperature)
    kept, weight = observed_directions(teacher, valid, weight, rows_cap)
    if len(kept) < 2:
        return _nothing(student, kept)
    target = _log_affinity(direction(take(teacher, kept)), temperature)
    given = _log_affinity(direction(take(student, kept)), temperature)
    values = (target.exp() * (target - given)).sum(dim=1)
    weight = weight / weight.max()
    return (weight * values).sum() / weight.sum()


def _log_affinity(rows: Tensor, temperature: float) -> Tensor:
    """Logarithm of the soft-max over the other rows: [M, M - 1]."""
    num = len(rows)
    cosines = rows @ rows.T
    # Without its diagonal a square matrix is the rest of its rows, read as M - 1 rows of M + 1.
    off = cosines.flatten()[1:].view(num - 1, num + 1)[:, :-1].reshape(num, num - 1)
    return (off / temperature).log_softmax(dim=1)


def _nothing(student: Tensor, kept: Tensor) -> Tensor:
    """0 with gradient 0: fewer than two rows have no relation. NaN in the one row stays NaN."""
    return (take(student, kept) * 0).sum()
