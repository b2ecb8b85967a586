import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifting.cameras import Camera, project
from lifting.quality import QualityWeights, view_quality

HW = (100, 200)
OFF = {"distance_m": None, "grazing_power": None, "border": None}
CAMERA = Camera(
    K=torch.tensor(((100.0, 0, 100), (0, 100, 50), (0, 0, 1))), T_world_cam=torch.eye(4), hw=HW
)


def quality(xyz, normals=None, *, camera=CAMERA, uv=None, depth_m=None, grad=False, **options):
    seen = project(xyz, camera)
    uv, depth_m = seen.uv if uv is None else uv, seen.depth_m if depth_m is None else depth_m
    if grad:  # the plain form runs where gradients are asked for
        xyz = xyz.clone().requires_grad_()
    chosen = QualityWeights(**(OFF | options))
    weight = view_quality(xyz, normals, camera, uv=uv, depth_m=depth_m, options=chosen)
    return weight.detach()


both = pytest.mark.parametrize("grad", [False, True], ids=["compiled", "plain"])


@both
def test_everything_off_is_one(grad):
    xyz = torch.tensor(((0.0, 0, 1), (0.5, 0.2, 3)))
    assert quality(xyz, grad=grad).tolist() == [1, 1]


@both
def test_distance_halves_where_it_says(grad):
    xyz = torch.tensor(((0.0, 0, 2), (0, 0, 4), (1.2, 0, 1.6)))
    assert torch.allclose(quality(xyz, distance_m=2.0, grad=grad), torch.tensor((0.5, 0.2, 0.5)))


@both
def test_grazing_by_hand(grad):
    xyz = torch.tensor(((0.0, 0, 2),) * 5)
    normals = torch.tensor(((0.0, 0, -1), (0, 0, 3), (0, 1, 0), (0, 0.6, 0.8), (0, 0, 0)))
    once = quality(xyz, normals, grazing_power=1.0, grad=grad)
    # Either side counts, length does not; an unknown normal changes nothing.
    assert torch.allclose(once, torch.tensor((1.0, 1, 0, 0.8, 1)))
    twice = quality(xyz, normals, grazing_power=2.0, grad=grad)
    assert torch.allclose(twice, once.square())


@both
def test_border_ramp_by_hand(grad):
    # A tenth of the shorter side is 10 px.
    uv = torch.tensor(((100.0, 50), (5, 50), (195, 50), (100, 2), (0, 50), (200, 50), (-1, 50)))
    weight = quality(torch.tensor(((0.0, 0, 1),) * 7), uv=uv, border=0.1, grad=grad)
    assert torch.allclose(weight, torch.tensor((1.0, 0.5, 0.5, 0.2, 0, 0, 0)))


@both
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("xyz", math.nan), ("xyz", math.inf), ("uv", math.nan), ("uv", -0.5), ("uv", 1e9)),
        *(("depth_m", math.nan), ("depth_m", math.inf), ("depth_m", 0.0), ("depth_m", -1.0)),
    ],
)
def test_what_cannot_be_seen_weighs_nothing(grad, field, value):
    values = {
        "xyz": torch.tensor(((0.1, 0.1, 1.0),) * 2),
        "uv": torch.tensor(((110.0, 60.0),) * 2),
        "depth_m": torch.ones(2),
    }
    values[field][0] = value
    normals = torch.tensor(((0.0, 0, 1),) * 2)
    weight = quality(
        values["xyz"], normals, uv=values["uv"], depth_m=values["depth_m"], grad=grad,
        distance_m=2.0, grazing_power=1.0, border=0.05,
    )  # fmt: skip
    assert weight[0] == 0
    assert weight[1] > 0


@both
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_normals_are_unknown(grad, value):
    normals = torch.tensor(((0.0, value, 1),))
    xyz = torch.tensor(((0.0, 0, 1),))
    assert quality(xyz, normals, grazing_power=1.0, grad=grad).tolist() == [1]


def test_behind_the_camera_weighs_nothing():
    assert quality(torch.tensor(((0.0, 0, -1), (0, 0, 1)))).tolist() == [0, 1]


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    distance_m=st.sampled_from((None, 0.5, 3.0)),
    grazing_power=st.sampled_from((None, 0.5, 2.0)),
    border=st.sampled_from((None, 0.02, 0.5)),
)
def test_compiled_and_plain_agree_with_numpy(seed, distance_m, grazing_power, border):
    rng = np.random.default_rng(seed)
    xyz, normals = rng.normal(size=(40, 3)) * 2, rng.normal(size=(40, 3))
    T = np.eye(4)
    T[:3, 3] = rng.normal(size=3)
    camera = Camera(K=CAMERA.K, T_world_cam=torch.from_numpy(T), hw=HW)
    seen = project(torch.from_numpy(xyz), camera)
    uv, z = seen.uv.numpy(), seen.depth_m.numpy()
    sight = xyz - T[:3, 3]
    distance = np.linalg.norm(sight, axis=1)
    edge = np.minimum.reduce((uv[:, 0], HW[1] - uv[:, 0], uv[:, 1], HW[0] - uv[:, 1]))
    wanted = ((edge >= 0) & (z > 0)).astype(float)
    if distance_m is not None:
        wanted *= 1 / (1 + (distance / distance_m) ** 2)
    if grazing_power is not None:
        cosine = (sight * normals).sum(1) / distance / np.linalg.norm(normals, axis=1)
        wanted *= np.abs(cosine) ** grazing_power
    if border is not None:
        wanted *= np.clip(edge / (border * HW[0]), 0, 1)
    for grad in (False, True):
        weight = quality(
            torch.from_numpy(xyz), torch.from_numpy(normals), camera=camera, grad=grad,
            distance_m=distance_m, grazing_power=grazing_power, border=border,
        )  # fmt: skip
        assert np.allclose(weight.numpy(), wanted)
        assert ((weight >= 0) & (weight <= 1)).all()


def test_gradients():
    xyz = torch.tensor(((0.2, 0.1, 1.5), (-0.6, 0.3, 2)), dtype=torch.float64, requires_grad=True)
    normals = torch.tensor(((0.1, 0.2, -1), (0.5, 0.5, 1)), dtype=torch.float64, requires_grad=True)
    uv = torch.tensor(((1.2, 50), (100, 97.0)), dtype=torch.float64, requires_grad=True)
    depth_m = torch.tensor((1.5, 2), dtype=torch.float64)
    options = QualityWeights(grazing_power=1.5)

    def weigh(xyz, normals, uv):
        return view_quality(xyz, normals, CAMERA, uv=uv, depth_m=depth_m, options=options)

    torch.autograd.gradcheck(weigh, (xyz, normals, uv))


def test_gradients_survive_bad_points():
    xyz = torch.tensor(((math.nan, 0, 1), (0.0, 0.1, 1), (0, 0, 1)), requires_grad=True)
    # Unknown normals, and one at a right angle, where |cos|^0.5 has no derivative.
    normals = torch.tensor(((0.0, 0, 0), (math.nan, 0, 1), (1, 0, 0)), requires_grad=True)
    weight = view_quality(
        xyz,
        normals,
        CAMERA,
        uv=torch.tensor(((100.0, 50),) * 3),
        depth_m=torch.ones(3),
        options=QualityWeights(grazing_power=0.5),
    )
    weight.sum().backward()
    assert xyz.grad is not None
    assert xyz.grad.isfinite().all()
    assert normals.grad is not None
    assert normals.grad.isfinite().all()


def test_empty():
    assert quality(torch.zeros(0, 3), torch.zeros(0, 3), grazing_power=1.0).shape == (0,)


# ---- refusals -----------------------------------------------------------------------------


def test_grazing_without_normals_is_refused():
    with pytest.raises(ValueError, match="needs normals"):
        quality(torch.zeros(1, 3), grazing_power=1.0)


@pytest.mark.parametrize("name", ["distance_m", "grazing_power", "border"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_bad_options_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be finite and > 0, or None"):
        QualityWeights(**{name: value})


def test_overlapping_ramps_are_refused():
    with pytest.raises(ValueError, match=r"at most 0\.5"):
        QualityWeights(border=0.6)
