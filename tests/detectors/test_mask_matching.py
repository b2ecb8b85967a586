"""Matching of masks: pairs and losses by hand."""

from __future__ import annotations

import math

import pytest
import torch

from detectors.heads import MaskPrediction
from detectors.mask_matching import mask_loss, match_masks

MASKS = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 1]])


def prediction(logits: torch.Tensor, samples: int = 1) -> MaskPrediction:
    num = len(logits)
    return MaskPrediction(logits, torch.zeros(samples, num, 2), torch.zeros(samples, num))


def test_each_true_mask_gets_the_query_that_shows_it() -> None:
    logits = torch.stack([torch.zeros(4), MASKS[1] * 10 - 5, MASKS[0] * 10 - 5])
    pair = match_masks(logits, MASKS)
    assert pair.query.tolist() == [1, 2]
    assert pair.mask.tolist() == [1, 0]


def test_fewer_queries_than_masks_take_what_fits_them_best() -> None:
    pair = match_masks((MASKS[1] * 10 - 5)[None], MASKS)
    assert (pair.query.tolist(), pair.mask.tolist()) == ([0], [1])


def test_losses_by_hand() -> None:
    # One query, all logits 0: every probability is 1/2.
    loss = mask_loss(prediction(torch.zeros(1, 4)), [MASKS[:1]], torch.tensor([0, 4]))
    assert float(loss.bce) == pytest.approx(math.log(2))
    # Overlap 2 * (1/2 * 2) + 1 = 3 over sizes 2 + 2 + 1 = 5.
    assert float(loss.dice) == pytest.approx(1 - 3 / 5)
    assert float(loss.score) == pytest.approx(math.log(2))
    expected = 5 * math.log(2) + 2 * (1 - 3 / 5) + math.log(2)
    assert float(loss.total) == pytest.approx(expected)


def test_a_right_answer_costs_nothing() -> None:
    logits = MASKS * 200 - 100
    given = MaskPrediction(logits, torch.zeros(1, 2, 2), torch.full((1, 2), 100.0))
    loss = mask_loss(given, [MASKS], torch.tensor([0, 4]))
    assert float(loss.total) == pytest.approx(0, abs=1e-6)


def test_queries_without_object_count_a_tenth_in_the_score() -> None:
    given = MaskPrediction(
        torch.stack([MASKS[0] * 10 - 5, torch.zeros(4)]),
        torch.zeros(1, 2, 2),
        torch.tensor([[100.0, 0.0]]),
    )
    loss = mask_loss(given, [MASKS[:1]], torch.tensor([0, 4]))
    assert float(loss.score) == pytest.approx(0.1 * math.log(2) / 1.1)


def test_samples_are_matched_by_themselves() -> None:
    logits = torch.cat([MASKS, MASKS.flip(0)], dim=1) * 10 - 5
    loss = mask_loss(prediction(logits, 2), [MASKS, MASKS], torch.tensor([0, 4, 8]))
    assert [pair.mask.tolist() for pair in loss.matches] == [[0, 1], [1, 0]]


@pytest.mark.parametrize("num", [0, 4])
def test_a_sample_without_masks_or_points_teaches_the_score_only(num: int) -> None:
    logits = torch.zeros(2, num, requires_grad=True)
    loss = mask_loss(prediction(logits), [torch.zeros(0, num)], torch.tensor([0, num]))
    assert float(loss.bce.detach()) == float(loss.dice.detach()) == 0
    assert float(loss.total.detach()) == pytest.approx(math.log(2))


def test_gradients_are_right() -> None:
    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    score = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)

    def total(logits: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
        given = MaskPrediction(logits, torch.zeros(1, 2, 2), score)
        return mask_loss(given, [MASKS.double()], torch.tensor([0, 4])).total

    assert torch.autograd.gradcheck(total, (logits, score))


@pytest.mark.parametrize(
    ("logits", "masks"),
    [
        (torch.zeros(2, 4), torch.zeros(2, 3)),
        (torch.full((2, 4), float("nan")), MASKS),
        (torch.full((2, 4), float("inf")), MASKS),
    ],
)
def test_what_cannot_be_matched_is_refused(logits: torch.Tensor, masks: torch.Tensor) -> None:
    # The shape check of tests speaks first where widths differ (TypeError).
    with pytest.raises((ValueError, TypeError), match=r"same points|masks"):
        match_masks(logits, masks)


def test_masks_of_another_number_of_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="1 samples, but true masks of 2"):
        mask_loss(prediction(torch.zeros(2, 4)), [MASKS, MASKS], torch.tensor([0, 4]))
