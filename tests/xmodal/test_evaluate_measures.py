"""Average precision, calibration, retrieval, matching, intervals: cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.evaluate import (
    OTHER,
    UNKNOWN,
    average_precision,
    average_precision_per_class,
    bootstrap,
    class_reliability,
    cluster_overlap,
    confusion,
    first_hit_rank,
    frequency_weighted_iou,
    harmonic_iou,
    instance_average_precision,
    instance_hits,
    interval,
    iou_of_occurring,
    iou_per_class,
    k_means,
    match_clusters,
    mean_known,
    overall_accuracy,
    recall_at,
    reliability,
    resampled,
    scene_draws,
    silent_classes,
)
from xmodal.evaluate.matching import nearest, principal_axes

NAN = float("nan")
# truth x answer; the last is "other"
TABLE = np.array([[2, 1, 0], [0, 1, 1], [1, 0, 4]])


# ---- segmentation ------------------------------------------------------------------------------


def test_overall_accuracy_counts_other_by_hand() -> None:
    assert overall_accuracy(TABLE) == 7 / 10


def test_frequency_weighted_iou_by_hand() -> None:
    # class 0: 2 / 4, three true points; class 1: 1 / 3, two true points
    assert frequency_weighted_iou(TABLE) == pytest.approx((3 * 0.5 + 2 / 3) / 5)


def test_harmonic_iou_by_hand() -> None:
    base, novel, both = harmonic_iou(TABLE, np.array([True, False]))
    assert (base, novel) == (0.5, pytest.approx(1 / 3))
    assert both == pytest.approx(2 * 0.5 / 3 / (0.5 + 1 / 3))


def test_harmonic_iou_of_two_zeros_is_zero_and_of_nothing_is_nan() -> None:
    wrong = confusion(np.array([1, 0]), np.array([0, 1]), 2)
    assert harmonic_iou(wrong, np.array([True, False])) == (0.0, 0.0, 0.0)
    assert np.isnan(harmonic_iou(TABLE, np.array([True, True]))[2])


def test_a_mean_is_over_classes_that_occur() -> None:
    table = confusion(np.array([0, 2, 1]), np.array([0, 0, 1]), 4)
    np.testing.assert_allclose(iou_per_class(table), [0.5, 1, 0, NAN])
    np.testing.assert_allclose(iou_of_occurring(table), [0.5, 1, NAN, NAN])
    np.testing.assert_allclose(iou_of_occurring(table[None]), [[0.5, 1, NAN, NAN]])


def test_silent_classes_occur_and_are_never_found() -> None:
    truth, given_ids = np.array([0, 0, 1, OTHER]), np.array([1, OTHER, 1, 2])
    table = confusion(given_ids, truth, 4)
    assert silent_classes(table, ["a", "b", "only answered", "absent"]) == ("a",)


def test_nothing_measured_is_nan_and_never_zero() -> None:
    table = confusion(np.array([0, 1]), np.full(2, UNKNOWN), 2)
    assert np.isnan(iou_per_class(table)).all()
    for value in (
        mean_known(iou_per_class(table)),
        overall_accuracy(table),
        frequency_weighted_iou(table),
    ):
        assert np.isnan(value)


# ---- ranking -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "positive", "wanted"),
    [
        ([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0], (1 + 2 / 3) / 2),
        ([0.9, 0.8], [1, 1], 1.0),
        ([0.9, 0.8], [0, 1], 0.5),
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0], 0.25),  # one step: no order among equals
        ([0.9, NAN], [0, 1], 0.5),  # not observed comes last
        ([NAN, NAN], [0, 0], NAN),
    ],
)
def test_average_precision_by_hand(scores: list[float], positive: list[int], wanted: float) -> None:
    found = average_precision(np.array(scores), np.array(positive, dtype=bool))
    assert found == pytest.approx(wanted, nan_ok=True)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30))
def test_average_precision_ignores_order_and_scale(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([float(score) for score, _ in rows])
    positive = np.array([hit for _, hit in rows])
    first = average_precision(scores, positive)
    again = average_precision(3 * scores[::-1] + 1, positive[::-1])
    assert first == pytest.approx(again, nan_ok=True)
    if positive.any():
        assert 0 < first <= 1


def test_average_precision_per_class_leaves_unknown_points_out() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [1.0, 1.0]], dtype=np.float32)
    truth = np.array([0, 1, UNKNOWN])
    np.testing.assert_allclose(average_precision_per_class(scores, truth), [1, 1])
    np.testing.assert_allclose(
        average_precision_per_class(scores, np.array([0, OTHER, OTHER])), [0.5, np.nan]
    )


def _masks(*rows: str) -> np.ndarray:
    return np.array([[c == "x" for c in row] for row in rows])


def test_instance_average_precision_by_hand() -> None:
    truth = _masks("xxxx....", "....xx..")
    masks = _masks("xxx.....", "xxxx....", "....x...", "......xx")
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    # IoU: 3/4 with the first; 1 with the first, which is taken; 1/2 with the second; none.
    found = instance_hits(masks, scores, truth, iou=0.5)
    assert found.hit.tolist() == [True, False, True, False]
    assert instance_average_precision([found]) == pytest.approx((1 + 2 / 3) / 2)
    strict = instance_hits(masks, scores, truth, iou=0.6)
    assert strict.hit.tolist() == [True, False, False, False]
    assert instance_average_precision([strict]) == 0.5
    assert instance_average_precision([found, strict]) == pytest.approx(
        (1 + 1 + 3 / 5) / 4  # scores 0.9 0.9 0.8 0.8 0.7 0.7 ...: hits at ranks 1, 2, 5
    )


def test_instances_of_nothing() -> None:
    none, one = np.zeros((0, 8), dtype=bool), _masks("xxxx....")
    nothing = np.zeros(0)
    assert instance_average_precision([instance_hits(none, nothing, one, iou=0.5)]) == 0
    assert np.isnan(instance_average_precision([instance_hits(one, np.ones(1), none, iou=0.5)]))


# ---- matching ----------------------------------------------------------------------------------


def test_hungarian_beats_taking_the_best_in_turn() -> None:
    # In turn: cluster 0 takes class 0 (10) and leaves 1; matched: 9 + 8.
    assert match_clusters(np.array([[10, 9], [8, 1]])).tolist() == [1, 0]


def test_left_over_clusters_are_other() -> None:
    assert match_clusters(np.array([[1], [5], [2]])).tolist() == [OTHER, 0, OTHER]


def test_overlap_by_hand() -> None:
    clusters, truth = np.array([0, 0, 1, -1, 1]), np.array([1, 1, 0, 0, UNKNOWN])
    assert cluster_overlap(clusters, truth, 2, 2).tolist() == [[0, 2], [1, 0]]


def test_k_means_finds_separate_heaps() -> None:
    generator = torch.Generator().manual_seed(3)
    heaps = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    rows = heaps.repeat_interleave(20, 0) + 0.1 * torch.randn(60, 2, generator=generator)
    labels = nearest(rows, k_means(rows, 3, seed=1)).reshape(3, 20)
    assert (labels == labels[:, :1]).all()
    assert len(labels[:, 0].unique()) == 3


def test_k_means_weighs_rows() -> None:
    rows = torch.tensor([[0.0], [1.0]])
    centre = k_means(rows, 1, weight=torch.tensor([3.0, 1.0]))
    assert centre.item() == 0.25


def test_k_means_of_fewer_distinct_rows_makes_fewer_clusters() -> None:
    assert len(k_means(torch.ones(5, 2), 3)) == 1


@pytest.mark.parametrize(("size", "k"), [(0, 2), (3, 0)])
def test_k_means_refuses_nothing(size: int, k: int) -> None:
    with pytest.raises(ValueError, match="k-means needs"):
        k_means(torch.zeros(size, 2), k)


def test_principal_axes_keep_the_widest_directions() -> None:
    rows = torch.tensor([[5.0, 0, 1], [-5, 0, 1], [0, 0.1, 1], [0, -0.1, 1]])
    axes = principal_axes(rows, 1)
    assert axes.abs().squeeze().tolist() == pytest.approx([1, 0, 0], abs=1e-6)


# ---- retrieval ---------------------------------------------------------------------------------


def test_ranks_by_hand() -> None:
    scores = np.array([[0.9, 0.5, 0.7], [0.1, 0.2, 0.3], [0.5, 0.5, 0.5], [1.0, 0.0, NAN]])
    relevant = np.array([[0, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=bool)
    ranks = first_hit_rank(scores, relevant)
    # second best; nothing to find; last among equals; not observed comes last
    assert ranks.tolist() == [2, 0, 3, 3]
    assert [recall_at(ranks, k) for k in (1, 2, 3)] == [0, pytest.approx(1 / 3), 1]


def test_recall_of_no_query_is_nan_and_of_no_place_refused() -> None:
    assert np.isnan(recall_at(np.zeros(3, dtype=np.int64), 1))
    with pytest.raises(ValueError, match="at least 1"):
        recall_at(np.ones(3, dtype=np.int64), 0)


# ---- calibration -------------------------------------------------------------------------------


def test_calibration_error_by_hand() -> None:
    # bin [0.8, 1]: two answers, mean 0.9, one right; bin [0.4, 0.6): one at 0.5, right
    confidence = np.array([0.8, 1.0, 0.5, NAN])
    found = reliability(confidence, np.array([True, False, True, True]), bins=5)
    assert found.count.tolist() == [0, 0, 1, 0, 2]
    assert float(found.error) == pytest.approx((0.8 + 0.5) / 3)


def test_perfect_and_shameless_confidence() -> None:
    right = np.array([True, True, False, False])
    assert float(reliability(np.full(4, 0.5), right).error) == 0
    assert float(reliability(np.ones(4), ~right & False).error) == 1
    assert np.isnan(float(reliability(np.zeros(0), np.zeros(0, dtype=bool)).error))


def test_reliability_of_parts_adds_up() -> None:
    random = np.random.default_rng(0)
    confidence, correct = random.random(40), random.random(40) < 0.5
    whole = reliability(confidence, correct)
    parts = reliability(confidence[:13], correct[:13]) + reliability(confidence[13:], correct[13:])
    assert float(whole.error) == pytest.approx(float(parts.error))


def test_class_wise_calibration_by_hand() -> None:
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.5, 0.5]])
    truth = np.array([0, 1, UNKNOWN])
    # class 0: two at 0.9, half right; class 1: two at 0.1, half right
    np.testing.assert_allclose(class_reliability(scores, truth).error, [0.4, 0.4])


@pytest.mark.parametrize("value", [-0.1, 1.2, 7.0])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        reliability(np.array([value]), np.array([True]))


# ---- intervals ---------------------------------------------------------------------------------


def test_draws_keep_the_number_of_scenes() -> None:
    draws = scene_draws(4, resamples=50)
    assert (draws.sum(1) == 4).all()
    assert (draws == scene_draws(4, resamples=50)).all()
    assert (draws != scene_draws(4, resamples=50, seed=1)).any()


def test_resampling_computes_from_totals_not_from_means() -> None:
    # IoU 1 with one point, IoU 0 with 99: the total is 0.01, the mean of scenes would be 0.5.
    tables = np.array([[[1, 0], [0, 0]], [[0, 99], [0, 0]]])
    both = resampled(tables, iou_per_class, np.array([[1, 1], [2, 0], [0, 2]]))
    assert both[:, 0].tolist() == [0.01, 1, 0]


def test_interval_leaves_undefined_samples_out() -> None:
    samples = np.array([[0.0, NAN], [NAN, NAN], [1.0, NAN]])
    low, high = interval(samples, level=0.5)
    assert (low[0], high[0]) == (0.25, 0.75)
    assert np.isnan(low[1])
    assert np.isnan(high[1])


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    random = np.random.default_rng(1)
    hard = random.integers(10, 90, 12)  # scenes differ far more than the two systems
    first = np.stack([np.array([[h, 100 - h], [0, 0]]) for h in hard])
    second = np.stack([np.array([[h + 3, 97 - h], [0, 0]]) for h in hard])
    draws = scene_draws(12)
    a, b = (resampled(tables, iou_per_class, draws) for tables in (first, second))
    (low_a, high_a), (low_d, high_d) = interval(a), interval(b - a)
    assert high_a[0] - low_a[0] > 0.1
    assert low_d[0] == pytest.approx(0.03)
    assert high_d[0] == pytest.approx(0.03)


def test_one_value_has_an_interval_of_no_width() -> None:
    assert bootstrap(np.array([0.5])) == (0.5, 0.5, 0.5)
