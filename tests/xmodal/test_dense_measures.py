"""Measures of dense maps, against cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from xmodal.evaluate.dense import cell_classes, class_tables, depth_errors, mean_iou


def test_depths_worked_by_hand() -> None:
    truth = np.array([[2.0, 4.0, 0.0], [1.0, 2.0, 5.0]])
    given = np.array([[2.0, 5.0, 9.0], [1.2, 4.0, 5.0]])
    known = np.array([[True, True, True], [True, True, False]])
    rmse, relative, near = depth_errors(given, truth, known, ["a", "b"])
    # cells that count: 2-2, 4-5, 1-1.2, 2-4; no reading at 0, and one is not known
    assert rmse[0] == pytest.approx(np.sqrt((0 + 1 + 0.04 + 4) / 4))
    assert relative[0] == pytest.approx((0 + 0.25 + 0.2 + 1) / 4)
    assert near[0] == pytest.approx(2 / 4)  # a factor of exactly 1.25 is too far
    assert rmse[1] <= rmse[0] <= rmse[2]


def test_depths_below_zero_are_within_no_factor() -> None:
    _, _, near = depth_errors(np.array([[-1.0]]), np.array([[1.0]]), np.array([[True]]), ["a"])
    assert near[0] == 0


def test_nothing_known_is_undefined() -> None:
    nothing = np.zeros((1, 2))
    found = depth_errors(nothing, nothing + 1, np.zeros((1, 2), dtype=bool), ["a"])
    assert all(np.isnan(part[0]) for part in found)


def test_classes_worked_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1]])
    given = np.array([[0, 1, 1, 2]])
    accuracy, mean, each = cell_classes(given, truth, np.ones((1, 4), dtype=bool), ["a"], 3)
    assert accuracy[0] == 0.5
    assert each[:2].tolist() == [0.5, pytest.approx(1 / 3)]
    assert np.isnan(each[2])  # it does not occur
    assert mean[0] == pytest.approx((0.5 + 1 / 3) / 2)


def test_cells_that_are_not_known_do_not_count() -> None:
    truth, given = np.array([[0, 1]]), np.array([[0, 0]])
    accuracy, _, _ = cell_classes(given, truth, np.array([[True, False]]), ["a"], 2)
    assert accuracy[0] == 1.0


def test_no_answer_is_wrong() -> None:
    truth, given = np.array([[0, 0, 1]]), np.array([[0, -1, 1]])
    tables = class_tables(given, truth, np.ones((1, 3), dtype=bool), 2)
    assert tables.tolist() == [[[1, 0, 1], [0, 1, 0]]]
    assert mean_iou(tables)[0] == pytest.approx((1 / 2 + 1) / 2)
    accuracy, mean, _ = cell_classes(given, truth, np.ones((1, 3), dtype=bool), ["a"], 2)
    assert accuracy[0] == pytest.approx(2 / 3)
    assert mean[0] == pytest.approx(3 / 4)


def test_intervals_are_over_groups() -> None:
    truth = np.zeros((4, 1), dtype=np.int64)
    given = np.array([[0], [0], [1], [1]])
    accuracy, _, _ = cell_classes(given, truth, np.ones((4, 1), dtype=bool), list("aabb"), 2)
    assert accuracy == (0.5, 0.0, 1.0)
