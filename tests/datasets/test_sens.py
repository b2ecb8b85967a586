"""ScanNet's recordings: what a good one gives."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from xmodal.datasets import open_scene
from xmodal.errors import DataError


def encoded(rgb, kind="PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind)
    return buffer.getvalue()


def write_sens(
    path,
    room,
    *,
    version=4,
    color_tag=1,
    depth_tag=1,
    count=None,
    poses=None,
    shift=1000.0,
    extrinsics=None,
):
    """A recording of the room, byte by byte as the format says; returns where each frame starts."""
    K = np.eye(4, dtype="<f4")
    K[:3, :3] = room.K
    T = np.eye(4, dtype="<f4") if extrinsics is None else extrinsics.astype("<f4")
    h, w = room.hw
    name = b"StructureSensor"
    data = struct.pack("<IQ", version, len(name)) + name
    data += K.tobytes() + T.tobytes() + K.tobytes() + np.eye(4, dtype="<f4").tobytes()
    count = len(room.views) if count is None else count
    data += struct.pack("<iiIIIIfQ", color_tag, depth_tag, w, h, w, h, shift, count)
    starts = []
    for i, view in enumerate(room.views):
        starts.append(len(data))
        color = encoded(view.rgb, "PNG" if color_tag == 1 else "JPEG")
        depth = np.rint(view.depth_m * shift).astype("<u2").tobytes()
        depth = zlib.compress(depth) if depth_tag == 1 else depth
        pose = view.T_world_cam if poses is None else poses[i]
        data += np.asarray(pose).astype("<f4").tobytes()
        data += struct.pack("<4Q", 33_000 * (i + 1), 33_000 * (i + 1), len(color), len(depth))
        data += color + depth
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return [*starts, len(data)]


@pytest.fixture
def recording(tmp_path, room):
    path = tmp_path / "scene0000_00" / "scene0000_00.sens"
    write_sens(path, room)
    return path


def test_a_recording_is_the_same_room_as_the_folder(recording, scene_folder):
    scene, folder = open_scene(recording.parent), open_scene(scene_folder)
    assert scene.report.layout == "ScanNet .sens"
    assert scene.report.frames_used == 5
    assert scene.report.notes == ()
    assert scene.images.names == ("0", "1", "2", "3", "4")
    for i in range(5):
        np.testing.assert_array_equal(scene.images[i].rgb, folder.images[i].rgb)
        np.testing.assert_array_equal(scene.depths[i].depth_m, folder.depths[i].depth_m)
        np.testing.assert_allclose(
            scene.images.cameras[i].T_world_cam, folder.images.cameras[i].T_world_cam, atol=1e-6
        )
    np.testing.assert_allclose(scene.cloud().xyz, folder.cloud().xyz, atol=1e-4)
    assert scene.images.cameras[1].time_s == pytest.approx(0.066)


@pytest.mark.parametrize(("color_tag", "depth_tag"), [(2, 1), (1, 0), (2, 0)])
def test_all_compressions_are_read(tmp_path, room, color_tag, depth_tag):
    write_sens(tmp_path / "a" / "a.sens", room, color_tag=color_tag, depth_tag=depth_tag)
    scene = open_scene(tmp_path / "a")
    np.testing.assert_allclose(scene.depths[2].depth_m, room.views[2].depth_m, atol=1e-3)
    shown = scene.images[2].rgb.permute(1, 2, 0).numpy() * 255
    assert np.abs(shown - room.views[2].rgb).mean() < (3 if color_tag == 2 else 0.01)


def test_depth_units_are_those_of_the_recording(tmp_path, room):
    write_sens(tmp_path / "a" / "a.sens", room, shift=4000.0)
    depth_m = open_scene(tmp_path / "a").depths[0].depth_m
    np.testing.assert_allclose(depth_m, room.views[0].depth_m, atol=2e-4)


def test_max_frames_skips_evenly_and_changes_the_fingerprint(recording):
    few, all_ = open_scene(recording.parent, max_frames=3), open_scene(recording.parent)
    assert few.images.names == ("0", "2", "4")
    assert few.fingerprint != all_.fingerprint
    assert open_scene(recording.parent, max_frames=3).fingerprint == few.fingerprint


def test_opening_decodes_only_the_depth_that_is_sampled(recording, room):
    """A picture that cannot be decoded does no harm to a scene that leaves its frame out."""
    data = bytearray(recording.read_bytes())
    starts = write_sens(recording, room)
    data[starts[1] + 96 : starts[1] + 100] = b"junk"
    recording.write_bytes(bytes(data))
    scene = open_scene(recording.parent, max_frames=3)
    assert len(scene.images) == 3
    with pytest.raises(DataError, match="frame 1 colour"):
        open_scene(recording.parent)


def test_an_export_beside_the_recording_goes_first(recording, room):
    room.write(recording.parent)
    assert open_scene(recording.parent).report.layout == "posed RGB-D folder"


def test_the_recording_of_the_folder_s_name_is_taken(recording, room):
    (recording.parent / "another.sens").write_bytes(b"")
    assert open_scene(recording.parent).report.frames_used == 5
