"""Bad input to `xmodal eval`: one typed error of four parts, and never a silently wrong number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xmodal.errors import DataError, UsageError, XmodalError
from xmodal.ply import write_points
from xmodal.runs.evaluate import EvalRequest, eval_run
from xmodal.values import Points

CLASSES = ["floor", "mug", "bowl", "plate"]
SIZE = 40
Check = Callable[[BaseException, int], None]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A labelled cloud: ten points of each class."""
    root = tmp_path / "scan"
    root.mkdir()
    xyz = torch.arange(SIZE * 3).reshape(SIZE, 3).float() / 100
    write_points(root / "points.ply", Points(xyz=xyz, offsets=torch.tensor([0, SIZE])))
    np.save(root / "labels.npy", np.repeat(np.arange(4), 10).astype(np.int32))
    (root / "classes.json").write_text(json.dumps(CLASSES))
    return root


def labels() -> np.ndarray:
    return np.repeat(np.arange(4), 10)


def scores() -> np.ndarray:
    return np.eye(4, dtype=np.float32)[labels()]


def run(scene: Path, kind: str, array: Any, **options: Any) -> str:
    file = scene.parent / f"{kind}.npy"
    np.save(file, array, allow_pickle=True)
    return eval_run(EvalRequest(run=scene, out=scene.parent / "out", **{kind: file}, **options))


# ---- what is right ------------------------------------------------------------------------------


def test_the_truth_itself_is_perfect(scene: Path) -> None:
    assert "mean IoU                      1.000" in run(scene, "labels", labels())
    assert "mean IoU                      1.000" in run(scene, "scores", scores())


def test_whole_numbers_as_floats_and_minus_one_are_fine(scene: Path) -> None:
    ids = labels().astype(np.float64)
    ids[:10] = -1
    assert "1.000" in run(scene, "labels", ids)


def test_features_beside_text_vectors_are_cosines(scene: Path, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 6))
    np.save(tmp_path / "t.npy", vectors)
    rows = 3 * vectors[labels()]
    rows[0] = 0  # not observed: "other", which the floor is
    text = run(scene, "features", rows, text_vectors=tmp_path / "t.npy")
    assert "mean IoU                      1.000" in text


def test_scores_may_follow_names_with_one_column_for_other(scene: Path) -> None:
    ordered = scores()[:, [2, 1, 3, 0]]
    text = run(scene, "scores", ordered, names=("bowl", "mug", "plate"))
    assert "mean IoU                      1.000" in text


def test_logits_have_no_floor_at_zero(scene: Path) -> None:
    assert "mean IoU                      1.000" in run(scene, "scores", scores() - 5)


def test_a_folder_of_arrays_for_a_folder_of_scenes(scene: Path, tmp_path: Path) -> None:
    import shutil

    scenes, arrays = tmp_path / "scenes", tmp_path / "arrays"
    arrays.mkdir()
    for name in ("one", "two"):
        shutil.copytree(scene, scenes / name)
        np.save(arrays / f"{name}.npy", labels())
    text = eval_run(EvalRequest(run=scenes, out=tmp_path / "out", labels=arrays))
    assert "intervals over 2 scenes" in text
    (arrays / "two.npy").unlink()
    with pytest.raises(DataError, match=r"two\.npy"):
        eval_run(EvalRequest(run=scenes, out=tmp_path / "out", labels=arrays))


# ---- what is wrong ------------------------------------------------------------------------------


def with_value(array: np.ndarray, value: float, *place: int) -> np.ndarray:
    changed = array.astype(np.float64)
    changed[place] = value
    return changed


ARRAYS: list[tuple[str, str, Any, type[XmodalError], str]] = [
    ("too few labels", "labels", labels()[:-1], UsageError, "shape"),
    ("labels in columns", "labels", labels()[:, None], UsageError, "shape"),
    ("labels of objects", "labels", np.array([{}] * SIZE), DataError, "npy"),
    ("labels of words", "labels", np.array(["mug"] * SIZE), DataError, "numbers"),
    ("labels true and false", "labels", labels() > 1, DataError, "true and false"),
    ("fractional labels", "labels", labels() + 0.5, DataError, "whole numbers"),
    ("NaN labels", "labels", with_value(labels(), np.nan, 3), DataError, "whole numbers"),
    ("label too large", "labels", with_value(labels(), 4, 3), UsageError, "the id 4"),
    ("label below -1", "labels", with_value(labels(), -2, 3), UsageError, "the id -2"),
    ("unsigned wrap", "labels", with_value(labels(), 255, 0).astype("u1"), UsageError, "255"),
    ("too few scores", "scores", scores()[:-1], UsageError, "shape"),
    ("flat scores", "scores", scores()[:, 0], UsageError, "shape"),
    ("cubic scores", "scores", scores()[None], UsageError, "shape"),
    ("too many classes", "scores", np.tile(scores(), 2), UsageError, "--names"),
    ("one NaN score", "scores", with_value(scores(), np.nan, 7, 1), DataError, "row 7"),
    ("infinite score", "scores", with_value(scores(), np.inf, 5, 0), DataError, "row 5"),
    ("no score at all", "scores", np.full((SIZE, 4), np.nan), DataError, "everywhere"),
    ("complex scores", "scores", scores().astype(complex), DataError, "numbers"),
]


@pytest.mark.parametrize(
    ("kind", "array", "error", "part"),
    [case[1:] for case in ARRAYS],
    ids=[case[0] for case in ARRAYS],
)
def test_bad_arrays(
    scene: Path, kind: str, array: Any, error: type[XmodalError], part: str, four_parts: Check
) -> None:
    with pytest.raises(error, match=part) as caught:
        run(scene, kind, array)
    four_parts(caught.value, error.exit_code)
    assert f"{kind}.npy" in caught.value.where


VECTORS: list[tuple[str, Any, Any, type[XmodalError], str]] = [
    ("width differs", np.ones((SIZE, 5)), np.eye(4), UsageError, "as wide as"),
    ("vector of length zero", np.ones((SIZE, 4)), np.zeros((4, 4)), DataError, "length zero"),
    ("NaN vector", np.ones((SIZE, 4)), np.full((4, 4), np.nan), DataError, "finite"),
    ("too many vectors", np.ones((SIZE, 4)), np.ones((7, 4)), UsageError, "--names"),
    ("infinite feature", with_value(np.ones((SIZE, 4)), np.inf, 9, 0), np.eye(4), DataError, "9"),
    ("features of other points", np.ones((3, 4)), np.eye(4), UsageError, "shape"),
]


@pytest.mark.parametrize(
    ("features", "vectors", "error", "part"),
    [case[1:] for case in VECTORS],
    ids=[case[0] for case in VECTORS],
)
def test_bad_features(
    scene: Path, features: Any, vectors: Any, error: type[XmodalError], part: str, four_parts: Check
) -> None:
    np.save(scene.parent / "t.npy", vectors)
    with pytest.raises(error, match=part) as caught:
        run(scene, "features", features, text_vectors=scene.parent / "t.npy")
    four_parts(caught.value, error.exit_code)


OPTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("unknown name", {"names": ("mugg", "bowl")}, "did you mean 'mug'"),
    ("name twice", {"names": ("mug", "mug")}, "'mug' twice"),
    ("empty name", {"names": ("mug", "")}, "empty name"),
    ("unknown base name", {"base": ("cup",)}, "--base"),
    ("nothing novel", {"base": ("mug", "bowl", "plate")}, "novel"),
    ("another task", {"task": "retrieval"}, "--task segmentation"),
    ("two arrays", {"scores": Path("s.npy")}, "--scores and --labels"),
    ("vectors alone", {"text_vectors": Path("t.npy")}, "--text-vectors alone"),
    ("split beside data", {"split": "val", "data": Path("x")}, "--split val"),
    ("two scenes", {"data": Path("x")}, "two scenes"),
]


@pytest.mark.parametrize(
    ("options", "part"), [case[1:] for case in OPTIONS], ids=[case[0] for case in OPTIONS]
)
def test_bad_options(scene: Path, options: dict[str, Any], part: str, four_parts: Check) -> None:
    with pytest.raises(UsageError, match=part) as caught:
        run(scene, "labels", labels(), **options)
    four_parts(caught.value, 2)


def unlabelled(root: Path) -> None:
    np.save(root / "labels.npy", np.full(SIZE, -1))


def surfaces_only(root: Path) -> None:
    np.save(root / "labels.npy", np.zeros(SIZE, dtype=np.int32))


def no_labels(root: Path) -> None:
    (root / "labels.npy").unlink()


def too_many_labels(root: Path) -> None:
    np.save(root / "labels.npy", np.zeros(SIZE + 1, dtype=np.int32))


def unnamed_id(root: Path) -> None:
    np.save(root / "labels.npy", np.full(SIZE, 9))


def fractions(root: Path) -> None:
    np.save(root / "labels.npy", labels() + 0.25)


def no_classes(root: Path) -> None:
    (root / "classes.json").unlink()


def broken_classes(root: Path) -> None:
    (root / "classes.json").write_text('["floor", "mug"')


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (unlabelled, "-1"),
        (surfaces_only, "--names"),
        (no_labels, "labels.npy"),
        (too_many_labels, "41 labels"),
        (unnamed_id, "the id 9"),
        (fractions, "whole numbers"),
        (no_classes, "classes.json"),
        (broken_classes, "classes.json"),
    ],
)
def test_bad_truth(
    scene: Path, damage: Callable[[Path], None], part: str, four_parts: Check
) -> None:
    damage(scene)
    with pytest.raises(DataError, match=part) as caught:
        run(scene, "labels", np.zeros(SIZE, dtype=np.int64))
    four_parts(caught.value, 3)


def test_names_of_which_no_point_is_labelled(scene: Path, four_parts: Check) -> None:
    np.save(scene / "labels.npy", np.where(labels() == 3, 0, labels()))
    with pytest.raises(DataError, match="none on the points") as caught:
        run(scene, "labels", labels(), names=("plate",))
    four_parts(caught.value, 3)


def test_the_2d_protocol_needs_label_maps(scene: Path, four_parts: Check) -> None:
    with pytest.raises(DataError, match="label maps") as caught:
        run(scene, "labels", labels(), protocol="2d")
    four_parts(caught.value, 3)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04 archive", b"text"])
def test_files_that_are_no_arrays(scene: Path, content: bytes, four_parts: Check) -> None:
    file = scene.parent / "l.npy"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"\.npy array") as caught:
        eval_run(EvalRequest(run=scene, out=scene.parent, labels=file))
    four_parts(caught.value, 3)


def test_an_archive_of_arrays_is_no_array(scene: Path, four_parts: Check) -> None:
    np.savez(scene.parent / "l.npz", labels())
    with pytest.raises(DataError, match="npz") as caught:
        eval_run(EvalRequest(run=scene, out=scene.parent, labels=scene.parent / "l.npz"))
    four_parts(caught.value, 3)


def test_a_missing_array_and_a_missing_run(scene: Path, four_parts: Check) -> None:
    with pytest.raises(DataError, match="no such file") as caught:
        eval_run(EvalRequest(run=scene, out=scene.parent, labels=scene / "nowhere.npy"))
    four_parts(caught.value, 3)
    with pytest.raises(DataError, match="finished RUN"):
        eval_run(EvalRequest(run=scene.parent / "nowhere", out=scene.parent, labels=Path("l.npy")))
    with pytest.raises(DataError, match="finished RUN"):
        eval_run(EvalRequest(run=scene, out=scene.parent))
