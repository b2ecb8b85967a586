"""YAMNet on generated and real sounds: its own sums, what it hears, words, bad input."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from xmodal.edges.encode.yamnet import Yamnet
from xmodal.errors import BackendError, CheckpointError, DataError
from xmodal.teachers.audioset_text import class_names
from xmodal.teachers.litert import LiteRtNetwork
from xmodal.teachers.local_weights import LocalFile, weight_folders
from xmodal.teachers.recordings import RecordingTeacher
from xmodal.teachers.yamnet import YamnetTeacher
from xmodal.teachers.yamnet_files import CLASS_MAP, NETWORK
from xmodal.values import Audio

DATA = os.environ.get("XMODAL_DATA")
FourParts = Callable[[BaseException, int], None]
REAL = [
    pytest.mark.skipif(not DATA, reason="XMODAL_DATA is unset: it has YAMNet's weights"),
    pytest.mark.realdata,
]
RATE = 16000.0


@pytest.fixture(scope="module")
def yamnet() -> YamnetTeacher:
    pytest.importorskip("ai_edge_litert")
    return YamnetTeacher()


@pytest.fixture(scope="module")
def classes() -> YamnetTeacher:
    return YamnetTeacher("classes")


def audio(*sounds: Tensor, rate_hz: float = RATE) -> Audio:
    sizes = torch.tensor([0] + [len(one) for one in sounds])
    return Audio(amplitudes=torch.cat(sounds)[None], rate_hz=rate_hz, offsets=sizes.cumsum(0))


def tone(seconds: float = 2.0, level: float = 0.05, rate_hz: float = RATE) -> Tensor:
    time_s = torch.arange(round(seconds * rate_hz)) / rate_hz
    return level * torch.sin(2 * torch.pi * 440 * time_s)


def noise(seconds: float = 2.0, level: float = 0.05) -> Tensor:
    num = round(seconds * RATE)
    return level * torch.randn(num, generator=torch.Generator().manual_seed(0))


def heard(teacher: YamnetTeacher, sound: Tensor, rate_hz: float = RATE) -> dict[str, float]:
    scores = teacher.hear(teacher.patches(audio(sound, rate_hz=rate_hz))[0]).scores
    return dict(zip(teacher.classes, scores.mean(dim=0).tolist(), strict=True))


class TestRealWeights:
    pytestmark = REAL

    def test_it_hears_what_was_played(self, yamnet: YamnetTeacher) -> None:
        found = heard(yamnet, tone())
        assert found["Sine wave"] > 0.5
        assert found["Dial tone"] > 0.2
        assert found["Bird"] < 0.1
        assert heard(yamnet, noise())["Noise"] > 0.5
        assert heard(yamnet, torch.zeros(32000))["Silence"] > 0.5

    def test_it_hears_a_bird(self, yamnet: YamnetTeacher) -> None:
        soundfile = pytest.importorskip("soundfile")
        path = Path(str(DATA)) / "audio_image_pairs" / "bird_audio.wav"
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        value = Audio(
            amplitudes=torch.from_numpy(samples.T.copy()),
            rate_hz=float(rate_hz),
            offsets=torch.tensor([0, len(samples)]),
        )
        scores = yamnet.hear(yamnet.patches(value)[0]).scores
        assert yamnet.classes[int(scores.mean(dim=0).argmax())] == "Bird"
        asked = yamnet.relevancy(
            yamnet.encode(value).rows, ["a bird", "a car horn", "a dog barking"], []
        )
        assert int(asked.argmax()) == 0

    def test_the_embedding_gives_the_scores_by_the_last_layer(self, yamnet: YamnetTeacher) -> None:
        patches = torch.cat(yamnet.patches(audio(tone(), noise(), tone(level=0.5))))
        found = yamnet.hear(patches)
        assert found.features.shape == (len(patches), 1024)
        assert float(found.features.min()) >= 0
        # the network rounds logits to steps of 0.31, and clips them at its largest
        scores = yamnet.classify(found.features)
        taps = LiteRtNetwork(NETWORK.locate()).taps
        step = next(tap.scale for tap in taps if "BiasAdd" in tap.name)
        inside = found.logits > found.logits.min()
        error = (torch.logit(scores.double()) - found.logits)[inside].abs().max()
        assert float(error) < 0.52 * step
        assert float((scores - found.scores).abs().max()) < 0.05

    def test_rows_are_means_over_patches(
        self, yamnet: YamnetTeacher, classes: YamnetTeacher
    ) -> None:
        value = audio(tone(3.0), noise(0.2), torch.zeros(0))
        # 3 s have (300 - 2 - 96) / 48 + 1 whole patches; 0.2 s are filled up to one
        assert [len(one) for one in yamnet.patches(value)] == [5, 1, 0]
        found = yamnet.encode(value)
        first = yamnet.hear(yamnet.patches(value)[0]).features.mean(dim=0)
        torch.testing.assert_close(found.rows[0], first)
        assert found.valid.tolist() == [True, True, False]
        assert found.weight.tolist() == [1, 1, 0]
        assert float(found.rows[2].abs().sum()) == 0
        shares = classes.encode(value)
        torch.testing.assert_close(shares.rows.sum(dim=1), torch.tensor([1.0, 1.0, 0.0]))

    def test_recordings_do_not_depend_on_their_neighbours(self, yamnet: YamnetTeacher) -> None:
        both = yamnet.encode(audio(tone(), noise())).rows
        assert torch.equal(both[:1], yamnet.encode(audio(tone())).rows)
        assert torch.equal(both[1:], yamnet.encode(audio(noise())).rows)

    def test_rate_and_microphones(self, yamnet: YamnetTeacher) -> None:
        found = heard(yamnet, tone(rate_hz=44100.0), rate_hz=44100.0)
        assert found["Sine wave"] > 0.5
        one = audio(tone())
        two = Audio(
            amplitudes=torch.cat([one.amplitudes, one.amplitudes]),
            rate_hz=RATE,
            offsets=one.offsets,
        )
        assert torch.equal(yamnet.encode(two).rows, yamnet.encode(one).rows)

    @pytest.mark.usefixtures("packaged_weights")
    def test_words(self, yamnet: YamnetTeacher, classes: YamnetTeacher) -> None:
        value = audio(tone(), noise())
        words = ["sine wave | dial tone", "white noise"]
        for teacher in (yamnet, classes):
            asked = teacher.relevancy(teacher.encode(value).rows, words, [])
            assert asked.argmax(dim=1).tolist() == [0, 1]
            assert float(asked.min()) >= 0
            assert float(asked.max()) <= 1
            against = teacher.relevancy(teacher.encode(value).rows, words[:1], words[1:])
            assert float(against[1, 0]) < 0.5 * float(asked[1, 0]) + 1e-6
            assert teacher.encode_text(words).shape == (2, teacher.channels)
            assert teacher.encode_text([]).shape == (0, teacher.channels)
        torch.testing.assert_close(classes.encode_text(words).sum(dim=1), torch.ones(2))

    def test_it_is_a_teacher_of_recordings(self, yamnet: YamnetTeacher) -> None:
        op = Yamnet(output="classes")
        made = op.teacher()
        assert isinstance(made, RecordingTeacher)
        assert (op.channels, op.space) == (made.channels, made.space) == (521, "simplex")
        assert made.fingerprint != yamnet.fingerprint == YamnetTeacher().fingerprint
        assert (Yamnet().channels, Yamnet().space) == (yamnet.channels, yamnet.space)
        found = Yamnet()(yamnet, audio(tone()))
        assert found.rows.shape == (1, 1024)

    def test_sound_that_is_no_number_is_refused(
        self, yamnet: YamnetTeacher, four_parts: FourParts
    ) -> None:
        bad = tone()
        bad[7] = float("nan")
        with pytest.raises(DataError, match="recording 1") as caught:
            yamnet.encode(audio(tone(), bad))
        four_parts(caught.value, 3)

    def test_files_may_be_named(self, tmp_path: Path) -> None:
        folder = NETWORK.locate().parent
        for given in (folder, folder / NETWORK.name):
            assert NETWORK.locate(given) == folder / NETWORK.name
            assert CLASS_MAP.locate(given) == folder / CLASS_MAP.name
        with pytest.raises(CheckpointError, match="no such file"):
            YamnetTeacher(weights=tmp_path)

    def test_a_tensor_that_is_not_there(self) -> None:
        net = LiteRtNetwork(NETWORK.locate())
        with pytest.raises(CheckpointError, match=r"one tensor for a dream[\s\S]*none"):
            net.find("a dream", lambda tap: tap.shape == (7, 7))
        with pytest.raises(CheckpointError, match="one tensor for anything"):
            net.find("anything", lambda tap: True)


def made_up(tmp_path: Path, content: bytes = b"abc") -> LocalFile:
    folder = tmp_path / "weights" / "toy"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.bin").write_bytes(content)
    return LocalFile(
        folder="toy",
        name="net.bin",
        sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        source="a shop",
        licence="MIT",
    )


def test_where_weights_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made_up(tmp_path)
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path))
    monkeypatch.delenv("XMODAL_WEIGHTS", raising=False)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    assert weight_folders() == [tmp_path / "weights"]
    assert file.locate() == tmp_path / "weights" / "toy" / "net.bin"
    monkeypatch.setenv("XMODAL_WEIGHTS", str(tmp_path / "mine"))
    monkeypatch.setenv("XMODAL_DATA", str(tmp_path / "data"))
    assert weight_folders() == [
        tmp_path / "mine",
        tmp_path / "weights",
        tmp_path / "data" / "weights",
    ]


def test_weights_that_are_missing_or_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, four_parts: FourParts
) -> None:
    file = made_up(tmp_path)
    monkeypatch.setenv("XMODAL_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("XMODAL_WEIGHTS", raising=False)
    monkeypatch.delenv("XMODAL_DATA", raising=False)
    with pytest.raises(BackendError, match="XMODAL_WEIGHTS") as missing:
        file.locate()
    four_parts(missing.value, 5)
    with pytest.raises(CheckpointError, match="no such file"):
        file.locate(tmp_path / "nowhere" / "net.bin")
    assert file.locate(tmp_path / "weights" / "toy").name == "net.bin"
    made_up(tmp_path, b"abcd")
    with pytest.raises(CheckpointError, match="sha256") as changed:
        file.locate(tmp_path / "weights" / "toy")
    four_parts(changed.value, 3)


def test_a_file_that_is_no_network(tmp_path: Path, four_parts: FourParts) -> None:
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / "net.tflite"
    path.write_bytes(np.arange(100, dtype=np.uint8).tobytes())
    with pytest.raises(CheckpointError, match="a TFLite network") as caught:
        LiteRtNetwork(path)
    four_parts(caught.value, 3)


def test_a_class_map_that_is_too_short(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["index", "mid", "display_name"], [0, "/m/0", "Speech"]])
    with pytest.raises(CheckpointError, match="521 rows"):
        class_names(path)


def test_an_output_that_there_is_not() -> None:
    from pydantic import TypeAdapter, ValidationError

    with pytest.raises(ValidationError, match="embedding"):
        TypeAdapter(Yamnet).validate_python({"op": "yamnet", "output": "logits"})
