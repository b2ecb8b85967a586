import hashlib
import json
from collections import Counter

import pytest

from xmodal.errors import DataError, UsageError
from xmodal.world import SEEN_OBJECTS, UNSEEN_OBJECTS, WorldSet, make_worlds
from xmodal.world.options import check_options

TINY = WorldSet(train=0, test=1, novel=1, num_views=1, hw=(48, 64))


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("worlds")
    done = []
    paths = make_worlds(out, TINY, lambda i, n: done.append((i, n)))
    return out, paths, done


def test_scenes_are_named_by_split_and_listed(made):
    out, paths, done = made
    assert [path.name for path in paths] == ["test-000", "novel-000"]
    assert all((path / "labels.npy").is_file() for path in paths)
    assert done == [(1, 2), (2, 2)]
    listed = json.loads((out / "worlds.json").read_text())
    assert listed["splits"] == {
        "train": [], "test": ["test-000"], "novel": ["novel-000"], "dev": [],
    }  # fmt: skip


def test_the_same_options_give_the_same_bytes(made, tmp_path):
    out, _, _ = made
    make_worlds(tmp_path, TINY)
    assert digest(tmp_path) == digest(out)


def test_a_finished_dataset_is_not_made_again(made):
    out, paths, _ = made
    before = [(path / "points.ply").stat().st_mtime_ns for path in paths]
    make_worlds(out, TINY)
    assert [(path / "points.ply").stat().st_mtime_ns for path in paths] == before


def test_every_scene_is_possible_and_no_two_are_alike():
    scenes = WorldSet(train=40, test=10, novel=10, dev=5).scenes()
    assert len(scenes) == 65
    for world in scenes.values():
        check_options(world)
    assert len({world.seed for world in scenes.values()}) == 65
    counts = Counter(w.count() for n, w in scenes.items() if n.startswith("train"))
    assert len(counts) > 3
    assert len({world.path for world in scenes.values()}) == 4


def test_unseen_objects_stand_in_no_training_scene():
    scenes = WorldSet(train=3, test=3, novel=3, dev=3).scenes()
    for name, world in scenes.items():
        unseen = name.startswith("novel")
        assert set(world.pool()) == set(UNSEEN_OBJECTS if unseen else SEEN_OBJECTS)


def test_a_larger_dataset_begins_with_the_smaller_one():
    small, large = WorldSet(train=2).scenes(), WorldSet(train=5).scenes()
    assert all(large[name] == world for name, world in small.items())


def test_another_seed_gives_other_scenes():
    first, second = WorldSet(seed=0).scenes(), WorldSet(seed=1).scenes()
    assert not {w.seed for w in first.values()} & {w.seed for w in second.values()}


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"train": -1}, "train"),
        ({"novel": 501}, "novel"),
        ({"train": 0, "test": 0, "novel": 0}, "dataset"),
        ({"seed": -1}, "seed"),
        ({"hw": (2, 2)}, "hw"),
        ({"num_views": 0}, "num_views"),
    ],
)
def test_impossible_numbers_are_refused_before_anything_is_made(tmp_path, changes, where):
    with pytest.raises(UsageError) as caught:
        make_worlds(tmp_path / "worlds", WorldSet(**changes))
    assert where in caught.value.where
    assert not any(tmp_path.iterdir())


def test_a_damaged_list_of_scenes_is_said(made):
    out, _, _ = made
    text = (out / "worlds.json").read_text()
    (out / "worlds.json").write_text("{}")
    with pytest.raises(DataError, match="splits"):
        make_worlds(out, TINY)
    (out / "worlds.json").write_text(text)


def test_scenes_of_other_options_are_not_mixed_in(made):
    out, _, _ = made
    with pytest.raises(UsageError, match="something else"):
        make_worlds(out, WorldSet(train=0, test=1, novel=1, num_views=2, hw=(48, 64)))
