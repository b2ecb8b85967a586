from itertools import combinations

import numpy as np
import pytest
from scipy.spatial import ConvexHull, Delaunay

from xmodal.errors import UsageError
from xmodal.world.cameras import PATHS, camera_path, look_at
from xmodal.world.layout import place_objects
from xmodal.world.room import TABLE_SIZE_M, TABLE_TOP_M, make_room

NAMES = ("coffee mug", "banana", "table lamp", "computer keyboard", "tennis ball")


SMALL = ("bagel", "candle", "wine bottle")


def place(names=NAMES, seed=0):
    return place_objects(names, seed=seed, scale_jitter=0.1, repaint=False)


def outline(item):
    """Corners of the convex hull of the object seen from above, with points along its edges."""
    cos, sin = np.cos(item.yaw_rad), np.sin(item.yaw_rad)
    xy = item.model.xyz()[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + item.xyz[:2]
    corner = xy[ConvexHull(xy).vertices]
    share = np.linspace(0, 1, 20)[:, None, None]
    return ((1 - share) * corner + share * np.roll(corner, 1, axis=0)).reshape(-1, 2)


def overlap(first, second):
    return bool((Delaunay(first).find_simplex(second) >= 0).any())


@pytest.mark.parametrize("seed", range(4))
def test_objects_stand_apart_and_on_the_table(seed):
    placed = place(seed=seed)
    for first, second in combinations(placed, 2):
        assert not overlap(outline(first), outline(second))
        assert not overlap(outline(second), outline(first))
    for item in placed:
        x, y = np.abs(outline(item)).max(0)
        assert x < TABLE_SIZE_M[0] / 2
        assert y < TABLE_SIZE_M[1] / 2
        assert item.xyz[2] + item.model.xyz()[:, 2].min() > TABLE_TOP_M


def test_the_seed_alone_decides():
    first, again, other = (place(SMALL, seed=seed) for seed in (3, 3, 4))
    assert [item.xyz for item in first] == [item.xyz for item in again]
    assert [item.xyz for item in first] != [item.xyz for item in other]


def test_scale_jitter_stays_in_its_range():
    scales = [item.scale for seed in range(2) for item in place(SMALL, seed=seed)]
    assert min(scales) >= 0.9
    assert max(scales) <= 1.1
    assert len(set(scales)) > 1


def test_a_table_too_small_is_said():
    with pytest.raises(UsageError, match="fewer") as caught:
        place(("basketball",) * 40)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("num_views", [1, 7])
def test_cameras_are_rigid_upright_and_look_at_the_table(path, num_views):
    poses = camera_path(path, num_views, seed=1, keep_clear=np.zeros((0, 4)))
    assert poses.shape == (num_views, 4, 4)
    turn = poses[:, :3, :3]
    assert turn @ turn.transpose(0, 2, 1) == pytest.approx(np.tile(np.eye(3), (num_views, 1, 1)))
    assert np.linalg.det(turn) == pytest.approx(np.ones(num_views))
    assert (turn[:, 2, 1] < 0).all()  # the camera's y points down
    hit = (
        poses[:, :3, 3] + turn[:, :, 2] * ((TABLE_TOP_M - poses[:, 2, 3]) / turn[:, 2, 2])[:, None]
    )
    assert (np.abs(hit[:, :2]) < 0.3).all()


def test_cameras_back_off_from_what_is_in_the_way():
    free = camera_path("orbit", 4, seed=0, keep_clear=np.zeros((0, 4)))
    sphere = np.array([[*free[0, :3, 3], 0.3]])
    moved = camera_path("orbit", 4, seed=0, keep_clear=sphere)
    assert np.linalg.norm(moved[0, :3, 3] - sphere[0, :3]) > 0.3
    assert np.array_equal(moved[1:], free[1:])


def test_look_at_puts_the_target_on_the_optical_axis():
    eye, target = np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.5, 0.0])
    pose = look_at(eye, target)
    local = pose[:3, :3].T @ (target - eye)
    assert local[:2] == pytest.approx([0, 0])
    assert local[2] == pytest.approx(np.linalg.norm(target - eye))


@pytest.mark.parametrize("seed", range(3))
def test_walls_floor_and_table_face_the_room(seed):
    middle = np.array([0, 0, 1.5])
    for surface in make_room(seed):
        mesh = surface.part.mesh
        if surface.class_name == "table":
            assert mesh.xyz[:, 2].max() == pytest.approx(TABLE_TOP_M)
            continue
        assert (np.einsum("ij,ij->i", mesh.normals, middle - mesh.xyz) > 0).all()
