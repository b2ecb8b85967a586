"""Matching of places: what is looked at, what counts, learning across axes, the op in a graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from detectors.audio_cnn import AudioCNN
from detectors.grid_decoder import DenseGrid, GridDecoder
from detectors.panorama_cnn import PanoramaCNN
from xmodal.edges.distill.spatial_matching import SpatialMatching as Op
from xmodal.errors import ConfigError, DataError
from xmodal.graph import Graph
from xmodal.losses import MatchedTeachers, SpatialMatching
from xmodal.train.pooling import rows_and_maps
from xmodal.values import Grids

SIDES = ((1, 2), (2, 4))


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def made(channels: int = 3) -> SpatialMatching:
    torch.manual_seed(0)
    return SpatialMatching((5, 4), channels, SIDES, width=6).double()


def maps(seed: int = 1, num: int = 2) -> list[Tensor]:
    return [draw(seed, num, 5, 2, 3), draw(seed + 1, num, 4, 7)]


def everywhere(num: int = 2) -> Tensor:
    return torch.ones(num, 2, 4, dtype=torch.bool)


def test_a_place_reads_the_mean_of_values_where_it_looks() -> None:
    net = made(1)
    student = torch.zeros(1, 5, 1, 3, dtype=torch.float64)
    student[0, 0] = torch.tensor([1.0, 2.0, 4.0])  # values
    student[0, 1] = torch.tensor([9.0, 0.0, 0.0])  # what is looked for
    with torch.no_grad():
        for layer in (net.keys[0], net.values[0], net.own[0]):
            layer.weight.zero_()
            layer.bias.zero_()
        net.values[0].weight[0, 0] = 1.0
        net.keys[0].weight[0, 1] = 100.0
        net.places[0].zero_()
        net.places[0][0, 0] = 1.0  # the first place looks for it, the second looks nowhere
    found = net.aligned([student, maps()[1][:1]])[0]
    torch.testing.assert_close(found[0, :, 0], torch.tensor([1.0, 7 / 3]).double())


def test_cells_are_averaged_over_what_was_observed() -> None:
    net = made(1)
    with torch.no_grad():
        for part in (*net.values, *net.own):
            part.weight.zero_()
            part.bias.zero_()
    teacher = torch.zeros(1, 1, 2, 4, dtype=torch.float64)
    teacher[0, 0, 0, 0] = 2.0
    teacher[0, 0, 1, 1] = 100.0
    valid = everywhere(1)
    valid[0, 1, :2] = False
    # layer 1 has the mean 2 / 2 in its left cell (of half weight), layer 2 a 2 among 6 cells
    expected = ((0.5 * 1.0) / 1.5 + 4 / 6) / 2
    got = net(teacher, [one[:1] for one in maps()], valid=valid)
    assert got.item() == pytest.approx(expected)


def test_what_was_not_observed_does_not_matter() -> None:
    net, valid = made(), everywhere()
    valid[0] = False
    valid[1, 0, 2] = False
    teacher = draw(3, 2, 3, 2, 4)
    expected = net(teacher, maps(), valid=valid)
    spoilt = torch.where(valid[:, None], teacher, torch.nan)
    student = [one.requires_grad_() for one in maps()]
    got = net(spoilt, student, valid=valid)
    got.backward()
    torch.testing.assert_close(got, expected)
    assert all(
        float(one.grad[0].abs().sum()) == 0 < float(one.grad[1].abs().sum()) for one in student
    )


def test_nothing_observed_is_zero_with_gradient_zero() -> None:
    student = [one.requires_grad_() for one in maps()]
    got = made()(draw(3, 2, 3, 2, 4), student, valid=~everywhere())
    got.backward()
    assert got.item() == 0
    assert float(student[0].grad.abs().sum()) == 0


@pytest.mark.parametrize("compare", ["mse", "cosine"])
def test_gradients(compare: Any) -> None:
    net, student = made(), [one.requires_grad_() for one in maps()]
    assert torch.autograd.gradcheck(
        lambda a, b: net(draw(3, 2, 3, 2, 4), [a, b], valid=everywhere(), compare=compare),
        tuple(student),
    )


def test_places_are_found_whatever_the_students_axes_are() -> None:
    # the student's places stand in another order than the teacher's, the same for all samples
    torch.manual_seed(0)
    teacher = draw(3, 16, 2, 2, 4)
    order = torch.randperm(8)
    position = nn.functional.one_hot(order, 8).double().T.expand(16, 8, 8)
    student = torch.cat([teacher.flatten(2)[:, :, order], 6 * position], dim=1)
    net = SpatialMatching((10,), 2, ((2, 4),), width=16).double()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.03)
    valid, history = everywhere(16), []
    for _ in range(250):
        optimiser.zero_grad()
        loss = net(teacher, [student], valid=valid)
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    # the mean of all samples at a place, which needs no student, leaves the variance
    assert history[-1] < 0.2 * teacher.var(dim=0, unbiased=False).mean().item()


@pytest.mark.parametrize(
    ("channels", "sides", "named"),
    [((), (), "0 maps"), ((4,), SIDES, "1 maps"), ((4, 0), SIDES, "student_channels")],
)
def test_layers_that_do_not_fit(channels: Any, sides: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SpatialMatching(channels, 3, sides)


def test_other_numbers_of_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="1 maps, not 2"):
        made()(draw(3, 2, 3, 2, 4), maps()[:1], valid=everywhere())


# The op.


def listener() -> GridDecoder:
    torch.manual_seed(0)
    return GridDecoder(AudioCNN(2, 32, 24, "micro"), 1, DenseGrid((8, 16), levels=2))


def sides_of(matching: MatchedTeachers) -> list[tuple[tuple[int, int], ...]]:
    return [part.sides for part in matching.parts if isinstance(part, SpatialMatching)]


def dense(num: int, channels: int = 3, hw: tuple[int, int] = (8, 16)) -> Grids:
    rows = draw(5, num * hw[0] * hw[1], channels).float()
    return Grids(
        rows=rows,
        valid=torch.ones(len(rows), dtype=torch.bool),
        weight=torch.ones(len(rows)),
        grid_hw=hw,
        offsets=torch.arange(num + 1) * hw[0] * hw[1],
    )


def test_the_op_meets_the_maps_of_a_decoder() -> None:
    net, op = listener().eval(), Op(layers=2, compare="cosine")
    has = torch.tensor([True, False, True])
    given = rows_and_maps(net, draw(1, 2, *net.in_shape).float(), has)
    assert given.maps is not None
    assert [one.shape[0] for one in given.maps] == [3, 3, 3]
    torch.testing.assert_close(given.rows[:128], net(draw(1, 2, *net.in_shape).float())[0])
    assert given.rows[128:256].abs().sum().item() == 0
    matching = op.build(source_channels=(3,), student=net)
    assert sides_of(matching) == [((4, 8), (8, 16))]
    told = dense(3)
    told.rows[128:256] = torch.nan  # a recording without the student's stream
    loss = op(told, given, net=matching)
    loss.backward()
    assert torch.isfinite(loss)
    assert any(float(p.grad.abs().sum()) > 0 for p in net.trunk.parameters() if p.grad is not None)


def test_the_op_wants_maps_and_its_module() -> None:
    net = listener()
    matching = Op(layers=2).build(source_channels=(3,), student=net)
    given = rows_and_maps(net, draw(1, 1, *net.in_shape).float(), torch.tensor([True]))
    with pytest.raises(DataError, match="inner maps"):
        Op(layers=2)(dense(1), replace(given, maps=None), net=matching)
    with pytest.raises(TypeError, match="pass the module"):
        Op(layers=2)(dense(1), given)


def test_a_student_without_maps_is_refused() -> None:
    with pytest.raises(ConfigError, match="grid_decoder"):
        Op().build(source_channels=(3,), student=nn.Linear(2, 2))


def test_a_network_that_teaches_is_met_layer_by_layer() -> None:
    torch.manual_seed(0)
    eye = GridDecoder(PanoramaCNN((32, 64), "micro"), 2, DenseGrid((16, 32)), aligned=True).eval()
    ear = listener().eval()
    op = Op(layers=2, most_cells=128)
    matching = op.build(source_channels=(2, 3), student=ear, teachers=(eye, None))
    # Its own layers of at most 128 cells; of the other teacher the sizes of the student's.
    assert sides_of(matching) == [((4, 8), (8, 16)), ((4, 8), (8, 16))]
    has = torch.tensor([True, True])
    seen = rows_and_maps(eye, draw(2, 2, *eye.in_shape).float(), has)
    given = rows_and_maps(ear, draw(1, 2, *ear.in_shape).float(), has)
    told = dense(2)
    whole = op(seen, told, given, net=matching)
    mine, theirs = matching.student_layers, matching.teacher_layers
    parts = [part for part in matching.parts if isinstance(part, SpatialMatching)]
    alone = [
        op(one, given, net=MatchedTeachers([parts[i]], mine, [theirs[i]]))
        for i, one in enumerate((seen, told))
    ]
    torch.testing.assert_close(whole, (alone[0] + alone[1]) / 2)
    with pytest.raises(DataError, match="the teacher's inner maps"):
        op(replace(seen, maps=None), told, given, net=matching)


def test_layer_by_layer_by_hand() -> None:
    net = SpatialMatching((5,), [1], ((1, 2),), width=6).double()
    with torch.no_grad():
        for part in (*net.values, *net.own):
            part.weight.zero_()
            part.bias.zero_()
    inner = torch.tensor([[[[3.0, 1.0], [1.0, 5.0]]]]).double()
    valid = torch.tensor([[[True, True, True, True], [True, True, False, False]]])
    # The right half of the lower row was not observed: means 2 and 1, the latter of half weight.
    got = net([inner.expand(2, 1, 2, 2)], maps()[:1], valid=valid.expand(2, 2, 4))
    assert got.item() == pytest.approx((4.0 + 0.5 * 1.0) / 1.5)


def test_other_numbers_of_the_teachers_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="1 maps of the teacher"):
        SpatialMatching((5, 4), [3], SIDES)
    with pytest.raises(ValueError, match="the teacher gives 1 maps, not 2"):
        made()([draw(3, 2, 3, 2, 4)], maps(), valid=everywhere())


def test_too_large_maps_are_refused() -> None:
    with pytest.raises(ConfigError, match="up to 8 cells"):
        Op(layers=2, most_cells=8).build(source_channels=(3,), student=listener())


@pytest.mark.parametrize(("setting", "value"), [("layers", 0), ("width", 0), ("weight", -1.0)])
def test_settings_that_mean_nothing(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=setting):
        TypeAdapter(Op).validate_python({"op": "spatial_matching", setting: value})


GRAPH = """\
name: x
nodes:
  mic: {kind: audio}
  depth: {kind: grids, channels: 1}
  seen: {kind: grids, channels: 1}
encode:
  mic -> seen: {op: grid_decoder, size: micro, grid_hw: [8, 16], levels: 2}
  seen -> depth: {op: ema}
distill:
  depth -> seen: {op: spatial_matching, layers: 3}
"""


def test_a_graph_builds_embeddings_for_its_students_maps() -> None:
    nets = Graph.from_yaml(GRAPH).build_nets()
    matching = nets["depth -> seen"]
    assert isinstance(matching, MatchedTeachers)
    assert sides_of(matching) == [((2, 4), (4, 8), (8, 16))]
