"""Correlations among rows: how a teacher relates the rows of a batch is how the student does.

Rows are compared by direction. The rules on rows that were not observed are those of the package.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xmodal.loss_checks import check_correlation
from xmodal.losses.rows import direction, observed_directions, take, weighted_mean


def correlation(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M D"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
    temperature: float = 0.1,
    inter: float = 1.0,
    intra: float = 1.0,
    rows_cap: int | None = None,
) -> Float[Tensor, ""]:
    """KL between soft-maxes over cosines to the other rows of the batch, in two ways.

    With unit rows and p_i the soft-max over j != i of t_i . t_j / T, row i adds
    `intra` KL(p_i || softmax of s_i . s_j / T), correlations within the student's modality, and
    `inter` KL(p_i || softmax of s_i . t_j / T), those between the student and the teacher, which is
    language where the teacher is. It is 0 at s = t.

    Args:
        teacher: Targets, of any length; rows of length 0 are left out.
        student: Predictions; for `intra` alone they may have another width.
        valid: Rows that were observed; all when None.
        weight: Weights of the rows' terms, not negative; equal when None.
        temperature: Divides cosines on both sides, above 0.
        inter: Factor of correlations with the teacher's rows, 0 or more.
        intra: Factor of correlations among the student's rows, 0 or more; not both are 0.
        rows_cap: At most that many rows, evenly spaced, are compared: memory is its square.

    Raises:
        ValueError: If a weight is negative, a setting is out of range, or widths differ with
            `inter`.

    Source:
        Zheng et al., Learning Modality-agnostic Representation for Semantic Segmentation from Any
        Modalities (Any2Seg), ECCV 2024, section 3.1, on rows in place of class features.
    """
    check_correlation(temperature, inter, intra)
    if inter > 0 and teacher.shape[1] != student.shape[1]:
        msg = (
            f"inter correlates {student.shape[1]} student channels with {teacher.shape[1]} of the "
            "teacher; give them one width, or set inter to 0"
        )
        raise ValueError(msg)
    kept, weight = observed_directions(teacher, valid, weight, rows_cap)
    keys, given = direction(take(teacher, kept)), direction(take(student, kept))
    if len(kept) < 3:
        return (take(student, kept) * 0).sum()  # with one other row there is nothing to relate
    told = _to_others(keys @ keys.T, temperature)
    values = keys.new_zeros(len(kept))
    for factor, cosines in ((intra, given @ given.T), (inter, given @ keys.T if inter else None)):
        if factor > 0 and cosines is not None:
            asked = _to_others(cosines, temperature)
            values = values + factor * (told.exp() * (told - asked)).sum(dim=1)
    return weighted_mean(values, weight, student)


def _to_others(cosines: Float[Tensor, "M M"], temperature: float) -> Float[Tensor, "M _"]:
    """Logarithms of the soft-max over all columns but a row's own."""
    num = len(cosines)
    others = ~torch.eye(num, dtype=torch.bool, device=cosines.device)
    return (cosines[others].view(num, num - 1) / temperature).log_softmax(dim=1)
