"""Wasserstein contrast: how far apart the rows of both sides lie as distributions.

The primal form moves the student's rows onto the teacher's whatever their order; the dual form
tells pairs that belong together from pairs that do not. The rules on rows that were not observed
are those of the package.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from xmodal.loss_checks import check_sinkhorn
from xmodal.losses.rows import direction, observed_directions, take


def sinkhorn(
    cost: Float[Tensor, "M N"],
    first: Float[Tensor, " M"],
    second: Float[Tensor, " N"],
    *,
    epsilon: float = 0.05,
    iterations: int = 50,
) -> Float[Tensor, ""]:
    """Entropic transport cost: least `<P, cost> + epsilon KL(P | first x second)` over plans P.

    Worked out on logarithms, so that a small epsilon neither overflows nor vanishes. The gradient
    in the cost is the plan itself (envelope theorem): nothing of the iterations is kept.

    Args:
        cost: Cost of moving row i to row j.
        first: Masses of the rows; their sum is 1.
        second: Masses of the columns; their sum is 1.
        epsilon: Strength of the entropy, in the unit of the cost, above 0.
        iterations: Updates of both potentials.

    Raises:
        ValueError: If epsilon is not above 0 or there is no iteration.

    Source:
        Cuturi, Sinkhorn Distances, NeurIPS 2013; Peyre and Cuturi, Computational Optimal Transport,
        2019, section 4.4 (log domain).
    """
    check_sinkhorn(epsilon, iterations)
    fixed = cost.detach()
    log_a, log_b = first.log(), second.log()
    f, g = torch.zeros_like(first), torch.zeros_like(second)
    for _ in range(iterations):
        f = -epsilon * ((g - fixed) / epsilon + log_b).logsumexp(dim=1)
        g = -epsilon * ((f[:, None] - fixed) / epsilon + log_a[:, None]).logsumexp(dim=0)
    plan = ((f[:, None] + g - fixed) / epsilon + log_a[:, None] + log_b).exp()
    # the value of the dual problem, and the gradient of the primal one
    return (first * f).sum() + (second * g).sum() + (plan * (cost - fixed)).sum()


def wasserstein(
    teacher: Float[Tensor, "M C"],
    student: Float[Tensor, "M C"],
    *,
    valid: Bool[Tensor, " M"] | None = None,
    weight: Float[Tensor, " M"] | None = None,
    epsilon: float = 0.05,
    iterations: int = 50,
    rows_cap: int = 256,
) -> Float[Tensor, ""]:
    """Sinkhorn divergence between the rows of both sides, the cost being 1 - cosine.

    It is 0 where both sides have the same rows *in any order*: it does not know which row belongs
    to which, so it goes beside a loss that does.

    Args:
        teacher: Targets, of any length; rows of length 0 are left out.
        student: Predictions.
        valid: Rows that were observed; all when None.
        weight: Masses of the rows, up to a factor; equal when None.
        epsilon: Strength of the entropy; smaller is sharper and needs more iterations.
        iterations: Sinkhorn updates.
        rows_cap: At most that many rows, evenly spaced, are compared: cost is its square.

    Raises:
        ValueError: If a weight is negative or a setting is out of range.

    Source:
        Chen et al., Wasserstein Contrastive Representation Distillation, CVPR 2021 (local
        transfer, primal form); made unbiased as in Feydy et al., Interpolating between
        Optimal Transport and MMD using Sinkhorn Divergences, AISTATS 2019.
    """
    check_sinkhorn(epsilon, iterations)
    kept, weight = observed_directions(teacher, valid, weight, rows_cap)
    if len(kept) == 0:
        return student[:0].sum()
    weight = weight / weight.max()
    mass = weight / weight.sum()
    x, y = direction(take(teacher, kept)), direction(take(student, kept))

    def between(a: Tensor, b: Tensor) -> Tensor:
        return sinkhorn(1 - a @ b.T, mass, mass, epsilon=epsilon, iterations=iterations)

    return between(x, y) - (between(x, x) + between(y, y)) / 2


class LipschitzCritic(nn.Module):
    """Wasserstein dependence of teacher and student rows, by a critic of Lipschitz constant 1.

    The critic g(t, s) = <A t, B s> of unit rows, with spectral norms of A and B at most 1, changes
    by no more than |t - t'| + |s - s'|. Critic and student together raise the mean of g over rows
    that belong together above its mean over all other pairs, so plain descent trains both.

    Args:
        channels: Width of both sides.
        width: Width of the critic's inner product.

    Raises:
        ValueError: If a width is below 1.

    Source:
        Chen et al., Wasserstein Contrastive Representation Distillation, CVPR 2021 (global
        transfer, dual form); Ozair et al., Wasserstein Dependency Measure for
        Representation Learning, NeurIPS 2019. Spectral norm: Miyato et al., ICLR 2018.
    """

    def __init__(self, channels: int, width: int = 128) -> None:
        super().__init__()
        if min(channels, width) < 1:
            msg = f"widths must be at least 1, not {channels} and {width}"
            raise ValueError(msg)
        start = nn.init.orthogonal_(torch.empty(width, channels))
        sides = [nn.Linear(channels, width, bias=False) for _ in range(2)]
        for linear in sides:
            # the same start on both sides: a critic that knows nothing yet compares directions
            linear.load_state_dict({"weight": start})
        self.teacher_side = parametrizations.spectral_norm(sides[0])
        self.student_side = parametrizations.spectral_norm(sides[1])

    def forward(
        self,
        teacher: Float[Tensor, "M C"],
        student: Float[Tensor, "M C"],
        *,
        valid: Bool[Tensor, " M"] | None = None,
        weight: Float[Tensor, " M"] | None = None,
        rows_cap: int = 1024,
    ) -> Float[Tensor, ""]:
        """2 minus the distance that the critic sees, which is at most 2: never negative.

        Args:
            teacher: Targets, of any length; rows of length 0 are left out.
            student: Predictions.
            valid: Rows that were observed; all when None.
            weight: Weights of rows; a pair weighs the product of its two. Equal when None.
            rows_cap: At most that many rows, evenly spaced, are compared: memory is its square.

        Raises:
            ValueError: If a weight is negative or `rows_cap` is below 1.
        """
        kept, weight = observed_directions(teacher, valid, weight, rows_cap)
        if len(kept) < 2:  # no pair that does not belong together
            return (take(student, kept) * 0).sum()
        told = self.teacher_side(direction(take(teacher, kept)))
        given = self.student_side(direction(take(student, kept)))
        scores = told @ given.T
        weight = weight / weight.max()
        pair = weight[:, None] * weight
        pair = pair - torch.diag(pair.diagonal())
        together = (weight * scores.diagonal()).sum() / weight.sum()
        apart = (pair * scores).sum() / pair.sum()
        return 2 - (together - apart)
