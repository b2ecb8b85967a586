"""Lags between streams that were put in, in made-up and in real recordings."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from xmodal.errors import DataError
from xmodal.recordings.alignment import (
    FilmTurn,
    aligned_imu,
    delayed,
    film_imu_lag,
    film_turn,
    sound_film_lag,
    sound_lag,
)
from xmodal.recordings.audio_files import read_audio
from xmodal.recordings.imu_files import read_imu
from xmodal.recordings.video_files import read_video
from xmodal.values import Audio, Imu, Skeleton, Video

D = torch.float64
FRAME_S = 1 / 30
LAGS = [0.05, -0.1, 0.2, -0.4, 0.8]


def panning(num: int = 240) -> tuple[Video, Imu]:
    """A camera that pans over a far wall, and a gyroscope mounted another way."""
    chance = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, 12, 200, generator=chance)
    wall = functional.interpolate(noise, size=(48, 800), mode="bicubic")[0, 0].sigmoid()
    swing = sum(torch.sin(w * torch.arange(10_000, dtype=D) / 1000) / w for w in (2.0, 3.7, 5.3))
    place = 350 + 25 * swing  # pixels; 0.6 focal lengths a width of 64 pixels
    frames = []
    for k in range(num):
        at = (float(place[int(k * FRAME_S * 1000)]) + torch.arange(64) + 0.5) / 400 - 1
        row = (torch.arange(48) + 0.5) / 24 - 1
        sampling = torch.stack(torch.meshgrid(at, row, indexing="xy"), -1).float()
        frames.append(functional.grid_sample(wall[None, None], sampling[None], align_corners=False))
    grey = (255 * torch.cat(frames)).to(torch.uint8).expand(num, 3, 48, 64)
    film = Video(
        rgb=grey, time_s=torch.arange(num, dtype=D) * FRAME_S, offsets=torch.tensor([0, num])
    )
    t = torch.arange(1600, dtype=D) / 200
    rate = place.diff()[:8000:5] * 1000 / 38.4
    gyro = torch.stack([0.2 * rate, 0 * rate, -0.9 * rate], 1)
    imu = Imu(
        accel_mps2=torch.full((1600, 3), 5.66),
        gyro_radps=gyro.float(),
        time_s=t,
        offsets=torch.tensor([0, 1600]),
    )
    return film, imu


def noise(num: int = 16_000, rate_hz: float = 8000.0) -> Audio:
    amplitudes = 0.1 * torch.randn(2, num, generator=torch.Generator().manual_seed(1))
    return Audio(amplitudes=amplitudes, rate_hz=rate_hz, offsets=torch.tensor([0, num]))


def test_a_film_against_a_gyroscope_that_is_mounted_another_way():
    film, imu = panning()
    turn = film_turn(film)
    assert turn.rate_radps.shape == (239, 3)
    base = film_imu_lag(turn, imu)
    assert abs(base.seconds) < FRAME_S / 4
    assert base.strength > 0.98
    assert base.smooth_s == 0
    for lag in LAGS:
        found = film_imu_lag(turn, delayed(imu, lag))
        assert found.seconds == pytest.approx(lag, abs=FRAME_S / 4)
        late = FilmTurn(turn.rate_radps, turn.time_s + lag)
        assert film_imu_lag(late, imu).seconds == pytest.approx(-lag, abs=FRAME_S / 4)


def test_readings_are_put_on_the_films_clock(four_parts):
    film, imu = panning()
    turn = film_turn(film)
    moved, lag = aligned_imu(turn, delayed(imu, 0.4))
    assert lag.seconds == pytest.approx(0.4, abs=FRAME_S / 4)
    assert torch.allclose(moved.time_s, imu.time_s, atol=FRAME_S / 4)
    even, _ = aligned_imu(turn, delayed(imu, 0.4), rate_hz=50.0)
    assert torch.allclose(even.time_s.diff(), torch.tensor(0.02, dtype=D))
    assert float(even.time_s[0]) == pytest.approx(FRAME_S / 2)
    assert even.offsets.tolist() == [0, len(even.gyro_radps)]
    chance = torch.Generator().manual_seed(3)
    foreign = replace(imu, gyro_radps=torch.randn(imu.gyro_radps.shape, generator=chance))
    with pytest.raises(DataError, match="turns that agree") as caught:
        aligned_imu(turn, foreign)
    four_parts(caught.value)


def test_streams_that_start_at_other_times_on_one_clock_have_no_lag():
    film, imu = panning()
    kept = imu.time_s >= 1.5
    rest = replace(
        imu,
        accel_mps2=imu.accel_mps2[kept],
        gyro_radps=imu.gyro_radps[kept],
        time_s=imu.time_s[kept],
        offsets=torch.tensor([0, int(kept.sum())]),
    )
    assert abs(film_imu_lag(film, rest).seconds) < FRAME_S / 4


@pytest.mark.parametrize("lag", LAGS)
def test_two_sounds(lag):
    sound = noise()
    assert sound_lag(sound, delayed(sound, lag)).seconds == pytest.approx(lag, abs=1e-4)
    start = replace(sound, start_s=torch.tensor([7.0], dtype=D))
    assert sound_lag(start, delayed(start, lag)).seconds == pytest.approx(lag, abs=1e-4)


def test_a_delayed_stream_has_a_later_clock():
    sound = delayed(noise(), 0.25)
    assert sound.start_s is not None
    assert sound.start_s.tolist() == [0.25]
    body = Skeleton(
        joints_m=torch.zeros(2, 5, 3),
        time_s=torch.tensor([0.0, 0.1]),
        offsets=torch.tensor([0, 2]),
    )
    assert delayed(body, -1.0).time_s.tolist() == pytest.approx([-1.0, -0.9])


@pytest.mark.parametrize("lag", [0.0, 0.1, -0.3])
def test_claps_that_are_seen_and_heard(lag):
    """A hand that jumps at irregular moments, and a click at each."""
    chance = torch.Generator().manual_seed(2)
    moments = (torch.rand(9, generator=chance) * 0.5 + 0.6).cumsum(0).tolist()
    frames = torch.full((240, 3, 32, 32), 60, dtype=torch.uint8)
    side = 0
    for k in range(240):
        side = sum(moment < k * FRAME_S for moment in moments) % 2
        frames[k, :, 8:24, 4 + 12 * side : 16 + 12 * side] = 220
    film = Video(
        rgb=frames, time_s=torch.arange(240, dtype=D) * FRAME_S, offsets=torch.tensor([0, 240])
    )
    amplitudes = torch.zeros(1, 64_000)
    for moment in moments:
        start = int(moment * 8000)
        if start < 63_000:
            amplitudes[0, start : start + 400] = 0.5 * torch.randn(400, generator=chance)
    sound = Audio(amplitudes=amplitudes, rate_hz=8000.0, offsets=torch.tensor([0, 64_000]))
    found = sound_film_lag(delayed(sound, lag), film)
    assert found.seconds == pytest.approx(-lag, abs=FRAME_S)
    assert found.strength > 0.5


def test_streams_without_a_lag_are_refused(four_parts):
    film, imu = panning(20)
    sound = noise()
    still = replace(imu, gyro_radps=torch.zeros_like(imu.gyro_radps))
    two = replace(sound, offsets=torch.tensor([0, 8000, 16_000]))
    none = replace(sound, amplitudes=torch.zeros(2, 0), offsets=torch.tensor([0, 0]))
    silence = replace(sound, amplitudes=torch.zeros_like(sound.amplitudes))
    for lag in (
        lambda: film_imu_lag(film, still),
        lambda: film_imu_lag(replace(film, offsets=torch.tensor([0, 10, 20])), imu),
        lambda: sound_lag(sound, two),
        lambda: sound_lag(none, sound),
        lambda: sound_lag(sound, silence),
        lambda: sound_lag(sound, replace(sound, rate_hz=16_000.0)),
        lambda: sound_lag(sound, sound, max_lag_s=1e-5),
    ):
        with pytest.raises(DataError) as caught:
            lag()
        four_parts(caught.value)


def test_a_clock_that_jumps_by_years_does_not_fill_memory(four_parts):
    film, imu = panning(60)
    jumped = replace(imu, time_s=imu.time_s + 1e9 * (imu.time_s > 4.0))
    late = replace(film, time_s=film.time_s + 1e9 * (film.time_s > 1.0))
    for lag in (
        lambda: film_imu_lag(film, jumped),
        lambda: film_imu_lag(late, imu),
        lambda: sound_film_lag(noise(), late),
    ):
        with pytest.raises(DataError, match="in memory") as caught:
            lag()
        four_parts(caught.value)
        assert caught.value.got.startswith("1e+09 s, with a pause of ")


@pytest.fixture(scope="module")
def data() -> Path:
    root = os.environ.get("XMODAL_DATA")
    if root is None:
        pytest.skip("set XMODAL_DATA to the folder that holds gopro_video_audio_imu")
    return Path(root)


@pytest.mark.slow
@pytest.mark.realdata
def test_a_real_film_with_its_gyroscope(data):
    """Lags of 50 to 800 ms, put in as clocks and as late starts: errors below one frame."""
    folder = data / "gopro_video_audio_imu"
    turn = film_turn(read_video(folder / "max-heromode.mp4", max_side=160))
    imu = read_imu(folder / "max-heromode_imu.npz")
    base = film_imu_lag(turn, imu)
    assert abs(base.seconds) < FRAME_S
    assert base.strength > 0.95
    assert base.smooth_s > 0  # the camera stabilises its films
    for lag in (0.05, 0.1, 0.2, 0.4, 0.8):
        assert film_imu_lag(turn, delayed(imu, lag)).seconds == pytest.approx(lag, abs=FRAME_S)
        assert film_imu_lag(turn, delayed(imu, -lag)).seconds == pytest.approx(-lag, abs=FRAME_S)
        kept = turn.time_s >= lag
        late_film = FilmTurn(turn.rate_radps[kept], turn.time_s[kept] - lag)
        assert film_imu_lag(late_film, imu).seconds == pytest.approx(lag, abs=FRAME_S)
        kept = imu.time_s >= lag
        late_imu = replace(
            imu,
            accel_mps2=imu.accel_mps2[kept],
            gyro_radps=imu.gyro_radps[kept],
            time_s=imu.time_s[kept] - lag,
            offsets=torch.tensor([0, int(kept.sum())]),
        )
        assert film_imu_lag(turn, late_imu).seconds == pytest.approx(-lag, abs=FRAME_S)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("name", ["v_GGSY1Qvo990", "v_ZNVhz7ctTq0"])
def test_the_sound_of_real_films_against_a_noisy_late_copy(data, name):
    sound = read_audio(data / "audio_video_clips" / f"{name}.mp4", rate_hz=16_000.0, mics=1)
    chance = torch.Generator().manual_seed(0)
    level = sound.amplitudes.std() * torch.randn(sound.amplitudes.shape, generator=chance)
    for lag in (0.05, 0.2, 0.8):
        num = round(lag * 16_000)
        late = functional.pad(sound.amplitudes, (num, 0))[:, : sound.amplitudes.shape[1]]
        copy = replace(sound, amplitudes=late + level)  # as loud as the sound
        for whiten in (False, True):
            found = sound_lag(sound, copy, whiten=whiten)
            assert found.seconds == pytest.approx(lag, abs=1e-4)
