"""Ops of students over voxels: both networks, masks, spaces, clouds without colour."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from xmodal import load_graph
from xmodal.edges.encode.point_mlp import PointMlp
from xmodal.edges.encode.point_transformer import PointTransformer
from xmodal.edges.encode.sparse_unet import SparseUnet
from xmodal.errors import ConfigError, DataError
from xmodal.train.inference import predict
from xmodal.values import Points

OPS = pytest.mark.parametrize("op", [SparseUnet, PointTransformer])
EVERY_OP = pytest.mark.parametrize("op", [SparseUnet, PointTransformer, PointMlp])


def cloud(num: int = 60) -> Points:
    generator = torch.Generator().manual_seed(num)
    return Points(
        xyz=torch.rand(num, 3, generator=generator) * torch.tensor([2.0, 2.0, 0.2]),
        offsets=torch.tensor([0, num]),
        rgb=torch.rand(num, 3, generator=generator),
    )


@OPS
@pytest.mark.parametrize("space", ["unit", "simplex", "raw", None])
def test_rows_in_the_space_that_is_asked_for(op: Any, space: Any) -> None:
    edge = op()
    rows = edge(edge.build(channels=7, space=space), cloud()).rows
    assert rows.shape == (60, 7)
    if space == "unit":
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(60))
    if space == "simplex":
        torch.testing.assert_close(rows.sum(dim=1), torch.ones(60))


@OPS
@pytest.mark.parametrize("ratio", [0.0, 0.6])
def test_a_mask_is_for_training_only(op: Any, ratio: float) -> None:
    torch.manual_seed(0)
    edge = op(mask_ratio=ratio, inputs=("rgb", "height"))
    net = edge.build(channels=5)
    assert ("mask_token" in net.state_dict()) == (ratio > 0)
    net.eval()
    assert torch.equal(edge(net, cloud()).rows, edge(net, cloud()).rows)
    net.train()
    encoded = net.encode(cloud().xyz, cloud().offsets, edge.describe(cloud()))
    assert (encoded.masked is not None) == (ratio > 0)
    assert torch.isfinite(predict(edge, net, cloud()).rows).all()


def test_weights_without_a_mask_fit_a_student_that_is_used_without_one() -> None:
    trained = SparseUnet(mask_ratio=0.5).build(channels=5)
    plain = SparseUnet().build(channels=5)
    left = plain.load_state_dict(trained.state_dict(), strict=False)
    assert left.unexpected_keys == ["mask_token"]
    assert left.missing_keys == []
    rows = [predict(SparseUnet(), net, cloud()).rows for net in (trained, plain)]
    assert rows[0] is not None
    assert rows[1] is not None
    assert torch.equal(rows[0], rows[1])


@OPS
def test_a_copy_of_a_student_gives_the_same_rows(op: Any) -> None:
    net = op(mask_ratio=0.3).build(channels=5).eval()
    twin = copy.deepcopy(net)
    assert torch.equal(op()(net, cloud()).rows, op()(twin, cloud()).rows)


@EVERY_OP
def test_clouds_without_colour_suit_students_that_read_none(op: Any) -> None:
    edge = op(inputs=("normals", "height"))
    plain = replace(cloud(), rgb=None)
    rows = predict(edge, edge.build(channels=4), plain).rows
    assert rows is not None
    assert rows.shape == (60, 4)
    assert torch.isfinite(rows).all()
    with pytest.raises(DataError, match=r"inputs: \[normals, height\]"):
        op().describe(plain)


@OPS
@pytest.mark.parametrize(
    ("settings", "about"),
    [
        ({"voxel_m": 0.0}, "voxel_m must be above 0"),
        ({"voxel_m": float("inf")}, "voxel_m must be above 0"),
        ({"mask_ratio": 1.0}, "mask_ratio must be 0 or more and below 1"),
        ({"mask_ratio": -0.1}, "mask_ratio must be 0 or more and below 1"),
        ({"mask_ratio": float("nan")}, "mask_ratio must be 0 or more and below 1"),
        ({"mask_ratio": 0.5, "mask_cell_m": 0.01}, "mask_cell_m must be at least voxel_m"),
        ({"mask_ratio": 0.5, "mask_cell_m": float("inf")}, "mask_cell_m must be at least"),
        ({"inputs": ()}, "at most once"),
        ({"inputs": ("rgb", "rgb")}, "at most once"),
    ],
)
def test_settings_without_meaning_are_refused(op: Any, settings: Any, about: str) -> None:
    with pytest.raises(ValueError, match=about):
        op(**settings)


GRAPH = """
name: masked
nodes:
  cameras: {kind: image}
  depth: {kind: depth}
  cloud: {kind: points}
  maps: {kind: feature_map, channels: 8}
  lifted: {kind: points, channels: 8, on: cloud}
  student: {kind: points, channels: 8, on: cloud}
encode:
  cameras -> maps: {op: precomputed, folder: maps, space: unit}
  cloud -> student: {op: point_transformer, %s}
lift:
  maps, depth, cloud -> lifted: {op: points}
distill:
  lifted -> student: {op: cosine}
"""


def test_a_graph_file_names_the_transformer_and_its_mask(tmp_path: Any) -> None:
    file = tmp_path / "graph.yaml"
    file.write_text(GRAPH % "size: small, mask_ratio: 0.6, mask_cell_m: 0.3", encoding="utf-8")
    op = load_graph(file).encode["cloud -> student"]
    assert op == PointTransformer(size="small", mask_ratio=0.6, mask_cell_m=0.3)


@pytest.mark.parametrize("wrong", ["size: huge", "mask_ratio: 1.5", "width: 3"])
def test_a_graph_file_with_a_wrong_setting_is_refused(tmp_path: Any, wrong: str) -> None:
    file = tmp_path / "graph.yaml"
    file.write_text(GRAPH % wrong, encoding="utf-8")
    with pytest.raises(ConfigError, match=wrong.split(":")[0]):
        load_graph(file)
