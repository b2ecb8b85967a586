"""Losses on what a set of points or splats shows: averaged first, decoded once."""

from __future__ import annotations

import math

import pytest
import torch

from detectors.memory_attention import MemoryAttention
from lifting.operator import LiftOperator
from xmodal.config.problems import ConfigReportError
from xmodal.edges.distill.meet import meet_sets, rendered
from xmodal.edges.distill.set_cosine import SetCosine
from xmodal.edges.distill.set_kl import SetKl
from xmodal.graph import Graph
from xmodal.train.sets import choose_sets
from xmodal.values import Points, PointSets

# Two sets of three points: the first holds points 0 and 1 in equal parts, the second point 2.
MEMBERS = LiftOperator.from_coo(
    torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]), torch.tensor([0.5, 0.5, 0.25]), shape=(2, 3)
)


def sets(rows: torch.Tensor) -> PointSets:
    return PointSets(
        rows=rows,
        valid=torch.ones(2, dtype=torch.bool),
        weight=torch.ones(2),
        membership=MEMBERS,
    )


def student(rows: torch.Tensor) -> Points:
    return Points(xyz=torch.zeros(3, 3), offsets=torch.tensor([0, 3]), rows=rows)


def test_a_set_shows_the_mean_of_its_points() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 2.0]])
    pair = rendered(meet_sets(sets(torch.eye(2)), student(rows)))
    assert torch.allclose(pair.student, torch.tensor([[0.5, 0.5], [4.0, 2.0]]))
    assert torch.equal(pair.membership.to_dense(), torch.eye(2))


def test_a_set_without_any_share_is_left_out() -> None:
    nothing = LiftOperator(
        crow=torch.tensor([0, 1, 1]),
        col=torch.tensor([2]),
        weight=torch.tensor([1.0]),
        num_sources=3,
    )
    teacher = PointSets(
        rows=torch.eye(2),
        valid=torch.ones(2, dtype=torch.bool),
        weight=torch.ones(2),
        membership=nothing,
    )
    pair = rendered(meet_sets(teacher, student(torch.ones(3, 2))))
    assert len(pair.teacher) == len(pair.student) == len(pair.weight) == 1


def test_decoding_once_differs_from_decoding_every_point() -> None:
    torch.manual_seed(0)
    # Opposite points: a ReLU cuts each of them elsewhere, and their mean hardly at all.
    teacher = sets(torch.randn(2, 4))
    rows = student(torch.tensor([[3.0, -2.0], [-3.0, 2.5], [1.0, 1.0]]))
    once = SetCosine(project="mlp", decode="sets")
    net = once.build(channels=2, teacher_channels=4)
    assert rows.rows is not None
    shown = torch.stack((rows.rows[:2].mean(0), rows.rows[2]))
    assert net is not None
    wanted = 1 - torch.cosine_similarity(teacher.rows, net(shown).detach(), dim=1).mean()
    assert float(once(teacher, rows, net=net).detach()) == pytest.approx(float(wanted), abs=1e-6)
    each = SetCosine(project="mlp")
    assert float(each(teacher, rows, net=net).detach()) != pytest.approx(float(wanted), abs=1e-4)


def test_probabilities_of_a_set_by_hand() -> None:
    teacher = sets(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    rows = student(torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.5, 0.5]]))
    # The first set shows (0.6, 0.4): KL = -log 0.6; the second agrees with its teacher.
    assert SetKl()(teacher, rows) == pytest.approx(-math.log(0.6) / 2, abs=1e-6)


def test_a_projection_gives_a_set_its_own_soft_max() -> None:
    loss = SetKl(project="linear")
    net = loss.build(channels=2, teacher_channels=3, space="raw")
    rows = student(torch.randn(3, 2, requires_grad=True))
    value = loss(sets(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])), rows, net=net)
    assert float(value.detach()) > 0
    value.backward()
    assert rows.rows is not None
    assert rows.rows.grad is not None


def test_temperature_is_checked() -> None:
    with pytest.raises(ValueError, match="temperature"):
        SetKl(temperature=0.0)


def test_where_a_projection_works_needs_a_projection() -> None:
    with pytest.raises(ValueError, match="project is none"):
        SetCosine(decode="sets")


def test_a_memory_is_a_projection() -> None:
    net = SetCosine(project="memory", decode="sets").build(channels=4, teacher_channels=6)
    memory = getattr(net, "memory", None)
    assert isinstance(memory, MemoryAttention)
    assert memory.components.shape == (256, 6)
    plain = SetCosine(project="mlp").build(channels=4, teacher_channels=6)
    assert getattr(plain, "memory", 0) is None


def test_some_of_the_sets() -> None:
    chosen = choose_sets(sets(torch.eye(2)), torch.tensor([1]))
    assert chosen.rows.tolist() == [[0, 1]]
    assert chosen.membership.to_dense().tolist() == [[0, 0, 0.25]]


def test_probabilities_are_no_directions() -> None:
    text = """
name: wrong
nodes:
  cameras: {kind: image}
  cloud:   {kind: points}
  maps:    {kind: masks, channels: 1000}
  parts:   {kind: point_sets, channels: 1000, on: cloud}
  student: {kind: points, channels: 384, on: cloud}
encode:
  cameras -> maps: {op: sam}
  cloud -> student: {op: point_mlp}
lift:
  maps, cloud -> parts: {op: mask_sets}
distill:
  parts -> student: {op: set_kl, project: linear}
"""
    with pytest.raises(ConfigReportError, match="simplex"):
        Graph.from_yaml(text.replace("1000", "256"))
