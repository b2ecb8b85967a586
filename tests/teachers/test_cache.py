from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from xmodal.errors import DataError
from xmodal.teachers import CachedViews, Teacher, TeacherCache
from xmodal.teachers.cache import image_hash


def same(a, b) -> bool:
    return torch.equal(a.rows, b.rows) and torch.equal(a.membership.col, b.membership.col)


def test_views_are_computed_once_and_read_afterwards(tmp_path, make_image, colours):
    images = [make_image(seed) for seed in range(4)]
    teacher = colours()
    assert isinstance(teacher, Teacher)
    first = list(CachedViews(images, teacher, TeacherCache(tmp_path)))
    assert len(teacher.encoded) == 4
    second = list(CachedViews(images, teacher, TeacherCache(tmp_path)))
    assert len(teacher.encoded) == 4
    assert all(same(a, b) for a, b in zip(first, second, strict=True))


def test_a_cache_changes_no_number(tmp_path, make_image, colours):
    images = [make_image(seed) for seed in range(2)]
    without = CachedViews(images, colours(), None)
    with_cache = CachedViews(images, colours(), TeacherCache(tmp_path))
    assert all(same(a, b) for a, b in zip(without, with_cache, strict=True))


def test_nothing_is_computed_until_asked_for(tmp_path, make_image, colours):
    teacher = colours()
    views = CachedViews([make_image(seed) for seed in range(5)], teacher, TeacherCache(tmp_path))
    assert len(views) == 5
    assert not teacher.encoded
    assert views[-1].name == "000004"
    assert [view.name for view in views[1:3]] == ["000001", "000002"]
    assert teacher.encoded == ["000004", "000001", "000002"]
    with pytest.raises(IndexError):
        views[5]


def test_memory_is_bounded(tmp_path, make_image, colours):
    teacher = colours()
    images = [make_image(seed) for seed in range(3)]
    views = CachedViews(images, teacher, None, memory_bytes=1)
    views[0], views[0], views[1], views[0]
    assert teacher.encoded == ["000000", "000001", "000000"]


def test_progress_counts_each_view_once(make_image, colours):
    seen: list[tuple[int, int]] = []
    images = [make_image(seed) for seed in range(2)]
    views = CachedViews(images, colours(), None, progress=lambda *at: seen.append(at))
    views[1], views[0], views[1]
    assert seen == [(1, 2), (2, 2)]


def test_teachers_and_pictures_have_their_own_files(tmp_path, make_image, colours):
    cache = TeacherCache(tmp_path)
    paths = {
        cache.path(teacher, image)
        for teacher in (colours("a" * 64), colours("b" * 64))
        for image in (make_image(0), make_image(1), make_image(0, hw=(32, 24)))
    }
    assert len(paths) == 6
    assert image_hash(make_image(0)) == image_hash(make_image(0))


def test_a_damaged_file_is_computed_again_and_said(tmp_path, make_image, colours, caplog):
    teacher, image = colours(), make_image()
    cache = TeacherCache(tmp_path)
    good = cache.fetch(teacher, image)
    path = cache.path(teacher, image)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING):
        assert same(cache.fetch(teacher, image), good)
    assert image.name in caplog.text
    assert len(teacher.encoded) == 2
    assert same(cache.fetch(teacher, image), good)
    assert len(teacher.encoded) == 2


def test_the_budget_holds_and_the_oldest_go_first(tmp_path, make_image, colours):
    teacher = colours()
    images = [make_image(seed) for seed in range(6)]
    one = len(probe_bytes(tmp_path / "probe", teacher, images[0]))
    cache = TeacherCache(tmp_path / "cache", budget_bytes=int(3.5 * one))
    for image in images[:3]:
        cache.fetch(teacher, image)
    age(cache, teacher, images[:3])
    cache.fetch(teacher, images[0])  # used again: now 1 is the oldest
    for image in images[3:]:
        cache.fetch(teacher, image)
        assert cache.size_bytes() <= cache.budget_bytes
    kept = [cache.path(teacher, image).exists() for image in images]
    assert kept == [False, False, False, True, True, True]


def test_the_last_used_survives_one_eviction(tmp_path, make_image, colours):
    teacher = colours()
    images = [make_image(seed) for seed in range(4)]
    one = len(probe_bytes(tmp_path / "probe", teacher, images[0]))
    cache = TeacherCache(tmp_path / "cache", budget_bytes=int(3.5 * one))
    for image in images[:3]:
        cache.fetch(teacher, image)
    age(cache, teacher, images[:3])
    cache.fetch(teacher, images[0])
    cache.fetch(teacher, images[3])
    kept = [cache.path(teacher, image).exists() for image in images]
    assert kept == [True, False, True, True]


def test_what_exceeds_the_budget_is_not_stored_and_said_once(tmp_path, make_image, colours, caplog):
    teacher = colours()
    cache = TeacherCache(tmp_path / "cache", budget_bytes=100)
    with caplog.at_level(logging.WARNING):
        for seed in (0, 1, 0):
            cache.fetch(teacher, make_image(seed))
    assert cache.size_bytes() == 0
    assert len(teacher.encoded) == 3
    assert caplog.text.count("disk budget") == 1


def test_a_negative_budget_is_refused(tmp_path):
    with pytest.raises(ValueError, match="zero bytes or more"):
        TeacherCache(tmp_path, budget_bytes=-1)


def test_features_that_are_not_finite_leave_no_file(tmp_path, make_image, colours, four_parts):
    cache = TeacherCache(tmp_path)
    with pytest.raises(DataError) as caught:
        cache.fetch(colours(scale=float("nan")), make_image())
    four_parts(caught.value, 3)
    assert cache.size_bytes() == 0


def test_a_folder_that_cannot_be_made_is_a_data_error(tmp_path, make_image, colours, four_parts):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as caught:
        TeacherCache(tmp_path / "file" / "cache").fetch(colours(), make_image())
    four_parts(caught.value, 3)


def fill(root: Path, seeds: list[int], budget: int, make, teacher) -> None:
    cache = TeacherCache(root, budget_bytes=budget)
    while True:
        for seed in seeds:
            cache.fetch(teacher, make(seed))


@pytest.mark.slow
def test_writers_that_are_killed_leave_whole_files_and_keep_the_budget(
    tmp_path, make_image, colours
):
    one = len(probe_bytes(tmp_path / "probe", colours(), make_image(0)))
    budget = 5 * one
    root = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    for round_number in range(8):
        writers = [
            context.Process(
                target=fill, args=(root, list(range(k, k + 6)), budget, make_image, colours())
            )
            for k in (0, 3)
        ]
        for writer in writers:
            writer.start()
        time.sleep(0.15 + 0.02 * round_number)
        for writer in writers:
            assert writer.pid is not None
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
        assert (
            sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) <= budget + one
        )
        teacher, cache = colours(), TeacherCache(root, budget_bytes=budget)
        stored = [seed for seed in range(9) if cache.path(teacher, make_image(seed)).exists()]
        for seed in stored:
            cache.fetch(teacher, make_image(seed))
        assert not teacher.encoded
    cache.fetch(colours(), make_image(99))
    assert not list(root.rglob(".*.tmp-*"))


def probe_bytes(root: Path, teacher, image) -> bytes:
    probe = TeacherCache(root)
    probe.fetch(teacher, image)
    data = probe.path(teacher, image).read_bytes()
    teacher.encoded.clear()
    return data


def age(cache: TeacherCache, teacher, images) -> None:
    """Times of use far in the past, one second apart: file systems differ in resolution."""
    for position, image in enumerate(images):
        os.utime(cache.path(teacher, image), (1000 + position, 1000 + position))
