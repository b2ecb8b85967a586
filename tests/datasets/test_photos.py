"""Photographs for splats: without the bend of the lens, smaller, some held out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lifting.cameras import Camera, pixel_centres, pixel_rays, project
from xmodal.datasets import open_scene
from xmodal.datasets.photos import (
    averaged,
    fitting_hw,
    held_out,
    pinhole_camera,
    resized,
    undistorted,
)
from xmodal.errors import UsageError

BARREL = [-0.3, 0.08, 0.002, -0.001]
PINCUSHION = [0.2, 0.05, -0.001, 0.002]
FISHEYE = [0.02, -0.004, 0.001, 0.0]
LENSES = [("pinhole", BARREL), ("pinhole", PINCUSHION), ("fisheye", FISHEYE)]


def camera_of(model="pinhole", coefficients=None, hw=(60, 80), focal=60.0, **kw):
    K = torch.tensor([[focal, 0, hw[1] / 2 + 3], [0, focal + 2, hw[0] / 2 - 2], [0, 0, 1]])
    lens = None if coefficients is None else torch.tensor(coefficients)
    return Camera(K=K, T_world_cam=torch.eye(4), hw=hw, distortion=lens, model=model, **kw)


def grid_picture(camera):
    """A plane of crossing lines 1 m ahead, as the camera sees it: each channel one direction."""
    rays, valid = pixel_rays(pixel_centres(camera.hw, dtype=torch.float64), camera)
    xy = rays[:, :2] / rays[:, 2:].clamp_min(1e-9)
    # Smooth lines, so that resampling costs little: the phase tells where on the plane one looks.
    waves = torch.cos(2 * torch.pi * xy / 0.5) * valid[:, None]
    return waves.T.reshape(2, *camera.hw).float()


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_straight_lines_become_straight(model, coefficients):
    camera = camera_of(model, coefficients)
    bent = grid_picture(camera)
    straight = undistorted(bent, camera)
    assert straight.image.shape == bent.shape
    assert straight.camera.distortion is None
    assert straight.camera.model == "pinhole"
    assert bool(straight.valid.all())
    wanted = grid_picture(straight.camera)
    # Bilinear steps across a wave of 30 pixels are off by (2 pi / 30)^2 / 8 of its height.
    assert float((straight.image - wanted).abs().max()) < 0.02
    # A vertical line of the world is one column: the channel of x does not change along it.
    assert float(straight.image[0].std(0).max()) < 0.01
    assert float(bent[0].std(0).max()) > 0.05


@pytest.mark.parametrize(("model", "coefficients"), LENSES)
def test_pixels_and_rays_agree_to_a_twentieth_of_a_pixel(model, coefficients):
    """Coordinates as colours: what a straight pixel shows is where its ray meets the lens."""
    camera = camera_of(model, coefficients)
    uv = pixel_centres(camera.hw)
    picture = uv.T.reshape(2, *camera.hw)
    straight = undistorted(picture, camera)
    rays, _ = pixel_rays(uv, straight.camera)
    expected = project(rays, camera).uv
    shown = straight.image.reshape(2, -1).T
    assert float((shown - expected).abs().max()) < 0.05


@settings(deadline=None, max_examples=12)
@given(
    k1=st.floats(-0.4, 0.4),
    k2=st.floats(-0.05, 0.05),
    p=st.floats(-0.005, 0.005),
    focal=st.floats(60, 300),
)
def test_no_lens_leaves_a_border(k1, k2, p, focal):
    camera = camera_of("pinhole", [k1, k2, p, -p], hw=(30, 40), focal=focal / 4)
    straight = undistorted(torch.ones(1, 30, 40), camera)
    assert bool(straight.valid.all())
    torch.testing.assert_close(straight.image, torch.ones(1, 30, 40))


def test_a_wide_fisheye_is_cut_at_sixty_degrees():
    camera = camera_of("fisheye", [0.0, 0.0, 0.0, 0.0], hw=(90, 90), focal=30.0)
    straight = pinhole_camera(camera)
    rays, _ = pixel_rays(torch.tensor([[0.0, 45.0], [45.0, 90.0]]), straight)
    angle_deg = torch.rad2deg(torch.atan2(rays[:, :2].norm(dim=1), rays[:, 2]))
    assert float(angle_deg.max()) < 60.5
    assert bool(undistorted(torch.ones(1, 90, 90), camera).valid.all())


def test_a_pinhole_picture_comes_back_as_it_is():
    camera = camera_of(coefficients=[0.0, 0.0, 0.0, 0.0], time_s=4.5)
    picture = torch.rand(3, 60, 80)
    straight = undistorted(picture, camera)
    assert straight.image is picture
    assert straight.camera.distortion is None
    assert straight.camera.time_s == 4.5
    torch.testing.assert_close(straight.camera.K, camera.K)


def test_nearest_values_are_never_mixed():
    camera = camera_of("pinhole", BARREL)
    depth_m = torch.randint(1, 4, (1, 60, 80)).float()
    assert set(undistorted(depth_m, camera, mode="nearest").image.unique().tolist()) == {1, 2, 3}


def test_wrong_pictures_and_cameras_are_refused():
    with pytest.raises(ValueError, match="hw"):
        undistorted(torch.zeros(3, 10, 10), camera_of("pinhole", BARREL))
    camera = camera_of("pinhole", BARREL)
    off = Camera(
        K=camera.K + torch.tensor([[0.0, 0, 500], [0, 0, 0], [0, 0, 0]]),
        T_world_cam=camera.T_world_cam,
        hw=camera.hw,
        distortion=camera.distortion,
    )
    with pytest.raises(ValueError, match="principal point"):
        pinhole_camera(off)


def test_averaging_by_hand():
    picture = torch.tensor([[[0.0, 3.0, 6.0], [9.0, 12.0, 15.0]]])
    # Two columns of 1.5: the middle one is shared.
    torch.testing.assert_close(
        averaged(picture, (2, 2)), torch.tensor([[[1.0, 5.0], [10.0, 14.0]]])
    )
    torch.testing.assert_close(averaged(picture, (1, 1)), torch.tensor([[[7.5]]]))
    torch.testing.assert_close(averaged(picture, (2, 3)), picture)


@settings(deadline=None, max_examples=20)
@given(
    old=st.tuples(st.integers(1, 23), st.integers(1, 23)),
    share=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
)
def test_averaging_keeps_the_mean_and_the_range(old, share):
    hw = max(1, int(old[0] * share[0])), max(1, int(old[1] * share[1]))
    picture = torch.rand(2, *old, generator=torch.Generator().manual_seed(old[0]))
    small = averaged(picture, hw)
    assert small.shape == (2, *hw)
    torch.testing.assert_close(small.mean((1, 2)), picture.mean((1, 2)), rtol=1e-4, atol=1e-5)
    assert float(small.min()) >= float(picture.min()) - 1e-5
    assert float(small.max()) <= float(picture.max()) + 1e-5


@pytest.mark.parametrize("hw", [(0, 1), (3, 1), (1, 4)])
def test_averaging_only_makes_smaller(hw):
    with pytest.raises(ValueError, match="hw must be"):
        averaged(torch.zeros(1, 2, 3), hw)


@pytest.mark.parametrize(
    ("hw", "side", "wanted"),
    [
        ((480, 640), 320, (240, 320)),
        ((640, 480), 320, (320, 240)),
        ((480, 640), 640, (480, 640)),
        ((480, 640), 5000, (480, 640)),
        ((480, 640), None, (480, 640)),
        ((1, 1000), 10, (1, 10)),
        ((3, 1000), 100, (1, 100)),
    ],
)
def test_sizes_that_fit(hw, side, wanted):
    assert fitting_hw(hw, side) == wanted


def test_a_smaller_picture_shows_points_at_the_same_place():
    camera = camera_of("pinhole", BARREL)
    small, scaled = resized(torch.rand(3, 60, 80), camera, 40)
    assert small.shape == (3, 30, 40)
    xyz = torch.tensor([[0.1, -0.2, 1.0], [0.0, 0.3, 2.0]])
    torch.testing.assert_close(project(xyz, scaled).uv * 2, project(xyz, camera).uv)


def test_every_eighth_of_the_sorted_names_is_held_out():
    names = [f"IMG_{i:03d}" for i in range(20)]
    assert held_out(names) == (
        (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19),
        (0, 8, 16),
    )
    # Plain order of names, whatever order they come in.
    assert held_out(["b", "a", "10", "9"], every=2) == ((3, 0), (2, 1))
    assert held_out([]) == ((), ())


@pytest.mark.parametrize("every", [1, 0, -8])
def test_a_split_that_leaves_nothing_is_refused(every):
    with pytest.raises(ValueError, match="at least 2"):
        held_out(["a", "b"], every=every)


@pytest.fixture
def photos(tmp_path, room, colmap):
    """A scene of photographs through a lens; there is no depth and no cloud."""
    parameters = (57.6, 57.6, 32.0, 24.0, 0.08, -0.02, 0.001, 0.002)
    model = colmap.model_of(room, lens="OPENCV", parameters=parameters, num_points=0)
    return colmap.write_scene(tmp_path / "photos", room, model=model)


def test_a_scene_opens_smaller_and_straight(photos):
    plain = open_scene(photos, need=["views"])
    small = open_scene(photos, need=["views"], max_side_px=32)
    both = open_scene(photos, need=["views"], max_side_px=32, undistort=True)
    for scene in (small, both):
        image = scene.images[1]
        assert image.rgb.shape == (3, 24, 32)
        assert image.camera is scene.images.cameras[1]
        assert image.camera.hw == (24, 32)
    np.testing.assert_allclose(small.images.cameras[0].K[:2], plain.images.cameras[0].K[:2] / 2)
    assert small.images.cameras[0].coefficients == plain.images.cameras[0].coefficients
    assert both.images.cameras[0].coefficients is None
    np.testing.assert_allclose(small.images[1].rgb.mean(), plain.images[1].rgb.mean(), atol=1e-5)
    assert len({scene.fingerprint for scene in (plain, small, both)}) == 3


def test_boxes_follow_their_pictures(photos, write_json):
    write_json(photos / "localisation.json", {"000001": {"wall": [[8.0, 6.0, 40.0, 30.0]]}})
    small = open_scene(photos, need=["views"], max_side_px=32)
    np.testing.assert_allclose(small.boxes["000001"]["wall"], [[4, 3, 20, 15]], atol=1e-4)
    plain = open_scene(photos, need=["views"])
    assert plain.boxes["000001"]["wall"] == [(8.0, 6.0, 40.0, 30.0)]
    straight = open_scene(photos, need=["views"], undistort=True)
    box = np.array(straight.boxes["000001"]["wall"][0])
    assert 0.1 < np.abs(box - (8, 6, 40, 30)).max() < 6
    camera, old = straight.images.cameras[1], plain.images.cameras[1]
    rays, _ = pixel_rays(torch.tensor([[24.0, 18.0]]), old)
    uv = project(rays + old.centre, camera).uv[0]
    assert box[0] < uv[0] < box[2]
    assert box[1] < uv[1] < box[3]


def test_depth_through_a_lens_becomes_straight_too(tmp_path, room, save_depth):
    scene_of = tmp_path / "scan"
    (scene_of / "images").mkdir(parents=True)
    frames = []
    for view in room.views:
        Image.fromarray(view.rgb).save(scene_of / f"images/{view.name}.png")
        save_depth(scene_of / f"images/{view.name}-depth.png", view.depth_m)
        T = view.T_world_cam @ np.diag([1.0, -1, -1, 1])
        frames.append(
            {
                "file_path": f"images/{view.name}.png",
                "depth_file_path": f"images/{view.name}-depth.png",
                "transform_matrix": T.tolist(),
            }
        )
    shared = {"fl_x": 57.6, "fl_y": 57.6, "cx": 32, "cy": 24, "w": 64, "h": 48, "k1": 0.05}
    (scene_of / "transforms.json").write_text(json.dumps(shared | {"frames": frames}))
    scene = open_scene(scene_of, undistort=True, max_side_px=32)
    depth, image = scene.depths[0], scene.images[0]
    assert depth.depth_m.shape == (48, 64)
    assert depth.camera.coefficients is None
    assert image.camera.coefficients is None
    # Depth keeps its own size; both cameras look at the same field of view.
    np.testing.assert_allclose(depth.camera.K[:2], 2 * image.camera.K[:2], rtol=1e-5)
    stored = set(np.unique(open_scene(scene_of).depths[0].depth_m))
    assert set(np.unique(depth.depth_m)) <= stored


@pytest.mark.parametrize("side", [0, -5])
def test_a_longest_side_that_is_none(photos, four_parts, side):
    with pytest.raises(UsageError, match="max_side_px") as caught:
        open_scene(photos, need=["views"], max_side_px=side)
    four_parts(caught.value, 2)
