"""Films cut into pieces on one clock, and files that are put on the film's clock."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch.nn import functional
from typer.testing import CliRunner

from tests.recordings.media import readings, tone, write_film, write_sound, write_table
from xmodal.cli import app
from xmodal.config.run_parts import Data
from xmodal.config.runfile import load_run
from xmodal.errors import ConfigError, DataError, UsageError
from xmodal.recordings.clips import open_clips
from xmodal.recordings.clocks import ClockLag
from xmodal.recordings.cutting import Cutting, KeptStreams, pieces, within
from xmodal.recordings.opening import open_recordings
from xmodal.recordings.recording import Recording
from xmodal.recordings.spans import span_of
from xmodal.runs.recorded.material import open_data
from xmodal.values import Audio, Imu, Video

FourParts = Callable[[Exception], None]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XMODAL_CACHE", str(folder))
    return folder


def walk(folder: Path, num: int = 30) -> Path:
    """A film of three seconds with sound, and readings that begin half a second later."""
    write_film(folder / "walk.mp4", num=num)
    t, accel, gyro = readings(200)
    write_table(folder / "walk_imu.csv", t + 0.5, accel, gyro)
    return folder


def pan(folder: Path, late_s: float = 0.0) -> Path:
    """A camera that pans over a wall for six seconds, 20 frames a second, and its gyroscope."""
    chance = torch.Generator().manual_seed(0)
    wall = functional.interpolate(
        torch.randn(1, 1, 12, 200, generator=chance), size=(48, 800), mode="bicubic"
    ).sigmoid()
    fine = torch.arange(8000, dtype=torch.float64) / 1000
    swing = torch.stack([torch.sin(w * fine) / w for w in (2.0, 3.7, 5.3)]).sum(0)
    place = 350 + 25 * swing
    with av.open(str(folder / "pan.mp4"), "w") as film:
        video = film.add_stream("mpeg4", rate=20)
        video.width, video.height, video.pix_fmt, video.bit_rate = 64, 48, "yuv420p", 4_000_000
        for k in range(120):
            at = (float(place[k * 50]) + torch.arange(64) + 0.5) / 400 - 1
            row = (torch.arange(48) + 0.5) / 24 - 1
            grid = torch.stack(torch.meshgrid(at, row, indexing="xy"), -1).float()
            grey = functional.grid_sample(wall, grid[None], align_corners=False)[0, 0]
            rgb = (255 * grey).byte()[..., None].expand(48, 64, 3).contiguous().numpy()
            film.mux(video.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        film.mux(video.encode())
    rate = (place.diff()[:7000:10] * 1000 / 38.4).numpy()
    gyro = np.stack([0.2 * rate, 0 * rate, -0.9 * rate], 1)
    time_s = np.arange(len(rate)) / 100 + late_s
    write_table(folder / "pan_imu.csv", time_s, np.full_like(gyro, 5.66), gyro)
    return folder


# ---- pieces ------------------------------------------------------------------------------------


def test_a_film_gives_pieces_of_all_its_streams(tmp_path: Path) -> None:
    found = open_recordings(walk(tmp_path), "clips", cut_s=1.0, hop_s=0.5, max_side_px=64)
    # All are there from 0.5 s to 3 s.
    assert found.names == ("walk@0.0", "walk@0.5", "walk@1.0", "walk@1.5")
    assert {item.group for item in found.items} == {"walk"}
    film, sound, imu = (found.items[2].read(kind) for kind in ("video", "audio", "imu"))
    assert isinstance(film, Video)
    assert film.time_s.tolist() == pytest.approx([1.5 + k / 10 for k in range(10)])
    assert film.rgb[:, 0, 40, 60].float().diff().min() > 4  # later frames are brighter
    assert isinstance(sound, Audio)
    assert sound.start_s is not None
    assert sound.start_s.tolist() == pytest.approx([1.5])
    assert sound.amplitudes.shape == (1, 16000)
    assert isinstance(imu, Imu)
    assert (float(imu.time_s[0]), float(imu.time_s[-1])) == pytest.approx((1.5, 2.48))
    assert imu.offsets.tolist() == [0, 50]


def test_pieces_are_as_long_as_their_hop_unless_told_otherwise(tmp_path: Path) -> None:
    assert open_clips(walk(tmp_path), cut_s=1.25).names == ("walk@0.0", "walk@1.25")


def test_how_it_was_cut_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    walk(tmp_path)
    cuts = [(None, None), (1.0, None), (1.1, None), (1.0, 1.1)]
    found = {open_clips(tmp_path, cut_s=cut, hop_s=hop).fingerprint for cut, hop in cuts}
    assert len(found) == 4


def test_a_film_is_read_once_for_its_pieces() -> None:
    sound = Audio(
        amplitudes=torch.arange(80.0)[None] / 80, rate_hz=8.0, offsets=torch.tensor([0, 80])
    )
    reads: list[str] = []

    def read(name: str) -> Audio:
        reads.append(name)
        return sound

    kept, how = KeptStreams(), Cutting(cut_s=2.0, hop_s=2.0)
    cut = [
        piece
        for name in ("a", "b")
        for piece in pieces(
            Recording(name=name, group=name, streams={"audio": partial(read, name)}),
            {"audio": (0.0, 10.0)},
            how,
            kept,
        )
    ]
    parts = [item.read("audio") for item in cut]
    assert reads == ["a", "b"]
    assert len(parts) == 10
    assert isinstance(parts[1], Audio)
    assert parts[1].amplitudes[0].tolist() == sound.amplitudes[0, 16:32].tolist()


def test_a_piece_without_samples_is_an_empty_stream(tmp_path: Path) -> None:
    imu = open_clips(walk(tmp_path)).items[0].read("imu")
    assert isinstance(imu, Imu)
    empty = within(imu, (50.0, 51.0))
    assert isinstance(empty, Imu)
    assert empty.offsets.tolist() == [0, 0]
    assert len(empty.time_s) == 0
    sound = Audio(amplitudes=torch.zeros(1, 8), rate_hz=8.0, offsets=torch.tensor([0, 8]))
    nothing = within(sound, (50.0, 51.0))
    assert isinstance(nothing, Audio)
    assert nothing.amplitudes.shape == (1, 0)


def test_spans_are_found_without_decoding(tmp_path: Path) -> None:
    walk(tmp_path)
    write_sound(tmp_path / "own.wav", tone(4000))
    assert span_of("video", tmp_path / "walk.mp4") == pytest.approx((0, 3))
    assert span_of("audio", tmp_path / "walk.mp4")[1] == pytest.approx(3, abs=0.13)
    assert span_of("audio", tmp_path / "own.wav") == (0, 0.5)
    assert span_of("imu", tmp_path / "walk_imu.csv") == pytest.approx((0.5, 4.48))


def test_pieces_longer_than_a_film_are_refused(tmp_path: Path, four_parts: FourParts) -> None:
    with pytest.raises(DataError, match="4 s or more to cut") as caught:
        open_clips(walk(tmp_path), cut_s=4.0)
    four_parts(caught.value)


def test_streams_that_never_meet_are_refused(tmp_path: Path, four_parts: FourParts) -> None:
    write_film(tmp_path / "walk.mp4")
    t, accel, gyro = readings(200)
    write_table(tmp_path / "walk_imu.csv", t + 100, accel, gyro)
    with pytest.raises(DataError, match="overlap in time") as caught:
        open_clips(tmp_path, cut_s=0.5)
    four_parts(caught.value)
    assert "imu from 100.000" in str(caught.value)


def test_a_film_without_sound_has_none(tmp_path: Path, four_parts: FourParts) -> None:
    write_film(tmp_path / "mute.mp4", sound=False)
    assert open_clips(tmp_path, cut_s=0.5).kinds == ("video",)
    with pytest.raises(DataError, match="a film with sound") as caught:
        span_of("audio", tmp_path / "mute.mp4")
    four_parts(caught.value)
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing of the kind")
    with pytest.raises(DataError) as caught:
        open_clips(tmp_path, cut_s=0.5)
    four_parts(caught.value)


# ---- clocks ------------------------------------------------------------------------------------


def test_readings_are_put_on_the_clock_of_the_film(tmp_path: Path, cache: Path) -> None:
    pan(tmp_path, late_s=0.4)
    found = open_clips(tmp_path, align_within_s=1.0, cut_s=2.0)
    (clock,) = found.items[0].clocks
    assert (clock.stream, clock.against, clock.trusted) == ("imu", "pictures", True)
    assert clock.seconds == pytest.approx(0.4, abs=0.0125)  # a quarter of a frame
    imu = found.items[0].read("imu")
    assert isinstance(imu, Imu)
    assert float(imu.time_s[0]) == pytest.approx(0.0, abs=0.0125)
    assert found.names == ("pan@0.0", "pan@2.0", "pan@4.0")
    assert found.fingerprint != open_clips(tmp_path, cut_s=2.0).fingerprint
    (kept,) = (cache / "clocks").iterdir()
    kept.write_text('{"seconds": 0.1, "strength": 0.95, "smooth_s": 0.0}')
    assert open_clips(tmp_path, align_within_s=1.0).items[0].clocks[0].seconds == 0.1
    kept.write_text("{damaged")
    assert open_clips(tmp_path, align_within_s=1.0).items[0].clocks == (clock,)


def test_foreign_readings_are_left_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pan(tmp_path)
    t, accel, _ = readings(600, 100.0)
    rng = np.random.default_rng(0)
    write_table(tmp_path / "pan_imu.csv", t, accel, rng.standard_normal((600, 3)))
    with caplog.at_level(logging.WARNING):
        (item,) = open_clips(tmp_path, align_within_s=1.0).items
    assert not item.clocks[0].trusted
    assert "too weak to be believed" in caplog.text
    imu = item.read("imu")
    assert isinstance(imu, Imu)
    assert float(imu.time_s[0]) == 0
    assert item.made == ""


def test_a_sound_beside_a_film_is_put_on_its_clock(tmp_path: Path) -> None:
    """The microphone of a recorder that was started 0.3 s after the camera."""
    noise = 0.3 * np.random.default_rng(0).standard_normal(16000 * 3)
    with av.open(str(tmp_path / "talk.mp4"), "w") as film:
        video = film.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = film.add_stream("aac", rate=16000, layout="mono")
        for _ in range(30):
            grey = np.full((48, 64, 3), 90, np.uint8)
            film.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        film.mux(video.encode())
        for start in range(0, len(noise), 1024):
            block = noise[None, start : start + 1024].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            film.mux(audio.encode(frame))
        film.mux(audio.encode())
    write_sound(tmp_path / "talk.wav", noise[4800:, None], 16000)
    (item,) = open_clips(tmp_path, align_within_s=1.0).items
    (clock,) = item.clocks
    assert (clock.stream, clock.against, clock.trusted) == ("audio", "sound", True)
    # The encoder of the film delays its sound by a block at most.
    assert clock.seconds == pytest.approx(-0.3, abs=0.07)
    sound = item.read("audio")
    assert isinstance(sound, Audio)
    assert sound.start_s is not None
    assert float(sound.start_s[0]) == pytest.approx(-clock.seconds)


def test_a_film_that_stands_still_has_no_lag(tmp_path: Path) -> None:
    walk(tmp_path)
    t, accel, gyro = readings(200)
    write_table(tmp_path / "walk_imu.csv", t, accel, 0 * gyro)
    (item,) = open_clips(tmp_path, align_within_s=1.0).items
    assert "no lag found" in item.clocks[0].text()
    assert not item.clocks[0].trusted


def test_the_command_says_lags_and_writes_them(tmp_path: Path) -> None:
    pan(tmp_path, late_s=-0.2)
    out = tmp_path / "lags.csv"
    result = CliRunner().invoke(app, ["align", str(tmp_path), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "ms earlier, strength 0.9" in result.output
    assert "align_within_s: 1" in result.output
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert float(row["lag_s"]) == pytest.approx(-0.2, abs=0.0125)
    assert row["trusted"] == "true"


def test_nothing_to_align_is_an_error(tmp_path: Path, four_parts: FourParts) -> None:
    write_film(tmp_path / "walk.mp4", num=3)
    for wrong in (["align", str(tmp_path)], ["align", str(tmp_path / "nowhere")]):
        result = CliRunner().invoke(app, wrong)
        assert isinstance(result.exception, DataError)
        four_parts(result.exception)
    result = CliRunner().invoke(app, ["align", str(tmp_path), "--max-lag", "0"])
    assert isinstance(result.exception, UsageError)
    with pytest.raises(DataError, match="beside it"):
        open_data(Data(scene=str(tmp_path), format="clips", align_within_s=1.0))


def test_a_lag_in_words() -> None:
    lag = ClockLag(
        name="a", stream="imu", against="pictures", seconds=-0.1, strength=0.95, trusted=True
    )
    assert lag.text() == "a: imu against the pictures of the film: 100.0 ms earlier, strength 0.950"
    assert "below 0.9" in replace(lag, trusted=False).text()


# ---- run files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("{scene: x, format: clips, hop_s: 1.0}", "length of a piece"),
        ("{scene: x, format: clips, cut_s: 0}", "cut_s"),
        ("{scene: x, format: utd_mhad, cut_s: 2.0}", "without films"),
        ("{scene: x, format: sound_folders, align_within_s: 2.0}", "without films"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path: Path, data: str, match: str) -> None:
    graph = Path("configs/graphs/soundnet.yaml").resolve()
    file = tmp_path / "run.yaml"
    file.write_text(f"name: x\ngraph: {graph}\ndata: {data}\n")
    with pytest.raises(ConfigError, match=match):
        load_run(file)
