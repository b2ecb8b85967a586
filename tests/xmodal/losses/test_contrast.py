"""Contrast and relations: cases worked by hand, queues, draws, what is left out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from xmodal.losses import (
    QueueContrast,
    affinity,
    decoupled,
    info_nce,
    multi_scale,
    sampled_info_nce,
    segment_contrast,
    similarity,
)

E1, E2 = [1.0, 0.0], [0.0, 1.0]
AXES = torch.tensor([E1, E2])
LN = math.log


def rows(seed: int, num: int = 8, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, width, generator=generator, dtype=torch.float64)


# InfoNCE.


def test_info_nce_by_hand() -> None:
    # logits of both rows are 1 and 0: -log(e / (e + 1))
    expected = LN(1 + math.exp(-1))
    assert float(info_nce(AXES, 3 * AXES, temperature=1.0)) == pytest.approx(expected)
    # half the temperature: logits 2 and 0
    assert float(info_nce(AXES, AXES, temperature=0.5)) == pytest.approx(LN(1 + math.exp(-2)))
    # both students point to the first teacher: one is right, one is wrong
    wrong = LN(1 + math.e)
    student = torch.tensor([E1, E1])
    got = info_nce(AXES, student, temperature=1.0)
    assert float(got) == pytest.approx((expected + wrong) / 2)
    got = info_nce(AXES, student, temperature=1.0, weight=torch.tensor([1.0, 3.0]))
    assert float(got) == pytest.approx((expected + 3 * wrong) / 4)


def test_one_row_has_nothing_to_be_told_from() -> None:
    assert float(info_nce(rows(0, 1), rows(1, 1))) == 0.0


def test_soft_targets_by_hand() -> None:
    # shares are those of the teacher's own soft-max over cosines 1 and 0
    right, wrong = LN(1 + math.exp(-1)), LN(1 + math.e)
    p = math.e / (math.e + 1)
    got = info_nce(AXES, AXES, temperature=1.0, soft=True)
    assert float(got) == pytest.approx(p * right + (1 - p) * wrong)
    got = info_nce(AXES, AXES.flip(0), temperature=1.0, soft=True)
    assert float(got) == pytest.approx(p * wrong + (1 - p) * right)


@pytest.mark.parametrize("loss", [info_nce, sampled_info_nce])
def test_soft_targets_are_met_by_the_teacher_itself(loss: Any) -> None:
    student = rows(0).requires_grad_()
    loss(rows(0), student, soft=True).backward()
    assert student.grad.abs().max() < 1e-9


def test_alike_rows_are_no_negatives() -> None:
    twice = torch.tensor([E1, E1, E2])
    got = info_nce(twice, twice, temperature=1.0, ignore_above=0.9)
    # rows of the first two are told from the third alone, which is told from both
    pair, triple = LN(1 + math.exp(-1)), LN(1 + 2 * math.exp(-1))
    assert float(got) == pytest.approx((2 * pair + triple) / 3)


def test_a_cap_takes_evenly_spaced_rows() -> None:
    chosen = torch.tensor([0, 2, 5])
    got = info_nce(rows(0), rows(1), rows_cap=3)
    torch.testing.assert_close(got, info_nce(rows(0)[chosen], rows(1)[chosen]))


# Drawn negatives.


def test_all_drawn_is_the_whole_batch() -> None:
    for settings in ({}, {"soft": True}, {"ignore_above": 0.2}):
        got = sampled_info_nce(rows(0), rows(1), num_negatives=8, **settings)
        torch.testing.assert_close(got, info_nce(rows(0), rows(1), **settings))


def test_draws_follow_the_generator_and_bound_the_loss() -> None:
    torch.manual_seed(3)
    first = sampled_info_nce(rows(0, 600), rows(1, 600), num_negatives=4)
    torch.manual_seed(3)
    again = sampled_info_nce(rows(0, 600), rows(1, 600), num_negatives=4)
    other = sampled_info_nce(rows(0, 600), rows(1, 600), num_negatives=4)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # fewer negatives than all: an easier question
    assert float(first) < float(info_nce(rows(0, 600), rows(1, 600)))


# The queue.


def test_an_empty_queue_asks_nothing_and_fills() -> None:
    queue = QueueContrast(2, 4)
    assert float(queue(AXES, -AXES)) == 0.0
    # now both axes wait in the queue: logits of a row are 1 (own), 1 and 0 (queue)
    got = queue(AXES, AXES, temperature=1.0)
    assert float(got) == pytest.approx(LN(2 + math.exp(-1)))
    assert int(queue.count) == 4


def test_the_oldest_leave_first() -> None:
    queue = QueueContrast(1, 3, per_call=2)
    for value in ([1.0, 1.0], [-1.0, -1.0]):
        queue(torch.tensor(value)[:, None], torch.tensor(value)[:, None])
    # places 0 1 2 held 1, 1, -1; the fourth overwrote place 0
    assert queue.filled().squeeze(1).tolist() == [-1.0, 1.0, -1.0]


def test_a_step_enters_no_more_than_its_share() -> None:
    queue = QueueContrast(5, 100, per_call=4)
    queue(rows(0).float(), rows(1).float())
    assert len(queue.filled()) == 4


def test_outside_training_the_queue_stays() -> None:
    queue = QueueContrast(2, 4)
    queue(AXES, AXES)
    queue.eval()
    queue(-AXES, AXES)
    assert torch.equal(queue.filled(), AXES)


def test_a_queue_survives_a_checkpoint() -> None:
    queue, twin = QueueContrast(5, 16), QueueContrast(5, 16)
    queue(rows(0).float(), rows(1).float())
    twin.load_state_dict(queue.state_dict())
    assert torch.equal(
        twin(rows(2).float(), rows(3).float()), queue(rows(2).float(), rows(3).float())
    )


def test_a_bad_row_enters_no_queue() -> None:
    queue, spoilt = QueueContrast(2, 4), AXES.clone()
    spoilt[0, 0] = math.nan
    assert math.isnan(float(queue(spoilt, AXES) + queue(spoilt, AXES)))
    assert torch.isfinite(queue.filled()).all()


def test_gradients_reach_the_student_though_the_queue_moves_on() -> None:
    queue = QueueContrast(5, 4)
    queue(rows(0).float(), rows(1).float())
    student = rows(1).float().requires_grad_()
    first = queue(rows(0).float(), student)
    second = queue(rows(2).float(), student)
    (first + second).backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().sum() > 0


# Relations.


def test_similarity_by_hand() -> None:
    # the teacher's cosine is 0, the student's 0.6; both pairs count, the diagonal does not
    student = torch.tensor([[2.0, 0.0], [0.6, 0.8]])
    assert float(similarity(AXES, student)) == pytest.approx(0.36)


def test_similarity_weighs_pairs_by_both() -> None:
    teacher = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    student = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 0, 1.0]])
    # one of the three pairs is wrong by 1; it weighs 2 x 3 of 2 x 3 + 2 x 5 + 3 x 5
    got = similarity(teacher, student, weight=torch.tensor([2.0, 3.0, 5.0]))
    assert float(got) == pytest.approx(6 / 31)


def test_affinity_by_hand() -> None:
    # from row 0: the teacher sees cosines 1 and 0, the student 0 and 1
    teacher = torch.tensor([E1, E1, E2])
    student = torch.tensor([E1, E2, E1])
    p = math.e / (math.e + 1)
    crossed = p * LN(p / (1 - p)) + (1 - p) * LN((1 - p) / p)
    # row 1: teacher 1, 0 (sharp), student 0, 0 (even); row 2: teacher 0, 0, student 1, 0
    sharp = p * LN(2 * p) + (1 - p) * LN(2 * (1 - p))
    even = 0.5 * LN(0.5 / p) + 0.5 * LN(0.5 / (1 - p))
    got = affinity(teacher, student, temperature=1.0)
    assert float(got) == pytest.approx((crossed + sharp + even) / 3)


@pytest.mark.parametrize("loss", [similarity, affinity])
def test_relations_know_neither_width_nor_turn(loss: Any) -> None:
    turn, _ = torch.linalg.qr(rows(3, 9, 9))
    wide = torch.nn.functional.pad(rows(0), (0, 4)) @ turn
    assert float(loss(rows(0), 3 * wide)) == pytest.approx(0.0, abs=1e-12)


# Super-points.


def test_segments_are_averaged_by_weight() -> None:
    # segment 7: (E1 + 3 E2) / 4 by weight; -1 is no segment
    teacher = torch.tensor([E1, E2, [-1.0, 0.0], [9.0, 9.0]])
    segments, weight = torch.tensor([7, 7, 2, -1]), torch.tensor([1.0, 3.0, 1.0, 1.0])
    mean = torch.tensor([[-1.0, 0.0], [0.25, 0.75]])
    got = segment_contrast(teacher, teacher, segments, weight=weight)
    torch.testing.assert_close(got, info_nce(mean, mean))


# Decoupled.


def test_decoupled_by_hand() -> None:
    # two rows: the rest is one row, so `others` adds nothing; teacher 1, 0 and student 0, 1
    p = math.e / (math.e + 1)
    crossed = p * LN(p / (1 - p)) + (1 - p) * LN((1 - p) / p)
    for others in (0.0, 5.0):
        got = decoupled(AXES, AXES.flip(0), temperature=1.0, target=2.0, others=others)
        assert float(got) == pytest.approx(2 * crossed)


def test_both_parts_make_up_the_whole_divergence() -> None:
    # KL(p || q) = binary KL + (1 - p_own) KL of the rest
    teacher, student = rows(0, 2), rows(1, 2)
    teacher, student = torch.cat([teacher, rows(2, 1)]), torch.cat([student, rows(3, 1)])
    keys = torch.nn.functional.normalize(teacher)
    told = (keys @ keys.T / 0.5).log_softmax(1)
    given = (torch.nn.functional.normalize(student) @ keys.T / 0.5).log_softmax(1)
    whole = (told.exp() * (told - given)).sum(1)
    for row in range(3):
        only = torch.arange(3) == row
        parts = [
            decoupled(teacher, student, weight=only * 1.0 + 1e-30, temperature=0.5, **factors)
            for factors in ({"target": 1.0, "others": 0.0}, {"target": 0.0, "others": 1.0})
        ]
        rest = 1 - told[row, row].exp()
        torch.testing.assert_close(parts[0] + rest * parts[1], whole[row])


def test_scales_are_averaged() -> None:
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    pooled = [
        torch.stack([part.mean(0) for part in r.split([3, 3, 2])]) for r in (rows(0), rows(1))
    ]
    expected = (decoupled(rows(0), rows(1)) + decoupled(*pooled)) / 2
    torch.testing.assert_close(multi_scale(rows(0), rows(1), [None, groups]), expected)


def test_a_whole_alone_is_told_from_its_rows() -> None:
    one = torch.zeros(8, dtype=torch.int64)
    student = rows(1).requires_grad_()
    got = multi_scale(rows(0), student, [one])
    got.backward()
    assert got.item() > 0
    assert student.grad.abs().sum() > 0
    assert float(multi_scale(rows(0), rows(0), [one])) == pytest.approx(0.0, abs=1e-12)


# What is refused.


@pytest.mark.parametrize("loss", [info_nce, sampled_info_nce, QueueContrast(5).double(), affinity])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_none_is_refused(loss: Any, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        loss(rows(0), rows(1), temperature=temperature)


@pytest.mark.parametrize("loss", [info_nce, sampled_info_nce, QueueContrast(5).double()])
def test_two_cares_for_alike_rows_are_refused(loss: Any) -> None:
    with pytest.raises(ValueError, match="choose one"):
        loss(rows(0), rows(1), soft=True, ignore_above=0.9)
    with pytest.raises(ValueError, match="cosine"):
        loss(rows(0), rows(1), ignore_above=1.5)


@pytest.mark.parametrize("loss", [info_nce, similarity, affinity, decoupled])
@pytest.mark.parametrize("cap", [0, -3])
def test_a_cap_below_one_is_refused(loss: Any, cap: int) -> None:
    with pytest.raises(ValueError, match="rows_cap"):
        loss(rows(0), rows(1), rows_cap=cap)


def test_no_negatives_are_refused() -> None:
    with pytest.raises(ValueError, match="num_negatives"):
        sampled_info_nce(rows(0), rows(1), num_negatives=0)


@pytest.mark.parametrize("sizes", [(0, 4, 4), (2, 0, 4), (2, 4, 0)])
def test_a_queue_without_room_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        QueueContrast(*sizes)


@pytest.mark.parametrize("factors", [(0.0, 0.0), (-1.0, 1.0), (1.0, math.nan)])
def test_factors_that_mean_nothing_are_refused(factors: tuple[float, float]) -> None:
    for loss in (decoupled, lambda t, s, **k: multi_scale(t, s, [None], **k)):
        with pytest.raises(ValueError, match="not both 0"):
            loss(rows(0), rows(1), target=factors[0], others=factors[1])
