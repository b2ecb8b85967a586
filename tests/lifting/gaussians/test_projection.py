"""Where splats land in an image, how wide they are there, and the slopes of both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.autograd import gradcheck

from lifting.cameras import Camera, pixel_centres, project
from lifting.gaussians.projection import (
    Projected,
    covariances,
    project_splats,
    rotation_matrices,
    splat_normals,
)
from lifting.gaussians.reference import dense_alphas
from lifting.gaussians.splats import Splats

HW = (24, 32)


def camera(
    *, focal_px: float = 100.0, centre: tuple[float, float] = (16.0, 12.0), **other: Any
) -> Camera:
    K = torch.tensor([[focal_px, 0, centre[0]], [0, focal_px, centre[1]], [0, 0, 1]])
    return Camera(**{"K": K.double(), "T_world_cam": torch.eye(4).double(), "hw": HW} | other)


def splats(
    means: Any = ((0.0, 0.0, 2.0),),
    scales: Any = (0.1, 0.1, 0.1),
    quats: Any = (1.0, 0.0, 0.0, 0.0),
    opacity: float = 0.5,
    dtype: torch.dtype = torch.float64,
) -> Splats:
    means = torch.as_tensor(means, dtype=dtype)
    return Splats(
        means=means,
        quats=torch.tensor(quats, dtype=dtype).expand(len(means), 4),
        scales=torch.tensor(scales, dtype=dtype).expand(len(means), 3),
        opacities=torch.full((len(means),), opacity, dtype=dtype),
    )


def random_splats(
    count: int, seed: int, *, dtype: torch.dtype = torch.float64, spread: float = 0.4
) -> Splats:
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=g, dtype=torch.float64) * spread
    return Splats(
        means=means + means.new_tensor((0, 0, 3)),
        quats=torch.randn(count, 4, generator=g, dtype=torch.float64),
        scales=torch.exp(torch.randn(count, 3, generator=g, dtype=torch.float64) - 2.5),
        opacities=torch.rand(count, generator=g, dtype=torch.float64),
    ).to(dtype=dtype)


def turned(seed: int, centre: tuple[float, float, float] = (0.1, -0.2, 0.3)) -> Tensor:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec(0.2 * np.random.default_rng(seed).normal(size=3)).as_matrix()
    T[:3, 3] = centre
    return torch.from_numpy(T)


def covariance_px2(projected: Projected) -> Tensor:
    a, b, c = projected.conics[projected.drawn].unbind(1)
    return torch.linalg.inv(torch.stack((a, b, b, c), 1).reshape(-1, 2, 2))


def test_a_ball_on_the_axis() -> None:
    # sigma = 100 px * 0.1 m / 2 m = 5 px, so 25 px^2, and 0.3 of dilation.
    projected = project_splats(splats(), camera())
    assert projected.uv.tolist() == [[16, 12]]
    assert projected.depth_m.tolist() == [2]
    assert projected.conics[0].tolist() == pytest.approx([1 / 25.3, 0, 1 / 25.3])
    reach = math.sqrt(2 * math.log(255 * 0.5) * 25.3)
    assert projected.extent_px[0].tolist() == pytest.approx([reach, reach], abs=0.02)
    assert (projected.extent_px > reach).all()


def test_a_ball_beside_the_axis_is_stretched_along_its_view() -> None:
    # J = 50 [[1, 0, -0.1], [0, 1, 0]]: variance 25 (1 + 0.01) across, 25 down.
    projected = project_splats(splats([(0.2, 0, 2.0)]), camera())
    assert projected.uv.tolist() == [[26, 12]]
    expected = torch.tensor([[25.25 + 0.3, 0], [0, 25.3]], dtype=torch.float64)
    torch.testing.assert_close(covariance_px2(projected)[0], expected)


def test_a_turned_splat_in_a_turned_camera() -> None:
    # The splat is long along world x; the camera's down is world x (a quarter turn about z).
    T = torch.tensor([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    seen = project_splats(splats(scales=(0.2, 0.1, 0.1)), camera(T_world_cam=T))
    expected = torch.diag(torch.tensor([25.3, 100.3], dtype=torch.float64))
    torch.testing.assert_close(covariance_px2(seen)[0], expected)
    half = math.sqrt(0.5)
    seen = project_splats(splats(scales=(0.2, 0.1, 0.1), quats=(half, 0, 0, half)), camera())
    torch.testing.assert_close(covariance_px2(seen)[0], expected)


@pytest.mark.parametrize(
    ("x", "slope"),
    [
        # Half the field of view is 16 / 100 wide; a third of it, 0.048, lies outside as margin.
        (0.6, (32 - 10) / 100 + 0.048),
        (-0.6, -(10 / 100 + 0.048)),
        (0.1, 0.05),
    ],
)
def test_far_outside_the_image_the_slope_stays_that_of_the_margin(x: float, slope: float) -> None:
    seen = project_splats(
        splats([(x, 0.0, 2.0)], scales=(0.3, 0.3, 0.3)), camera(centre=(10.0, 12.0))
    )
    assert seen.drawn.all()
    assert seen.uv[0, 0].item() == pytest.approx(10 + 50 * x)
    assert covariance_px2(seen)[0, 0, 0].item() == pytest.approx(225 * (1 + slope**2) + 0.3)


@pytest.mark.parametrize("seed", range(3))
def test_the_covariance_is_that_of_projected_samples(seed: int) -> None:
    """Far away and small, the projection is affine: what is left is the error of sampling."""
    rng = np.random.default_rng(seed)
    far = splats([(1.0, -0.5, 20.0)], scales=(0.3, 0.1, 0.02), quats=tuple(rng.normal(size=4)))
    cov = covariances(far.quats, far.scales)[0].numpy()
    xyz = torch.from_numpy(rng.multivariate_normal(far.means[0].numpy(), cov, size=200_000))
    look = camera(focal_px=150.0, T_world_cam=turned(seed))
    uv = project(xyz, look).uv.numpy()
    expected = torch.from_numpy(np.cov(uv.T))
    found = covariance_px2(project_splats(far, look, dilation_px2=0.0))[0]
    # The standard error of a variance from 200,000 samples is 0.3 %.
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.max()))


@given(seed=st.integers(0, 10_000), length=st.floats(1e-18, 1e18))
@settings(deadline=None, max_examples=20)
def test_rotations_and_covariances(seed: int, length: float) -> None:
    quats = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))
    expected = Rotation.from_quat(quats.double().numpy(), scalar_first=True).as_matrix()
    found = rotation_matrices(quats * length)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=0, atol=1e-6)
    scales = torch.tensor([[1.0, 2.0, 3.0]]).repeat(4, 1)
    cov = covariances(quats * length, scales)
    torch.testing.assert_close(cov, cov.mT, rtol=0, atol=0)
    squares = torch.tensor([[1.0, 4.0, 9.0]]).repeat(4, 1)
    torch.testing.assert_close(torch.linalg.eigvalsh(cov), squares, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(2))
def test_gradcheck(seed: int) -> None:
    some, look = random_splats(6, seed), camera(focal_px=40.0)
    assert project_splats(some, look).drawn.sum() >= 3

    def run(*parts: Tensor) -> tuple[Tensor, ...]:
        means, quats, scales, pose, focal = parts
        T = torch.cat((pose, pose.new_tensor([[0, 0, 0, 1]])))
        K = torch.diag_embed(torch.cat((focal, focal.new_ones(1)))) + look.K.triu(1)
        moved = replace(some, means=means, quats=quats, scales=scales)
        projected = project_splats(moved, replace(look, T_world_cam=T, K=K))
        return projected.uv, projected.conics, projected.depth_m

    parts = (some.means, some.quats, some.scales, turned(seed)[:3], look.K.diagonal()[:2])
    assert gradcheck(run, [part.clone().requires_grad_() for part in parts])


def test_gradcheck_of_the_margin_and_of_normals() -> None:
    wide = splats([(0.6, -0.5, 2.0)], scales=(0.3, 0.2, 0.4), quats=(0.9, 0.1, -0.2, 0.3))

    def run(means: Tensor, quats: Tensor) -> tuple[Tensor, Tensor]:
        moved = replace(wide, means=means, quats=quats)
        return project_splats(moved, camera()).conics, splat_normals(moved, camera())

    assert gradcheck(
        run, [wide.means.clone().requires_grad_(), wide.quats.clone().requires_grad_()]
    )


NOT_DRAWN: dict[str, Callable[[], tuple[Splats, Camera]]] = {
    "at the camera": lambda: (splats([(0.0, 0, 0)]), camera()),
    "behind the camera": lambda: (splats([(0.0, 0, -2)]), camera()),
    "before the near plane": lambda: (splats([(0.0, 0, 0.0099)]), camera()),
    "hardly before a tiny one": lambda: (splats([(0.0, 0, 1e-10)], scales=(1e-12,) * 3), camera()),
    "beside the camera": lambda: (splats([(5.0, 0, 1e-9)]), camera()),
    "outside the image": lambda: (splats([(2.0, 0, 2)]), camera()),
    "above the image": lambda: (splats([(0.0, -2, 2)]), camera()),
    "hardly opaque": lambda: (splats(opacity=0.0039), camera()),
    "transparent": lambda: (splats(opacity=0.0), camera()),
    "out of range": lambda: (splats([(1e30, 1e37, 1e38)]), camera()),
    "infinitely wide": lambda: (splats(scales=(1e30, 1, 1e38)), camera()),
    "at a slope out of range": lambda: (splats([(1e9, 0, 1)]), camera()),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", NOT_DRAWN)
def test_what_is_not_drawn_has_no_extent_and_no_slope(case: str, dtype: torch.dtype) -> None:
    some, look = NOT_DRAWN[case]()
    some = some.to(dtype=dtype)
    leaves = [p.clone().requires_grad_() for p in (some.means, some.quats, some.scales)]
    pose = look.T_world_cam.clone().requires_grad_()
    moved = replace(some, means=leaves[0], quats=leaves[1], scales=leaves[2])
    seen = project_splats(moved, replace(look, T_world_cam=pose))
    assert not seen.drawn.any()
    assert seen.extent_px.tolist() == [[0, 0]]
    kept = seen.drawn[:, None].to(dtype)
    (seen.uv * kept + seen.conics.sum(1, keepdim=True) * kept).sum().backward()
    for part in (seen.uv, seen.conics, seen.depth_m, *(leaf.grad for leaf in (*leaves, pose))):
        assert part is not None
        assert part.isfinite().all()


@pytest.mark.parametrize("unit", [1e-3, 1e3])
@pytest.mark.parametrize("gradients", [False, True])
def test_the_unit_of_length_does_not_matter(unit: float, gradients: bool) -> None:
    """A scene of structure from motion has any unit; its image is the same."""
    some = random_splats(50, 0, dtype=torch.float32)
    pose = camera().T_world_cam.clone()
    pose[:3, 3] *= unit
    scaled = replace(some, means=some.means * unit, scales=some.scales * unit)
    seen = project_splats(some, camera())
    if gradients:
        scaled = replace(scaled, means=scaled.means.requires_grad_())
    other = project_splats(scaled, replace(camera(), T_world_cam=pose))
    assert seen.drawn.any()
    torch.testing.assert_close(other.extent_px, seen.extent_px, rtol=1e-4, atol=1e-3)
    kept = seen.drawn
    torch.testing.assert_close(other.uv[kept], seen.uv[kept], rtol=1e-4, atol=1e-3)


def test_without_dilation_a_splat_without_area_is_not_drawn() -> None:
    speck = splats(scales=(1e-8, 1e-8, 1e-8), dtype=torch.float32)
    assert not project_splats(speck, camera(), dilation_px2=0.0).drawn.any()
    assert project_splats(speck, camera(), dilation_px2=0.0).conics.isfinite().all()
    assert project_splats(speck, camera()).drawn.all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_camera_inside_a_splat_sees_it_all_over(dtype: torch.dtype) -> None:
    around = splats([(0.0, 0, 0.02)], scales=(3.0, 2.0, 5.0), opacity=0.8, dtype=dtype)
    leaf = around.means.clone().requires_grad_()
    seen = project_splats(replace(around, means=leaf), camera())
    assert seen.drawn.all()
    offset = pixel_centres(HW, dtype=dtype) - seen.uv
    a, b, c = seen.conics[0]
    distance = a * offset[:, 0] ** 2 + 2 * b * offset.prod(1) + c * offset[:, 1] ** 2
    assert (distance < 1e-4).all()
    seen.conics.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert not project_splats(replace(around, means=-around.means), camera()).drawn.any()


@given(
    seed=st.integers(0, 100_000),
    spread=st.sampled_from([0.1, 1.0, 5.0]),
    width=st.floats(-7, 3),
    needle=st.floats(0, 8),
    opacity=st.floats(0.00393, 1),
)
@settings(deadline=None, max_examples=60)
def test_extents_lose_nothing_in_float32(
    seed: int, spread: float, width: float, needle: float, opacity: float
) -> None:
    """No pixel outside the box has an alpha of 1/255, as float32 evaluates it."""
    some = random_splats(12, seed, dtype=torch.float32, spread=spread)
    longer = torch.tensor([needle, 0, 0]).exp()
    some = replace(
        some,
        scales=some.scales * math.exp(width) * longer,
        opacities=torch.full((12,), opacity, dtype=torch.float32),
    )
    seen = project_splats(some, camera(focal_px=30.0), near_m=0.2)
    offset = pixel_centres(HW)[:, None] - seen.uv
    inside = (offset.abs() <= seen.extent_px).all(-1)
    # Splats outside the image are projected but not drawn: no pixel may miss them either.
    everywhere = replace(seen, extent_px=(seen.conics[:, :1] > 0).float().expand(-1, 2))
    alpha = dense_alphas(everywhere, some.opacities, HW)
    assert not ((alpha > 0) & ~inside).any()


@given(seed=st.integers(0, 100_000))
@settings(deadline=None, max_examples=20)
def test_extents_are_tight(seed: int) -> None:
    """On each side of the box the edge of alpha = 1/255 is nearer than a fiftieth of a pixel."""
    some = random_splats(12, seed)
    seen = project_splats(some, camera(focal_px=30.0))
    cov = covariance_px2(seen)
    level = 2 * torch.log(255 * some.opacities[seen.drawn])
    edge = (cov.diagonal(dim1=1, dim2=2) * level[:, None]).sqrt()
    slack = seen.extent_px[seen.drawn] - edge
    assert ((slack > 0) & (slack < 0.02)).all()


@pytest.mark.parametrize("length", [10.0, 1e3, 1e5, 1e7])
def test_needles_keep_a_shortest_axis_in_float32(length: float) -> None:
    needle = splats(
        [(0.01, 0.02, 2.0)],
        scales=(length / 50, 1e-6, 1e-6),
        quats=(0.9, 0, 0, 0.4),
        dtype=torch.float32,
    )
    a, b, c = project_splats(needle, camera()).conics[0].double()
    assert a > 0
    assert a * c - b * b > 0
    if length < 1e3:
        exact = project_splats(needle.to(dtype=torch.float64), camera()).conics[0]
        torch.testing.assert_close(torch.stack((a, b, c)), exact, rtol=1e-5, atol=0)


def test_far_from_the_origin_float32_loses_nothing() -> None:
    far = torch.tensor([4e5, 5e6, 30.0]).double()
    near = random_splats(20, 3)
    moved = replace(near, means=(near.means + far).float().double())
    T = torch.eye(4).double()
    T[:3, 3] = far + 0.123
    look = camera(T_world_cam=T)
    exact = project_splats(moved, look)
    found = project_splats(moved.to(dtype=torch.float32), look)
    torch.testing.assert_close(found.uv.double(), exact.uv, rtol=1e-5, atol=1e-3)
    assert torch.equal(found.drawn, exact.drawn)


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=20)
def test_moving_the_world_changes_nothing(seed: int) -> None:
    some, T = random_splats(8, seed), turned(seed, (3.0, -2.0, 1.0))
    turn = torch.from_numpy(Rotation.from_matrix(T[:3, :3].numpy()).as_quat(scalar_first=True))
    w, v = turn[0], turn[1:]
    qw, qv = some.quats[:, :1], some.quats[:, 1:]
    cross = torch.linalg.cross(v.expand_as(qv), qv)
    product = torch.cat((w * qw - (qv * v).sum(1, keepdim=True), w * qv + qw * v + cross), 1)
    moved = replace(some, means=some.means @ T[:3, :3].T + T[:3, 3], quats=product)
    one, two = project_splats(some, camera()), project_splats(moved, camera(T_world_cam=T))
    for name in ("uv", "conics", "depth_m", "extent_px"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-6, atol=1e-6)


def test_normals_face_the_camera() -> None:
    flat = splats([(0.0, 0, 2), (0, 0, -2), (1, 0, 2)], scales=(0.1, 0.1, 0.01))
    assert splat_normals(flat, camera()).tolist() == [[0, 0, -1], [0, 0, 1], [0, 0, -1]]
    upright = splats(scales=(0.1, 0.01, 0.1), quats=(math.sqrt(0.5), math.sqrt(0.5), 0, 0))
    found = splat_normals(upright, camera())[0]
    torch.testing.assert_close(found, torch.tensor([0.0, 0, -1]).double(), rtol=0, atol=1e-12)
    # Through the camera itself: any side, but a unit vector.
    assert splat_normals(splats([(0.0, 0, 0)]), camera()).norm().item() == pytest.approx(1)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from((torch.float32, torch.float64)),
    spread=st.sampled_from((0.3, 1.0, 4.0)),
)
def test_the_compiled_loop_agrees_with_the_plain_form(
    seed: int, dtype: torch.dtype, spread: float
) -> None:
    scene = random_splats(60, seed, dtype=dtype, spread=spread)
    view = camera(T_world_cam=turned(seed))
    compiled = project_splats(scene, view)
    means = scene.means.clone().requires_grad_()
    plain = project_splats(replace(scene, means=means), view)
    # A splat on a border may be drawn by one form alone: rounding decides.
    both = compiled.drawn & plain.drawn
    assert int((compiled.drawn != plain.drawn).sum()) <= 1
    close = {"rtol": 2e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    for name in ("uv", "conics", "depth_m"):
        mine, theirs = getattr(compiled, name)[both], getattr(plain, name)[both].detach()
        torch.testing.assert_close(mine, theirs, **close)
    wide = {"rtol": 5e-3, "atol": 0.02} if dtype == torch.float32 else close
    torch.testing.assert_close(compiled.extent_px[both], plain.extent_px[both], **wide)


def test_the_compiled_loop_gives_the_same_bits_on_any_number_of_threads() -> None:
    scene, before = random_splats(4000, 3), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = project_splats(scene, camera())
        torch.set_num_threads(2)
        two = project_splats(scene, camera())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one.uv, two.uv)
    assert torch.equal(one.conics, two.conics)
    assert torch.equal(one.extent_px, two.extent_px)


def test_no_splats() -> None:
    none = splats(torch.zeros(0, 3))
    seen = project_splats(none, camera())
    assert len(seen) == 0
    assert seen.extent_px.shape == (0, 2)
    assert splat_normals(none, camera()).shape == (0, 3)


def test_rows_do_not_influence_each_other_and_need_not_be_contiguous() -> None:
    some = random_splats(9, 5)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    mixed = replace(some.select(order), means=some.means[order].T.contiguous().T)
    one, two = project_splats(some, camera()), project_splats(mixed, camera())
    for name in ("uv", "conics", "depth_m", "extent_px"):
        torch.testing.assert_close(getattr(one, name)[order], getattr(two, name))


def test_lens_coefficients_are_refused() -> None:
    bent = camera(distortion=torch.tensor([0.1, 0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match=r"lens coefficients .* undistort the images"):
        project_splats(splats(), bent)
    with pytest.raises(ValueError, match="fisheye"):
        project_splats(splats(), camera(model="fisheye"))
    ideal = camera(distortion=torch.zeros(4))
    assert project_splats(splats(), ideal).drawn.all()


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf])
def test_a_wrong_dilation_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="dilation_px2"):
        project_splats(splats(), camera(), dilation_px2=wrong)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_a_wrong_near_plane_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="near_m"):
        project_splats(splats(), camera(), near_m=wrong)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(TypeCheckError):
        covariances(torch.ones(2, 4), torch.ones(3, 3))
    with pytest.raises(TypeCheckError):
        rotation_matrices(torch.ones(2, 3))
