"""Skeletons at the door."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.io import savemat

from xmodal.errors import DataError
from xmodal.recordings.skeleton_files import read_skeleton


def joints(num: int = 6) -> np.ndarray:
    return np.random.default_rng(0).uniform((-1, -1, 2), (1, 1, 4), (num, 20, 3))


def test_a_kinect_frame_becomes_the_cameras(tmp_path):
    kinect = joints().transpose(1, 2, 0)  # [20, 3, N]: x to the left, y up
    kinect[4, :, 2] = 0
    savemat(tmp_path / "a.mat", {"d_skel": kinect})
    body = read_skeleton(tmp_path / "a.mat")
    assert body.joints_m.shape == (6, 20, 3)
    assert torch.allclose(body.time_s, torch.arange(6, dtype=torch.float64) / 30)
    expected = torch.from_numpy(kinect[0, :, 0]).float() * torch.tensor([-1.0, -1.0, 1.0])
    assert torch.allclose(body.joints_m[0, 0], expected)
    assert body.joints_m.isnan().any(2).nonzero().tolist() == [[2, 4]]


def test_arrays_keep_what_was_not_tracked(tmp_path):
    xyz = joints()
    xyz[1, 2, 0] = np.nan
    np.savez(tmp_path / "a.npz", joints_m=xyz, time_s=np.arange(6) / 25)
    body = read_skeleton(tmp_path / "a.npz")
    assert body.joints_m[1, 2].isnan().all()
    assert int(body.joints_m.isnan().sum()) == 3
    assert body.offsets.tolist() == [0, 6]


T = np.arange(6) / 25


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"joints_m": joints()}, "time_s"),
        ({"joints_m": joints(), "time_s": T[:5]}, r"\[5\]"),
        ({"joints_m": joints()[:, :, :2], "time_s": T}, "20, 2"),
        ({"joints_m": joints() * 1000, "time_s": T}, "in metres"),
        ({"joints_m": joints() * np.nan, "time_s": T}, "none in any frame"),
        ({"joints_m": joints(), "time_s": T[::-1]}, "5 steps back"),
        ({"joints_m": joints(), "time_s": T * 1e6}, "in seconds"),
        ({"joints_m": joints(), "time_s": T * np.nan}, "6 not finite"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(tmp_path, four_parts, arrays, told):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=told) as caught:
        read_skeleton(tmp_path / "a.npz")
    four_parts(caught.value)


@pytest.mark.parametrize("shape", [(20, 3), (20, 4, 5), (20, 3, 0)])
def test_matrices_of_another_shape_are_refused(tmp_path, four_parts, shape):
    savemat(tmp_path / "a.mat", {"d_skel": np.ones(shape)})
    with pytest.raises(DataError, match="d_skel") as caught:
        read_skeleton(tmp_path / "a.mat")
    four_parts(caught.value)


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a"])
def test_other_files_are_refused(tmp_path, four_parts, name):
    (tmp_path / name).write_text("hello")
    with pytest.raises(DataError, match=r"\.mat or \.npz") as caught:
        read_skeleton(tmp_path / name)
    four_parts(caught.value)


def test_damaged_missing_and_empty_files(tmp_path, four_parts):
    savemat(tmp_path / "a.mat", {"d_skel": joints().transpose(1, 2, 0)})
    raw = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "cut.mat").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "empty.mat").write_bytes(b"")
    (tmp_path / "text.mat").write_text("hello " * 200)
    savemat(tmp_path / "other.mat", {"d_iner": np.ones((3, 6))})
    for name in ("cut.mat", "empty.mat", "text.mat", "other.mat", "none.mat"):
        with pytest.raises(DataError) as caught:
            read_skeleton(tmp_path / name)
        four_parts(caught.value)
