"""Feature stores: codecs, what they cost, random access, and what a store says about itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lifting.operator import LiftOperator
from xmodal.errors import DataError, UsageError
from xmodal.store import Codec, FeatureInfo, Run, create_run, differences, fingerprint_of, quantiser
from xmodal.store.codecs import CODECS
from xmodal.values import PointSets

ALL: tuple[Codec, ...] = get_args(Codec)
NUM, CHANNELS = 700, 96
SEGMENTS = np.random.default_rng(5).integers(-1, 20, NUM).astype(np.int32)
VALID = np.random.default_rng(6).random(NUM) > 0.1
PARTS = {"teachers": {"maps": "abc"}, "graph": {"lift": {"maps -> lifted": {"stride": 4}}}}


def unit_rows(spread: float = 0.3) -> np.ndarray:
    """Rows around one direction a segment, zero where nothing was observed."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((21, CHANNELS))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows = centres[SEGMENTS] + spread * rng.standard_normal((NUM, CHANNELS)) / CHANNELS**0.5
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(VALID[:, None], rows, 0).astype(np.float32)


def info(num: int = NUM, channels: int = CHANNELS, **fields: Any) -> FeatureInfo:
    base: dict[str, Any] = {
        "teacher": "t",
        "space": "unit",
        "fingerprint": "f",
        "cosine_error": 0.0,
    }
    base |= {"channels": channels, "num_points": num, "num_valid": num}
    return FeatureInfo(**(base | fields))


def per_point(num: int = NUM) -> dict[str, np.ndarray]:
    return {
        "valid": np.ones(num, np.bool_),
        "weight": np.linspace(0.5, 1.5, num, dtype=np.float32),
        "num_views": np.arange(num, dtype=np.int32),
        "disagreement": np.zeros(num, np.float32),
    }


def write(run: Run, codec: Codec, rows: np.ndarray | None = None, **fields: Any) -> None:
    sides = per_point() | {"valid": VALID, "segments": SEGMENTS} | fields
    rows = unit_rows() if rows is None else rows
    run.write_features("lifted", info(), codec=codec, made_from=PARTS, rows=rows, **sides)


@pytest.fixture(scope="module", params=ALL)
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp(request.param))
    write(run, request.param)
    return run


# Largest 1 - cos that each codec may cost on these rows, and bytes a row: half precision rounds by
# 2^-12, bf16 by 2^-9, int8 by 1/254 of the largest; a segment's spread of 0.3 costs 0.3^2 / 2, and
# eight components of 256 cannot follow noise in 96 directions.
LIMITS = {"fp16": 1e-6, "bf16": 1e-5, "int8": 2e-4, "pq64": 0.03, "components": 0.05}
LIMITS |= {"segments": 0.12}
BYTES = {"fp16": 192, "bf16": 192, "int8": 100, "pq64": 64, "components": 28}


def test_the_error_on_disk_is_what_the_record_says(stored: Run) -> None:
    features = stored.features("lifted")
    rows, back = unit_rows()[VALID], np.asarray(features.rows)[VALID]
    error = 1 - (rows * back).sum(1) / np.linalg.norm(back, axis=1)
    assert features.info.cosine_error == pytest.approx(error.max(), abs=1e-6)
    assert features.info.cosine_error_mean == pytest.approx(error.mean(), abs=1e-6)
    assert features.info.cosine_error <= LIMITS[features.info.codec]


def test_a_row_takes_the_bytes_that_the_codec_promises(stored: Run) -> None:
    features = stored.features("lifted")
    if (codec := features.info.codec) in BYTES:
        books = {"pq64": 4 * CHANNELS * 256 * (2 * 64 / CHANNELS), "components": 2 * CHANNELS * 256}
        assert features.rows.nbytes <= NUM * BYTES[codec] + books.get(codec, 0)


def test_random_access_equals_decoding_everything(stored: Run) -> None:
    features = stored.features("lifted")
    whole = np.asarray(features.rows)
    index = np.array([5, 699, 0, 5, 311])
    np.testing.assert_array_equal(features.take(index), whole[index])
    np.testing.assert_array_equal(features.rows[10:20], whole[10:20])
    np.testing.assert_array_equal(features.rows[VALID], whole[VALID])
    np.testing.assert_array_equal(features.lazy()[torch.from_numpy(index)].numpy(), whole[index])
    np.testing.assert_array_equal(features.tensor().float().numpy(), whole)
    assert features.lazy().shape == (len(features.lazy()), CHANNELS) == whole.shape
    blocks = np.concatenate([rows for _, rows in features.blocks(64)])
    np.testing.assert_array_equal(blocks, whole)
    assert whole.dtype == features.take(index).dtype == np.float32


def test_what_nothing_observed_stays_zero(stored: Run) -> None:
    assert not np.asarray(stored.features("lifted").rows)[~VALID].any()


def test_products_are_those_of_decoded_rows(stored: Run) -> None:
    features = stored.features("lifted")
    vectors = np.random.default_rng(1).standard_normal((7, CHANNELS)).astype(np.float32)
    vectors[3] = 0
    whole = np.asarray(features.rows)
    # bf16 results have 8 bits; int8 rounds the vectors to 14.
    tolerance = {"bf16": 2e-2, "int8": 2e-3}.get(features.info.codec, 1e-5)
    np.testing.assert_allclose(features.rows.products(vectors), whole @ vectors.T, atol=tolerance)
    np.testing.assert_allclose(features.rows.norms(), np.linalg.norm(whole, axis=1), atol=1e-5)


@pytest.mark.parametrize("width", [1, CHANNELS - 1, CHANNELS + 1, 2 * CHANNELS])
def test_vectors_of_another_width_are_an_error(stored: Run, width: int) -> None:
    """A codec that pads its rows would take fewer channels without a word."""
    rows = stored.features("lifted").rows
    with pytest.raises(ValueError, match=f"rows of {CHANNELS} channels"):
        rows.products(np.ones((2, width), np.float32))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_an_error(stored: Run, wrong: float) -> None:
    vectors = np.ones((2, CHANNELS), np.float32)
    vectors[1, 3] = wrong
    with pytest.raises(ValueError, match="must be finite"):
        stored.features("lifted").rows.products(vectors)


@pytest.mark.parametrize("codec", ["fp16", "bf16", "int8", "pq64", "components"])
@pytest.mark.parametrize("channels", [1, 3, 37, 512, 1000])
def test_codes_of_any_width_are_asked(tmp_path: Path, codec: Codec, channels: int) -> None:
    rows = np.random.default_rng(0).standard_normal((40, channels)).astype(np.float32)
    CODECS[codec].write(tmp_path, rows)
    stored = CODECS[codec].open(tmp_path, (40, channels))
    vectors = np.random.default_rng(1).standard_normal((3, channels)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = np.asarray(stored) @ vectors.T
    size = float(np.abs(wanted).max())
    tolerance = {"bf16": 2e-2, "int8": 2e-3}.get(codec, 1e-4) * max(size, 1.0)
    np.testing.assert_allclose(stored.products(vectors), wanted, atol=tolerance)


def test_the_bookkeeping_comes_back(stored: Run) -> None:
    features = stored.features("lifted")
    wanted = per_point()
    np.testing.assert_array_equal(features.valid, VALID)
    np.testing.assert_array_equal(features.weight, wanted["weight"])
    np.testing.assert_array_equal(features.num_views, wanted["num_views"])
    np.testing.assert_array_equal(features.segments, SEGMENTS)
    assert features.made_from == PARTS
    assert stored.info("lifted") == features.info


def test_probabilities_stay_probabilities(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).dirichlet(np.full(CHANNELS, 0.05), NUM).astype(np.float32)
    for codec in ALL:
        write(Run(tmp_path / codec), codec, rows=rows)
        back = np.asarray(Run(tmp_path / codec).features("lifted").rows)[VALID]
        assert back.min() >= 0
        limit = {"pq64": 0.8, "components": 0.4}.get(codec, 0.2)
        assert np.abs(back.sum(1) - 1).max() < limit, codec


def test_int8_by_hand(tmp_path: Path) -> None:
    rows = np.array([[127.0, -63.6, 0.4], [0, 0, 0], [1e-3, 0, -1e-3]], np.float32)
    sides = per_point(3)
    Run(tmp_path).write_features("lifted", info(3, 3), codec="int8", rows=rows, **sides)
    back = np.asarray(Run(tmp_path).features("lifted").rows)
    np.testing.assert_allclose(back, [[127, -64, 0], [0, 0, 0], [1e-3, 0, -1e-3]], rtol=1e-6)


def test_segments_by_hand(tmp_path: Path) -> None:
    """A weighted mean for segment 7, an own row for the point of none, none for the unseen."""
    rows = np.array([[1.0, 0], [0, 1], [5, 5], [9, 9]], np.float32)
    sides = per_point(4) | {
        "weight": np.array([3, 1, 1, 1], np.float32),
        "valid": np.array([True, True, True, False]),
        "segments": np.array([7, 7, -1, 7]),
    }
    Run(tmp_path).write_features("lifted", info(4, 2), codec="segments", rows=rows, **sides)
    back = np.asarray(Run(tmp_path).features("lifted").rows)
    np.testing.assert_allclose(back, [[0.75, 0.25], [0.75, 0.25], [5, 5], [0, 0]])
    sides["weight"][:] = 0
    Run(tmp_path).write_features("lifted", info(4, 2), codec="segments", rows=rows, **sides)
    back = np.asarray(Run(tmp_path).features("lifted").rows)
    np.testing.assert_allclose(back[:2], 0.5)


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize(("num", "channels"), [(0, 4), (1, 1), (3, 65)])
def test_small_and_odd_shapes(tmp_path: Path, codec: Codec, num: int, channels: int) -> None:
    rows = np.random.default_rng(0).standard_normal((num, channels)).astype(np.float32)
    sides = per_point(num) | {"segments": np.zeros(num, np.int32)}
    run = Run(tmp_path)
    run.write_features("lifted", info(num, channels), codec=codec, rows=rows, **sides)
    features = run.features("lifted")
    assert np.asarray(features.rows).shape == (num, channels)
    vectors = np.ones((2, channels), np.float32)
    assert features.rows.products(vectors).shape == (num, 2)
    assert features.tensor().shape == (num, channels)


@settings(deadline=None, max_examples=30)
@given(arrays(np.float32, (12, 5), elements=st.floats(-1000, 1000, width=32)))
def test_int8_is_off_by_at_most_half_a_step(tmp_path_factory: Any, rows: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("int8")
    CODECS["int8"].write(folder, rows)
    back = np.asarray(CODECS["int8"].open(folder, (12, 5)))
    step = np.abs(rows).max(1, keepdims=True) / 127
    assert (np.abs(back - rows) <= 0.501 * step + 1e-30).all()


def test_a_code_book_is_exact_where_there_are_few_different_rows() -> None:
    rows = (
        np.random.default_rng(0).standard_normal((9, 64 * 3)).astype(np.float32)[np.arange(900) % 9]
    )
    book = quantiser.train(rows)
    codes = quantiser.encode(rows, book)
    np.testing.assert_allclose(quantiser.decode(codes, book, 192), rows, atol=1e-5)
    assert np.array_equal(book, quantiser.train(rows))
    assert not quantiser.decode(np.zeros((1, 64), np.uint8), book, 192).any()


def test_float16_sources_and_memory_maps_are_taken(tmp_path: Path) -> None:
    source = np.lib.format.open_memmap(tmp_path / "s.npy", "w+", np.float16, (NUM, CHANNELS))
    source[:] = unit_rows()
    write(Run(tmp_path / "run"), "fp16", rows=source)
    features = Run(tmp_path / "run").features("lifted")
    assert features.info.cosine_error < 1e-6
    np.testing.assert_array_equal(np.asarray(features.rows), source.astype(np.float32))


def test_names_of_classes_come_back_as_a_tuple(tmp_path: Path) -> None:
    run = Run(tmp_path)
    described = info(3, 2, classes=("mug", "floor"), licence="MIT")
    run.write_features("truth", described, rows=np.ones((3, 2), np.float32), **per_point(3))
    assert run.info("truth").classes == ("mug", "floor")


def sets() -> PointSets:
    membership = LiftOperator.from_coo(
        torch.tensor([0, 0, 1]),
        torch.tensor([4, 1, 2]),
        torch.tensor([1.0, 0.5, 2.0]),
        shape=(3, 6),
    )
    return PointSets(
        rows=torch.eye(3, 4),
        valid=torch.tensor([True, True, False]),
        weight=torch.tensor([1.5, 2.0, 0.0]),
        membership=membership,
    )


@pytest.mark.parametrize("codec", ["fp16", "bf16", "int8", "pq64", "components"])
def test_point_sets_come_back(tmp_path: Path, codec: Codec) -> None:
    run = Run(tmp_path)
    run.write_sets("masks", info(), sets(), codec=codec, made_from=PARTS)
    found, described = run.sets("masks"), run.info("masks")
    torch.testing.assert_close(found.rows[:2], sets().rows[:2], atol=1e-5, rtol=0)
    assert torch.equal(found.valid, sets().valid) and torch.equal(found.weight, sets().weight)
    assert torch.equal(found.membership.crow, sets().membership.crow)
    assert torch.equal(found.membership.col, sets().membership.col)
    assert torch.equal(found.membership.weight, sets().membership.weight)
    assert (described.kind, described.num_points, described.num_sources) == ("point_sets", 3, 6)
    assert (described.num_valid, described.channels) == (2, 4)


def test_masks_and_views_of_sets_come_back(tmp_path: Path) -> None:
    run, marked = Run(tmp_path), replace(sets(), groups=torch.tensor([4, 4, -1]))
    run.write_sets("masks", info(), replace(marked, views=torch.tensor([0, 0, 2])))
    found = run.sets("masks")
    assert found.groups is not None
    assert found.views is not None
    assert found.groups.tolist() == [4, 4, -1]
    assert found.views.tolist() == [0, 0, 2]
    run.write_sets("plain", info(), sets())
    assert run.sets("plain").groups is None


# ---- refusals ----------------------------------------------------------------------------------


def test_sets_are_not_points(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write_sets("masks", info(), sets())
    write(run, "fp16")
    with pytest.raises(DataError, match="a store of points"):
        run.features("masks")
    with pytest.raises(DataError, match="a store of point_sets"):
        run.sets("lifted")
    with pytest.raises(UsageError, match="segments"):
        run.write_sets("masks", info(), sets(), codec="segments")


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_numbers_are_never_stored(
    tmp_path: Path, codec: Codec, bad: float
) -> None:
    rows = unit_rows()
    rows[np.flatnonzero(VALID)[40], 3] = bad
    with pytest.raises(DataError, match=f"row {np.flatnonzero(VALID)[40]}"):
        write(Run(tmp_path), codec, rows=rows)
    assert not list((tmp_path / "features").glob("[!.]*"))


def test_numbers_beyond_half_precision_ask_for_another_codec(tmp_path: Path) -> None:
    rows = unit_rows() * 1e6
    with pytest.raises(DataError, match="int8"):
        write(Run(tmp_path), "fp16", rows=rows)
    write(Run(tmp_path), "int8", rows=rows)
    assert Run(tmp_path).info("lifted").cosine_error < 2e-4


def test_the_codec_segments_needs_segments(tmp_path: Path) -> None:
    rows = np.ones((3, 2), np.float32)
    with pytest.raises(DataError, match="points with segments"):
        Run(tmp_path).write_features("x", info(3, 2), codec="segments", rows=rows, **per_point(3))


def test_features_of_another_teacher_are_refused_with_what_differs(
    tmp_path: Path, four_parts: Callable[[BaseException, int], None]
) -> None:
    write(Run(tmp_path), "fp16")
    features = Run(tmp_path).features("lifted")
    features.check_made_from("lifted", PARTS)
    other = json.loads(json.dumps(PARTS))
    other["graph"]["lift"]["maps -> lifted"]["stride"] = 2
    other["teachers"]["more"] = "xyz"
    with pytest.raises(DataError) as caught:
        features.check_made_from("lifted", other)
    four_parts(caught.value, 3)
    assert "graph.lift.maps -> lifted.stride: 4 in the store, 2 now" in caught.value.got
    assert 'teachers.more: nothing in the store, "xyz" now' in caught.value.got
    assert "abc" not in caught.value.got


def test_a_run_made_from_something_else_is_refused_with_what_differs(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", fingerprint_of(**PARTS), overwrite=False)
    run.finish(fingerprint=fingerprint_of(**PARTS), made_from=PARTS)
    other = {**PARTS, "teachers": {"maps": "def"}}
    with pytest.raises(UsageError, match=r'teachers.maps: "abc" in the store, "def" now'):
        create_run(run.path, fingerprint_of(**other), overwrite=False, made_from=other)
    assert (run.path / "manifest.json").is_file()


def test_equal_parts_do_not_differ() -> None:
    assert differences(PARTS, json.loads(json.dumps(PARTS))) == []
    assert differences({}, {}) == []
