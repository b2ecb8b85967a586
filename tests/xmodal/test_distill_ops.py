"""Every distillation op, from its name and settings through its head to a gradient."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lifting.operator import LiftOperator
from xmodal import losses
from xmodal.config.validation import adapter
from xmodal.edges import op_class, op_names
from xmodal.edges.distill.head import Head
from xmodal.edges.distill.kl import Kl
from xmodal.edges.distill.meet import meet, meet_sets
from xmodal.edges.distill.mse import Mse
from xmodal.edges.distill.segment_contrast import SegmentContrast
from xmodal.edges.distill.set_cosine import SetCosine
from xmodal.errors import ConfigError, DataError
from xmodal.graph import Graph
from xmodal.graph.ports import ports_of
from xmodal.values import Points, PointSets

ROWS, WIDTH, OWN = 24, 6, 4
# Settings that choose another way through an op, beside its defaults.
WAYS: dict[str, list[dict[str, Any]]] = {
    "info_nce": [
        {"negatives": "queue", "queue_size": 16},
        {"negatives": "sampled", "num_negatives": 3},
        {"soft": True},
    ],
    "queue_similarity": [{"student_temperature": 0.05}],
    "correlation": [{"inter": 0.0}, {"intra": 0.0}],
    "cwcl": [{"both_ways": False}],
    "relational": [{"kind": "affinity"}],
    "wasserstein": [{"form": "primal"}],
    "direction_norm": [{"pseudo": "arg_max"}, {"num_classes": 3}],
    "decoupled": [{"scales": ["point"]}, {"scales": ["whole"]}],
    "part_distill": [{"divergence": "kl"}, {"backward": 0.0}],
    "kl": [{"temperature": 2.0}],
}
# Losses between rows of one teacher and one student; others have tests of their own.
PAIRED = [
    name
    for name in op_names("distill")
    if not (port := ports_of(op_class("distill", name)).inputs[0]).many
    and port.kinds not in (("frames",), ("grids",))
]
CASES = [(name, way) for name in PAIRED for way in ({}, *WAYS.get(name, []))]
EVERY = pytest.mark.parametrize(
    ("name", "way"), CASES, ids=[" ".join([n, *map(str, w.values())]) for n, w in CASES]
)
FEATURE_OPS = [n for n in op_names("distill") if hasattr(op_class("distill", n), "standardise")]
STATEFUL = [
    ("info_nce", {"negatives": "queue", "queue_size": 16}),
    ("queue_similarity", {"queue_size": 16}),
    ("shared_dimensions", {}),
    ("direction_norm", {}),
    ("wasserstein", {"form": "dual"}),
]


def make(name: str, **settings: Any) -> Any:
    """The op as a file gives it."""
    data = json.dumps({"op": name, **settings})
    return adapter(op_class("distill", name)).validate_json(data, strict=True)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def points(rows: Tensor, **rest: Any) -> Points:
    return Points(
        xyz=torch.zeros(len(rows), 3), offsets=torch.tensor([0, len(rows)]), rows=rows, **rest
    )


def is_simplex(op: Any) -> bool:
    return "unit" not in op.teacher_spaces


def ends(op: Any, width: int = WIDTH) -> tuple[Points | PointSets, Points]:
    """A teacher with `WIDTH` channels and a student with `width`, as the op wants them."""
    told, given = draw(0, ROWS, WIDTH), draw(1, ROWS, width)
    if is_simplex(op):
        told, given = told.softmax(dim=1), given.softmax(dim=1)
    student = points(given.requires_grad_(), masked=torch.arange(ROWS) % 3 == 0)
    if ports_of(type(op)).inputs[0].kinds == ("point_sets",):
        index = torch.arange(ROWS)
        each = LiftOperator.from_coo(index // 4, index, torch.ones(ROWS), shape=(6, ROWS))
        sets = PointSets(
            rows=told[:6],
            valid=torch.ones(6, dtype=torch.bool),
            weight=torch.arange(1.0, 7.0),
            membership=each,
            groups=torch.arange(6) // 2,
            views=torch.arange(6) // 4,
        )
        return sets, student
    teacher = points(
        told,
        valid=torch.arange(ROWS) != 5,
        weight=torch.arange(ROWS) / 4.0,
        disagreement=torch.linspace(0, 0.9, ROWS),
        segments=torch.arange(ROWS) // 4,
    )
    return teacher, student


def call(op: Any, teacher: Any, student: Points, net: Any) -> Tensor:
    return op(teacher, student, **({} if net is None else {"net": net}))


@EVERY
@pytest.mark.parametrize("project", ["none", "orthogonal"])
def test_every_op_learns(name: str, way: dict[str, Any], project: str) -> None:
    refused = {"mask_contrast": "no teacher's rows", "shared_dimensions": "project has no effect"}
    if project == "orthogonal" and name in refused:
        with pytest.raises(ValueError, match=refused[name]):
            make(name, project=project)
        return
    op = make(name, project=project, **way)
    width = WIDTH if project == "none" else OWN
    net = op.build(channels=width, teacher_channels=WIDTH)
    teacher, student = ends(op, width)
    call(op, teacher, student, net)  # a first step, after which queues and means are filled
    call(op, teacher, student, net).backward()
    assert student.rows is not None
    assert student.rows.grad is not None
    assert torch.isfinite(student.rows.grad).all()
    assert student.rows.grad.abs().sum() > 0
    for parameter in [] if net is None else net.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


@EVERY
def test_every_op_is_zero_where_nothing_was_observed(name: str, way: dict[str, Any]) -> None:
    op = make(name, **way)
    net = op.build(channels=WIDTH, teacher_channels=WIDTH)
    teacher, student = ends(op)
    call(op, teacher, student, net)
    blind = replace(teacher, valid=torch.zeros_like(teacher.weight, dtype=torch.bool))
    blind = replace(blind, rows=torch.full_like(blind.rows, math.nan))
    got = call(op, blind, student, net)
    got.backward()
    assert got.item() == 0.0
    assert student.rows.grad.abs().sum() == 0


@EVERY
def test_every_op_survives_the_round_trip_of_a_file(name: str, way: dict[str, Any]) -> None:
    op = make(name, **way)
    plain = adapter(type(op)).dump_python(op, mode="json")
    assert plain["op"] == name
    assert make(**{"name": name} | {k: v for k, v in plain.items() if k != "op"}) == op


@EVERY
@pytest.mark.parametrize("rows", ["masked", "visible"])
def test_masked_rows_are_chosen(name: str, way: dict[str, Any], rows: str) -> None:
    op = make(name, rows=rows, **way)
    net = op.build(channels=WIDTH, teacher_channels=WIDTH)
    teacher, student = ends(op)
    call(op, teacher, student, net)
    call(op, teacher, student, net).backward()
    hidden = student.masked if rows == "visible" else ~student.masked
    assert student.rows.grad[hidden].abs().sum() == 0
    assert student.rows.grad[~hidden].abs().sum() > 0
    with pytest.raises(DataError, match="which points were masked"):
        call(op, teacher, replace(student, masked=None), net)


@pytest.mark.parametrize(("name", "way"), STATEFUL)
def test_state_is_part_of_the_checkpoint(name: str, way: dict[str, Any]) -> None:
    op = make(name, **way)
    net, twin = (op.build(channels=WIDTH, teacher_channels=WIDTH) for _ in range(2))
    teacher, student = ends(op)
    call(op, teacher, student, net)
    twin.load_state_dict(net.state_dict())
    net.eval()
    twin.eval()
    assert torch.equal(call(op, teacher, student, net), call(op, teacher, student, twin))


@pytest.mark.parametrize(("name", "way"), STATEFUL)
def test_a_loss_with_a_state_wants_it(name: str, way: dict[str, Any]) -> None:
    op = make(name, **way)
    with pytest.raises(TypeError, match="pass the module"):
        op(*ends(op))


# Settings that ops share.


def test_rows_whose_views_agree_count_more() -> None:
    teacher = points(torch.zeros(2, 1), disagreement=torch.tensor([0.0, 0.5]))
    student = points(torch.tensor([[1.0], [2.0]]))
    assert float(Mse()(teacher, student)) == pytest.approx(2.5)
    got = Mse(agreement_power=2.0)(teacher, student)
    assert float(got) == pytest.approx((1 + 0.25 * 4) / 1.25)
    # beside coverage: 1 / (1 + 1) for both
    covered = replace(teacher, weight=torch.ones(2))
    assert float(Mse(agreement_power=2.0)(covered, student)) == pytest.approx(float(got))
    # a teacher that does not know it counts as before
    bare = replace(teacher, disagreement=None)
    assert float(Mse(agreement_power=2.0)(bare, student)) == pytest.approx(2.5)


def test_unobserved_disagreement_does_not_matter() -> None:
    teacher = points(
        torch.zeros(2, 1),
        weight=torch.tensor([1.0, 0.0]),
        disagreement=torch.tensor([0.5, math.nan]),
    )
    got = Mse(agreement_power=1.0)(teacher, points(torch.ones(2, 1)))
    assert float(got) == pytest.approx(1.0)


def test_equal_segments_of_two_samples_stay_apart() -> None:
    teacher = replace(
        points(draw(0, 4, 3), segments=torch.tensor([0, -1, 0, 1])), offsets=torch.tensor([0, 2, 4])
    )
    pair = meet(teacher, replace(teacher, segments=None))
    assert pair.segments is not None
    assert pair.segments.tolist() == [0, -1, 2, 3]
    assert pair.sample.tolist() == [0, 0, 1, 1]


def test_segments_may_be_the_students() -> None:
    teacher, student = points(draw(0, 6, 3)), points(draw(1, 6, 3))
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    a = SegmentContrast()(replace(teacher, segments=groups), student)
    assert torch.equal(SegmentContrast()(teacher, replace(student, segments=groups)), a)


@pytest.mark.parametrize("name", ["segment_contrast", "decoupled"])
def test_losses_on_segments_want_segments(name: str) -> None:
    with pytest.raises(DataError, match=name):
        make(name)(points(draw(0, 6, 3)), points(draw(1, 6, 3)))


@pytest.mark.parametrize("name", FEATURE_OPS)
@pytest.mark.parametrize(
    ("kind", "project"), [("channel", "none"), ("phi", "linear"), ("whiten", "none")]
)
def test_teacher_rows_are_standardised(name: str, kind: str, project: str) -> None:
    project = "linear" if name == "relational" else project  # has no width of its own
    op = make(name, standardise=kind, project=project)
    width = WIDTH if project == "none" else OWN
    net = op.build(channels=width, teacher_channels=WIDTH)
    teacher, student = ends(op, width)
    call(op, teacher, student, net)
    call(op, teacher, student, net).backward()
    assert isinstance(net, Head)
    assert int(net.standardise.count) > 0
    assert torch.isfinite(student.rows.grad).all()


def test_standardised_without_a_layer_the_student_stays_in_the_teachers_space() -> None:
    op, teacher = Mse(standardise="channel"), points(5 + 3 * draw(0, 50, 4))
    net = op.build(channels=4, teacher_channels=4)
    assert op(teacher, points(teacher.rows.clone()), net=net).item() == pytest.approx(0.0)
    assert torch.equal(net.in_teacher_space(teacher.rows), teacher.rows)


def test_standardised_with_a_layer_the_heads_rows_go_back_to_the_teachers_space() -> None:
    op, teacher = Mse(standardise="phi", project="linear"), points(5 + 3 * draw(0, 50, 4))
    net = op.build(channels=3, teacher_channels=4)
    student = draw(1, 50, 3)
    op(teacher, points(student), net=net)
    back = net.in_teacher_space(student)
    torch.testing.assert_close(net.standardise(back), net(student), rtol=1e-4, atol=1e-5)


# Probabilities.


@pytest.mark.parametrize("space", ["unit", "raw", None])
def test_kl_gives_students_of_every_space_a_classifier(space: Any) -> None:
    op = Kl(project="linear")
    net = op.build(channels=2, teacher_channels=3, space=space)
    teacher = points(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]))
    rows = torch.tensor([[-1.0, 0.0], [0.0, -1.0]])  # no logarithm of these
    got = op(teacher, points(rows), net=net)
    expected = torch.nn.functional.cross_entropy(net.project(rows), torch.tensor([0, 1]))
    torch.testing.assert_close(got, expected)


def test_kl_of_probabilities_sees_logarithms() -> None:
    op = Kl(project="linear")
    net = op.build(channels=3, teacher_channels=3, space="simplex")
    torch.nn.init.eye_(net.project.weight)
    rows = draw(0, 5, 3).softmax(dim=1)
    torch.testing.assert_close(net(rows).softmax(dim=1), rows)
    assert op(points(rows), points(rows), net=net).item() == pytest.approx(0.0, abs=1e-6)


# What graphs say of them.


GRAPH = """\
name: x
nodes:
  cameras: {{kind: image}}
  cloud: {{kind: points}}
  maps: {{kind: feature_map, channels: 5}}
  lifted: {{kind: points, channels: 5, on: cloud}}
  student: {{kind: points, channels: {width}, on: cloud}}
encode:
  cameras -> maps: {{op: precomputed, folder: x, space: unit, frozen: true}}
  cloud -> student: {{op: point_mlp, width: 8, depth: 1, inputs: [rgb]}}
lift:
  maps, cloud -> lifted: {{op: points}}
distill:
  lifted -> student: {{{edge}}}
"""


def graph(edge: str, width: int) -> Graph:
    return Graph.from_yaml(GRAPH.format(edge=edge, width=width))


def test_relations_need_no_projection_where_widths_differ() -> None:
    related = graph("op: relational", 7)
    assert related.build_nets().keys() == {"student"}
    with pytest.raises(ConfigError, match="equal channels"):
        graph("op: cosine", 7)


@pytest.mark.parametrize(
    ("edge", "key"),
    [
        ("op: info_nce, temperature: 0", "temperature"),
        ("op: info_nce, soft: true, ignore_above: 0.5", "choose one"),
        ("op: info_nce, queue_size: 0", "queue_size"),
        ("op: cosine, rows: hidden", "masked"),
        ("op: cosine, standardise: pca", "whiten"),
        ("op: cosine, agreement_power: -1", "agreement_power"),
        ("op: smooth_l1, beta: 0", "beta"),
        ("op: relational, rows_cap: 0", "rows_cap"),
        ("op: relational, standardise: phi", "project: linear"),
        ("op: segment_contrast, segments_cap: 0", "segments_cap"),
        ("op: wasserstein, epsilon: 0", "epsilon"),
        ("op: wasserstein, form: entropic", "primal"),
        ("op: direction_norm, momentum: 1", "momentum"),
        ("op: direction_norm, num_classes: 0", "num_classes"),
        ("op: decoupled, scales: []", "scales"),
        ("op: decoupled, scales: [point, point]", "scales"),
        ("op: decoupled, target: 0, others: 0", "not both 0"),
        ("op: set_cosine", "point_sets"),
        ("op: mask_contrast, temperature: 0", "temperature"),
        ("op: kl", "simplex"),
    ],
)
def test_settings_without_meaning_are_reported_with_the_file(edge: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        graph(edge, 5)


@pytest.mark.parametrize("settings", [{"backward": 2.0}, {"gamma": 0.0}])
def test_re_scoring_without_meaning_is_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        op_class("distill", "part_distill")(**settings)


@pytest.mark.parametrize("settings", [{"standardise": "phi"}, {"allow_simplex": True}])
def test_settings_without_effect_on_probabilities_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match="no effect"):
        op_class("distill", "part_distill")(divergence="kl", **settings)


# Sets of points.


@pytest.mark.parametrize("missing", ["groups", "views"])
def test_a_contrast_of_masks_wants_sets_that_know_theirs(missing: str) -> None:
    op = make("mask_contrast")
    sets, student = ends(op)
    with pytest.raises(DataError, match=f"without {missing}"):
        op(replace(sets, **{missing: None}), student)


def test_a_contrast_of_masks_sees_what_sets_show() -> None:
    op = make("mask_contrast", coverage_half=0)
    sets, student = ends(op)
    shown = sets.membership.mean().apply(student.rows)
    expected = losses.mask_contrast(shown, sets.groups, sets.views)
    torch.testing.assert_close(op(sets, student), expected)


def some_sets(num: int = 3) -> PointSets:
    index = torch.arange(num)
    return PointSets(
        rows=draw(0, num, 4),
        valid=torch.ones(num, dtype=torch.bool),
        weight=torch.ones(num),
        membership=LiftOperator.from_coo(index, index, torch.ones(num), shape=(num, num)),
    )


def test_sets_weigh_by_coverage_that_saturates() -> None:
    sets = replace(some_sets(), weight=torch.tensor([1.0, 3.0, 0.0]))
    pair = meet_sets(sets, points(draw(1, 3, 4)))
    torch.testing.assert_close(pair.weight, torch.tensor([0.5, 0.75]))
    assert pair.membership.num_targets == len(pair.teacher) == 2
    even = meet_sets(sets, points(draw(1, 3, 4)), coverage_half=0.0)
    torch.testing.assert_close(even.weight, torch.ones(2))


def test_sets_of_other_points_are_refused() -> None:
    with pytest.raises(DataError, match="3 points"):
        SetCosine()(some_sets(), points(draw(1, 5, 4)))
    with pytest.raises(DataError, match="no rows"):
        SetCosine()(some_sets(), replace(points(draw(1, 3, 4)), rows=None))


def test_a_set_whose_points_were_all_visible_says_nothing_to_masked_rows() -> None:
    student = points(draw(1, 3, 4), masked=torch.tensor([True, False, True]))
    got = SetCosine(rows="masked")(some_sets(), student)
    seen = torch.tensor([0, 2])
    expected = losses.cosine(some_sets().rows[seen], student.rows[seen])
    torch.testing.assert_close(got, expected)
