from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from xmodal.errors import DataError, UsageError
from xmodal.teachers import CachedViews, Teacher, TeacherCache
from xmodal.teachers.arrays import read_array
from xmodal.teachers.precomputed import PrecomputedTeacher


@pytest.fixture
def maps(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        array = rng.normal(size=(3, 4, 5)).astype(np.float16)
        array[0, 0] = 0
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


@pytest.fixture
def labels(tmp_path):
    ids = np.zeros((4, 6), np.uint8)
    ids[1:3, 2:4] = 2
    ids[3] = 255
    Pillow.fromarray(ids).save(tmp_path / "a.png")
    (tmp_path / "classes.json").write_text(json.dumps(["floor", "wall", "Coffee Mug"]))
    return tmp_path


def test_maps_are_read_as_they_are(maps, make_image):
    teacher = PrecomputedTeacher(maps, space="raw")
    assert isinstance(teacher, Teacher)
    found = teacher.encode(make_image(name="a"))
    expected = torch.from_numpy(np.load(maps / "a.npy").astype(np.float32)).flatten(0, 1)
    assert torch.equal(found.rows, expected)
    assert found.grid_hw == (3, 4)
    assert teacher.channels == 5


def test_unit_maps_are_normalised_and_zeros_are_not_valid(maps, make_image):
    found = PrecomputedTeacher(maps).encode(make_image(name="a.jpg"))
    assert not found.valid[0]
    assert found.weight[0] == 0
    assert bool(found.valid[1:].all())
    assert torch.allclose(found.rows[1:].norm(dim=1), torch.ones(11), atol=1e-5)


def test_compressed_maps_are_read(tmp_path, make_image):
    array = np.random.default_rng(0).normal(size=(3, 4, 5))
    np.savez_compressed(tmp_path / "a.npz", features=array)
    found = PrecomputedTeacher(tmp_path, space="raw").encode(make_image(name="a"))
    assert torch.allclose(found.rows, torch.from_numpy(array).float().flatten(0, 1))


def test_label_pictures_become_one_mask_a_class(labels, make_image):
    teacher = PrecomputedTeacher(labels, ignore=[255])
    found = teacher.encode(make_image(name="a"))
    assert found.rows.tolist() == [[1, 0, 0], [0, 0, 1]]
    painted = found.membership.to_dense().view(4, 6, 2)
    assert painted[1, 2].tolist() == [0, 1]
    assert painted[0, 0].tolist() == [1, 0]
    assert painted[3, 0].tolist() == [0, 0]
    assert teacher.space == "simplex"
    assert teacher.channels == 3


def test_class_names_are_the_texts(labels):
    teacher = PrecomputedTeacher(labels, ignore=[255])
    rows = torch.tensor([[0.2, 0.0, 0.8]])
    assert teacher.relevancy(rows, ["coffee mug", "FLOOR"], []).tolist() == [
        pytest.approx([0.8, 0.2])
    ]
    assert teacher.relevancy(rows, ["coffee mug"], ["floor"]).item() == pytest.approx(0.6)
    with pytest.raises(UsageError, match="coffee mug"):
        teacher.encode_text(["coffee mugs"])


@pytest.fixture
def vocabulary(maps):
    folder = maps / "words"
    folder.mkdir()
    np.save(folder / "words.npy", 3 * np.eye(5, dtype=np.float16)[:3])
    (folder / "words.json").write_text(json.dumps(["Mug", "chair", "side_table"]))
    return folder / "words.npy"


def test_a_vocabulary_gives_maps_a_text_side(maps, vocabulary):
    teacher = PrecomputedTeacher(maps, vocabulary=vocabulary)
    found = teacher.encode_text(["mug", "chair | Side Table"])
    assert found[0].tolist() == [1, 0, 0, 0, 0]
    assert found[1].tolist() == pytest.approx([0, 0.5**0.5, 0.5**0.5, 0, 0])
    rows = torch.eye(5)
    assert teacher.relevancy(rows, ["mug"], [])[:2, 0].tolist() == [1.0, 0.5]
    against = teacher.relevancy(rows, ["mug"], ["chair"])[:3, 0]
    assert against.tolist() == pytest.approx([1.0, 0.0, 0.5], abs=1e-6)
    with pytest.raises(UsageError, match="chair"):
        teacher.encode_text(["chairs"])


@pytest.mark.parametrize("names", [None, "{", '["a"]', '{"a": 1}'])
def test_a_vocabulary_needs_a_name_for_each_row(maps, vocabulary, four_parts, names):
    vocabulary.with_suffix(".json").unlink()
    if names is not None:
        vocabulary.with_suffix(".json").write_text(names)
    with pytest.raises(DataError, match=r"words\.json") as caught:
        PrecomputedTeacher(maps, vocabulary=vocabulary).encode_text(["mug"])
    four_parts(caught.value, 3)


@pytest.mark.parametrize("shape", [(3, 4), (3,), (3, 5, 1)])
def test_a_vocabulary_of_another_space_is_refused(maps, vocabulary, four_parts, shape):
    np.save(vocabulary, np.ones(shape, np.float32))
    with pytest.raises(DataError, match=r"words\.npy") as caught:
        PrecomputedTeacher(maps, vocabulary=vocabulary).encode_text(["mug"])
    four_parts(caught.value, 3)


def test_missing_frames_are_told_at_once(maps, make_image, four_parts):
    teacher = PrecomputedTeacher(maps)
    with pytest.raises(DataError, match="none for 2: x, y") as caught:
        teacher.check_frames(["a", "x", "b", "y"])
    four_parts(caught.value, 3)
    images = [make_image(name="a"), make_image(name="z")]

    class Named(list):
        names = ("a", "z")

    with pytest.raises(DataError, match="z"):
        CachedViews(Named(images), teacher, None)
    with pytest.raises(DataError, match="z"):
        teacher.encode(images[1])


def test_files_are_not_stored_a_second_time(maps, make_image, tmp_path):
    cache = TeacherCache(tmp_path / "cache")
    views = CachedViews([make_image(name="a")], PrecomputedTeacher(maps), cache)
    assert views[0].rows.shape == (12, 5)
    assert cache.size_bytes() == 0


def test_fingerprints_follow_the_files(maps):
    before = PrecomputedTeacher(maps).fingerprint
    assert PrecomputedTeacher(maps, space="raw").fingerprint != before
    np.save(maps / "b.npy", np.ones((3, 4, 5), np.float32))
    assert PrecomputedTeacher(maps).fingerprint != before


def test_maps_have_no_text(maps, four_parts):
    with pytest.raises(UsageError, match="text") as caught:
        PrecomputedTeacher(maps).encode_text(["mug"])
    four_parts(caught.value, 2)


# ---- files that must be refused -------------------------------------------------------------


def write(path, array):
    np.save(path, array, allow_pickle=True)


BAD_ARRAYS = {
    "objects": np.array([[[{}]]], dtype=object),
    "integers": np.ones((3, 4, 5), np.int64),
    "complex": np.ones((3, 4, 5), np.complex64),
    "flat": np.ones((3, 4), np.float32),
    "empty": np.ones((0, 4, 5), np.float32),
    "nan": np.full((3, 4, 5), np.nan, np.float32),
    "other width": np.ones((3, 4, 6), np.float32),
}


@pytest.mark.parametrize("kind", sorted(BAD_ARRAYS))
def test_arrays_that_are_no_maps_are_refused(maps, make_image, four_parts, kind):
    write(maps / "b.npy", BAD_ARRAYS[kind])
    with pytest.raises(DataError, match=r"b\.npy") as caught:
        PrecomputedTeacher(maps).encode(make_image(name="b"))
    four_parts(caught.value, 3)


@pytest.mark.parametrize("sums", [np.full((3, 4, 5), 0.5), np.full((3, 4, 5), -0.2)])
def test_probabilities_must_be_probabilities(maps, make_image, four_parts, sums):
    np.save(maps / "b.npy", sums)
    with pytest.raises(DataError, match="sum to one") as caught:
        PrecomputedTeacher(maps, space="simplex").encode(make_image(name="b"))
    four_parts(caught.value, 3)


def test_half_precision_probabilities_are_renormalised(tmp_path, make_image):
    array = np.random.default_rng(0).dirichlet(np.ones(7), size=(3, 4)).astype(np.float16)
    np.save(tmp_path / "a.npy", array)
    found = PrecomputedTeacher(tmp_path, space="simplex").encode(make_image(name="a"))
    assert torch.allclose(found.rows.sum(dim=1), torch.ones(12), atol=1e-6)


@pytest.mark.parametrize("cut", [0, 5, 60, 128, -1])
def test_cut_files_are_refused(maps, four_parts, cut):
    path = maps / "a.npy"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError) as caught:
        read_array(path)
    four_parts(caught.value, 3)


def test_a_header_that_lies_is_refused_before_anything_is_allocated(maps):
    data = (maps / "a.npy").read_bytes()
    (maps / "a.npy").write_bytes(data.replace(b"(3, 4, 5)", b"(3,40000,50000)"[:15], 1))
    with pytest.raises(DataError):
        read_array(maps / "a.npy")
    with pytest.raises(DataError, match="at most 10 bytes"):
        read_array(maps / "b.npy", max_bytes=10)


def test_a_zip_bomb_is_refused(tmp_path, four_parts):
    np.savez_compressed(tmp_path / "a.npz", np.zeros((1000, 1000, 20)))
    with pytest.raises(DataError, match="compressed at most") as caught:
        read_array(tmp_path / "a.npz")
    four_parts(caught.value, 3)


@pytest.mark.parametrize("kind", ["two arrays", "text", "no zip"])
def test_other_archives_are_refused(tmp_path, four_parts, kind):
    path = tmp_path / "a.npz"
    if kind == "two arrays":
        np.savez(path, a=np.ones(3), b=np.ones(3))
    elif kind == "text":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
    else:
        path.write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(DataError) as caught:
        read_array(path)
    four_parts(caught.value, 3)


def test_a_flipped_byte_in_an_archive_is_noticed(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.random.default_rng(0).normal(size=(3, 4, 5)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError):
        read_array(path)


def test_unknown_label_ids_are_named(labels, make_image, four_parts):
    with pytest.raises(DataError, match="255") as caught:
        PrecomputedTeacher(labels).encode(make_image(name="a"))
    four_parts(caught.value, 3)


@pytest.mark.parametrize("content", [None, "{", '"wall"', "[]", '{"-3": "wall"}', '{"x": "wall"}'])
def test_labels_need_names(labels, four_parts, content):
    (labels / "classes.json").unlink()
    if content is not None:
        (labels / "classes.json").write_text(content)
    with pytest.raises(DataError, match=r"classes\.json") as caught:
        PrecomputedTeacher(labels)
    four_parts(caught.value, 3)


def test_folders_without_maps_or_with_two_kinds_are_refused(maps, tmp_path, four_parts):
    with pytest.raises(DataError, match="no such folder") as caught:
        PrecomputedTeacher(tmp_path / "none")
    four_parts(caught.value, 3)
    np.savez(maps / "c.npz", np.ones(3))
    with pytest.raises(DataError, match=r"\.npy and \.npz") as caught:
        PrecomputedTeacher(maps)
    four_parts(caught.value, 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="one kind") as caught:
        PrecomputedTeacher(tmp_path / "empty")
    four_parts(caught.value, 3)
