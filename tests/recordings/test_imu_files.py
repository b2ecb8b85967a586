"""Inertial readings at the door: formats, names of columns, units, two clocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.io import savemat

from xmodal.errors import DataError
from xmodal.recordings.imu_files import ImuUnits, read_imu, read_imu_checked

G = 9.80665


def same(imu, accel, gyro, time, tolerance=1e-5):
    assert torch.allclose(imu.accel_mps2, torch.from_numpy(accel).float(), atol=tolerance)
    assert torch.allclose(imu.gyro_radps, torch.from_numpy(gyro).float(), atol=tolerance)
    assert np.allclose(imu.time_s.numpy(), time)
    assert imu.offsets.tolist() == [0, len(time)]


@pytest.mark.parametrize(
    ("header", "factors", "separator"),
    [
        ("time_s,ax,ay,az,gx,gy,gz", (1, 1, 1), ","),
        ("Time,Acc_X,Acc_Y,Acc_Z,Gyr_X,Gyr_Y,Gyr_Z", (1, 1, 1), ";"),
        ("t_ms,ax_g,ay_g,az_g,gx_dps,gy_dps,gz_dps", (1000, 1 / G, 180 / math.pi), ","),
        (
            "timestamp [us],acc_x [m/s^2],acc_y [m/s^2],acc_z [m/s²],"
            "gyro_x (deg/s),gyro_y (°/s),gyro_z (deg/s)",
            (1e6, 1, 180 / math.pi),
            "\t",
        ),
        ("time_ns,accel_x_mg,accel_y,accel_z,wx_radps,wy,wz", (1e9, 1000 / G, 1), ","),
    ],
)
def test_columns_are_found_by_name_with_their_unit(media, tmp_path, header, factors, separator):
    time, accel, gyro = media.readings()
    path = media.write_table(
        tmp_path / "a.csv", time * factors[0], accel * factors[1], gyro * factors[2],
        header=header, separator=separator,
    )  # fmt: skip
    same(read_imu(path), accel, gyro, time)


def test_columns_in_any_order_beside_others_with_comments(media, tmp_path):
    time, accel, gyro = media.readings(60)
    rows = [f"{g[2]},{a[0]},x,{a[1]},{t},{a[2]},{g[0]},{g[1]}" for t, a, g in
            zip(time, accel, gyro, strict=True)]  # fmt: skip
    path = tmp_path / "a.csv"
    path.write_text("\ufeff# worn left\n\ngz,ax,note,ay,time_s,az,gx,gy\n" + "\n".join(rows))
    same(read_imu(path), accel, gyro, time)


def test_units_may_be_given_where_names_do_not_say(media, tmp_path):
    time, accel, gyro = media.readings()
    path = media.write_table(tmp_path / "a.csv", time, accel / G, gyro * 180 / math.pi)
    same(read_imu(path, units=ImuUnits(accel="g", gyro="degps")), accel, gyro, time)
    with pytest.raises(DataError, match="these are g"):
        read_imu(path)


def test_units_that_contradict_the_names_are_refused(media, tmp_path, four_parts):
    time, accel, gyro = media.readings()
    header = "time_s,ax_mps2,ay,az,gx,gy,gz"
    path = media.write_table(tmp_path / "a.csv", time, accel, gyro, header=header)
    with pytest.raises(DataError, match="accel in g") as caught:
        read_imu(path, units=ImuUnits(accel="g"))
    four_parts(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("time_s", "accel_mps2", "gyro_radps"),
        ("t", "acc", "gyr"),
        ("timestamps", "acceleration", "angular_velocity"),
    ],
)
def test_arrays(media, tmp_path, names):
    time, accel, gyro = media.readings()
    np.savez(tmp_path / "a.npz", **dict(zip(names, (time, accel, gyro), strict=True)))
    same(read_imu(tmp_path / "a.npz"), accel, gyro, time)


def test_arrays_with_two_clocks_come_on_that_of_the_accelerometer(media, tmp_path):
    time, accel, _ = media.readings(200, 50.0)
    gyro_time = np.arange(805) / 200 + 0.003  # starts later, ends earlier
    gyro = np.stack([0.6 * np.cos(0.6 * gyro_time), 0 * gyro_time, 0 * gyro_time], 1)
    np.savez(tmp_path / "a.npz", ACCL=accel, ACCL_t=time, GYRO=gyro, GYRO_t=gyro_time, GPS5_t=time)
    imu, repairs = read_imu_checked(tmp_path / "a.npz")
    assert repairs.dropped == 0
    assert np.abs(imu.gyro_radps[:, 0].numpy() - 0.6 * np.cos(0.6 * time)).max() < 2e-3
    assert np.allclose(imu.time_s.numpy(), time)


def test_utd_mhad_is_converted(media, tmp_path):
    time, accel, gyro = media.readings()
    savemat(tmp_path / "a.mat", {"d_iner": np.concatenate([accel / G, gyro * 180 / math.pi], 1)})
    same(read_imu(tmp_path / "a.mat"), accel, gyro, time)


def test_gaps_stay_and_are_counted(media, tmp_path):
    time, accel, gyro = media.readings()
    kept = (time < 1.0) | (time > 2.0)
    path = media.write_table(tmp_path / "a.csv", time[kept], accel[kept], gyro[kept])
    imu, repairs = read_imu_checked(path)
    assert len(imu.time_s) == kept.sum()
    assert repairs.gaps == 1
    assert repairs.longest_gap_s == pytest.approx(1.04)
    assert repairs.dropped == 0


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("time_s,ax,ay,az,gx,gy,wobble", "gyro_z"),
        ("clock,ax,ay,az,gx,gy,gz", "time"),
        ("time_s,ax,acc_x,az,gx,gy,gz", "one column for accel_x"),
        ("time_s,ax_g,ay_mps2,az,gx,gy,gz", "one unit for accel"),
        ("time_s,ax [furlong],ay,az,gx,gy,gz", "furlong"),
        ("time_s,ax_radps,ay,az,gx,gy,gz", "accel in one of"),
    ],
)
def test_columns_that_lack_or_disagree_are_named(media, tmp_path, four_parts, header, told):
    path = media.write_table(tmp_path / "a.csv", *media.readings(), header=header)
    with pytest.raises(DataError, match=told) as caught:
        read_imu(path)
    four_parts(caught.value)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"time_s": np.zeros(3)}, "accel_mps2"),
        (
            {"time_s": np.arange(3.0), "accel": np.ones((3, 2)), "gyro": np.ones((3, 3))},
            r"\[3, 2\]",
        ),
        ({"time_s": np.arange(4.0), "accel": np.ones((3, 3)), "gyro": np.ones((3, 3))}, r"\[4\]"),
        ({"t": np.arange(3.0), "time": np.arange(3.0)}, "one array for time"),
    ],
)
def test_arrays_that_lack_or_disagree_are_named(tmp_path, four_parts, arrays, told):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=told) as caught:
        read_imu(tmp_path / "a.npz")
    four_parts(caught.value)
