"""Every real file of sound, motion and film opens, in the right units."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lifting.signals.inertial import GRAVITY_MPS2
from lifting.signals.spectra import GENERAL, YAMNET
from xmodal.recordings.audio_files import read_audio
from xmodal.recordings.imu_files import read_imu_checked
from xmodal.recordings.skeleton_files import read_skeleton
from xmodal.recordings.video_files import read_video

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def data() -> Path:
    root = os.environ.get("XMODAL_DATA")
    if root is None:
        pytest.skip("set XMODAL_DATA to the folder that holds utd_mhad_s1to6 and esc10_folds123")
    return Path(root)


def test_motions_of_people_in_si_units(data):
    files = sorted((data / "utd_mhad_s1to6" / "Inertial").glob("*.mat"))
    assert len(files) == 646
    medians, fastest = [], []
    for path in files:
        imu, repairs = read_imu_checked(path)
        assert repairs.dropped == 0
        medians.append(float(imu.accel_mps2.norm(dim=1).median()))
        fastest.append(float(imu.gyro_radps.abs().max()))
    assert abs(sum(medians) / len(medians) - GRAVITY_MPS2) < 1.5
    assert 2 < sorted(fastest)[323] < 15
    assert max(fastest) < 18  # 1000 deg/s is where this sensor ends


def test_skeletons_stand_upright_before_the_camera(data):
    for path in sorted((data / "utd_mhad_s1to6" / "Skeleton").glob("a1_*.mat")):
        body = read_skeleton(path)
        head, hip, left, right = (body.joints_m[:, joint].mean(0) for joint in (0, 3, 4, 8))
        assert float(head[1]) < float(hip[1])  # y points down
        assert float(left[0]) > float(right[0])  # who faces the camera has the left on its right
        assert 1 < float(hip[2]) < 5


def test_sounds_of_two_kinds_of_files(data):
    files = sorted((data / "esc10_folds123").glob("*/*.ogg"))
    assert len(files) == 240
    for path in [*files[::30], *sorted((data / "audio_image_pairs").glob("*.wav"))]:
        sound = read_audio(path, rate_hz=16_000.0, mics=1)
        seconds = sound.amplitudes.shape[1] / 16_000
        assert 2 < seconds < 8
        assert bool(YAMNET(sound.amplitudes).isfinite().all())


@pytest.mark.slow
def test_films_have_pictures_and_sound_on_one_clock(data):
    for name, num, hw in (
        ("audio_video_clips/v_GGSY1Qvo990.mp4", 355, (120, 160)),
        ("audio_video_clips/v_ZNVhz7ctTq0.mp4", 420, (120, 160)),
        ("gopro_video_audio_imu/max-heromode.mp4", 315, (91, 160)),
    ):
        film = read_video(data / name, max_side=160)
        sound = read_audio(data / name, rate_hz=32_000.0)
        assert film.rgb.shape == (num, 3, *hw)
        assert bool((film.time_s.diff() > 0).all())
        assert sound.start_s is not None
        end_s = float(sound.start_s) + sound.amplitudes.shape[1] / 32_000
        assert end_s == pytest.approx(float(film.time_s[-1]), abs=0.2)
        assert bool(GENERAL(sound.amplitudes).isfinite().all())
        assert film.offsets.tolist() == [0, num]
        assert isinstance(film.time_s, torch.Tensor)
