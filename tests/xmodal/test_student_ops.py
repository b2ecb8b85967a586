"""Student and distillation ops: settings, inputs, spaces, projections, augmentation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xmodal.edges.distill.cosine import Cosine
from xmodal.edges.distill.kl import Kl
from xmodal.edges.distill.mse import Mse
from xmodal.edges.distill.project import projection
from xmodal.edges.encode.point_mlp import PointMlp
from xmodal.edges.encode.sparse_unet import SparseUnet
from xmodal.errors import ConfigError, DataError
from xmodal.point_inputs import describe_points, input_channels
from xmodal.train.crops import Augment, nearest
from xmodal.values import Points

ALL = ("rgb", "normals", "height", "xyz")


def cloud(num: int = 50, seed: int = 0) -> Points:
    generator = torch.Generator().manual_seed(seed)
    return Points(
        xyz=torch.rand(num, 3, generator=generator) * torch.tensor([2.0, 2.0, 0.2]),
        offsets=torch.tensor([0, num]),
        rgb=torch.rand(num, 3, generator=generator),
        normals=nn.functional.normalize(torch.randn(num, 3, generator=generator), dim=1),
    )


def with_rows(rows: Tensor, **rest: Any) -> Points:
    num = len(rows)
    return Points(xyz=torch.zeros(num, 3), offsets=torch.tensor([0, num]), rows=rows, **rest)


# Inputs of a point.


@pytest.mark.parametrize("inputs", [("rgb",), ("height", "normals"), ALL])
def test_inputs_have_the_width_that_is_announced(inputs: Any) -> None:
    described = describe_points(cloud(), inputs, "z")
    assert described.shape == (50, input_channels(inputs))
    assert described.abs().max() < 3


def test_height_is_above_the_floor_of_its_sample() -> None:
    xyz = torch.tensor([[0.0, 0, 5.0], [0, 0, 6.5], [0, 0, -1.0], [0, 0, 0.5]])
    two = Points(xyz=xyz, offsets=torch.tensor([0, 2, 4]))
    expected = torch.tensor([[-1.0], [0.0], [-1.0], [0.0]])
    torch.testing.assert_close(describe_points(two, ("height",), "z"), expected)
    turned = replace(two, xyz=-xyz[:, [2, 0, 1]])
    torch.testing.assert_close(describe_points(turned, ("height",), "-x"), expected)


def test_levelness_ignores_the_sign_of_a_normal() -> None:
    one = cloud()
    flipped = replace(one, normals=-one.normals)
    assert torch.equal(
        describe_points(one, ("normals",), "z"), describe_points(flipped, ("normals",), "-z")
    )


def test_missing_normals_are_estimated() -> None:
    flat = cloud(300).xyz * torch.tensor([1.0, 1.0, 0.0])
    described = describe_points(Points(xyz=flat, offsets=torch.tensor([0, 300])), ("normals",), "z")
    torch.testing.assert_close(described, torch.ones(300, 1))


@pytest.mark.parametrize("num", [0, 1])
def test_none_or_one_point_is_described(num: int) -> None:
    described = describe_points(cloud(num), ALL, "-y")
    assert described.shape == (num, input_channels(ALL))
    assert torch.isfinite(described).all()


def test_a_cloud_without_colours_is_refused_with_a_way_out() -> None:
    with pytest.raises(DataError, match=r"inputs: \[normals, height\]"):
        describe_points(replace(cloud(), rgb=None), ("rgb",), "z")


# Student ops.


@pytest.mark.parametrize("op", [SparseUnet(), PointMlp(), SparseUnet(inputs=ALL, up="-y")])
@pytest.mark.parametrize("space", ["unit", "simplex", "raw", None])
def test_a_student_gives_rows_in_the_space_it_was_built_for(op: Any, space: Any) -> None:
    rows = op(op.build(channels=7, space=space), cloud()).rows
    assert rows.shape == (50, 7)
    if space == "unit":
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(50))
    if space == "simplex":
        torch.testing.assert_close(rows.sum(dim=1), torch.ones(50))


@pytest.mark.parametrize(
    "settings", [{"voxel_m": 0.0}, {"voxel_m": -1.0}, {"voxel_m": float("nan")}]
)
def test_a_voxel_without_size_is_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match="voxel_m must be above 0"):
        SparseUnet(**settings)


@pytest.mark.parametrize("settings", [{"width": 0}, {"depth": 0}])
def test_a_perceptron_without_layers_is_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PointMlp(**settings)


@pytest.mark.parametrize("op", [SparseUnet, PointMlp])
@pytest.mark.parametrize("inputs", [(), ("rgb", "rgb")])
def test_inputs_that_are_none_or_repeat_are_refused(op: Any, inputs: Any) -> None:
    with pytest.raises(ValueError, match="at most once"):
        op(inputs=inputs)


# Distillation ops.


def test_coverage_saturates() -> None:
    teacher = with_rows(torch.zeros(2, 1), weight=torch.tensor([1.0, 3.0]))
    student = with_rows(torch.tensor([[1.0], [2.0]]))
    # c / (c + 1): one half and three quarters.
    expected = (0.5 * 1 + 0.75 * 4) / 1.25
    assert float(Mse()(teacher, student)) == pytest.approx(expected)
    assert float(Mse(coverage_half=0.0)(teacher, student)) == pytest.approx(2.5)


@pytest.mark.parametrize("op", [Kl(), Cosine(), Mse()])
def test_rows_that_no_view_saw_do_not_count(op: Any) -> None:
    rows, given = torch.rand(3, 4) + 0.1, (torch.rand(3, 4) + 0.1)
    given = given / given.sum(dim=1, keepdim=True)
    weight = torch.tensor([1.0, 0.0, 2.0])
    spoilt = rows.clone()
    spoilt[1] = float("nan")
    expected = op(with_rows(rows, weight=weight), with_rows(given))
    assert torch.equal(op(with_rows(spoilt, weight=weight), with_rows(given)), expected)


@pytest.mark.parametrize("kind", ["linear", "mlp", "orthogonal"])
@pytest.mark.parametrize("op", [Kl, Cosine, Mse])
def test_a_projection_brings_widths_together_and_learns(op: Any, kind: Any) -> None:
    edge = op(project=kind)
    net = edge.build(channels=4, teacher_channels=6)
    teacher, student = with_rows(torch.rand(5, 6)), with_rows(torch.rand(5, 4).softmax(dim=1))
    edge(teacher, student, net=net).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_an_orthogonal_projection_keeps_angles() -> None:
    net = projection("orthogonal", 3, 5)
    rows = torch.randn(10, 3)
    out = net(rows)
    torch.testing.assert_close(out @ out.T, rows @ rows.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", [Kl, Cosine, Mse])
def test_equal_widths_need_no_projection_and_others_say_so(op: Any) -> None:
    assert op().build(channels=4, teacher_channels=4) is None
    with pytest.raises(ConfigError, match="project: linear"):
        op().build(channels=4, teacher_channels=6)


@pytest.mark.parametrize("op", [Kl, Cosine, Mse])
@pytest.mark.parametrize(
    "settings", [{"weight": 0.0}, {"weight": float("nan")}, {"coverage_half": -1.0}]
)
def test_settings_without_meaning_are_refused(op: Any, settings: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        op(**settings)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        Kl(temperature=0.0)


@pytest.mark.parametrize("op", [Kl(), Cosine(), Mse()])
def test_rows_on_other_points_are_refused(op: Any) -> None:
    with pytest.raises(DataError, match="2 teacher rows, 3 student rows"):
        op(with_rows(torch.rand(2, 4)), with_rows(torch.rand(3, 4)))
    with pytest.raises(DataError, match="none teacher rows"):
        op(replace(with_rows(torch.rand(3, 4)), rows=None), with_rows(torch.rand(3, 4)))


# Crops and augmentation.


def test_the_nearest_points_in_ascending_order() -> None:
    xyz = torch.tensor([[3.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0], [0.0, 0, 0]])
    assert nearest(xyz, torch.zeros(3), 2).tolist() == [1, 3]
    assert nearest(xyz, torch.zeros(3), 9).tolist() == [0, 1, 2, 3]


def test_nothing_varies_when_everything_is_off() -> None:
    xyz, inputs = torch.rand(5, 3), torch.rand(5, 4)
    rng = np.random.default_rng(0)
    off = Augment(shift=False)
    assert torch.equal(off.positions(xyz, rng), xyz)
    assert torch.equal(off.inputs(inputs, rng), inputs)


@pytest.mark.parametrize(("up", "axis"), [("x", 0), ("y", 1), ("z", 2), ("-y", 1)])
def test_rotation_keeps_height_and_distances(up: str, axis: int) -> None:
    xyz = torch.rand(5, 3)
    turned = Augment(shift=False, rotate_rad=3.0, up=up).positions(xyz, np.random.default_rng(0))
    torch.testing.assert_close(turned[:, axis], xyz[:, axis])
    torch.testing.assert_close(torch.cdist(turned, turned), torch.cdist(xyz, xyz))
    assert (turned - xyz).abs().max() > 0.05


def test_scale_jitter_and_gain_stay_within_their_amounts() -> None:
    xyz, rng = torch.rand(200, 3), np.random.default_rng(0)
    scaled = Augment(shift=False, scale=0.1).positions(xyz, rng)
    ratio = scaled / xyz
    assert ratio.std() < 1e-5
    assert 0.9 <= float(ratio.mean()) <= 1.1
    noise = Augment(shift=False, jitter_m=0.01).positions(xyz, rng) - xyz
    assert 0.008 < float(noise.std()) < 0.012
    varied = Augment(input_jitter=0.1).inputs(xyz, rng)
    assert 0 < float((varied - xyz).abs().max()) < 1
