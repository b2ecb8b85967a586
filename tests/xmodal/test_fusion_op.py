"""The op `fusion`, alone and in a graph."""

from __future__ import annotations

import pytest
import torch

from xmodal.edges.encode.fusion import FusionOp
from xmodal.errors import DataError
from xmodal.graph import Graph
from xmodal.values import Embedding

GRAPH = """
name: both
nodes:
  mic: {kind: audio}
  imu: {kind: imu}
  sound: {kind: embedding, channels: 6}
  motion: {kind: embedding, channels: 4}
  together: {kind: embedding, channels: 5}
  teacher: {kind: embedding, channels: 5}
encode:
  mic -> sound: {op: audio_cnn, size: micro, window_s: 0.5}
  imu -> motion: {op: imu_tcn, size: micro, window_s: 1.0}
  motion, sound -> together: {op: fusion, how: gated}
  mic -> teacher: {op: audio_transformer, size: micro, window_s: 0.5}
distill:
  teacher -> together: {op: mse}
  together -> teacher: {op: mse}
"""


def stream(width: int, *valid: bool, weight: float = 1.0) -> Embedding:
    generator = torch.Generator().manual_seed(width)
    mark = torch.tensor(valid)
    return Embedding(
        rows=torch.randn(len(valid), width, generator=generator),
        valid=mark,
        weight=mark * weight,
        offsets=torch.arange(len(valid) + 1),
    )


def test_rows_of_what_is_there() -> None:
    op = FusionOp(how="mean")
    net = op.build(channels=5, source_channels=(6, 4)).eval()
    one, two = stream(6, True, False, False), stream(4, True, True, False)
    found = op(net, one, two)
    assert found.valid.tolist() == [True, True, False]
    assert found.weight.tolist() == [1.0, 1.0, 0.0]
    expected = (net.into[0](one.rows[:1]) + net.into[1](two.rows[:1])) / 2
    torch.testing.assert_close(found.rows[:1], expected)
    torch.testing.assert_close(found.rows[1:2], net.into[1](two.rows[1:2]))
    assert (found.rows[2] == 0).all()


def test_rows_that_weigh_nothing_are_not_there() -> None:
    op = FusionOp()
    net = op.build(channels=5, source_channels=(6, 4))
    found = op(net, stream(6, True, weight=0.0), stream(4, False))
    assert not found.valid.any()


def test_a_graph_tells_the_op_how_wide_its_sources_are() -> None:
    net = Graph.from_yaml(GRAPH).build_nets()["together"]
    assert net.in_channels == (4, 6)  # in the order of the edge
    assert net.out_channels == 5


def test_streams_of_other_recordings_are_refused() -> None:
    op = FusionOp()
    net = op.build(channels=5, source_channels=(6, 4))
    with pytest.raises(DataError, match="2 rows, 3 rows"):
        op(net, stream(6, True, True), stream(4, True, True, True))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="drop"):
        FusionOp(drop=1.0)
    with pytest.raises(ValueError, match="how: router"):
        FusionOp(top=2)
    with pytest.raises(ValueError, match="top"):
        FusionOp(how="router", top=0)
    with pytest.raises(DataError, match="top: 3"):
        FusionOp(how="router", top=3).build(channels=5, source_channels=(6, 4))
