"""Component codes: worked by hand, lengths and signs that are kept, any width, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xmodal.errors import DataError
from xmodal.query import best_vectors
from xmodal.store import components
from xmodal.store.codecs import CODECS, ComponentRows


def axes(channels: int) -> np.ndarray:
    """A bank whose first components are the axes."""
    bank = np.zeros((components.NUM_COMPONENTS, channels), np.float16)
    bank[:channels] = np.eye(channels)
    return bank


def mixtures(num: int, channels: int, *, seed: int = 0, positive: bool = False) -> np.ndarray:
    """Rows that are sums of three of forty directions."""
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((40, channels))
    parts = np.abs(parts) if positive else parts
    rows = np.zeros((num, channels))
    for _ in range(3):
        rows += rng.uniform(0.2, 1, (num, 1)) * parts[rng.integers(0, 40, num)]
    return rows.astype(np.float32)


def stored(folder: Path, rows: np.ndarray) -> ComponentRows:
    CODECS["components"].write(folder, rows)
    opened = CODECS["components"].open(folder, (rows.shape[0], rows.shape[1]))
    assert isinstance(opened, ComponentRows)
    return opened


def test_codes_by_hand() -> None:
    """(3, 0, -4) is -0.8 of the third axis and 0.6 of the first, five times."""
    coded = components.encode(np.array([[3, 0, -4]], np.float32), axes(3))
    assert coded.codes[0, :2].tolist() == [2, 0]
    np.testing.assert_allclose(coded.weights[0, :3].astype(float), [-0.8, 0.6, 0], atol=1e-3)
    assert not coded.weights[0, 2:].any()
    np.testing.assert_allclose(coded.scale, 5, rtol=1e-3)
    np.testing.assert_allclose(components.decode(coded, axes(3)), [[3, 0, -4]], rtol=1e-3)
    asked = np.array([[1, 1, 1], [0, 5, 0]], np.float32)
    np.testing.assert_allclose(components.products(coded, axes(3), asked), [[-1, 0]], atol=5e-3)
    np.testing.assert_allclose(components.norms(coded, axes(3)), 5, rtol=1e-6)


def test_more_parts_than_a_row_may_name_keep_the_largest_and_the_length() -> None:
    row = np.arange(1, 11, dtype=np.float32)[None]
    coded = components.encode(row, axes(10))
    assert set(coded.codes[0].tolist()) == set(range(2, 10))
    back = components.decode(coded, axes(10))
    assert not back[0, :2].any()
    np.testing.assert_allclose(np.linalg.norm(back), np.linalg.norm(row), rtol=1e-5)
    # Cosine of what is left of the squares 1 + 4 + .. + 100 = 385 without 1 and 4.
    cosine = float((back * row).sum() / (row * row).sum())
    assert cosine == pytest.approx((380 / 385) ** 0.5, rel=1e-5)


def test_rows_of_zeros_stay_zero_and_names_stay_unused() -> None:
    coded = components.encode(np.zeros((2, 3), np.float32), axes(3))
    assert not coded.weights.any() and not coded.scale.any()
    assert not components.decode(coded, axes(3)).any()
    assert not components.norms(coded, axes(3)).any()


def test_up_to_256_different_rows_are_told_exactly() -> None:
    rows = mixtures(200, 24)
    bank = components.train(rows)
    back = components.decode(components.encode(rows, bank), bank)
    np.testing.assert_allclose(back, rows, atol=5e-3)


def test_rows_of_few_parts_are_learnt(tmp_path: Path) -> None:
    rows = mixtures(3000, 32)
    back = np.asarray(stored(tmp_path, rows))
    cosine = (rows * back).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(back, axis=1)
    assert 1 - cosine.mean() < 6e-3


def test_learning_is_repeatable() -> None:
    rows = mixtures(600, 8)
    assert np.array_equal(components.train(rows), components.train(rows))
    assert not np.array_equal(components.train(rows), components.train(rows, seed=1))


@pytest.mark.parametrize("channels", [1, 3, 37, 512, 1000])
@pytest.mark.parametrize("num", [0, 1, 300])
def test_any_width(tmp_path: Path, num: int, channels: int) -> None:
    rows = mixtures(num, channels)
    opened = stored(tmp_path, rows)
    whole = np.asarray(opened)
    vectors = np.random.default_rng(1).standard_normal((5, channels)).astype(np.float32)
    wanted = whole @ vectors.T
    size = max(1.0, float(np.abs(wanted).max(initial=0)))
    np.testing.assert_allclose(opened.products(vectors), wanted, atol=1e-5 * size)
    np.testing.assert_allclose(opened.norms(), np.linalg.norm(whole, axis=1), rtol=1e-4)
    np.testing.assert_allclose(opened.norms(), np.linalg.norm(rows, axis=1), rtol=1e-4)


def test_probabilities_have_no_negative_part(tmp_path: Path) -> None:
    rows = mixtures(1500, 20, positive=True)
    opened = stored(tmp_path, rows)
    whole = np.asarray(opened)
    assert whole.min() >= 0
    # A dot product with another list of probabilities is a probability up to the length.
    asked = np.full((1, 20), 0.05, np.float32)
    assert opened.products(asked).min() >= 0


def test_the_best_of_several_vectors_is_that_of_decoded_rows(tmp_path: Path) -> None:
    opened = stored(tmp_path, mixtures(2000, 48))
    vectors = torch.randn(20, 48, generator=torch.Generator().manual_seed(0))
    # The mean is taken off by best_vectors and decides nothing but ties of rounding.
    wanted = (torch.from_numpy(np.asarray(opened)) @ vectors.T).argmax(dim=1)
    assert float((best_vectors(opened, vectors) == wanted).float().mean()) > 0.999


@settings(deadline=None, max_examples=40)
@given(
    arrays(np.float32, (6, 5), elements=st.floats(-1, 1, width=32)),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e20, 1e38]),
)
def test_lengths_are_kept_and_nothing_is_ever_nan(rows: np.ndarray, size: float) -> None:
    scaled = (rows * np.float32(size)).astype(np.float32)
    bank = components.train(scaled)
    coded = components.encode(scaled, bank)
    back = components.decode(coded, bank).astype(np.float64)
    assert np.isfinite(back).all()
    exact = np.linalg.norm(scaled.astype(np.float64), axis=1)
    seen = (np.abs(scaled).max(axis=1) > 1e-36) & (exact < 1e38)
    np.testing.assert_allclose(np.linalg.norm(back, axis=1)[seen], exact[seen], rtol=2e-3)


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_numbers_are_named(tmp_path: Path, bad: float) -> None:
    rows = mixtures(400, 6)
    rows[123, 4] = bad
    with pytest.raises(DataError, match="row 123"):
        CODECS["components"].write(tmp_path, rows)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("bank", (256, 5)),
        ("bank", (12, 6)),
        ("codes", (10, 4)),
        ("weights", (9, 8)),
        ("scale", (9,)),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    stored(tmp_path, mixtures(10, 6))
    old = np.load(tmp_path / f"{name}.npy")
    np.save(tmp_path / f"{name}.npy", np.zeros(shape, old.dtype))
    with pytest.raises(DataError, match=f"{name}.npy"):
        CODECS["components"].open(tmp_path, (10, 6))


def test_no_byte_of_a_foreign_file_names_a_component_that_is_not_there(tmp_path: Path) -> None:
    stored(tmp_path, mixtures(32, 6))
    every = np.arange(256, dtype=np.uint8).reshape(32, 8)
    np.save(tmp_path / "codes.npy", every)
    opened = CODECS["components"].open(tmp_path, (32, 6))
    assert np.isfinite(np.asarray(opened)).all()
