"""Point students: decoding parts, spaces, and small clouds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detectors.masking import CellMask
from detectors.point_mlp import PointMLP
from detectors.point_student import TRUNK_CHANNELS, PointStudent, VoxelStudent
from detectors.point_transformer import PointTransformer
from detectors.spaces import Space, to_space
from detectors.sparse_unet import SparseUNet


def student(kind: str, space: Space = "raw", mask: CellMask | None = None) -> PointStudent:
    """A student in evaluation mode, so that curves of the transformer take fixed turns."""
    torch.manual_seed(0)
    if kind == "mlp":
        return PointMLP(5, 7, width=16, depth=2, space=space).eval()
    trunk = (SparseUNet if kind == "unet" else PointTransformer)(5, TRUNK_CHANNELS, "tiny")
    return VoxelStudent(5, 7, trunk=trunk, voxel_m=0.1, space=space, mask=mask).eval()


def points(num: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num)
    xyz = torch.rand(num, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.1]) - 0.5
    return xyz, torch.tensor([0, num]), torch.randn(num, 5, generator=generator)


KINDS = pytest.mark.parametrize("kind", ["mlp", "unet", "transformer"])
VOXELS = pytest.mark.parametrize("kind", ["unet", "transformer"])


@KINDS
def test_decoding_a_selection_gives_those_rows(kind: str) -> None:
    net = student(kind)
    encoded = net.encode(*points(60))
    select = torch.tensor([5, 5, 59, 0])
    torch.testing.assert_close(net.decode(encoded, select), net.decode(encoded)[select])


@KINDS
def test_order_of_points_does_not_matter(kind: str) -> None:
    net = student(kind)
    xyz, offsets, inputs = points(200)
    shuffle = torch.randperm(200)
    expected = net(xyz, offsets, inputs)[shuffle]
    torch.testing.assert_close(
        net(xyz[shuffle], offsets, inputs[shuffle]), expected, rtol=1e-4, atol=1e-5
    )


@KINDS
@pytest.mark.parametrize("num", [0, 1])
def test_none_or_one_point(kind: str, num: int) -> None:
    out = student(kind)(*points(num))
    assert out.shape == (num, 7)
    assert torch.isfinite(out).all()


@VOXELS
def test_points_of_one_voxel_can_differ(kind: str) -> None:
    net = student(kind)
    xyz = torch.tensor([[0.01, 0.01, 0.01], [0.09, 0.09, 0.09]])
    out = net(xyz, torch.tensor([0, 2]), torch.tensor([[1.0] * 5, [-1.0] * 5]))
    assert not torch.allclose(out[0], out[1])


@VOXELS
def test_samples_do_not_meet(kind: str) -> None:
    net = student(kind)
    xyz, _, inputs = points(50)
    both = net(xyz.repeat(2, 1), torch.tensor([0, 50, 100]), inputs.repeat(2, 1))
    alone = net(xyz, torch.tensor([0, 50]), inputs)
    torch.testing.assert_close(both, alone.repeat(2, 1), rtol=1e-4, atol=1e-5)


@KINDS
def test_simplex_rows_are_probabilities(kind: str) -> None:
    out = student(kind, "simplex")(*points(30))
    assert (out > 0).all()
    torch.testing.assert_close(out.sum(dim=1), torch.ones(30))


def test_unit_rows_have_length_one_and_zero_stays_zero() -> None:
    rows = to_space(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "unit")
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_raw_rows_come_as_they_are() -> None:
    rows = torch.tensor([[3.0, -4.0]])
    assert torch.equal(to_space(rows, "raw"), rows)


@KINDS
def test_inputs_of_another_width_are_refused(kind: str) -> None:
    xyz, offsets, _ = points(10)
    # The shape check of tests speaks first where it can (TypeError), torch itself otherwise.
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        student(kind)(xyz, offsets, torch.zeros(10, 3))


def test_a_student_must_say_how_it_encodes() -> None:
    with pytest.raises(TypeError, match="abstract"):
        PointStudent("raw")  # pyright: ignore[reportAbstractUsage]


@KINDS
@pytest.mark.parametrize("space", ["simplex", "unit", "raw"])
def test_a_start_from_rows_begins_near_their_mean(kind: str, space: Space) -> None:
    rows = to_space(torch.randn(200, 7) * 0.3 + torch.arange(7) * 0.5, space)
    net, cold = student(kind, space), student(kind, space)
    rows[3] = float("nan")
    rows[4] = 0.0
    net.start_from(rows)
    good = torch.cat([rows[:3], rows[5:]])

    def distance(of: PointStudent) -> Tensor:
        return torch.cdist(of(*points(60)), good.mean(dim=0)[None]).mean()

    assert distance(net) < 0.5 * distance(cold)


def test_a_start_spans_the_directions_of_the_rows() -> None:
    net = student("mlp")
    basis = torch.linalg.qr(torch.randn(7, 2)).Q
    net.start_from(torch.randn(500, 2) @ basis.T + 1.0)
    leading = net.last.weight[:, :2]
    torch.testing.assert_close(basis @ (basis.T @ leading), leading, rtol=1e-3, atol=1e-4)
    assert net.last.weight[:, 2:7].abs().max() < 1e-3


@pytest.mark.parametrize(
    "rows", [torch.zeros(3, 7), torch.zeros(0, 7), torch.full((2, 7), float("inf"))]
)
def test_a_start_from_nothing_changes_nothing(rows: Tensor) -> None:
    net = student("mlp", "simplex")
    before = net.last.weight.clone()
    net.start_from(rows)
    assert torch.equal(net.last.weight, before)


def test_a_start_from_rows_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="7 channels, the rows have 5"):
        student("mlp").start_from(torch.rand(10, 5))
