import pytest

from xmodal.errors import UsageError
from xmodal.world import OBJECT_NAMES, UNSEEN_OBJECTS, WorldOptions, make_world
from xmodal.world.options import check_options


def test_a_split_gives_twelve_or_all_it_has():
    assert WorldOptions().count() == 12
    assert WorldOptions(split="all").count() == 12
    assert WorldOptions(split="unseen").count() == len(UNSEEN_OBJECTS)
    assert WorldOptions(split="all", num_objects=15).count() == 15


def test_named_objects_are_all_used_unless_fewer_are_asked_for():
    assert WorldOptions(objects=("bagel", "bagel", "vase")).count() == 3
    assert WorldOptions(objects=OBJECT_NAMES, num_objects=4).count() == 4


@pytest.mark.parametrize(
    ("changes", "where", "got"),
    [
        ({"seed": -1}, "seed", "-1"),
        ({"objects": ("bagel", "unicorn")}, "objects", "unicorn"),
        ({"objects": ()}, "num_objects", "0"),
        ({"num_objects": 0}, "num_objects", "0"),
        ({"num_objects": 13}, "num_objects", "13"),
        ({"objects": ("bagel",), "num_objects": 2}, "num_objects", "2"),
        ({"num_views": 0}, "num_views", "0"),
        ({"hw": (4, 640)}, "hw", "4"),
        ({"hw": (480, 10_000)}, "hw", "10000"),
        ({"scale_jitter": 1.0}, "scale_jitter", "1.0"),
        ({"scale_jitter": float("nan")}, "scale_jitter", "nan"),
        ({"spacing_m": 0.0}, "spacing_m", "0.0"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_made(tmp_path, changes, where, got):
    with pytest.raises(UsageError) as caught:
        make_world(tmp_path / "world", WorldOptions(**changes))
    assert caught.value.where == f"world option {where}"
    assert got in caught.value.got
    assert caught.value.exit_code == 2
    assert not any(tmp_path.iterdir())


def test_good_options_pass():
    check_options(WorldOptions(seed=5, objects=("bagel",), path="dome", hw=(8, 8)))
