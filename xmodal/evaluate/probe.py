"""Linear probes: what a straight line can read off frozen rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor, nn

Reals = NDArray[np.float64]
Ids = NDArray[np.int64]

# Strength of the penalty on weights, for standardised rows and the mean loss of a row.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
# Where nothing can be validated, as of one row for each class: the middle of the above.
UNCHOSEN = 1e-2
FOLDS = 5
_STEPS = 100
# Columns that hardly vary are not blown up.
_LEAST_STD = 1e-6


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier on standardised rows.

    Attributes:
        mean: Of the training rows.
        std: Of the training rows.
        weight: One column for each class.
        bias: One for each class.
        strength: Of the penalty, as cross-validation chose it.
        validated_loss: Mean log loss of rows left out in it, in nats; NaN where nothing could be.
    """

    mean: Float[Tensor, " C"]
    std: Float[Tensor, " C"]
    weight: Float[Tensor, "C K"]
    bias: Float[Tensor, " K"]
    strength: float
    validated_loss: float

    def logits(self, rows: Float[Tensor, "N C"]) -> Float[Tensor, "N K"]:
        """Logit of every class."""
        return ((rows.double() - self.mean) / self.std) @ self.weight + self.bias

    def scores(self, rows: Float[Tensor, "N C"]) -> Float64[Reals, "N K"]:
        """Probability of every class."""
        return self.logits(rows).softmax(dim=1).numpy()


def fit_probe(
    rows: Float[Tensor, "N C"],
    truth: Int64[Ids, " N"],
    groups: Sequence[str],
    num_classes: int,
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> Probe:
    """Fit multinomial logistic regression, its penalty chosen without the rows it is judged by.

    Cross-validation leaves whole groups out, where there are two or more; else rows by chance. The
    log loss decides, as it also sees how sure the answers are: accuracy of few rows is the same for
    many strengths. Rows of a class that none of the others has do not count.

    Args:
        rows: Frozen rows of the training samples.
        truth: Class of each.
        groups: What must not be torn, such as the subject.
        num_classes: Number of classes; some may not occur.
        strengths: Penalties to choose from; one alone is taken as it is.
        seed: Of folds by chance.

    Raises:
        ValueError: If there are no rows, or fewer than two classes occur.

    Source:
        Alain and Bengio, Understanding Intermediate Layers Using Linear Classifier Probes, 2016;
        logistic regression with a validated penalty as in Radford et al., CLIP, ICML 2021, A.3.
    """
    if len(np.unique(truth)) < 2:
        msg = f"a probe needs rows of two classes at least, not {len(np.unique(truth))}"
        raise ValueError(msg)
    rows, classes = rows.double(), torch.from_numpy(truth)
    folds = _folds(groups, seed)
    if len(strengths) == 1:
        return _fit(rows, classes, num_classes, float(strengths[0]), float("nan"))
    losses = [_validated(rows, classes, folds, num_classes, s) for s in strengths]
    if np.isnan(losses[0]):
        return _fit(rows, classes, num_classes, UNCHOSEN, float("nan"))
    best = int(np.argmin(losses))
    return _fit(rows, classes, num_classes, float(strengths[best]), losses[best])


def _folds(groups: Sequence[str], seed: int) -> Ids:
    """Number of the fold that each row is left out in."""
    names = sorted(set(groups))
    if len(names) < 2:
        mixed = np.random.default_rng(seed).permutation(len(groups))
        return (mixed % min(FOLDS, max(1, len(groups)))).astype(np.int64)
    of_group = {name: i % FOLDS for i, name in enumerate(names)}
    return np.array([of_group[group] for group in groups], dtype=np.int64)


def _validated(
    rows: Tensor, classes: Tensor, folds: Ids, num_classes: int, strength: float
) -> float:
    """Mean log loss of rows when their fold is left out; NaN where that can be said of none."""
    losses: list[Tensor] = []
    for fold in np.unique(folds):
        out = torch.from_numpy(folds == fold)
        known = torch.zeros(num_classes, dtype=torch.bool)
        known[classes[~out]] = True
        judged = out & known[classes]
        if int(known.sum()) < 2 or not bool(judged.any()):
            continue
        probe = _fit(rows[~out], classes[~out], num_classes, strength, float("nan"))
        losses.append(
            nn.functional.cross_entropy(
                probe.logits(rows[judged]), classes[judged], reduction="none"
            )
        )
    return float(torch.cat(losses).mean()) if losses else float("nan")


def _fit(rows: Tensor, classes: Tensor, num_classes: int, strength: float, found: float) -> Probe:
    mean, std = rows.mean(dim=0), rows.std(dim=0, correction=0).clamp_min(_LEAST_STD)
    seen = (rows - mean) / std
    weight = torch.zeros(rows.shape[1], num_classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)
    optimiser: Any = torch.optim.LBFGS(
        [weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = seen @ weight + bias
        value = nn.functional.cross_entropy(logits, classes) + strength * weight.square().sum() / 2
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    return Probe(mean, std, weight.detach(), bias.detach(), strength, found)
