from __future__ import annotations

import pytest
import torch

from xmodal.edges.encode.embedded import Embedded
from xmodal.errors import UsageError
from xmodal.teachers import Teacher
from xmodal.teachers.classifier import EfficientNetLite2, load_network, normalised
from xmodal.teachers.embedded import EmbeddedOptions, EmbeddedTeacher
from xmodal.teachers.imagenet_text import class_descriptions
from xmodal.teachers.mask_grid import GridOptions
from xmodal.teachers.minilm import MiniLm
from xmodal.teachers.weights import MINILM

pytestmark = pytest.mark.usefixtures("packaged_weights")


@pytest.fixture(scope="module")
def teacher() -> EmbeddedTeacher:
    return EmbeddedTeacher(EmbeddedOptions(masks=GridOptions(grid=3)))


@pytest.fixture
def boxes(make_image):
    image = make_image(hw=(96, 128))
    image.rgb[:] = 0.15
    image.rgb[0, 20:70, 20:60] = 0.9
    return image


def test_masks_carry_class_probabilities(teacher, boxes):
    assert isinstance(teacher, Teacher)
    found = teacher.encode(boxes)
    assert found.rows.shape == (found.membership.num_sources, 1000)
    assert len(found.rows) >= 1
    assert float(found.rows.min()) >= 0
    assert torch.allclose(found.rows.sum(dim=1), torch.ones(len(found.rows)), atol=1e-4)
    assert bool((found.weight > 0).all())
    assert found.membership.num_targets == found.grid_hw[0] * found.grid_hw[1]
    assert found.camera is boxes.camera


def test_the_same_image_gives_the_same_numbers(teacher, boxes):
    a, b = teacher.encode(boxes), teacher.encode(boxes)
    assert torch.equal(a.rows, b.rows)
    assert torch.equal(a.membership.col, b.membership.col)


def test_dense_logits_can_be_mixed_in(boxes):
    mixed, plain = (
        EmbeddedTeacher(EmbeddedOptions(masks=GridOptions(grid=2), dense_mix=share)).encode(boxes)
        for share in (0.35, 0.0)
    )
    assert mixed.rows.shape == plain.rows.shape
    assert not torch.allclose(mixed.rows, plain.rows, atol=1e-3)
    assert torch.allclose(mixed.rows.sum(dim=1), torch.ones(len(mixed.rows)), atol=1e-4)


@pytest.mark.parametrize("dense_mix", [0.0, 0.35])
def test_an_image_without_masks_gives_none(make_image, dense_mix):
    options = EmbeddedOptions(masks=GridOptions(grid=1, min_iou=1.0), dense_mix=dense_mix)
    found = EmbeddedTeacher(options).encode(make_image())
    assert found.rows.shape == (0, 1000)
    assert found.membership.nnz == 0


def test_words_find_their_classes(teacher):
    names = [text.split(":")[0] for text in class_descriptions()]
    assert len(set(names)) >= 998  # "crane" and "maillot" are in ImageNet twice
    weights = teacher.encode_text(["coffee mug", "television", "apple | Granny Smith"])
    assert weights.shape == (3, 1000)
    assert torch.allclose(weights.sum(dim=1), torch.ones(3), atol=1e-5)
    best = [names[int(row.argmax())] for row in weights]
    assert best[0] == "coffee mug"
    assert best[1].startswith("television")
    assert best[2] == "Granny Smith"


def test_synonyms_are_averaged(teacher):
    both = teacher.encode_text(["mug|cup"])[0]
    parts = teacher.encode_text(["mug", "cup"])
    assert torch.allclose(both, parts.mean(dim=0), atol=1e-6)


def test_relevancy_is_the_probability_of_the_words(teacher):
    rows = torch.eye(1000)[[504, 851]]  # a mug for certain, a television for certain
    score = teacher.relevancy(rows, ["coffee mug", "television"], [])
    assert score.shape == (2, 2)
    assert score[0, 0] > 0.5 > score[0, 1]
    assert score[1, 1] > 0.5 > score[1, 0]
    assert 0 <= float(score.min()) <= float(score.max()) <= 1


def test_negatives_halve_what_they_equal_and_spare_the_rest(teacher):
    rows = torch.eye(1000)[[504]]
    plain = teacher.relevancy(rows, ["coffee mug"], [])
    same = teacher.relevancy(rows, ["coffee mug"], ["coffee mug"])
    other = teacher.relevancy(rows, ["coffee mug"], ["sports car"])
    assert torch.allclose(same, plain / 2)
    assert torch.allclose(other, plain, rtol=0.02)
    nothing = teacher.relevancy(torch.zeros(1, 1000), ["mug"], ["cup"])
    assert nothing.tolist() == [[0.0]]


def test_no_texts_give_no_columns(teacher):
    assert teacher.relevancy(torch.zeros(2, 1000), [], []).shape == (2, 0)


@pytest.mark.parametrize("text", ["", " ", "|", "\n"])
def test_empty_text_is_refused(teacher, four_parts, text):
    with pytest.raises(UsageError) as caught:
        teacher.encode_text([text])
    four_parts(caught.value, 2)


def test_one_string_is_not_a_list_of_texts(teacher):
    with pytest.raises(TypeError):
        teacher.encode_text("mug")


@pytest.mark.parametrize("text", ["x" * 10_000, "mug\x00\x1b[31m", "猫", "🙂"])
def test_strange_text_gives_finite_weights(teacher, text):
    weights = teacher.encode_text([text])
    assert torch.isfinite(weights).all()
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-4)


def test_a_whole_picture_has_probabilities(teacher, boxes):
    found = teacher.encode_image(boxes)
    assert found.shape == (1000,)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-4)


def test_the_exported_classifier_is_the_classifier():
    net = EfficientNetLite2()
    crops = torch.randint(0, 256, (3, 260, 260, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = load_network()(normalised(crops))
    assert torch.allclose(net.classify(crops), expected, atol=1e-3)
    assert net.classify(crops[:0]).shape == (0, 1000)


def test_dense_logits_average_to_the_classifiers():
    net, image = EfficientNetLite2(), torch.rand(3, 480, 640)
    places = net.dense(image)
    assert places.shape == (15, 20, 1000)
    with torch.no_grad():
        expected = load_network()((image[None] * 255 - 127) / 128)[0]
    assert torch.allclose(places.mean(dim=(0, 1)), expected, atol=1e-3)
    assert net.dense(torch.rand(3, 968, 1296)).shape == (15, 20, 1000)
    assert net.dense(torch.rand(3, 9, 700)).shape[1] == 20


def test_the_sentence_encoder_agrees_with_a_model_library():
    pytest.importorskip("transformers")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoModel, AutoTokenizer

        folder = MINILM.locate().parent
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder).eval()
        sentences = ["coffee mug", "a somewhat longer sentence about a red kitchen cabinet"]
        encoded = tokenizer(sentences, padding=True, return_tensors="pt")
        with torch.no_grad():
            states = model(**encoded).last_hidden_state
    real = encoded["attention_mask"][..., None].float()
    expected = torch.nn.functional.normalize((states * real).sum(1) / real.sum(1), dim=1)
    assert torch.allclose(MiniLm().embed(sentences), expected, atol=1e-5)


def test_settings_are_part_of_the_fingerprint():
    prints = {
        Embedded().teacher().fingerprint,
        Embedded(grid=12).teacher().fingerprint,
        Embedded(scales=(1.0,)).teacher().fingerprint,
        Embedded(dense_mix=0.2).teacher().fingerprint,
        Embedded(area_power=0.0).teacher().fingerprint,
        Embedded(mask_long_side=320).teacher().fingerprint,
    }
    assert len(prints) == 6
    assert Embedded().teacher().fingerprint == EmbeddedTeacher().fingerprint


@pytest.mark.parametrize(
    "bad",
    [
        {"grid": 0},
        {"grid": 65},
        {"scales": ()},
        {"scales": (float("nan"),)},
        {"dense_mix": 1.5},
        {"area_power": -0.1},
        {"mask_long_side": 32},
    ],
)
def test_settings_without_sense_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Embedded(**bad)
