"""Fault matrix row 8: recordings that are cut, lie, or lost track."""

from __future__ import annotations

import importlib.util
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xmodal.datasets import open_scene
from xmodal.errors import DataError

_SPEC = importlib.util.spec_from_file_location(
    "sens_writer", Path(__file__).parents[1] / "datasets" / "test_sens.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
_WRITER = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_WRITER)
write_sens = _WRITER.write_sens

# Offsets in the header of `write_sens`, whose sensor has a name of 15 bytes.
NAME, TAGS = 4, 4 + 8 + 15 + 4 * 64
WIDTH, SHIFT, COUNT = TAGS + 8, TAGS + 24, TAGS + 28


@pytest.fixture
def made(tmp_path, room):
    path = tmp_path / "scan" / "scan.sens"
    starts = write_sens(path, room)
    return path, starts, path.read_bytes()


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_cut_keeps_exactly_the_whole_frames(made, data):
    path, starts, whole = made
    at = data.draw(st.integers(0, len(whole) - 1) | st.sampled_from(starts[:-1]))
    path.write_bytes(whole[:at])
    frames = sum(end <= at for end in starts[1:])
    if not frames:
        with pytest.raises(DataError):
            open_scene(path.parent)
        return
    scene = open_scene(path.parent)
    assert scene.report.frames_used == frames
    assert scene.images[frames - 1].name == str(frames - 1)
    assert scene.depths[frames - 1].depth_m.shape == (48, 64)
    assert f"{frames} of 5 frames are there" in scene.report.lines()[-1]


@pytest.mark.parametrize("count", [6, 7, 10**11, 2**64 - 1])
def test_a_count_too_high_is_a_note_and_takes_no_memory(made, room, count):
    path, _, _ = made
    write_sens(path, room, count=count)
    tracemalloc.start()
    try:
        scene = open_scene(path.parent)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert scene.report.frames_used == 5
    assert f"5 of {count} frames" in scene.report.notes[0]
    assert peak < 20e6


def test_a_count_too_low_is_a_note(made, room):
    path, starts, _ = made
    write_sens(path, room, count=3)
    scene = open_scene(path.parent)
    assert scene.report.frames_used == 3
    assert f"{starts[5] - starts[3]} bytes follow the 3 frames" in scene.report.notes[0]


def test_lost_poses_are_left_out_and_counted(made, room):
    path, _, _ = made
    poses = [view.T_world_cam for view in room.views]
    poses[1], poses[3] = np.full((4, 4), -np.inf), np.full((4, 4), np.nan)
    write_sens(path, room, poses=poses)
    scene = open_scene(path.parent)
    assert scene.report.dropped_poses == ("1", "3")
    assert scene.images.names == ("0", "2", "4")
    np.testing.assert_allclose(scene.depths[1].depth_m, room.views[2].depth_m, atol=1e-3)


def patched(whole: bytes, offset: int, form: str, value: float) -> bytes:
    data = bytearray(whole)
    struct.pack_into(form, data, offset, value)
    return bytes(data)


# What is done to the bytes (given where frames start), and a word the message must hold.
FAULTS = {
    "empty": (lambda w, s: b"", "a whole .sens header"),
    "version": (lambda w, s: patched(w, 0, "<I", 5), "version 5"),
    "text": (lambda w, s: b"ply\nformat ascii 1.0\n" * 20, "version"),
    "endless name": (lambda w, s: patched(w, NAME, "<Q", 2**63), "name of"),
    "colour raw": (lambda w, s: patched(w, TAGS, "<i", 0), "0 (raw)"),
    "colour unknown": (lambda w, s: patched(w, TAGS, "<i", -1), "-1 (unknown)"),
    "colour tag 77": (lambda w, s: patched(w, TAGS, "<i", 77), "77 (no known tag)"),
    "depth occi": (lambda w, s: patched(w, TAGS + 4, "<i", 2), "2 (occi_ushort)"),
    "no width": (lambda w, s: patched(w, WIDTH, "<I", 0), "0 x 48"),
    "endless width": (lambda w, s: patched(w, WIDTH + 8, "<I", 2**31), "depth pixels"),
    "shift zero": (lambda w, s: patched(w, SHIFT, "<f", 0.0), "units per metre"),
    "shift nan": (lambda w, s: patched(w, SHIFT, "<f", np.nan), "units per metre"),
    "no frames": (lambda w, s: patched(w, COUNT, "<Q", 0), "no frame"),
    "first frame endless": (lambda w, s: patched(w, s[0] + 80, "<Q", 2**62), "no frame"),
    "scaled pose": (lambda w, s: patched(w, s[2], "<f", 3.0), "frame 2"),
    "depth damaged": (lambda w, s: w[:-40] + b"\0" * 40, "frame 4 depth"),
    "colour damaged": (lambda w, s: w[: s[1] + 96] + b"junk" + w[s[1] + 100 :], "frame 1 colour"),
    "focal length": (lambda w, s: patched(w, NAME + 8 + 15, "<f", -1.0), "must be positive"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_recording_is_one_clear_error(made, four_parts, name):
    path, starts, whole = made
    damage, word = FAULTS[name]
    path.write_bytes(damage(whole, starts))
    with pytest.raises(DataError) as caught:
        open_scene(path.parent)
    four_parts(caught.value)
    assert word in str(caught.value)


def test_sensors_with_different_poses_are_refused(made, room, four_parts):
    path, _, _ = made
    moved = np.eye(4)
    moved[0, 3] = 0.05
    write_sens(path, room, extrinsics=moved)
    with pytest.raises(DataError, match="the identity as extrinsics of colour") as caught:
        open_scene(path.parent)
    four_parts(caught.value)


def test_depth_that_inflates_without_end_is_refused(made, room, four_parts):
    """A frame says 48 x 64; deflated zeros for a gigabyte take no more than a frame."""
    import zlib

    path, starts, whole = made
    packer = zlib.compressobj()
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(60)) + packer.flush()
    first = bytearray(whole[: starts[1]])
    color_bytes = struct.unpack_from("<Q", first, starts[0] + 80)[0]
    struct.pack_into("<Q", first, starts[0] + 88, len(bomb))
    path.write_bytes(bytes(first[: starts[0] + 96 + color_bytes]) + bomb)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="frame 0") as caught:
            open_scene(path.parent)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    four_parts(caught.value)
    assert peak < 20e6
