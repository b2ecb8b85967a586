"""Names of classes as questions."""

from __future__ import annotations

import pytest

from xmodal.datasets.class_text import CLASS_TEXTS, class_texts, prompt_ensemble
from xmodal.datasets.s3dis import S3DIS
from xmodal.datasets.scannet_classes import SCANNET20, SCANNET200
from xmodal.teachers.teacher import prompts_of


@pytest.mark.parametrize("names", [SCANNET20, SCANNET200, S3DIS], ids=["20", "200", "s3dis"])
def test_every_class_is_asked_in_words_of_its_own(names):
    texts = class_texts(names)
    assert len(texts) == len(names)
    asked = [prompt for text in texts for prompt in prompts_of(text)]
    assert len(set(asked)) == len(asked)
    assert not any("_" in prompt or prompt == "other" for prompt in asked)


def test_names_for_tables_become_words():
    assert class_texts(["otherfurniture", "counter", "chair"]) == [
        "other furniture | piece of furniture",
        "kitchen counter | counter | countertop",
        "chair",
    ]


def test_a_synonym_that_is_another_class_is_left_out():
    assert class_texts(["column"]) == ["column | pillar"]
    assert class_texts(["column", "pillar"]) == ["column", "pillar"]
    assert class_texts(["counter", "kitchen counter"])[0] == "counter | countertop"


def test_a_class_keeps_its_own_words_when_others_took_all_its_synonyms():
    assert class_texts(["tv", "television"])[0] == "tv"
    assert class_texts(["mouse", "computer mouse"])[0] == "mouse"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vehicle.car", "car"),
        ("vehicle.construction_vehicle", "construction vehicle | excavator | crane"),
        ("movable_object.trafficcone", "traffic cone"),
        ("flat.driveable_surface", "road | street | driveable surface"),
        ("human.pedestrian.construction_worker", "construction worker pedestrian"),
        ("vehicle.bus.rigid", "rigid bus"),
        ("CoffeeMug", "coffee mug"),
        ("dining-table", "dining table"),
        ("mug | coffee cup", "mug | coffee cup"),
    ],
)
def test_other_ways_to_write_names(name, text):
    assert class_texts([name]) == [text]


@pytest.mark.parametrize("name", ["", "  ", "_", "."])
def test_a_class_without_a_name_is_refused(name):
    with pytest.raises(ValueError, match="needs a name"):
        class_texts(["chair", name])


def test_ensembles_put_every_synonym_into_every_sentence():
    text = prompt_ensemble("sofa | couch", ["a {}", "a {} in a room"])
    assert text == "a sofa | a sofa in a room | a couch | a couch in a room"
    assert len(prompts_of(prompt_ensemble("chair"))) == 5


@pytest.mark.parametrize("templates", [[], ["a photo"], ["{} and {}"]])
def test_sentences_without_a_place_for_the_words_are_refused(templates):
    with pytest.raises(ValueError, match="templates"):
        prompt_ensemble("chair", templates)


def test_the_words_of_the_table_are_clean():
    for name, text in CLASS_TEXTS.items():
        assert name == name.strip()
        assert " | ".join(prompts_of(text)) == text
