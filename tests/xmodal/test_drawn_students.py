"""Students that shape splats as ops, and the graphs that teach them through renderings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.xmodal.drawn_scene import CHANNELS, floor, truth
from xmodal.config.problems import ConfigReportError
from xmodal.edges.encode.gaussian_head import GaussianHeadOp
from xmodal.edges.encode.splat_scene import SplatSceneOp
from xmodal.errors import DataError
from xmodal.graph import Graph
from xmodal.splats.values import as_gaussians

CLOUD = floor(120)


def test_a_head_draws_the_cloud_as_it_is() -> None:
    op = GaussianHeadOp(voxel_m=0.1, inputs=("rgb", "height"))
    drawn = op(op.build(channels=CHANNELS, space="unit"), CLOUD)
    wanted = truth(CLOUD)
    assert torch.allclose(drawn.means, wanted.means)
    assert torch.allclose(drawn.scales, wanted.scales, rtol=1e-4)
    assert drawn.sh is not None
    assert wanted.sh is not None
    # Colours beside black and white come back by a step of 8 bits: 0.004 / 0.28 of a coefficient.
    assert torch.allclose(drawn.sh, wanted.sh, atol=0.015)
    assert drawn.rows is not None
    assert drawn.rows.shape == (120, CHANNELS)


def test_samples_of_a_head_start_apart() -> None:
    op = GaussianHeadOp(voxel_m=0.1, inputs=("rgb", "height"))
    cut = replace(CLOUD, offsets=torch.tensor([0, 50, 120]))
    parts = [
        replace(
            CLOUD, xyz=CLOUD.xyz[rows], rgb=rows_rgb(rows), normals=None,
            offsets=torch.tensor([0, rows.stop - rows.start]),
        )
        for rows in (slice(0, 50), slice(50, 120))
    ]  # fmt: skip
    whole = op.describe(replace(cut, normals=None))
    assert torch.allclose(whole, torch.cat([op.describe(part) for part in parts]))


def rows_rgb(rows: slice) -> torch.Tensor:
    assert CLOUD.rgb is not None
    return CLOUD.rgb[rows]


def test_a_scene_is_the_splats_that_it_starts_from() -> None:
    op, bare = SplatSceneOp(), as_gaussians(truth(CLOUD))
    net = op.build(channels=CHANNELS, num_rows=120, space="unit")
    drawn = op(net, bare)
    assert torch.allclose(drawn.means, bare.means)
    assert torch.allclose(drawn.opacities, bare.opacities, atol=1e-5)
    assert drawn.rows is not None
    assert drawn.rows.shape == (120, CHANNELS)


def test_a_scene_is_one_scene() -> None:
    with pytest.raises(DataError, match="the splats of one scene"):
        SplatSceneOp().build(channels=4, num_rows=None)
    two = replace(as_gaussians(truth(CLOUD)), offsets=torch.tensor([0, 60, 120]))
    with pytest.raises(DataError, match="2 scenes"):
        SplatSceneOp().describe(two)


@pytest.mark.parametrize(
    ("op", "wrong"),
    [
        (GaussianHeadOp, {"reach": 0.0}), (GaussianHeadOp, {"opacity": 1.0}),
        (GaussianHeadOp, {"voxel_m": -1.0}), (SplatSceneOp, {"width": 0}),
        (SplatSceneOp, {"reach_m": float("nan")}),
    ],
)  # fmt: skip
def test_settings_of_students(op: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        op(**wrong)


# ---- the graph -----------------------------------------------------------------------------------

GRAPH = """
name: drawn
nodes:
  cameras: {kind: image}
  cloud:   {kind: points}
  maps:    {kind: feature_map, channels: 384}
  lifted:  {kind: points, channels: 384, on: cloud}
  frames:  {kind: frames, channels: 384}
  drawn:   {kind: gaussians, channels: 384, on: cloud}
encode:
  cameras -> maps: {op: imagenet_dense, space: unit}
  cloud -> drawn:  {op: gaussian_head}
lift:
  maps, cloud -> lifted:   {op: points}
  cameras, maps -> frames: {op: frames}
distill:
  frames -> drawn: {op: render}
"""


def test_a_graph_of_frames() -> None:
    graph = Graph.from_yaml(GRAPH)
    assert Graph.from_yaml(graph.to_yaml()) == graph
    assert graph.space("drawn") == "unit"
    assert "frames" in graph.frozen_nodes()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("{op: gaussian_head}", "{op: sparse_unet}", "gives"),
        ("frames -> drawn: {op: render}", "lifted -> drawn: {op: render}", "equal kinds"),
        ("frames -> drawn: {op: render}", "frames -> drawn: {op: cosine}", "equal kinds"),
        ("drawn:   {kind: gaussians, channels: 384", "drawn:   {kind: gaussians, channels: 32",
         "equal channels"),
        ("frames:  {kind: frames, channels: 384}", "frames:  {kind: frames, channels: 7}", "384"),
        ("frames:  {kind: frames, channels: 384}", "frames:  {kind: frames}", "channels"),
        ("{op: render}", "{op: render, by: kl}", "simplex"),
        ("{op: render}", "{op: render, colour: 0, depth: 0, features: 0}", "above 0"),
        ("cameras, maps -> frames", "maps -> frames", "image"),
    ],
)  # fmt: skip
def test_wrong_graphs_are_named(old: str, new: str, told: str) -> None:
    assert old in GRAPH
    with pytest.raises(ConfigReportError, match=told):
        Graph.from_yaml(GRAPH.replace(old, new))


def test_a_field_of_fixed_splats_is_not_rendered() -> None:
    text = GRAPH.replace("  drawn: ", "  splats:  {kind: gaussians}\n  drawn: ")
    text = text.replace("on: cloud}\nencode", "on: splats}\nencode")
    text = text.replace("cloud -> drawn:  {op: gaussian_head}", "splats -> drawn: {op: OP}")
    made = "cameras, cloud -> splats: {op: fit_splats, steps: 0, strategy: none}\n"
    text = text.replace("lift:\n", f"lift:\n  {made}")
    Graph.from_yaml(text.replace("OP", "splat_scene"))
    with pytest.raises(ConfigReportError, match="a student that shapes splats"):
        Graph.from_yaml(text.replace("OP", "splat_field"))
