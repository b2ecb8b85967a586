"""Queries: texts, clusters, ensembles and the form of the answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xmodal.errors import UsageError
from xmodal.query import (
    check_text,
    describe,
    ensemble,
    find_objects,
    vector_scores,
    write_objects,
    write_scores,
)


def grid_points(centre: tuple[float, float, float], side: int = 4) -> np.ndarray:
    steps = np.arange(side) * 0.02
    cells = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    return (cells - cells.mean(0) + np.array(centre)).astype(np.float32)


TWO = np.concatenate([grid_points((0, 0, 0)), grid_points((1, 0, 0), side=3)])
SCORES = np.concatenate([np.full(64, 0.8), np.full(27, 0.6)]).astype(np.float32)
VIEWS = np.full(91, 3, dtype=np.int32)


def test_two_clusters_are_two_objects_best_first() -> None:
    objects = find_objects(TWO, SCORES, VIEWS, threshold=0.5)
    assert [found.num_points for found in objects] == [64, 27]
    assert objects[0].centre_m == (0.0, 0.0, 0.0)
    np.testing.assert_allclose(objects[0].size_m, 0.06, atol=1e-6)
    assert objects[0].coverage == 3


def test_the_threshold_is_a_share_of_the_best() -> None:
    assert len(find_objects(TWO, SCORES, VIEWS, threshold=0.9)) == 1
    assert len(find_objects(TWO, SCORES * 0.01, VIEWS, threshold=0.5)) == 2


def test_top_limits_the_answer() -> None:
    assert len(find_objects(TWO, SCORES, VIEWS, threshold=0.5, top=1)) == 1


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_nothing_relevant_is_no_object(value: float) -> None:
    assert find_objects(TWO, np.full(91, value, np.float32), VIEWS, threshold=0.5) == []
    assert "nothing" in describe([], "mug", "lifted")


def test_unobserved_points_belong_to_no_object() -> None:
    scores = SCORES.copy()
    scores[64:] = np.nan
    assert len(find_objects(TWO, scores, VIEWS, threshold=0.5)) == 1


def test_one_stray_point_is_no_object_beside_a_real_one() -> None:
    xyz = np.concatenate([TWO[:64], [[5, 5, 5]]]).astype(np.float32)
    scores = np.full(65, 0.8, dtype=np.float32)
    assert len(find_objects(xyz, scores, np.ones(65, np.int32), threshold=0.5)) == 1


def test_ensemble_is_the_mean_of_what_is_known() -> None:
    a = np.array([0.2, np.nan, np.nan], dtype=np.float32)
    b = np.array([0.4, 0.6, np.nan], dtype=np.float32)
    np.testing.assert_allclose(ensemble([a, b]), [0.3, 0.6, np.nan], rtol=1e-6)


def test_vector_scores_are_clipped_cosines() -> None:
    rows = torch.tensor([[2.0, 0.0], [0.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    scores = vector_scores(rows, torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    expected = [[1, 0], [0, 0], [0, 0], [0.5**0.5, 0.5**0.5]]
    torch.testing.assert_close(scores, torch.tensor(expected))


@given(st.text(max_size=1200))
@settings(deadline=None, max_examples=60)
def test_any_text_is_cleaned_or_refused(text: str) -> None:
    try:
        cleaned = check_text(text)
    except UsageError as error:
        assert error.fix
    else:
        assert cleaned == text.strip()
        assert cleaned.isprintable()


def test_written_answers(tmp_path: Path) -> None:
    objects = find_objects(TWO, SCORES, VIEWS, threshold=0.5)
    write_objects(tmp_path / "a.json", "mug", "lifted", objects)
    answer = json.loads((tmp_path / "a.json").read_text())
    assert set(answer) == {"text", "frame", "source", "objects"}
    assert answer["frame"] == "world"
    assert set(answer["objects"][0]) == {"score", "centre_m", "size_m", "num_points", "coverage"}
    write_scores(tmp_path / "s.npy", SCORES)
    assert np.load(tmp_path / "s.npy").dtype == np.float32
