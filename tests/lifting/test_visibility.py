import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config
from PIL import Image

from lifting.cameras import Camera, project, scale_camera, unproject_depth
from lifting.visibility import (
    DepthNoise,
    depth_visibility,
    splat_radius,
    visible_points,
    zbuffer,
)

HW = (12, 16)
BACKENDS = ("numba", "torch")


def make_camera(seed: int | None = None, hw: tuple[int, int] = HW, lens: int = 0) -> Camera:
    """An ideal camera at the origin; with a seed, posed at random; lens 1 pinhole, 2 fisheye."""
    T = np.eye(4)
    if seed is not None:
        rng = np.random.default_rng(seed)
        q, r = np.linalg.qr(rng.normal(size=(3, 3)))
        q = q * np.sign(np.diag(r))
        q[:, 0] *= np.sign(np.linalg.det(q))
        T[:3, :3], T[:3, 3] = q, rng.normal(size=3)
    K = torch.tensor(
        ((0.8 * hw[1], 0, hw[1] / 2), (0, 0.8 * hw[1], hw[0] / 2), (0, 0, 1)), dtype=torch.float64
    )
    distortion = torch.tensor((-0.2, 0.05, 1e-3, -2e-3), dtype=torch.float64) if lens else None
    model = "fisheye" if lens == 2 else "pinhole"
    return Camera(K=K, T_world_cam=torch.from_numpy(T), hw=hw, distortion=distortion, model=model)


def random_depth(hw: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """A slanted wall, a nearer block, holes and a flying pixel."""
    rows, columns = torch.meshgrid(torch.arange(hw[0]), torch.arange(hw[1]), indexing="ij")
    depth_m = 2 + 0.04 * rows + 0.03 * columns + 0.002 * torch.randn(hw, generator=generator)
    depth_m[hw[0] // 3 : hw[0] // 2, hw[1] // 3 : hw[1] // 2] = 1.2
    depth_m[torch.rand(hw, generator=generator) < 0.1] = 0
    depth_m[0, 0], depth_m[1, 1] = math.nan, math.inf
    return depth_m.double()


def points_near(depth_m, camera, generator, num=200) -> torch.Tensor:
    """Points around the surface, some of them outside the view or behind it."""
    xyz, _ = unproject_depth(depth_m, camera)
    picked = xyz[torch.randint(len(xyz), (num,), generator=generator)]
    moved = picked + 0.03 * torch.randn(num, 3, generator=generator).double()
    moved[::7] += 2 * torch.randn(len(moved[::7]), 3, generator=generator).double()
    return moved


def oracle(xyz, camera, depth_m, depth_camera, noise) -> list[int]:
    """One point at a time, in plain Python, from the definitions."""
    visible = []
    colour, seen = project(xyz, camera), project(xyz, depth_camera)
    for i in range(len(xyz)):
        if not (colour.in_image[i] and seen.in_image[i]):
            continue
        column, row = math.floor(seen.uv[i, 0]), math.floor(seen.uv[i, 1])
        here = float(depth_m[row, column])
        if not (math.isfinite(here) and here > 0):
            continue
        sigma = noise.floor_m + noise.quadratic_per_m * max(here - noise.closest_m, 0) ** 2
        tolerance = noise.num_sigma * sigma + noise.margin_m
        pixel_m = here / min(float(depth_camera.K[0, 0]), float(depth_camera.K[1, 1]))
        for step in ((0, 1), (1, 0)):
            sides = []
            for sign in (-1, 1):
                r, c = row + sign * step[0], column + sign * step[1]
                if 0 <= r < depth_m.shape[0] and 0 <= c < depth_m.shape[1]:
                    there = float(depth_m[r, c])
                    if math.isfinite(there) and there > 0:
                        sides.append(abs(there - here))
            tolerance += noise.slant_px * min(min(sides, default=0.0), 3.73 * pixel_m)
        if abs(here - float(seen.depth_m[i])) <= tolerance:
            visible.append(i)
    return visible


# ---- the rule -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    lens=st.integers(0, 2),
    own_depth_camera=st.booleans(),
    slant_px=st.sampled_from((0.0, 0.5, 2.0)),
)
def test_matches_the_oracle(backend, seed, lens, own_depth_camera, slant_px):
    generator = torch.Generator().manual_seed(seed)
    camera = make_camera(seed, lens=lens)
    # A depth sensor beside the colour camera, with another size and focal length.
    depth_camera = camera
    if own_depth_camera:
        T = camera.T_world_cam.clone()
        T[:3, 3] += torch.tensor((0.05, -0.02, 0.01))
        depth_camera = Camera(
            K=make_camera(hw=(9, 20)).K * 0.9 + 0.1 * torch.eye(3), T_world_cam=T, hw=(9, 20)
        )
    depth_m = random_depth(depth_camera.hw, generator)
    xyz = points_near(depth_m, depth_camera, generator)
    noise = DepthNoise(slant_px=slant_px)
    wanted = oracle(xyz, camera, depth_m, depth_camera, noise)
    found = visible_points(
        xyz, camera, depth_m=depth_m, depth_camera=depth_camera, noise=noise, backend=backend
    )
    assert found.index.tolist() == wanted
    seen = project(xyz, camera)
    assert torch.allclose(found.uv, seen.uv[found.index], atol=1e-9)
    assert torch.allclose(found.depth_m, seen.depth_m[found.index])


@pytest.mark.parametrize("lens", [0, 1, 2])
def test_backends_agree_in_float32(lens):
    generator = torch.Generator().manual_seed(3)
    camera = make_camera(5, hw=(120, 160), lens=lens)
    depth_m = random_depth(camera.hw, generator)
    xyz = points_near(depth_m, camera, generator, num=5000).float()
    numba, plain = (
        visible_points(xyz, camera, depth_m=depth_m.float(), backend=name) for name in BACKENDS
    )
    both = set(numba.index.tolist()) & set(plain.index.tolist())
    # Only points whose rounding crosses a pixel border or the tolerance may differ.
    assert len(both) > 1000
    assert len(set(numba.index.tolist()) ^ set(plain.index.tolist())) <= 5
    assert numba.uv.dtype == torch.float32


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_depth_all_points_in_the_image_are_returned(backend):
    generator = torch.Generator().manual_seed(0)
    xyz = torch.randn(3000, 3, generator=generator, dtype=torch.float64) * 3
    for lens in range(3):
        camera = make_camera(lens, lens=lens)
        found = visible_points(xyz, camera, backend=backend)
        assert found.index.tolist() == torch.nonzero(project(xyz, camera).in_image)[:, 0].tolist()


@pytest.mark.parametrize(
    ("distortion", "model"),
    [((-0.6, 0.0, 0.0, 0.0), "pinhole"), ((0.9, 0.4, 0.0, 0.0), "pinhole"), (None, "fisheye")],
)
def test_culling_keeps_all_of_a_strongly_distorted_image(distortion, model):
    # The first lens has no direction for its corners; the second bends the border far inwards.
    ideal = make_camera(3)
    bent = None if distortion is None else torch.tensor(distortion, dtype=torch.float64)
    camera = Camera(K=ideal.K, T_world_cam=ideal.T_world_cam, hw=HW, distortion=bent, model=model)
    generator = torch.Generator().manual_seed(0)
    xyz = camera.centre + torch.randn(5000, 3, generator=generator, dtype=torch.float64)
    wanted = torch.nonzero(project(xyz, camera).in_image)[:, 0]
    assert len(wanted) > 100
    assert torch.equal(visible_points(xyz, camera).index, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tolerance_by_hand(backend):
    # At 2.4 m sigma is 1.2 mm + 1.9 mm * 2^2 = 8.8 mm; three of them and 30 mm make 56.4 mm.
    camera = make_camera()
    noise = DepthNoise(slant_px=0.0)
    assert noise.tolerance_m(torch.tensor((0.0, 2.4))).tolist() == pytest.approx([0.0336, 0.0564])
    z = torch.tensor((2.4, 2.4563, 2.4565, 2.3437, 2.3435))
    xyz = torch.stack((torch.zeros(5), torch.zeros(5), z), -1)
    found = visible_points(xyz, camera, depth_m=torch.full(HW, 2.4), noise=noise, backend=backend)
    assert found.index.tolist() == [0, 1, 3]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_quarter_of_the_depth_behind_a_surface_is_hidden(backend):
    xyz = torch.tensor(((0.0, 0, 2.0), (0, 0, 2.4), (0, 0, 1.6)))
    found = visible_points(xyz, make_camera(), depth_m=torch.full(HW, 2.0), backend=backend)
    assert found.index.tolist() == [0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("nothing", [0.0, math.nan, math.inf, -1.0])
def test_no_reading_is_not_visible(backend, nothing):
    xyz = torch.tensor(((0.0, 0, 2.0),))
    depth_m = torch.full(HW, nothing)
    assert not len(visible_points(xyz, make_camera(), depth_m=depth_m, backend=backend).index)


@pytest.mark.parametrize("backend", BACKENDS)
def test_depth_edges_give_no_surface_between(backend):
    depth_m = torch.full(HW, 1.0)
    depth_m[:, 8:] = 3.0
    # In both columns beside the edge: on the front, on the back, and half way.
    u = torch.tensor((7.5, 7.5, 7.5, 8.5, 8.5, 8.5))
    z = torch.tensor((1.0, 3.0, 2.0, 1.0, 3.0, 2.0))
    xyz = torch.stack(((u - 8) / 12.8 * z, torch.zeros(6), z), -1)
    found = visible_points(xyz, make_camera(), depth_m=depth_m, backend=backend)
    assert found.index.tolist() == [0, 4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_slant_widens_on_slopes_and_not_at_edges(backend):
    camera = make_camera()
    slope = 2 + 0.2 * torch.arange(16.0).expand(HW)
    edge = torch.where(torch.arange(16) < 8, 2.0, 3.6).expand(HW).contiguous()
    # Half a pixel of a slope of 0.2 m per pixel is 0.1 m off the reading 3.6 m of column 8.
    xyz = torch.tensor(((0.1 / 12.8, 0.0, 3.6 + 0.15),))
    tight, wide = DepthNoise(slant_px=0.0), DepthNoise(slant_px=0.5)
    assert not len(visible_points(xyz, camera, depth_m=slope, noise=tight, backend=backend).index)
    assert len(visible_points(xyz, camera, depth_m=slope, noise=wide, backend=backend).index)
    assert not len(visible_points(xyz, camera, depth_m=edge, noise=wide, backend=backend).index)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_points_are_never_visible(backend):
    nan, inf = math.nan, math.inf
    xyz = torch.tensor(
        ((nan, 0, 2), (0, 0, inf), (inf, 0, 2), (0, 0, -2), (0, 0, 0), (0, 0, nan), (0, 0, 2))
    )
    depth_m = torch.full(HW, 2.0)
    assert visible_points(xyz, make_camera(), depth_m=depth_m, backend=backend).index.tolist() == [
        6
    ]
    assert visible_points(xyz, make_camera(), backend=backend).index.tolist() == [6]


@pytest.mark.parametrize("backend", BACKENDS)
def test_depth_map_of_another_size_uses_the_scaled_camera(backend):
    camera = make_camera(2)
    depth_m = torch.full((24, 32), 2.0, dtype=torch.float64)
    depth_m[:, 16:] = 1.0
    xyz, _ = unproject_depth(depth_m, scale_camera(camera, (24, 32)))
    found = visible_points(xyz, camera, depth_m=depth_m, backend=backend)
    assert len(found.index) == len(xyz)
    assert (found.uv[:, 1] < HW[0]).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_order_and_blocks_do_not_matter(backend):
    generator = torch.Generator().manual_seed(1)
    camera = make_camera(1)
    depth_m = random_depth(HW, generator)
    xyz = points_near(depth_m, camera, generator, num=2500)

    def seen(points):
        return visible_points(points, camera, depth_m=depth_m, backend=backend).index

    whole = seen(xyz)
    blocks = torch.cat([seen(xyz[s : s + 700]) + s for s in range(0, 2500, 700)])
    assert torch.equal(whole, blocks)
    order = torch.randperm(2500, generator=generator)
    assert torch.equal(order[seen(xyz[order])].sort().values, whole)
    assert torch.equal(seen(torch.stack((xyz, xyz), -1)[..., 0]), whole)
    assert not len(seen(xyz[:0]))


def test_reference_on_its_own():
    depth_m = torch.full(HW, 2.0)
    xyz = torch.tensor(((0.0, 0, 2.0), (0, 0, 3.0)))
    seen = depth_visibility(xyz, depth_m, make_camera(), DepthNoise())
    assert seen.tolist() == [True, False]


@pytest.mark.realdata
def test_a_hand_held_scan_sees_itself_and_its_neighbour():
    root = os.environ.get("XMODAL_DATA")
    if root is None:
        pytest.skip("set XMODAL_DATA to the folder with 7scenes_redkitchen")
    scene = Path(root) / "7scenes_redkitchen"
    K = torch.from_numpy(np.loadtxt(scene / "intrinsic.txt"))
    frames = []
    for name in ("000000", "000016"):
        depth_m = np.asarray(Image.open(scene / "depth" / f"{name}.png")).astype(np.float32) / 1000
        depth_m[depth_m > 65] = 0
        pose = torch.from_numpy(np.loadtxt(scene / "pose" / f"{name}.txt"))
        frames.append((Camera(K=K, T_world_cam=pose, hw=(480, 640)), torch.from_numpy(depth_m)))
    (camera, depth_m), (neighbour, neighbour_depth_m) = frames
    xyz, _ = unproject_depth(depth_m, camera)
    assert len(visible_points(xyz, camera, depth_m=depth_m).index) == len(xyz)
    in_image = len(visible_points(xyz, neighbour).index)
    seen = len(visible_points(xyz, neighbour, depth_m=neighbour_depth_m).index)
    assert 0.6 < seen / in_image < 1


# ---- z-buffer -----------------------------------------------------------------------------


def zbuffer_oracle(xyz, camera, radius_m, max_radius_px) -> np.ndarray:
    depth = np.full(camera.hw, np.inf)
    # Discs of points beside the image reach into it, so project without its limits.
    R, t = camera.T_world_cam[:3, :3].numpy(), camera.T_world_cam[:3, 3].numpy()
    for point in xyz.numpy():
        x, y, z = R.T @ (point - t)
        if not (np.isfinite(z) and z > 0):
            continue
        fx, fy = float(camera.K[0, 0]), float(camera.K[1, 1])
        u, v = fx * x / z + float(camera.K[0, 2]), fy * y / z + float(camera.K[1, 2])
        rx, ry = min(radius_m * fx / z, max_radius_px), min(radius_m * fy / z, max_radius_px)
        for row in range(camera.hw[0]):
            for column in range(camera.hw[1]):
                disc = ((column + 0.5 - u) / rx) ** 2 + ((row + 0.5 - v) / ry) ** 2 <= 1
                if disc or (row == math.floor(v) and column == math.floor(u)):
                    depth[row, column] = min(depth[row, column], z)
    return np.where(np.isfinite(depth), depth, 0)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10_000), radius_m=st.floats(0.001, 0.6), cap=st.sampled_from((0.4, 3.0)))
def test_zbuffer_matches_the_oracle(backend, seed, radius_m, cap):
    generator = torch.Generator().manual_seed(seed)
    camera = make_camera(seed)
    cam = torch.randn(25, 3, generator=generator, dtype=torch.float64) * torch.tensor((1.0, 1, 1.5))
    xyz = cam @ camera.T_world_cam[:3, :3].T + camera.T_world_cam[:3, 3]
    xyz[0] = math.nan
    drawn = zbuffer(xyz, camera, radius_m=radius_m, max_radius_px=cap, backend=backend)
    wanted = zbuffer_oracle(xyz, camera, radius_m, cap)
    assert np.allclose(drawn.depth_m.numpy(), wanted)


@pytest.mark.parametrize("lens", [0, 1, 2])
def test_zbuffer_hides_the_back_of_a_sphere(lens):
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(8000, 3, generator=generator), dim=-1)
    xyz = direction * 0.5 + torch.tensor((0.0, 0, 2.0))
    camera = make_camera(hw=(60, 80), lens=lens)
    drawn = zbuffer(xyz, camera, radius_m=splat_radius(xyz))
    found = visible_points(
        xyz, camera, depth_m=drawn.depth_m, depth_camera=drawn.camera, noise=drawn.noise
    )
    facing = -(direction * torch.nn.functional.normalize(xyz, dim=-1)).sum(-1)
    seen = torch.zeros(8000, dtype=torch.bool)
    seen[found.index] = True
    assert seen[facing > 0.3].float().mean() > 0.99
    assert seen[facing < -0.3].float().mean() < 0.01


def test_zbuffer_backends_agree_with_lenses():
    generator = torch.Generator().manual_seed(0)
    xyz = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    for lens in range(3):
        camera = make_camera(4, lens=lens)
        numba, plain = (
            zbuffer(xyz, camera, radius_m=0.05, max_radius_px=2.0, backend=name).depth_m
            for name in BACKENDS
        )
        assert torch.allclose(numba, plain)


def test_splat_radius_is_the_diagonal_of_a_grid():
    grid = torch.stack(torch.meshgrid(*(torch.arange(10.0),) * 2, indexing="ij"), -1) * 0.1
    xyz = torch.cat((grid.reshape(-1, 2), torch.zeros(100, 1)), -1)
    xyz[3] = math.nan
    xyz[4] = xyz[5]
    assert splat_radius(xyz) == pytest.approx(0.1 * math.sqrt(2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_cloud_draws_nothing(backend):
    drawn = zbuffer(torch.zeros(0, 3), make_camera(), radius_m=0.1, backend=backend)
    assert not drawn.depth_m.any()


# ---- refusals -----------------------------------------------------------------------------


@pytest.fixture
def unchecked():
    """As users run it: without the tests' shape checking, which would refuse first."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("name", ["floor_m", "quadratic_per_m", "margin_m", "slant_px"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_bad_noise_is_refused(name, value):
    with pytest.raises(ValueError, match=f"depth noise {name} must be finite"):
        DepthNoise(**{name: value})


def test_noise_without_any_tolerance_is_refused():
    with pytest.raises(ValueError, match="zero tolerance"):
        DepthNoise(num_sigma=0.0, margin_m=0.0)


def test_depth_of_the_wrong_size_is_refused():
    camera = make_camera()
    with pytest.raises(ValueError, match=r"depth map is \(6, 8\) but its camera has hw \(12, 16\)"):
        visible_points(torch.zeros(1, 3), camera, depth_m=torch.ones(6, 8), depth_camera=camera)
    with pytest.raises(ValueError, match="scale the camera"):
        depth_visibility(torch.zeros(1, 3), torch.ones(6, 8), camera, DepthNoise())


def test_settings_without_a_depth_map_are_refused():
    with pytest.raises(ValueError, match="need a depth_m"):
        visible_points(torch.zeros(1, 3), make_camera(), noise=DepthNoise())
    with pytest.raises(ValueError, match="need a depth_m"):
        visible_points(torch.zeros(1, 3), make_camera(), depth_camera=make_camera())


def test_numba_refuses_points_that_are_not_on_a_cpu():
    with pytest.raises(ValueError, match="numba works on a CPU, the points are on meta"):
        visible_points(torch.zeros(1, 3, device="meta"), make_camera(), backend="numba")


@pytest.mark.usefixtures("unchecked")
def test_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="auto, torch or numba, got 'cuda'"):
        visible_points(torch.zeros(1, 3), make_camera(), backend="cuda")


@pytest.mark.parametrize(
    ("radius_m", "cap"), [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0, 0.0)]
)
def test_zbuffer_refuses_bad_radii(radius_m, cap):
    with pytest.raises(ValueError, match="radii must be > 0"):
        zbuffer(torch.zeros(1, 3), make_camera(), radius_m=radius_m, max_radius_px=cap)


@pytest.mark.parametrize(
    "xyz", [torch.zeros(0, 3), torch.rand(6, 3), torch.zeros(9, 3), torch.full((9, 3), math.nan)]
)
def test_spacing_needs_several_points(xyz):
    with pytest.raises(ValueError, match="needs 7 finite points"):
        splat_radius(xyz)
