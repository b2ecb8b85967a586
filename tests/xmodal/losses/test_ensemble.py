"""The mean of several teachers' answers: by hand, with teachers missing, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from xmodal.edges.distill.ensemble import Ensemble
from xmodal.edges.distill.kl import Kl
from xmodal.errors import ConfigError, DataError
from xmodal.graph import Graph
from xmodal.values import Embedding


def embedding(values: Any, valid: list[bool] | None = None) -> Embedding:
    rows = torch.as_tensor(values, dtype=torch.float64)
    known = torch.ones(len(rows), dtype=torch.bool) if valid is None else torch.tensor(valid)
    return Embedding(
        rows=rows, valid=known, weight=known.to(rows), offsets=torch.arange(len(rows) + 1)
    )


def divergence(target: list[float], given: list[float]) -> float:
    return sum(t * math.log(t / g) for t, g in zip(target, given, strict=True) if t > 0)


ONE, OTHER, STUDENT = [0.8, 0.2], [0.2, 0.8], [0.6, 0.4]


def test_the_mean_of_probabilities_by_hand() -> None:
    teachers = [embedding([ONE]), embedding([OTHER])]
    got = Ensemble(mean="probabilities")(*teachers, embedding([STUDENT]))
    assert float(got) == pytest.approx(divergence([0.5, 0.5], STUDENT))
    got = Ensemble(mean="probabilities", shares=(3.0, 1.0))(*teachers, embedding([STUDENT]))
    assert float(got) == pytest.approx(divergence([0.65, 0.35], STUDENT))


def test_the_mean_of_logits_by_hand() -> None:
    teachers = [embedding([ONE]), embedding([OTHER])]
    got = Ensemble()(*teachers, embedding([STUDENT]))
    assert float(got) == pytest.approx(divergence([0.5, 0.5], STUDENT))
    # odds 4 and 1/4, of which the first counts three times: 4 to the power 3/4 - 1/4
    got = Ensemble(shares=(3.0, 1.0))(*teachers, embedding([STUDENT]))
    assert float(got) == pytest.approx(divergence([2 / 3, 1 / 3], STUDENT))


def test_one_sure_teacher_has_a_veto_in_logits_alone() -> None:
    teachers = [embedding([[1.0, 0.0]]), embedding([[0.1, 0.9]])]
    sure = Ensemble()(*teachers, embedding([[1.0 - 1e-9, 1e-9]]))
    assert float(sure) < 1e-6
    open_ = Ensemble(mean="probabilities")(*teachers, embedding([[1.0 - 1e-9, 1e-9]]))
    assert float(open_) > 5


def test_teachers_of_one_mind_are_one_teacher() -> None:
    rows = torch.rand(6, 4, dtype=torch.float64).softmax(dim=1)
    student = embedding(torch.rand(6, 4, dtype=torch.float64).softmax(dim=1))
    for mean in ("logits", "probabilities"):
        op = Ensemble(mean=mean, temperature=3.0, shares=(0.2, 5.0))
        got = op(embedding(rows), embedding(rows), student)
        torch.testing.assert_close(got, Kl(temperature=3.0)(embedding(rows), student))


def test_a_missing_teacher_is_left_out() -> None:
    nan = [math.nan, math.nan]
    one = embedding([ONE, nan, nan], [True, False, False])
    other = embedding([OTHER, OTHER, nan], [True, True, False])
    student = embedding([STUDENT, STUDENT, STUDENT])
    for mean in ("logits", "probabilities"):
        got = Ensemble(mean=mean)(one, other, student)
        wanted = (divergence([0.5, 0.5], STUDENT) + divergence(OTHER, STUDENT)) / 2
        assert float(got) == pytest.approx(wanted)
    nobody = embedding([nan], [False])
    assert float(Ensemble()(nobody, nobody, embedding([STUDENT]))) == 0


def test_gradients_reach_the_student_through_its_head() -> None:
    op = Ensemble(project="linear", temperature=2.0)
    head = op.build(channels=3, teacher_channels=2, source_channels=(2, 2), space="raw")
    assert isinstance(head, nn.Module)
    head.double()
    given = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    teachers = [embedding(torch.rand(5, 2).softmax(dim=1)) for _ in range(2)]
    student = embedding(torch.zeros(5, 3))
    op(*teachers, replace(student, rows=given), net=head).backward()
    assert float(given.grad.abs().sum()) > 0


GRAPH = """
name: ensemble
nodes:
  imu:     {kind: imu}
  actions: {kind: labels}
  truth:   {kind: embedding, channels: 4}
  one:     {kind: embedding, channels: 4}
  two:     {kind: embedding, channels: 4}
  motion:  {kind: embedding, channels: 4}
encode:
  imu -> one:    {op: imu_tcn, size: micro}
  imu -> two:    {op: imu_tcn, size: micro}
  imu -> motion: {op: imu_tcn, size: micro}
lift:
  actions -> truth: {op: one_hot, names: [a, b, c, d]}
distill:
  truth -> one: {op: kl}
  truth -> two: {op: kl}
  one, two -> motion: {op: ensemble}
"""


def test_a_student_of_students_has_their_space() -> None:
    graph = Graph.from_yaml(GRAPH)
    assert graph.space("motion") == "simplex"
    assert graph.build_nets()["motion"].space == "simplex"


def test_edges_that_are_no_ensemble() -> None:
    with pytest.raises(ConfigError, match="two teachers"):
        Graph.from_yaml(GRAPH.replace("one, two -> motion", "one -> motion")).build_nets()
    with pytest.raises(ConfigError, match="3 shares"):
        Graph.from_yaml(
            GRAPH.replace("{op: ensemble}", "{op: ensemble, shares: [1, 1, 1]}")
        ).build_nets()
    with pytest.raises(ConfigError, match="same classes"):
        Ensemble(project="linear").build(
            channels=3, teacher_channels=2, source_channels=(2, 4), space="raw"
        )


@pytest.mark.parametrize("shares", [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (math.inf, 1.0)])
def test_shares_that_say_nothing(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="shares"):
        Ensemble(shares=shares)


def test_teachers_of_other_recordings() -> None:
    with pytest.raises(DataError, match="1, 2 rows"):
        Ensemble()(embedding([ONE]), embedding([ONE, ONE]), embedding([STUDENT]))
