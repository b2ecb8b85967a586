import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from xmodal.errors import DataError, UsageError
from xmodal.ply import read_points
from xmodal.world import WorldOptions, make_world
from xmodal.world.room import TABLE_TOP_M

OPTIONS = WorldOptions(
    seed=7, objects=("coffee mug", "bagel", "soccer ball"), num_views=3, hw=(240, 320), path="arc"
)


class Frame:
    def __init__(self, world, number):
        name = f"{number:06d}"
        self.rgb = np.asarray(Image.open(world / "color" / f"{name}.png"))
        self.depth_m = np.asarray(Image.open(world / "depth" / f"{name}.png")) / 1000
        self.label = np.asarray(Image.open(world / "label" / f"{name}.png")).astype(int)
        self.T_world_cam = np.loadtxt(world / "pose" / f"{name}.txt")
        self.K = np.loadtxt(world / "intrinsic.txt")

    def points(self):
        """World position of every pixel centre."""
        height, width = self.depth_m.shape
        row, column = np.mgrid[:height, :width] + 0.5
        ray = np.stack([column, row, np.ones_like(row)], -1) @ np.linalg.inv(self.K).T
        local = ray * self.depth_m[..., None]
        return local @ self.T_world_cam[:3, :3].T + self.T_world_cam[:3, 3]

    def project(self, xyz):
        local = (xyz - self.T_world_cam[:3, 3]) @ self.T_world_cam[:3, :3]
        uvw = local @ self.K.T
        uv = uvw[:, :2] / uvw[:, 2:]
        height, width = self.depth_m.shape
        inside = (uvw[:, 2] > 0) & (uv > 1).all(1) & (uv < [width - 1, height - 1]).all(1)
        return uv[inside], local[inside, 2], inside

    def smooth_depth(self, uv):
        """Depth between pixel centres, exact on planes; NaN across an edge."""
        low = np.floor(uv - 0.5).astype(int)
        share = uv - 0.5 - low
        total, taps = 0.0, []
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            taps.append(self.depth_m[low[:, 1] + dy, low[:, 0] + dx])
            weight = np.abs(1 - dx - share[:, 0]) * np.abs(1 - dy - share[:, 1])
            total = total + weight / taps[-1]
        return np.where(np.ptp(taps, axis=0) < 0.05, 1 / total, np.nan)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("made") / "world", OPTIONS)


@pytest.fixture(scope="module")
def frames(world):
    return [Frame(world, number) for number in range(OPTIONS.num_views)]


def test_the_folder_is_a_posed_rgbd_scene(world, frames):
    names = sorted(path.name for path in world.iterdir())
    assert names == [
        "classes.json", "color", "depth", "intrinsic.txt", "label", "labels.npy", "points.ply",
        "pose", "scene.json",
    ]  # fmt: skip
    raw = Image.open(world / "depth" / "000000.png")
    assert np.asarray(raw).dtype == np.uint16
    for frame in frames:
        assert frame.rgb.shape == (240, 320, 3)
        assert frame.rgb.std() > 20
        assert frame.label.min() >= 1
        assert (frame.depth_m > 0.3).all()
    scene = json.loads((world / "scene.json").read_text())
    assert scene["depth_scale"] == 1000
    assert scene["world"]["options"]["seed"] == 7
    assert [item["name"] for item in scene["world"]["objects"]] == [
        "coffee mug",
        "bagel",
        "soccer ball",
    ]


def test_table_pixels_unproject_to_the_table_top(world, frames):
    table = 1 + json.loads((world / "classes.json").read_text()).index("table")
    for frame in frames:
        # The borders of the table are its edges, so ask only pixels that the middle of it fills.
        xyz = frame.points()[frame.label == table]
        top = xyz[
            (np.abs(xyz[:, :2]) < [0.5, 0.35]).all(1) & (np.abs(xyz[:, 2] - TABLE_TOP_M) < 0.01)
        ]
        assert len(top) > 1000
        assert np.median(np.abs(top[:, 2] - TABLE_TOP_M)) < 0.0005
        assert abs(np.mean(top[:, 2] - TABLE_TOP_M)) < 0.0001  # no half-pixel offset anywhere


def test_two_views_agree_on_depth_and_labels(frames):
    first, second = frames[0], frames[1]
    xyz, label = first.points().reshape(-1, 3), first.label.ravel()
    uv, z, inside = second.project(xyz)
    error = np.abs(second.smooth_depth(uv) - z)
    same = error < 0.02
    assert same.mean() > 0.3
    assert np.median(error[same]) < 0.001
    column, row = uv.astype(int).T
    agree = second.label[row, column] == label[inside]
    assert agree[same].mean() > 0.995


def test_points_land_on_their_own_label(world, frames):
    cloud = read_points(world / "points.ply").points
    labels = np.load(world / "labels.npy")
    classes = json.loads((world / "classes.json").read_text())
    assert labels.dtype == np.int32
    assert len(labels) == len(cloud.xyz)
    assert classes == ["floor", "wall", "table", "coffee mug", "bagel", "soccer ball"]
    assert set(np.unique(labels)) == set(range(len(classes)))
    hit = tried = 0
    seen = np.zeros(len(labels), bool)
    for frame in frames:
        uv, z, inside = frame.project(cloud.xyz.numpy().astype(float))
        near = np.abs(frame.smooth_depth(uv) - z) < 0.01
        column, row = uv[near].astype(int).T
        hit += (frame.label[row, column] == labels[inside][near] + 1).sum()
        tried += near.sum()
        seen[np.flatnonzero(inside)[near]] = True
    assert hit / tried > 0.98
    assert seen.mean() > 0.95


def test_points_carry_colour_and_normals_that_face_a_camera(world, frames):
    cloud = read_points(world / "points.ply").points
    xyz, normals = cloud.xyz.numpy(), cloud.normals.numpy()
    assert np.linalg.norm(normals, axis=1) == pytest.approx(np.ones(len(xyz)), abs=1e-3)
    facing = [
        np.einsum("ij,ij->i", normals, frame.T_world_cam[:3, 3] - xyz) > 0 for frame in frames
    ]
    assert np.any(facing, axis=0).mean() > 0.999
    assert cloud.rgb.std() > 0.05


def test_objects_rest_on_the_table(world):
    for item in json.loads((world / "scene.json").read_text())["world"]["objects"]:
        bottom = item["centre_m"][2] - item["size_m"][2] / 2
        assert bottom == pytest.approx(TABLE_TOP_M, abs=0.005), item["name"]
        assert np.linalg.norm(item["quaternion_wxyz"]) == pytest.approx(1, abs=1e-5)


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


SMALL = WorldOptions(seed=3, objects=("lemon", "candle", "vase"), num_views=2, hw=(120, 160))


def test_the_same_options_give_the_same_bytes(tmp_path):
    first, second = make_world(tmp_path / "a", SMALL), make_world(tmp_path / "b", SMALL)
    assert digest(first) == digest(second)


def test_another_seed_and_noise_give_other_bytes(tmp_path):
    from dataclasses import replace

    plain = digest(make_world(tmp_path / "plain", SMALL))
    noisy = digest(make_world(tmp_path / "noisy", replace(SMALL, depth_noise=True)))
    other = digest(make_world(tmp_path / "other", replace(SMALL, seed=4)))
    assert noisy["depth/000000.png"] != plain["depth/000000.png"]
    assert noisy["label/000000.png"] == plain["label/000000.png"]
    assert noisy["points.ply"] == plain["points.ply"]
    assert other["color/000000.png"] != plain["color/000000.png"]


def test_a_finished_world_is_not_made_again(tmp_path):
    calls = []
    out = make_world(tmp_path / "world", SMALL, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    before = (out / "points.ply").stat().st_mtime_ns
    assert make_world(out, SMALL, lambda done, total: calls.append((done, total))) == out
    assert len(calls) == 2
    assert (out / "points.ply").stat().st_mtime_ns == before


@pytest.mark.parametrize("content", ["{}", "not json", '{"world": {"generator": 1}}', "[]"])
def test_a_folder_with_something_else_is_refused_and_kept(tmp_path, content):
    (tmp_path / "scene.json").write_text(content)
    with pytest.raises(UsageError, match="choose another folder"):
        make_world(tmp_path, SMALL)
    assert (tmp_path / "scene.json").read_text() == content


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "world").write_text("precious")
    with pytest.raises(UsageError):
        make_world(tmp_path / "world", SMALL)
    assert (tmp_path / "world").read_text() == "precious"


def test_an_interrupted_world_leaves_nothing_behind(tmp_path):
    class StoppedError(Exception):
        pass

    def stop(done, total):
        raise StoppedError

    with pytest.raises(StoppedError):
        make_world(tmp_path / "world", SMALL, stop)
    assert not any(tmp_path.iterdir())


def test_a_parent_that_cannot_hold_a_folder_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError):
        make_world(tmp_path / "file" / "world", SMALL)
