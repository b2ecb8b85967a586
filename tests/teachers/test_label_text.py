"""Class names and films as targets."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xmodal.edges.encode.frames_embedding import FramesEmbedding
from xmodal.edges.encode.label_text import LabelText
from xmodal.errors import ConfigError, UsageError
from xmodal.teachers import clip_names
from xmodal.teachers.clip_names import ClipNames
from xmodal.teachers.frames_embedding import FramesTeacher
from xmodal.teachers.label_text import LabelTextTeacher
from xmodal.teachers.local_weights import LocalFile
from xmodal.teachers.recordings import RecordingTeacher
from xmodal.values import Image, Labels, Video

DATA = os.environ.get("XMODAL_DATA")
LABELS = Labels(ids=torch.tensor([1, -1, 0, 1]), classes=("dog bark", "rain"))


@pytest.mark.usefixtures("packaged_weights")
class TestSentences:
    def test_rows_are_those_of_the_names(self) -> None:
        op = LabelText(templates=("{}", "the sound of {}"))
        teacher = op.teacher()
        assert isinstance(teacher, RecordingTeacher)
        found = op(teacher, LABELS)
        assert found.valid.tolist() == [True, False, True, True]
        assert found.weight.tolist() == [1, 0, 1, 1]
        assert torch.equal(found.rows[0], found.rows[3])
        assert float(found.rows[1].abs().sum()) == 0
        torch.testing.assert_close(found.rows[[2, 0]], teacher.encode_text(["dog bark", "rain"]))
        assert found.rows.shape == (4, op.channels)

    def test_synonyms_negatives_and_order(self) -> None:
        teacher = LabelTextTeacher()
        rows = teacher.encode(LABELS).rows[[2, 0]]
        asked = teacher.relevancy(rows, ["a barking dog | dog", "rainfall"], [])
        assert asked.argmax(dim=1).tolist() == [0, 1]
        against = teacher.relevancy(rows, ["rainfall"], ["rain"])
        assert float(against[1, 0]) < float(asked[1, 1])

    def test_templates_are_part_of_the_fingerprint(self) -> None:
        other = LabelTextTeacher(templates=("a video of {}",))
        assert other.fingerprint != LabelTextTeacher().fingerprint

    def test_an_empty_text_is_refused(self) -> None:
        with pytest.raises(UsageError, match="words to look for"):
            LabelTextTeacher().encode_text(["  "])


@pytest.fixture
def clip(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two small files of vectors in the place of the real ones."""
    files: list[tuple[LocalFile, LocalFile]] = []
    for which, names in enumerate((["Dog", "raincoat", "dog_collar"], ["Rooster (bird)", "dog"])):
        made: list[LocalFile] = []
        for end, write in (("npy", None), ("json", names)):
            path = tmp_path / f"{which}.{end}"
            if write is None:
                np.save(path, np.eye(512, dtype=np.float32)[10 * which :][: len(names)] * 7)
            else:
                path.write_text(json.dumps(write))
            from xmodal.atomic import sha256_file

            made.append(
                LocalFile(
                    folder="clip_text_vectors",
                    name=path.name,
                    sha256=sha256_file(path),
                    source="a test",
                    licence="none",
                )
            )
        files.append((made[0], made[1]))
    monkeypatch.setattr(clip_names, "FILES", tuple(files))
    return tmp_path


def test_names_of_categories(clip: Any) -> None:
    names = ClipNames(clip, {"Rain": "raincoat"})
    assert names.name_of("dog") == "dog"
    assert names.name_of("loud dog bark") == "dog"
    assert names.name_of("a dog collar!") == "dog collar"
    assert names.name_of("RAIN") == "raincoat"
    # the first file counts where both have a name, and vectors are brought to length 1
    assert torch.equal(names.vector("dog"), torch.eye(512)[0])
    assert torch.equal(names.vector("rooster"), torch.eye(512)[10])


def test_a_class_without_a_category_is_refused(clip: Any) -> None:
    teacher = LabelTextTeacher("clip", weights=clip)
    with pytest.raises(ConfigError, match=r"'rain'[\s\S]*names:"):
        teacher.encode(LABELS)
    unused = Labels(ids=torch.tensor([0, -1]), classes=LABELS.classes)
    assert teacher.encode(unused).valid.tolist() == [True, False]


def test_a_category_that_there_is_not_is_refused_at_once(clip: Any) -> None:
    with pytest.raises(ConfigError, match="'unicorn'"):
        LabelTextTeacher("clip", weights=clip, names={"rain": "unicorn"})


@pytest.mark.skipif(not DATA, reason="XMODAL_DATA is unset: it has CLIP's vectors of names")
@pytest.mark.realdata
def test_real_vectors_are_those_of_clip() -> None:
    teacher = LabelTextTeacher("clip")
    rows = teacher.encode_text(["cat", "dog", "car", "truck"])
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4))
    # as the note on the files says: cat and dog 0.94, car and truck 0.93
    assert float(rows[0] @ rows[1]) == pytest.approx(0.94, abs=0.01)
    assert float(rows[2] @ rows[3]) == pytest.approx(0.93, abs=0.01)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"templates": ()}, "template"),
        ({"templates": ("a dog",)}, "template"),
        ({"vectors": "clip", "templates": ("a {}",)}, "no effect with vectors: clip"),
        ({"names": {"rain": "umbrella"}}, "no effect with vectors: sentences"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LabelText(**settings)


# Films.


class Brightness:
    """An image teacher whose row is the mean colour; it remembers what it saw."""

    name, channels, fingerprint, licence = "brightness", 3, "b" * 64, "none"

    def __init__(self, space: Any = "raw") -> None:
        self.space, self.seen = space, 0

    def encode(self, image: Image) -> Any:
        raise AssertionError("films are described as a whole")

    def encode_image(self, image: Image) -> Tensor:
        self.seen += 1
        return image.rgb.mean(dim=(1, 2))

    def encode_text(self, text: list[str]) -> Tensor:
        return torch.ones(len(text), 3)

    def relevancy(self, rows: Tensor, text: list[str], negatives: list[str]) -> Tensor:
        return rows @ self.encode_text(text).T


def film() -> Video:
    rgb = torch.zeros(6, 3, 4, 5, dtype=torch.uint8)
    rgb[:, 0] = torch.tensor([0, 51, 102, 153, 204, 255], dtype=torch.uint8)[:, None, None]
    time_s = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.0, 0.4])
    return Video(rgb=rgb, time_s=time_s, offsets=torch.tensor([0, 4, 4, 6]))


def test_frames_are_averaged_at_their_distance() -> None:
    image = Brightness()
    found = FramesTeacher(image, 0.4).encode(film())
    # frames at 0 and 0.4 s of the first film, both of the last; the second has none
    torch.testing.assert_close(found.rows[:, 0], torch.tensor([0.2, 0.0, 0.9]))
    assert found.valid.tolist() == [True, False, True]
    assert image.seen == 4
    assert FramesTeacher(image, 0.0).encode(film()).rows[0, 0] == pytest.approx(0.3)


def test_unit_rows_stay_of_length_one() -> None:
    found = FramesTeacher(Brightness("unit"), 0.4).encode(film())
    torch.testing.assert_close(found.rows.norm(dim=1), torch.tensor([1.0, 0.0, 1.0]))


def test_spacing_changes_the_fingerprint() -> None:
    assert FramesTeacher(Brightness(), 0.4).fingerprint != FramesTeacher(Brightness()).fingerprint


@pytest.mark.usefixtures("packaged_weights")
@pytest.mark.parametrize("image", ["embedded", "imagenet_dense"])
def test_the_embedded_teacher_sees_films(image: Any) -> None:
    op = FramesEmbedding(image=image, every_s=0.4)
    teacher = op.teacher()
    assert isinstance(teacher, RecordingTeacher)
    found = op(teacher, film())
    assert found.rows.shape == (3, op.channels)
    assert op.space == teacher.space
    assert teacher.relevancy(found.rows, ["a cup"], []).shape == (3, 1)


@pytest.mark.parametrize("every_s", [-1.0, float("nan"), float("inf")])
def test_a_distance_that_is_none_is_refused(every_s: float) -> None:
    with pytest.raises(ValueError, match="every_s"):
        FramesEmbedding(every_s=every_s)
