"""Measures: cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from xmodal.evaluate import (
    OTHER,
    UNKNOWN,
    Hit,
    Table,
    accuracy_per_class,
    assign,
    bootstrap,
    confusion,
    iou_per_class,
    localise,
)

TRUTH = np.array([0, 0, 0, 1, 1, OTHER, OTHER, UNKNOWN])
GIVEN = np.array([0, 0, 1, 1, OTHER, OTHER, 0, 1])


def test_confusion_by_hand() -> None:
    assert confusion(GIVEN, TRUTH, 2).tolist() == [[2, 1, 0], [0, 1, 1], [1, 0, 1]]


def test_iou_by_hand() -> None:
    # class 0: 2 of {3 true + 3 given - 2}; class 1: 1 of {2 + 2 - 1}
    np.testing.assert_allclose(iou_per_class(confusion(GIVEN, TRUTH, 2)), [2 / 4, 1 / 3])


def test_recall_by_hand() -> None:
    np.testing.assert_allclose(accuracy_per_class(confusion(GIVEN, TRUTH, 2)), [2 / 3, 1 / 2])


def test_a_class_that_never_occurs_does_not_count() -> None:
    table = confusion(np.array([0]), np.array([0]), 3)
    assert np.isnan(iou_per_class(table)).tolist() == [False, True, True]
    assert np.isnan(accuracy_per_class(table)).tolist() == [False, True, True]


def test_unknown_points_change_nothing() -> None:
    keep = TRUTH != UNKNOWN
    np.testing.assert_array_equal(
        confusion(GIVEN, TRUTH, 2), confusion(GIVEN[keep], TRUTH[keep], 2)
    )


def test_assign_takes_the_best_or_other() -> None:
    nan = np.nan
    scores = np.array([[0.2, 0.5], [0.6, 0.1], [0.1, 0.1], [nan, nan]], dtype=np.float32)
    other = np.array([0.3, 0.3, 0.3, nan], dtype=np.float32)
    assert assign(scores, other).tolist() == [1, 0, OTHER, OTHER]


BOXES = {"table": [(0.0, 0.0, 100.0, 100.0)], "mug": [(10.0, 10.0, 20.0, 20.0)]}


@pytest.mark.parametrize(
    ("peak", "text", "plain", "strict"),
    [
        ((50.0, 50.0), "table", True, True),
        ((15.0, 15.0), "table", True, False),  # on the mug, which is smaller
        ((15.0, 15.0), "mug", True, True),  # inside the table, which is larger
        ((50.0, 50.0), "mug", False, False),
        ((20.0, 15.0), "mug", False, False),  # the right border is outside
        ((10.0, 10.0), "mug", True, True),  # the left border is inside
        (None, "mug", False, False),
    ],
)
def test_localise_by_hand(
    peak: tuple[float, float] | None, text: str, plain: bool, strict: bool
) -> None:
    assert localise(peak, text, BOXES) == Hit(plain=plain, strict=strict)


def test_bootstrap_surrounds_the_mean() -> None:
    values = np.array([0.0, 1.0] * 20)
    mean, low, high = bootstrap(values)
    assert mean == 0.5
    assert 0.3 < low < 0.5 < high < 0.7
    assert bootstrap(values) == (mean, low, high)


def test_bootstrap_of_nothing_is_nan() -> None:
    assert all(np.isnan(bootstrap(np.array([np.nan]))))


def test_table_in_three_forms() -> None:
    table = Table("IoU", ("object", "lifted"), (("mug", 0.5), ("bowl", float("nan"))))
    assert table.text().splitlines() == [
        "IoU", "  object  lifted", "  ------  ------", "  mug      0.500", "  bowl         -",
    ]  # fmt: skip
    assert "| mug | 0.500 |" in table.markdown()
    assert table.csv() == "object,lifted\nmug,0.500000\nbowl,-\n"
