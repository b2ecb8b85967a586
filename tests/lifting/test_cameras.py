import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config

from lifting.cameras import (
    Camera,
    pixel_centres,
    pixel_rays,
    project,
    scale_camera,
    unproject,
    unproject_depth,
)
from lifting.lens import distort, undistort, valid_radius

HW = (48, 64)
# Real calibrations: webcam, phone with rational terms, wide barrel, wide pincushion.
PINHOLE_LENSES = (
    (0.12, -0.25, 0.001, -0.0005),
    (0.12, -0.25, 0.001, -0.0005, 0.1),
    (5.8, 2.9, -2e-4, 8e-5, 0.11, 6.1, 4.6, 0.63),
    (-0.32, 0.11, 1e-3, -4e-4, -0.018),
    (0.25, 0.05, 0.0, 0.0),
)
FISHEYE_LENSES = ((0.0, 0.0, 0.0, 0.0), (-0.012, 0.04, -0.04, 0.012), (0.08, -0.02, 0.004, -0.0005))


def intrinsics(focal: float = 50.0, hw: tuple[int, int] = HW) -> torch.Tensor:
    return torch.tensor(
        ((focal, 0, hw[1] / 2 + 0.7), (0, 1.05 * focal, hw[0] / 2 - 0.4), (0, 0, 1)),
        dtype=torch.float64,
    )


def pose(seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    if np.linalg.det(q) < 0:
        q[:, 0] *= -1
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = q, rng.normal(size=3)
    return torch.from_numpy(T)


def make_camera(**changes) -> Camera:
    values = {"K": intrinsics(), "T_world_cam": pose(), "hw": HW}
    return Camera(**(values | changes))


def lens_camera(coefficients, model, **changes) -> Camera:
    distortion = torch.tensor(coefficients, dtype=torch.float64)
    return make_camera(distortion=distortion, model=model, **changes)


ALL_LENSES = [(None, "pinhole"), *((k, "pinhole") for k in PINHOLE_LENSES)] + [
    (k, "fisheye") for k in FISHEYE_LENSES
]


@pytest.fixture
def unchecked():
    """As users run it: without the tests' shape checking, which would refuse first."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def all_cameras() -> list[Camera]:
    return [make_camera() if k is None else lens_camera(k, model) for k, model in ALL_LENSES]


# ---- literal cases ------------------------------------------------------------------------


def test_projects_by_hand():
    K = torch.tensor(((100.0, 0, 32), (0, 200, 24), (0, 0, 1)))
    camera = Camera(K=K, T_world_cam=torch.eye(4), hw=HW)
    seen = project(torch.tensor(((0.0, 0, 2), (0.2, -0.1, 1), (0.5, 0, 1))), camera)
    assert torch.allclose(seen.uv, torch.tensor(((32.0, 24), (52, 4), (82, 24))))
    assert seen.depth_m.tolist() == [2, 1, 1]
    assert seen.in_image.tolist() == [True, True, False]


def test_pose_moves_the_camera_not_the_world():
    T = torch.eye(4)
    T[:3, 3] = torch.tensor((1.0, 2, 3))
    camera = make_camera(T_world_cam=T)
    seen = project(torch.tensor(((1.0, 2, 4),)), camera)
    assert seen.depth_m.item() == 1
    assert seen.uv[0].tolist() == pytest.approx([32.7, 23.6])
    assert camera.centre.tolist() == [1, 2, 3]


def test_opencv_distortion_by_hand():
    # x = 0.5, y = 0.25: r2 = 0.3125; radial = 1 + 0.1 r2 + 0.01 r2^2 + 0.001 r2^3.
    xy = torch.tensor(((0.5, 0.25),), dtype=torch.float64)
    k1, k2, p1, p2, k3 = 0.1, 0.01, 0.002, 0.003, 0.001
    r2 = 0.3125
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    x = 0.5 * radial + 2 * p1 * 0.125 + p2 * (r2 + 2 * 0.25)
    y = 0.25 * radial + p1 * (r2 + 2 * 0.0625) + 2 * p2 * 0.125
    assert distort(xy, "pinhole", (k1, k2, p1, p2, k3))[0].tolist() == pytest.approx([x, y])
    rational = distort(xy, "pinhole", (0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0))[0].tolist()
    assert rational == pytest.approx([0.5 / (1 + 0.5 * r2), 0.25 / (1 + 0.5 * r2)])


def test_fisheye_by_hand():
    # An equidistant lens images 45 degrees at a radius of pi/4.
    xy = torch.tensor(((1.0, 0.0), (0.0, 0.0)), dtype=torch.float64)
    assert distort(xy, "fisheye", (0.0, 0.0, 0.0, 0.0)).tolist() == [[math.pi / 4, 0], [0, 0]]
    t = math.pi / 4
    bent = distort(xy, "fisheye", (0.1, 0.0, 0.0, 0.01))[0, 0].item()
    assert bent == pytest.approx(t * (1 + 0.1 * t**2 + 0.01 * t**8))


@pytest.mark.parametrize(
    ("coefficients", "model", "pixel"),
    [
        # Made with OpenCV 4.11: projectPoints and fisheye.projectPoints.
        (PINHOLE_LENSES[2], "pinhole", (47.15061408, 13.48356914)),
        (FISHEYE_LENSES[1], "fisheye", (47.08303944, 13.53187239)),
    ],
)
def test_agrees_with_opencv(coefficients, model, pixel):
    camera = lens_camera(coefficients, model, T_world_cam=torch.eye(4, dtype=torch.float64))
    seen = project(torch.tensor(((0.3, -0.2, 1.0),), dtype=torch.float64), camera)
    assert seen.uv[0].tolist() == pytest.approx(pixel, abs=1e-7)


def test_pixel_centres_are_row_major_at_half():
    assert pixel_centres((2, 3)).tolist() == [
        [0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5], [1.5, 1.5], [2.5, 1.5],
    ]  # fmt: skip


def test_image_is_half_open():
    camera = Camera(K=torch.eye(3), T_world_cam=torch.eye(4), hw=(2, 3))
    xyz = torch.tensor(((0.0, 0, 1), (3, 0, 1), (0, 2, 1), (2.99, 1.99, 1), (-1e-6, 0, 1)))
    assert project(xyz, camera).in_image.tolist() == [True, False, False, True, False]


# ---- what must never be in the image -------------------------------------------------------


@pytest.mark.parametrize("camera", all_cameras())
def test_nothing_behind_the_camera_or_not_finite_is_seen(camera):
    camera = replace(camera, T_world_cam=torch.eye(4, dtype=torch.float64))
    nan, inf = math.nan, math.inf
    xyz = torch.tensor(
        (
            (0, 0, -1),
            (0.1, 0, 0),
            (0, 0, 1e-9),
            (nan, 0, 1),
            (0, 0, inf),
            (0, inf, 1),
            (1e38, 0, 1),
        ),
        dtype=torch.float32,
    )
    seen = project(xyz, camera)
    assert not seen.in_image.any()
    assert seen.uv.isfinite().all()
    assert seen.depth_m.isfinite().all()


@pytest.mark.parametrize(("coefficients", "model"), ALL_LENSES[1:])
def test_points_outside_the_lens_model_do_not_fold_back(coefficients, model):
    # Every direction of a half sphere: whatever lands in the image must come back to itself.
    camera = lens_camera(coefficients, model, T_world_cam=torch.eye(4, dtype=torch.float64))
    angle = torch.linspace(0, 2 * math.pi, 41, dtype=torch.float64)
    radius = torch.logspace(-2, 4, 400, dtype=torch.float64)
    xy = torch.stack((angle.cos(), angle.sin()), -1)[:, None] * radius[:, None]
    xyz = torch.cat((xy.reshape(-1, 2), torch.ones(xy[..., 0].numel(), 1)), -1)
    seen = project(xyz, camera)
    assert seen.in_image.any()
    rays, valid = pixel_rays(seen.uv[seen.in_image], camera)
    assert valid.all()
    assert torch.allclose(rays, xyz[seen.in_image], atol=1e-6)


def test_barrel_lens_without_the_guard_would_fold():
    # r = 2.9 is imaged near the axis by the bare polynomial r - 0.12 r^3.
    assert abs(distort(torch.tensor(((2.9, 0.0),)), "pinhole", (-0.12, 0.0, 0.0, 0.0))[0, 0]) < 0.1
    camera = lens_camera((-0.12, 0.0, 0.0, 0.0), "pinhole", T_world_cam=torch.eye(4))
    assert not project(torch.tensor(((2.9, 0.0, 1.0),)), camera).in_image.any()
    assert camera.valid_radius == pytest.approx(math.sqrt(1 / 0.36))


def test_valid_radius():
    assert make_camera().valid_radius == math.inf
    assert valid_radius("pinhole", (0.1, 0.0, 0.0, 0.0)) == 1000
    # Tangential terms alone fold at 1 / (6 |p|) at the earliest.
    assert valid_radius("pinhole", (0.0, 0.0, 0.03, 0.04)) == pytest.approx(1 / 0.3)
    # A pole of the rational model bounds it.
    assert valid_radius("pinhole", (0.0, 0.0, 0.0, 0.0, 0.0, -0.25, 0.0, 0.0)) == pytest.approx(2)
    assert valid_radius("fisheye", (-1 / 3, 0.0, 0.0, 0.0)) == pytest.approx(math.tan(1.0))


# ---- round trips --------------------------------------------------------------------------


@pytest.mark.parametrize("camera", all_cameras())
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_project_inverts_unproject(camera, seed):
    generator = torch.Generator().manual_seed(seed)
    uv = torch.rand(50, 2, generator=generator, dtype=torch.float64) * torch.tensor((64.0, 48.0))
    depth_m = torch.rand(50, generator=generator, dtype=torch.float64) * 8 + 0.05
    valid = pixel_rays(uv, camera)[1]
    assert valid.double().mean() > 0.5
    uv, depth_m = uv[valid], depth_m[valid]
    back = project(unproject(uv, depth_m, camera), camera)
    assert torch.allclose(back.uv, uv, atol=1e-6)
    assert torch.allclose(back.depth_m, depth_m)
    assert back.in_image.all()


@settings(deadline=None, max_examples=60)
@given(
    k=st.lists(st.floats(-0.6, 0.6), min_size=3, max_size=3),
    p=st.lists(st.floats(-0.02, 0.02), min_size=2, max_size=2),
    rational=st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
def test_undistort_inverts_distort_inside_the_valid_radius(k, p, rational, seed):
    coefficients = (k[0], k[1], p[0], p[1], k[2], *rational)
    radius = min(valid_radius("pinhole", coefficients), 3.0)
    generator = torch.Generator().manual_seed(seed)
    r = torch.rand(64, generator=generator, dtype=torch.float64).sqrt() * radius * 0.99
    angle = torch.rand(64, generator=generator, dtype=torch.float64) * 2 * math.pi
    xy = torch.stack((angle.cos() * r, angle.sin() * r), -1)
    back, converged = undistort(distort(xy, "pinhole", coefficients), "pinhole", coefficients)
    assert converged.all()
    # Near a fold the inverse is ill-conditioned; the image of both must still agree.
    again = distort(back, "pinhole", coefficients)
    assert torch.allclose(again, distort(xy, "pinhole", coefficients), atol=1e-8)
    well = r < 0.9 * radius
    assert torch.allclose(back[well], xy[well], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unproject_depth_leaves_out_what_has_no_reading(dtype):
    camera = make_camera()
    depth_m = torch.full(HW, 2.0, dtype=dtype)
    depth_m[0, 0], depth_m[1, 2], depth_m[3, 3] = 0, math.nan, math.inf
    xyz, index = unproject_depth(depth_m, camera)
    assert xyz.dtype == dtype
    assert len(index) == depth_m.numel() - 3
    assert not set(index.tolist()) & {0, 66, 195}
    seen = project(xyz, camera)
    centres = pixel_centres(HW, dtype=dtype)[index]
    assert torch.allclose(seen.uv, centres, atol=1e-4)


def test_unproject_depth_leaves_out_pixels_beyond_the_lens():
    camera = lens_camera((-0.5, 0.0, 0.0, 0.0), "pinhole")
    xyz, index = unproject_depth(torch.ones(HW), camera)
    assert 0 < len(index) < HW[0] * HW[1]
    assert project(xyz, camera).in_image.all()


def test_float32_is_exact_far_from_the_origin():
    # Georeferenced scenes have coordinates of 1e5 m; the offsets matter, not the absolute value.
    T = torch.eye(4, dtype=torch.float64)
    T[:3, 3] = torch.tensor((131072.0, -65536, 0))
    near, far = make_camera(T_world_cam=torch.eye(4)), make_camera(T_world_cam=T)
    xyz = torch.tensor(((0.25, -0.125, 2.0),))
    shifted = xyz + T[:3, 3].float()
    assert torch.allclose(project(shifted, far).uv, project(xyz, near).uv, atol=1e-4)


def test_empty_and_non_contiguous_input():
    camera = make_camera()
    assert project(torch.zeros(0, 3), camera).uv.shape == (0, 2)
    assert unproject(torch.zeros(0, 2), torch.zeros(0), camera).shape == (0, 3)
    xyz = torch.rand(7, 6, generator=torch.Generator().manual_seed(0))[:, ::2]
    assert torch.equal(project(xyz, camera).uv, project(xyz.contiguous(), camera).uv)


# ---- scaling ------------------------------------------------------------------------------


@pytest.mark.parametrize("camera", all_cameras())
def test_scaling_moves_pixels_in_proportion(camera):
    xyz = unproject(torch.tensor(((30.0, 20), (10, 40))), torch.tensor((1.0, 2)), camera)
    scaled = scale_camera(camera, (96, 32))
    uv = project(xyz, scaled).uv
    assert torch.allclose(uv, project(xyz, camera).uv * torch.tensor((0.5, 2.0)), atol=1e-4)
    assert scaled.hw == (96, 32)
    assert torch.allclose(scale_camera(scaled, HW).K, camera.K)


# ---- gradients ----------------------------------------------------------------------------


@pytest.mark.parametrize("camera", all_cameras())
def test_projection_gradients(camera):
    xyz = unproject(
        torch.tensor(((30.0, 20), (12, 40), (33, 24)), dtype=torch.float64),
        torch.tensor((1.0, 2, 3), dtype=torch.float64),
        camera,
    ).requires_grad_()
    torch.autograd.gradcheck(lambda x: project(x, camera).uv, (xyz,))
    torch.autograd.gradcheck(lambda x: project(x, camera).depth_m, (xyz,))


@pytest.mark.parametrize("camera", all_cameras())
def test_unprojection_gradients(camera):
    uv = torch.tensor(((30.0, 20), (20, 30)), dtype=torch.float64, requires_grad=True)
    depth_m = torch.tensor((1.0, 2), dtype=torch.float64, requires_grad=True)
    # The tolerance covers Newton's own stopping error, divided by gradcheck's step.
    torch.autograd.gradcheck(lambda u, d: unproject(u, d, camera), (uv, depth_m), atol=1e-4)


def test_pose_gradient_survives_bad_points():
    T = pose().requires_grad_()
    camera = make_camera(T_world_cam=T)
    xyz = torch.tensor(((math.nan, 0, 0), (0, math.inf, 0), (0, 0, 0), (0.3, -2, 1)))
    seen = project(xyz.double().requires_grad_(), camera)
    (seen.uv.sum() + seen.depth_m.sum()).backward()
    assert T.grad is not None
    assert T.grad.isfinite().all()


# ---- refusals -----------------------------------------------------------------------------


def changed(tensor: torch.Tensor, index: tuple[int, int], value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"K": changed(intrinsics(), (0, 0), 0.0)}, "fx, fy > 0, got fx = 0"),
        ({"K": changed(intrinsics(), (1, 1), -5.0)}, "fy = -5"),
        ({"K": changed(intrinsics(), (0, 1), 3.0)}, "no skew"),
        ({"K": intrinsics().T.contiguous()}, "transposed|0 0 1"),
        ({"K": changed(intrinsics(), (2, 2), 2.0)}, "0 0 1"),
        ({"K": changed(intrinsics(), (0, 2), math.nan)}, "K must be finite"),
        ({"T_world_cam": changed(pose(), (0, 3), math.inf)}, "T_world_cam must be finite"),
        ({"T_world_cam": pose() * 2}, "0 0 0 1"),
        ({"T_world_cam": pose().T.contiguous()}, "transposed"),
        ({"T_world_cam": pose() @ torch.diag(pose().new_tensor((2, 2, 2, 1)))}, r"\|\|R R\^T - I"),
        ({"T_world_cam": torch.diag(torch.tensor((1.0, 1, -1, 1)))}, "determinant"),
        ({"hw": (0, 64)}, "positive integers"),
        ({"hw": (48, -1)}, "positive integers"),
        ({"distortion": torch.zeros(3)}, "4 or 5 or 8"),
        ({"distortion": torch.zeros(5), "model": "fisheye"}, "must have 4"),
        ({"distortion": torch.tensor((math.nan, 0, 0, 0))}, "distortion must be finite"),
    ],
)
def test_impossible_cameras_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_camera(**changes)


@pytest.mark.usefixtures("unchecked")
def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"K must have shape \(3, 3\), got \(4, 4\)"):
        make_camera(K=torch.eye(4))
    with pytest.raises(ValueError, match=r"T_world_cam must have shape \(4, 4\)"):
        make_camera(T_world_cam=torch.eye(3))


@pytest.mark.usefixtures("unchecked")
def test_unknown_lens_model_is_refused():
    with pytest.raises(ValueError, match="'pinhole' or 'fisheye', got 'equirectangular'"):
        make_camera(model="equirectangular")


def test_slightly_rounded_poses_are_accepted():
    rounded = torch.from_numpy(np.round(pose().numpy(), 4))
    assert make_camera(T_world_cam=rounded).hw == HW


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_unproject_refuses_depth_that_is_none(bad):
    with pytest.raises(ValueError, match="1 of 2 are not"):
        unproject(torch.ones(2, 2), torch.tensor((1.0, bad)), make_camera())


def test_unproject_refuses_pixels_beyond_the_lens():
    camera = lens_camera((-0.5, 0.0, 0.0, 0.0), "pinhole")
    with pytest.raises(ValueError, match="no viewing direction under the pinhole lens"):
        unproject(torch.zeros(1, 2), torch.ones(1), camera)


def test_unproject_depth_refuses_another_size():
    with pytest.raises(ValueError, match=r"hw \(48, 64\); scale the camera"):
        unproject_depth(torch.ones(24, 32), make_camera())


def test_scaling_refuses_a_bad_size():
    with pytest.raises(ValueError, match="positive integers"):
        scale_camera(make_camera(), (0, 5))
