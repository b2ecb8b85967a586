from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from xmodal.edges.lift.agreement import Agreement
from xmodal.errors import DataError
from xmodal.graph.graph import Graph
from xmodal.values import Points


def points(seed: int, width: int) -> Points:
    generator = torch.Generator().manual_seed(seed)
    return Points(
        xyz=torch.rand(40, 3, generator=generator),
        offsets=torch.tensor([0, 40]),
        rows=torch.randn(2, width, generator=generator).repeat_interleave(20, dim=0),
        valid=torch.ones(40, dtype=torch.bool),
        weight=torch.full((40,), 2.0),
    )


def test_only_the_weights_of_the_first_change() -> None:
    first, second = points(0, 4), points(1, 6)
    assert second.rows is not None
    wrong = second.rows.clone()
    wrong[7] = second.rows[30]
    found = Agreement(least=0.25)(first, replace(second, rows=wrong))
    assert found.rows is first.rows
    assert found.weight is not None
    assert float(found.weight[7]) == pytest.approx(0.5)
    assert float(found.weight[8]) > 1.5


def test_one_teacher_alone_is_an_error() -> None:
    with pytest.raises(DataError, match="two or more"):
        Agreement()(points(0, 4))


def test_a_teacher_without_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="no rows"):
        Agreement()(points(0, 4), replace(points(1, 4), rows=None))


@pytest.mark.parametrize("wrong", [{"least": -0.1}, {"power": 0.0}, {"num_anchors": 2}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Agreement(**wrong)  # pyright: ignore[reportArgumentType]


def test_a_graph_with_two_teachers_on_one_student() -> None:
    graph = Graph.from_yaml(
        """
name: two
nodes:
  cameras: {kind: image}
  depth:   {kind: depth}
  cloud:   {kind: points}
  names:   {kind: feature_map, channels: 384}
  patches: {kind: feature_map, channels: 384}
  lifted:  {kind: points, channels: 384, on: cloud}
  dino:    {kind: points, channels: 384, on: cloud}
  agreed:  {kind: points, channels: 384, on: cloud}
  student: {kind: points, channels: 96, on: cloud}
encode:
  cameras -> names:   {op: imagenet_dense}
  cameras -> patches: {op: dino}
  cloud -> student:   {op: sparse_unet}
lift:
  names, depth, cloud -> lifted: {op: points}
  patches, depth, cloud -> dino: {op: points}
  lifted, dino -> agreed: {op: agreement}
distill:
  agreed -> student: {op: cosine, project: mlp}
  dino -> student:   {op: cosine, project: linear}
"""
    )
    nets = graph.build_nets()
    assert set(nets) == {"student", "agreed -> student", "dino -> student"}
    assert graph.space("agreed") == "unit"
    assert graph.space("student") is None
