"""From command line words to settings."""

from __future__ import annotations

import pytest

from xmodal.errors import UsageError
from xmodal.runs.settings import default_graph, parse_bytes, scene_name, teacher_op


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500 * 10**6), ("4GB", 4 * 10**9), ("1.5 gb", 15 * 10**8), ("12", 12), ("0", 0)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "4 gigabytes", "1e3"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="disk-budget"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("clip", "embedded"),
        ("", "no name"),
        ("embedded:large", "without model"),
        ("sparse_unet", "one of"),
        ("precomputed", "folder"),
    ],
)
def test_bad_teachers(spec: str, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        teacher_op(spec)


@pytest.mark.parametrize(("spec", "loss"), [("embedded", "kl"), ("dino", "cosine")])
def test_default_graph_suits_the_teachers_space(spec: str, loss: str) -> None:
    graph = default_graph("x", teacher_op(spec), voxel_m=0.02, up="z")
    assert [edge.op.op for edge in graph.losses()] == [loss]
    assert graph.frozen_nodes() == ("maps", "lifted")


def test_without_depth_the_points_hide_one_another() -> None:
    graph = default_graph("x", teacher_op("embedded"), voxel_m=0.02, up="z", depth=False)
    assert "depth" not in graph.nodes


def test_scene_names_are_graph_names() -> None:
    from pathlib import Path

    assert scene_name(Path("/a/my scan (2)")) == "my-scan-2"
