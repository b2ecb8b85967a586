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
    best_vectors,
    check_text,
    describe,
    ensemble,
    find_objects,
    row_scores,
    text_relevancy,
    vector_relevancy,
    vector_scores,
    write_objects,
    write_scores,
)
from xmodal.store import Codec, FeatureInfo, Features, Run
from xmodal.teachers.teacher import pairwise_softmax, relevancy_by_products


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


def test_the_ensemble_takes_the_surer_source_of_each_point() -> None:
    a = np.array([0.2, np.nan, np.nan, 0.5], dtype=np.float32)
    b = np.array([0.4, 0.6, np.nan, 0.1], dtype=np.float32)
    np.testing.assert_allclose(ensemble([a, b]), [0.4, 0.6, np.nan, 0.5], rtol=1e-6)


def test_the_ensemble_never_mixes_texts_of_two_sources() -> None:
    a = np.array([[0.9, 0.1], [0.3, 0.2]], dtype=np.float32)
    b = np.array([[0.2, 0.8], [0.1, 0.4]], dtype=np.float32)
    np.testing.assert_allclose(ensemble([a, b]), [[0.9, 0.1], [0.1, 0.4]], rtol=1e-6)


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


# ---- stores in the arithmetic of their codec ---------------------------------------------------

WORDS = {"mug": 0, "floor": 1, "lamp": 2, "wall": 3}


class DirectionTeacher:
    """Each word is one direction of 48; rows are compared by direction, rivals by soft-max."""

    name, channels, space, fingerprint, licence = "directions", 48, "unit", "0" * 64, "none"
    unit_rows = True

    def encode_text(self, text: list[str]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        known = torch.nn.functional.normalize(torch.randn(4, 48, generator=generator), dim=1)
        return known[[WORDS[word] for word in text]]

    def rivals(self, negatives: list[str]) -> list[str]:
        return negatives or ["wall"]

    def score_products(self, products: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
        return pairwise_softmax(products, rivals, 10.0)

    def relevancy(self, rows: torch.Tensor, text: list[str], negatives: list[str]) -> torch.Tensor:
        return relevancy_by_products(self, rows, text, negatives)

    def encode(self, image: object) -> object:
        raise AssertionError("a query of text looks at no image")

    encode_image = encode


class DecodingTeacher:
    """The same, as a plug-in may write it: by rows alone."""

    name, channels, space, fingerprint, licence = "directions", 48, "unit", "0" * 64, "none"
    encode = encode_image = DirectionTeacher.encode
    encode_text = DirectionTeacher.encode_text

    def relevancy(self, rows: torch.Tensor, text: list[str], negatives: list[str]) -> torch.Tensor:
        return DirectionTeacher().relevancy(rows, text, negatives)


@pytest.fixture(params=["fp16", "bf16", "int8", "pq64", "components", "segments"])
def coded(request: pytest.FixtureRequest, tmp_path: Path) -> Features:
    """Rows of four kinds, each near a word's direction, of lengths from 0.5 to 1."""
    codec: Codec = request.param
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 900)
    rows = DirectionTeacher().encode_text(list(WORDS)).numpy()[kind]
    rows = (rows + 0.05 * rng.standard_normal(rows.shape)) * rng.uniform(0.5, 1, (900, 1))
    valid = rng.random(900) > 0.1
    info = FeatureInfo(
        teacher="directions", space="unit", channels=48, num_points=900,
        num_valid=int(valid.sum()), fingerprint="f", cosine_error=0.0,
    )  # fmt: skip
    Run(tmp_path).write_features(
        "lifted",
        info,
        codec=codec,
        rows=rows.astype(np.float32),
        valid=valid,
        weight=np.ones(900, np.float32),
        num_views=kind.astype(np.int32),
        disagreement=np.zeros(900, np.float32),
        segments=kind,
    )
    return Run(tmp_path).features("lifted")


@pytest.mark.parametrize("negatives", [[], ["floor", "wall"]])
def test_relevancy_of_coded_rows_is_that_of_decoded_rows(
    coded: Features, negatives: list[str]
) -> None:
    teacher, texts = DirectionTeacher(), ["mug", "lamp"]
    scores = text_relevancy(coded, teacher, texts, negatives)
    wanted = row_scores(coded, lambda rows: teacher.relevancy(rows, texts, negatives))
    assert scores.shape == (900, 2) and scores.dtype == np.float32
    # A product of bf16 is off by up to 2^-8, which the soft-max multiplies by 10 / 4.
    np.testing.assert_allclose(scores, wanted, atol=0.02 if coded.info.codec == "bf16" else 1e-3)
    assert np.array_equal(np.isnan(scores[:, 0]), ~np.asarray(coded.valid))


def test_a_click_on_coded_rows_is_a_cosine(coded: Features) -> None:
    vector = 3 * DirectionTeacher().encode_text(["mug"])[0]
    found = vector_relevancy(coded, vector)
    wanted = row_scores(coded, lambda rows: vector_scores(rows, vector[None]))[:, 0]
    np.testing.assert_allclose(found, wanted, atol=0.01 if coded.info.codec == "bf16" else 1e-3)
    assert np.nanmin(found) >= 0 and np.nanmax(found) <= 1


def test_the_best_text_of_coded_rows(coded: Features) -> None:
    best = best_vectors(coded.rows, DirectionTeacher().encode_text(list(WORDS))).numpy()
    valid = np.asarray(coded.valid)
    assert np.array_equal(best[valid], coded.num_views[valid])


def test_a_teacher_that_scores_rows_alone_is_asked_with_rows(coded: Features) -> None:
    scores = text_relevancy(coded, DecodingTeacher(), ["mug"])
    wanted = text_relevancy(coded, DirectionTeacher(), ["mug"])
    np.testing.assert_allclose(scores, wanted, atol=0.02)


def test_coded_rows_refuse_texts_that_nobody_could_mean(coded: Features) -> None:
    with pytest.raises(UsageError):
        text_relevancy(coded, DirectionTeacher(), ["mug", "  "])
    with pytest.raises(UsageError):
        text_relevancy(coded, DirectionTeacher(), ["mug"], ["a\x00b"])
