"""Which proposed mask stands for which true one, and how far it is from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from detectors.heads import MaskPrediction

# Weights of the sources: dice 2, binary cross-entropy 5, a query without object 0.1.
_DICE, _BCE, _NO_OBJECT = 2.0, 5.0, 0.1


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of one sample: `query[i]` stands for true mask `mask[i]`."""

    query: Int[Tensor, " P"]
    mask: Int[Tensor, " P"]


@dataclass(frozen=True, eq=False)
class MaskLoss:
    """How far proposed masks are from true ones.

    Attributes:
        total: Weighted sum of the parts.
        bce: Binary cross-entropy, mean over points and matched pairs.
        dice: One minus the soft Dice coefficient, mean over matched pairs.
        score: Binary cross-entropy of the queries' scores.
        matches: One for each sample, for losses on the rows of matched queries.
    """

    total: Float[Tensor, ""]
    bce: Float[Tensor, ""]
    dice: Float[Tensor, ""]
    score: Float[Tensor, ""]
    matches: list[Matches]


@torch.no_grad()
def match_masks(logits: Float[Tensor, "K N"], masks: Float[Tensor, "G N"]) -> Matches:
    """The pairs of queries and true masks with the least sum of distances (Hungarian method).

    Args:
        logits: Of each query for each point.
        masks: 1 where a point belongs to a true mask, else 0. The smaller of K and G is matched
            whole.

    Raises:
        ValueError: If logits and masks are not on the same points, or logits are not finite.

    Source:
        Cheng et al., Per-Pixel Classification is Not All You Need (MaskFormer), NeurIPS 2021,
        section 3.2.
    """
    if logits.shape[1] != masks.shape[1] or not bool(logits.isfinite().all()):
        msg = (
            f"finite logits and masks on the same points are wanted, not logits for "
            f"{logits.shape[1]} points ({int((~logits.isfinite()).sum())} not finite) and masks of "
            f"{masks.shape[1]}"
        )
        raise ValueError(msg)
    num = max(1, masks.shape[1])
    # -log p = softplus(-x) for members and softplus(x) for the rest; softplus(-x) = softplus(x) - x
    bce = (functional.softplus(logits).sum(dim=1)[:, None] - logits @ masks.T) / num
    probability = logits.sigmoid()
    total = probability.sum(dim=1)[:, None] + masks.sum(dim=1)[None]
    dice = 1.0 - (2.0 * probability @ masks.T + 1.0) / (total + 1.0)
    query, mask = linear_sum_assignment((_BCE * bce + _DICE * dice).double().cpu().numpy())
    to = logits.device
    return Matches(torch.from_numpy(query).to(to), torch.from_numpy(mask).to(to))


def mask_loss(
    prediction: MaskPrediction,
    masks: Sequence[Float[Tensor, "_ _"]],
    offsets: Int[Tensor, " B1"],
) -> MaskLoss:
    """Match the masks of each sample and compare the pairs.

    Args:
        prediction: From a mask head.
        masks: True masks of each sample `[G, N of the sample]`, 1 for members; G may be 0.
        offsets: Where each sample's points begin and end.

    Raises:
        ValueError: If masks and samples do not fit each other, or logits are not finite.

    Source:
        Schult et al., Mask3D, ICRA 2023, section III-C; Milletari et al., V-Net, 3DV 2016 (dice).
    """
    parts = prediction.logits.split(offsets.diff().tolist(), dim=1)
    if len(parts) != len(masks):
        msg = f"{len(parts)} samples, but true masks of {len(masks)}"
        raise ValueError(msg)
    matches = [match_masks(part, true) for part, true in zip(parts, masks, strict=True)]
    zero = prediction.logits.sum() * 0.0
    bce, dice, object_ = [zero], [zero], torch.zeros_like(prediction.score)
    for sample, (part, true, pair) in enumerate(zip(parts, masks, matches, strict=True)):
        object_[sample, pair.query] = 1.0
        if part.shape[1] == 0:
            continue
        given, wanted = part[pair.query], true[pair.mask]
        each = functional.binary_cross_entropy_with_logits(given, wanted, reduction="none")
        bce.append(each.mean(dim=1).sum())
        probability = given.sigmoid()
        overlap = 2.0 * (probability * wanted).sum(dim=1) + 1.0
        dice.append((1.0 - overlap / (probability.sum(dim=1) + wanted.sum(dim=1) + 1.0)).sum())
    pairs = max(1, sum(len(pair.query) for pair in matches))
    weight = object_ + (1.0 - object_) * _NO_OBJECT
    score = functional.binary_cross_entropy_with_logits(
        prediction.score, object_, weight=weight, reduction="sum"
    ) / weight.sum().clamp_min(1e-6)
    bce_mean, dice_mean = torch.stack(bce).sum() / pairs, torch.stack(dice).sum() / pairs
    total = _BCE * bce_mean + _DICE * dice_mean + score
    return MaskLoss(total, bce_mean, dice_mean, score, matches)
