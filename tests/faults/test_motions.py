"""Fault matrix row 14: clocks that jump, readings in other units, damaged tables."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from xmodal.edges.encode.imu_tcn import ImuTcn
from xmodal.errors import DataError
from xmodal.recordings.imu_files import read_imu, read_imu_checked

G = 9.80665


@pytest.fixture
def refused(four_parts):
    def check(path: Path, match: str, **options: object) -> DataError:
        with pytest.raises(DataError, match=match) as caught:
            read_imu(path, **options)
        four_parts(caught.value)
        assert path.name in caught.value.where
        return caught.value

    return check


# ---- clocks ------------------------------------------------------------------------------------


def test_a_repeated_time_is_dropped_and_counted(media, tmp_path):
    time, accel, gyro = media.readings()
    time[101] = time[100]
    imu, repairs = read_imu_checked(media.write_table(tmp_path / "a.csv", time, accel, gyro))
    assert (repairs.duplicates, repairs.backward, repairs.dropped) == (1, 0, 1)
    assert repairs.num_readings == 200
    assert len(imu.time_s) == 199
    assert bool((imu.time_s.diff() > 0).all())


def test_a_step_back_is_dropped_and_counted(media, tmp_path):
    time, accel, gyro = media.readings(400)
    time[200] = time[190] + 0.001
    imu, repairs = read_imu_checked(media.write_table(tmp_path / "a.csv", time, accel, gyro))
    assert (repairs.duplicates, repairs.backward) == (0, 1)
    assert bool((imu.time_s.diff() > 0).all())


def test_readings_that_are_no_numbers_are_dropped_and_counted(media, tmp_path):
    time, accel, gyro = media.readings(400)
    accel[7, 1], gyro[9, 2], time[11] = math.nan, math.inf, math.nan
    imu, repairs = read_imu_checked(media.write_table(tmp_path / "a.csv", time, accel, gyro))
    assert repairs.not_finite == 3
    assert len(imu.time_s) == 397
    assert bool(imu.accel_mps2.isfinite().all())


def test_empty_cells_are_readings_that_lack(media, tmp_path):
    path = media.write_table(tmp_path / "a.csv", *media.readings(400))
    lines = path.read_text().splitlines()
    lines[50] = lines[50].rsplit(",", 1)[0] + ","
    path.write_text("\n".join(lines))
    assert read_imu_checked(path)[1].not_finite == 1


def test_many_faults_are_an_error_with_their_counts(media, tmp_path, refused):
    time, accel, gyro = media.readings()
    time[10:20] = time[10]
    time[50] = 0.3
    path = media.write_table(tmp_path / "a.csv", time, accel, gyro)
    error = refused(path, "increasing time stamps")
    assert "9 with a repeated time, 1 out of order, 0 not finite" in error.got
    assert len(read_imu(path, max_dropped=0.1).time_s) == 190


def test_a_clock_that_runs_backwards_is_an_error(media, tmp_path, refused):
    time, accel, gyro = media.readings()
    refused(media.write_table(tmp_path / "a.csv", time[::-1], accel, gyro), "199 out of order")


def test_all_readings_at_one_time_are_an_error(media, tmp_path, refused):
    time, accel, gyro = media.readings()
    refused(media.write_table(tmp_path / "a.csv", 0 * time, accel, gyro), "199 with a repeated")


@pytest.mark.parametrize("factor", [1e3, 1e6, 1e9, 1e-4])
def test_a_clock_in_another_unit_is_an_error(media, tmp_path, refused, factor):
    time, accel, gyro = media.readings()
    error = refused(media.write_table(tmp_path / "a.csv", factor * time, accel, gyro), "a second")
    assert "time_ms" in error.fix


def test_a_gap_is_counted_and_nothing_is_made_up(media, tmp_path):
    time, accel, gyro = media.readings()
    time[100:] += 3.0
    imu, repairs = read_imu_checked(media.write_table(tmp_path / "a.csv", time, accel, gyro))
    assert (repairs.gaps, repairs.dropped, len(imu.time_s)) == (1, 0, 200)
    assert repairs.longest_gap_s == pytest.approx(3.02)


# ---- units -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accel_factor", "told"), [(1 / G, "these are g"), (1000 / G, "mg"), (0.0, "taken out")]
)
def test_accelerations_without_gravitys_length_are_refused(
    media, tmp_path, refused, accel_factor, told
):
    time, accel, gyro = media.readings()
    path = media.write_table(tmp_path / "a.csv", time, accel_factor * accel, gyro)
    assert told in refused(path, "m/s\\^2 with gravity").got
    assert len(read_imu(path, check=False).time_s) == 200


@pytest.mark.parametrize("speed", [1.0, 5.0])
def test_rates_of_turn_in_degrees_are_refused(media, tmp_path, refused, speed):
    time, accel, gyro = media.readings(500)
    gyro = gyro * 180 / math.pi * speed
    path = media.write_table(tmp_path / "a.csv", time, accel, gyro)
    assert "degrees per second" in refused(path, "rad/s").got


def test_axes_that_do_not_agree_are_refused(media, tmp_path, refused):
    time, accel, gyro = media.readings(500)
    path = media.write_table(tmp_path / "a.csv", time, accel, -gyro)
    assert "axes do not agree" in refused(path, "rad/s").got


def test_a_column_that_names_the_wrong_unit_is_refused(media, tmp_path, refused):
    time, accel, gyro = media.readings()
    header = "time_s,ax_g,ay_g,az_g,gx,gy,gz"
    path = media.write_table(tmp_path / "a.csv", time, accel, gyro, header=header)
    assert "96.17" in refused(path, "gravity").got


def test_utd_mhad_in_other_units_is_refused(media, tmp_path, refused):
    _, accel, gyro = media.readings()
    savemat(tmp_path / "a.mat", {"d_iner": np.concatenate([accel, gyro], 1)})
    refused(tmp_path / "a.mat", "gravity")


# ---- damaged files -----------------------------------------------------------------------------


def test_a_cut_table_names_its_line(media, tmp_path, refused):
    path = media.write_table(tmp_path / "a.csv", *media.readings(20))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:15], lines[15][:30]]))
    with pytest.raises(DataError, match="line 16"):
        read_imu(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "an empty file"),
        ("\n\n", "no line"),
        ("time_s,ax,ay,az,gx,gy,gz\n", "readings below the header"),
        ("0.0,1,2,3,4,5,6\n0.1,1,2,3,4,5,6\n", "none for time"),
        ("<html><body>404</body></html>", "none for time"),
        ("time_s,ax,ay,az,gx,gy,gz\n0,a,b,c,d,e,f\n", "numbers in 7 columns"),
    ],
)
def test_tables_that_are_none(tmp_path, refused, text, told):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=told):
        read_imu(path)


def test_foreign_missing_and_damaged_files(media, tmp_path, refused):
    refused(tmp_path / "none.csv", "no such file")
    (tmp_path / "a.json").write_text("{}")
    refused(tmp_path / "a.json", r"\.csv, \.npz or \.mat")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x01" * 50)
    refused(tmp_path / "a.csv", "UTF-8")
    (tmp_path / "text.npz").write_text("hello")
    refused(tmp_path / "text.npz", "NumPy file")
    time, accel, gyro = media.readings()
    np.savez(tmp_path / "a.npz", time_s=time, accel=accel, gyro=gyro)
    raw = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(raw[: len(raw) // 2])
    refused(tmp_path / "cut.npz", "NumPy file")
    np.savez(tmp_path / "objects.npz", time_s=np.array([{}, {}], dtype=object))
    refused(tmp_path / "objects.npz", "Python objects")
    np.savez_compressed(tmp_path / "bomb.npz", time_s=np.zeros(3_000_000))
    refused(tmp_path / "bomb.npz", "compressed")
    savemat(tmp_path / "a.mat", {"d_iner": np.ones((5, 4))})
    refused(tmp_path / "a.mat", r"\[N, 6\]")
    savemat(tmp_path / "words.mat", {"d_iner": np.array(["a", "b"])})
    refused(tmp_path / "words.mat", "numbers in `d_iner`")
    whole = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "cut.mat").write_bytes(whole[:150])
    refused(tmp_path / "cut.mat", "MATLAB")


def test_a_clock_that_was_set_meanwhile_does_not_fill_memory(media, tmp_path, four_parts):
    """Its last reading is years later: it is read, and windows over years are refused."""
    time, accel, gyro = media.readings(400)
    time[-1] += 1.7e9
    imu, repairs = read_imu_checked(media.write_table(tmp_path / "a.csv", time, accel, gyro))
    assert (repairs.gaps, repairs.dropped) == (1, 0)
    with pytest.raises(DataError, match=r"with a pause of 1\.7e\+09 s") as caught:
        ImuTcn(size="micro").describe(imu)
    four_parts(caught.value)
    assert len(ImuTcn(size="micro", fit="stretch").describe(imu)) == 1
