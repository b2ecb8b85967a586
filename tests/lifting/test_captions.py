"""From what views see to words."""

import pytest
import torch

from lifting.captions import ViewWords, caption_sets, class_mass, frequent, phrase
from lifting.operator import LiftOperator

NAMES = ("apple", "mug", "teapot", "mug")


def view(points: list[int], mass: list[float]) -> ViewWords:
    weight = torch.tensor(mass)
    words = frequent(weight, NAMES, most=5, least_share=0.1)
    return ViewWords(torch.tensor(points), words, weight)


def sets(views: list[ViewWords], **settings):
    options = {"levels": ("scene", "view", "entity"), "most": 5, "least_share": 0.1}
    options |= {"min_points": 1} | settings
    found = caption_sets(views, NAMES, 10, **options)
    return [(one.level, one.points.tolist(), one.words) for one in found]


def test_mass_is_what_all_points_read():
    taps = LiftOperator.from_coo(
        torch.tensor([0, 1, 1]), torch.tensor([0, 0, 2]), torch.tensor([1, 0.5, 0.5]), shape=(2, 3)
    )
    rows = torch.tensor([[1.0, 0], [0.0, 1], [0.5, 0.5]])
    wanted = taps.apply(rows).mean(dim=0)
    assert torch.allclose(class_mass(taps, rows), wanted)
    assert torch.allclose(wanted, torch.tensor([0.875, 0.125]))


def test_points_that_read_nothing_have_no_mass():
    none = torch.zeros(0, dtype=torch.int64)
    taps = LiftOperator(crow=torch.zeros(4).long(), col=none, weight=torch.zeros(0), num_sources=2)
    assert class_mass(taps, torch.rand(2, 3)).tolist() == [0, 0, 0]


def test_classes_of_one_name_are_one_word():
    assert frequent(torch.tensor([0.4, 0.3, 0.0, 0.3]), NAMES, most=3, least_share=0.0) == (
        "mug",
        "apple",
    )


def test_rare_words_and_words_too_many_are_left_out():
    mass = torch.tensor([0.6, 0.1, 0.3, 0.0])
    assert frequent(mass, NAMES, most=3, least_share=0.4) == ("apple", "teapot")
    assert frequent(mass, NAMES, most=1, least_share=0.0) == ("apple",)
    assert frequent(torch.zeros(4), NAMES, most=3, least_share=0.0) == ()


def test_things_are_what_neighbouring_views_share_and_what_they_do_not():
    first, second = view([0, 1, 2, 3], [0.5, 0.5, 0, 0]), view([2, 3, 4], [0, 0.5, 0.5, 0])
    assert sets([first, second], levels=("entity",)) == [
        ("entity", [2, 3], ("mug",)),
        ("entity", [0, 1], ("apple",)),
        ("entity", [4], ("teapot",)),
    ]


def test_views_can_be_compared_with_more_than_the_one_before():
    views = [view([i, i + 1], [1.0, 0, 0, 0]) for i in range(4)]
    assert [len(sets(views, levels=("entity",), neighbours=n)) for n in (1, 2, 9)] == [3, 3, 3]
    again = [*views[:2], views[0]]
    # The first view comes again two views later: they share both points.
    assert ("entity", [0, 1], ("apple",)) in sets(again, levels=("entity",), neighbours=2)
    assert ("entity", [0, 1], ("apple",)) not in sets(again, levels=("entity",), neighbours=1)


def test_levels_come_one_by_one_and_the_scene_last():
    found = sets([view([0, 1], [1.0, 0, 0, 0]), view([1, 2, 3], [0, 0, 1.0, 0])])
    assert [level for level, *_ in found] == ["view", "view", "entity", "entity", "scene"]
    # Three points see the teapot, two the apple.
    assert found[-1] == ("scene", list(range(10)), ("teapot", "apple"))


def test_sets_without_words_or_points_have_no_caption():
    assert sets([view([0, 1], [0.0, 0, 0, 0])]) == []
    assert sets([view([0, 1], [1.0, 0, 0, 0])], min_points=3, levels=("view",)) == []
    assert sets([]) == []


def test_phrases():
    assert phrase(["apple"]) == "a photo of an apple"
    assert phrase(["mug", "apple"]) == "a photo of a mug and an apple"
    assert phrase(["mug", "apple", "pot"]) == "a photo of a mug, an apple and a pot"


def test_a_phrase_needs_words():
    with pytest.raises(ValueError, match="at least one word"):
        phrase([])
