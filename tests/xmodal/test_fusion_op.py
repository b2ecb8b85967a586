"""The op `fusion`, alone and in a graph."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from xmodal.edges.encode.fusion import FusionOp
from xmodal.errors import DataError
from xmodal.graph import Graph
from xmodal.values import Embedding, Grids

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

MAPS = """
name: maps
nodes:
  mic: {kind: audio}
  semantics: {kind: grids}
  things: {kind: grids, channels: 3}
  heard: {kind: grids, channels: 8}
  again: {kind: grids, channels: 8}
  both: {kind: grids, channels: 3}
encode:
  mic -> heard: {op: grid_decoder, grid_hw: [8, 8], window_s: 0.5}
  mic -> again: {op: grid_decoder, grid_hw: [8, 8], window_s: 0.5}
  heard, again -> both: {op: fusion, how: confidence}
lift:
  semantics -> things: {op: cells, grid_hw: [8, 8], names: [other, wall, floor]}
distill:
  things -> both: {op: kl}
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


def maps(width: int, *valid: bool, hw: tuple[int, int] = (2, 3)) -> Grids:
    mark = torch.tensor(valid).repeat_interleave(hw[0] * hw[1])
    rows = torch.randn(len(mark), width, generator=torch.Generator().manual_seed(width))
    return Grids(
        rows=rows,
        valid=mark,
        weight=mark.float(),
        grid_hw=hw,
        offsets=torch.arange(len(valid) + 1) * hw[0] * hw[1],
    )


def test_maps_are_fused_cell_by_cell() -> None:
    op = FusionOp(how="gated")
    net = op.build(channels=5, source_channels=(6, 4)).eval()
    one, two = maps(6, True, False, False), maps(4, True, True, False)
    found = op(net, one, two)
    assert isinstance(found, Grids)
    assert (found.grid_hw, found.rows.shape) == ((2, 3), (18, 5))
    assert torch.equal(found.offsets, one.offsets)
    assert found.valid.view(3, 6).all(dim=1).tolist() == [True, True, False]
    # What one stream alone tells is its own vote; a cell sees no other cell.
    torch.testing.assert_close(found.rows[6:12], net.into[1](two.rows[6:12]))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    mixed = [replace(m, rows=torch.cat([m.rows[order], m.rows[6:]])) for m in (one, two)]
    torch.testing.assert_close(op(net, *mixed).rows[:6], found.rows[order])


def test_a_map_is_hidden_altogether_while_training() -> None:
    op = FusionOp(how="mean", drop=0.5)
    net = op.build(channels=5, source_channels=(6, 4)).train()
    torch.manual_seed(0)
    one, two = maps(6, *[True] * 30), maps(4, *[True] * 30)
    found = op(net, one, two).rows.view(30, 6, 5)
    alone = [net.into[i](m.rows).view(30, 6, 5) for i, m in enumerate((one, two))]
    near = [((found - part).abs() < 1e-5).all(dim=2) for part in alone]
    for cells in near:
        assert torch.equal(cells.any(dim=1), cells.all(dim=1))
        assert 0 < int(cells.all(dim=1).sum()) < 30


def test_a_graph_of_maps_is_sound() -> None:
    net = Graph.from_yaml(MAPS).build_nets()["both"]
    assert net.in_channels == (8, 8)
    assert net.out_channels == 3


def test_other_grids_are_refused() -> None:
    op = FusionOp()
    net = op.build(channels=5, source_channels=(6, 4))
    with pytest.raises(DataError, match="2 x 3 cells, 3 x 2 cells"):
        op(net, maps(6, True), maps(4, True, hw=(3, 2)))
    with pytest.raises(DataError, match="rows, 2 x 3 cells"):
        op(net, stream(6, *[True] * 6), maps(4, True))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="drop"):
        FusionOp(drop=1.0)
    with pytest.raises(ValueError, match="how: router"):
        FusionOp(top=2)
    with pytest.raises(ValueError, match="top"):
        FusionOp(how="router", top=0)
    with pytest.raises(DataError, match="top: 3"):
        FusionOp(how="router", top=3).build(channels=5, source_channels=(6, 4))
