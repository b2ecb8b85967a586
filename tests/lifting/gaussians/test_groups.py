"""Groups of splats that touch, and boxes around them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifting.gaussians.groups import group_splats, splat_box
from lifting.gaussians.splats import Splats


def row_of(
    x: list[float], sigma: float = 0.1, opacities: list[float] | None = None, turn: float = 0.0
) -> Splats:
    """Round splats along the x axis, turned about z."""
    along = torch.tensor(x)
    means = torch.stack(
        (along * math.cos(turn), along * math.sin(turn), torch.zeros(len(x))), 1
    )  # fmt: skip
    return Splats(
        means=means,
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(len(x), 1),
        scales=torch.full((len(x), 3), sigma),
        opacities=torch.tensor(opacities or [1.0] * len(x)),
    )


def grouped(splats: Splats, link_m: float = 0.01) -> list[int]:
    return group_splats(splats, torch.arange(len(splats)), link_m=link_m).tolist()


def test_splats_touch_at_two_deviations_of_each() -> None:
    """Deviations of 0.1 reach 0.4 together; the step from 0.4 to 0.81 is a hair too wide."""
    assert grouped(row_of([0, 0.4, 0.81])) == [0, 0, 1]


def test_a_flat_splat_reaches_along_its_plane_only() -> None:
    flat = row_of([0, 0.5])
    flat.scales[0] = torch.tensor([0.01, 1.0, 1.0])
    assert grouped(flat) == [0, 1]
    flat.scales[0] = torch.tensor([1.0, 0.01, 0.01])
    assert grouped(flat) == [0, 0]


def test_turned_axes_reach_where_they_point() -> None:
    flat = row_of([0, 0.5])
    flat.scales[0] = torch.tensor([0.01, 1.0, 0.01])
    flat.quats[0] = torch.tensor([math.cos(math.pi / 4), 0, 0, math.sin(math.pi / 4)])
    assert grouped(flat) == [0, 0]


def test_tiny_splats_are_linked_by_distance() -> None:
    points = row_of([0, 1, 2, 4], sigma=1e-6)
    assert grouped(points, link_m=1.5) == [0, 0, 0, 1]


def test_haze_joins_a_group_and_never_two() -> None:
    """A transparent splat between two things goes to the nearer and does not tie them together."""
    splats = row_of([0, 0.3, 0.65], opacities=[1, 0.05, 1])
    assert grouped(splats) == [0, 0, 1]
    assert grouped(row_of([0, 0.3, 0.65])) == [0, 0, 0]


def test_a_floater_is_in_no_group() -> None:
    assert grouped(row_of([0, 3], opacities=[1, 0.05])) == [0, -1]
    assert grouped(row_of([0, 3], opacities=[0.01, 0.05])) == [-1, -1]


def test_only_chosen_splats_are_grouped() -> None:
    splats = row_of([0, 0.3, 0.6])
    labels = group_splats(splats, torch.tensor([0, 2]), link_m=0.01)
    assert labels.tolist() == [0, 1]
    assert group_splats(splats, torch.tensor([], dtype=torch.int64), link_m=1.0).tolist() == []


def test_splats_at_one_place_are_one_group() -> None:
    assert set(grouped(row_of([1.0] * 5))) == {0}


@given(st.permutations(range(8)))
@settings(deadline=None, max_examples=20)
def test_the_order_of_splats_does_not_matter(order: list[int]) -> None:
    splats = row_of([0, 0.3, 0.6, 2, 2.3, 5, 5.2, 9])
    labels = group_splats(splats, torch.tensor(order), link_m=0.01)
    together = {frozenset(torch.tensor(order)[labels == k].tolist()) for k in labels.tolist()}
    assert together == {frozenset(s) for s in ({0, 1, 2}, {3, 4}, {5, 6}, {7})}


def test_a_box_by_hand() -> None:
    box = splat_box(row_of([0, 2], sigma=0.5))
    torch.testing.assert_close(box.centre_m, torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(box.size_m, torch.tensor([3.0, 1, 1]))
    torch.testing.assert_close(box.T_world_box[:3, :3], torch.eye(3))


def test_an_upright_box_turns_with_its_thing() -> None:
    box = splat_box(row_of([0, 2, 4], turn=math.pi / 6), up=torch.tensor([0, 0, 2.0]))
    sides = sorted(box.size_m.tolist())
    assert sides == pytest.approx([0.2, 0.2, 4.2], rel=1e-3)
    wanted = torch.tensor([2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6), 0])
    torch.testing.assert_close(box.centre_m, wanted, atol=1e-4, rtol=0)
    R = box.T_world_box[:3, :3]
    torch.testing.assert_close(R @ R.T, torch.eye(3), atol=1e-6, rtol=0)
    assert float(torch.linalg.det(R)) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(R[:, 2], torch.tensor([0.0, 0, 1]))


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("link_m", [0.0, -1.0, math.nan, math.inf])
def test_links_need_a_length(link_m: float) -> None:
    with pytest.raises(ValueError, match="link_m"):
        group_splats(row_of([0.0]), torch.tensor([0]), link_m=link_m)


@pytest.mark.parametrize("opacity", [-0.1, 1.1, math.nan])
def test_solid_is_an_opacity(opacity: float) -> None:
    with pytest.raises(ValueError, match="solid_opacity"):
        group_splats(row_of([0.0]), torch.tensor([0]), link_m=1.0, solid_opacity=opacity)


@pytest.mark.parametrize("up", [[0.0, 0, 0], [math.nan, 0, 1]])
def test_up_must_point_somewhere(up: list[float]) -> None:
    with pytest.raises(ValueError, match="up must be a direction"):
        splat_box(row_of([0.0]), up=torch.tensor(up))


def test_nothing_has_no_box() -> None:
    with pytest.raises(ValueError, match="at least one splat"):
        splat_box(row_of([0.0]).select(torch.tensor([], dtype=torch.int64)))
