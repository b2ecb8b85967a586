"""Several teachers and a router: what counts, who learns from what, missing teachers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from xmodal.edges.distill.routed import Routed
from xmodal.errors import ConfigError, DataError
from xmodal.graph import Graph
from xmodal.losses import RoutedTeachers, info_nce
from xmodal.values import Embedding

WIDTHS = (4, 6)


def rows(seed: int, num: int = 8, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, width, generator=generator, dtype=torch.float64)


def teachers() -> list[Tensor]:
    return [rows(10 + width, 8, width) for width in WIDTHS]


def made(**settings: Any) -> RoutedTeachers:
    torch.manual_seed(0)
    return RoutedTeachers(5, WIDTHS, **settings).double()


def all_there(num: int = 8) -> Tensor:
    return torch.ones(num, len(WIDTHS), dtype=torch.bool)


def embedding(values: Tensor, valid: Tensor | None = None) -> Embedding:
    valid = torch.ones(len(values), dtype=torch.bool) if valid is None else valid
    return Embedding(
        rows=values, valid=valid, weight=valid.float(), offsets=torch.arange(len(values) + 1)
    )


def test_one_teacher_alone_is_a_contrast_with_it() -> None:
    net = made()
    only = all_there()
    only[:, 1] = False
    got = net(teachers(), rows(0), only, temperature=0.2, balance=0.0)
    expected = info_nce(teachers()[0], net.heads[0](rows(0)), temperature=0.2)
    torch.testing.assert_close(got, expected)


def test_the_best_teacher_counts_alone_and_two_by_their_shares() -> None:
    net = made()
    share = net.shares(rows(0), all_there())
    torch.testing.assert_close(share.sum(dim=1), torch.ones(8).double())
    each = torch.stack(
        [
            torch.nn.functional.cross_entropy(
                torch.nn.functional.normalize(head(rows(0)), dim=1)
                @ torch.nn.functional.normalize(told, dim=1).T
                / 0.1,
                torch.arange(8),
                reduction="none",
            )
            for told, head in zip(teachers(), net.heads, strict=True)
        ],
        dim=1,
    )
    best = each.gather(1, share.argmax(dim=1, keepdim=True)).mean()
    torch.testing.assert_close(net(teachers(), rows(0), all_there(), balance=0.0), best)
    both = net(teachers(), rows(0), all_there(), top=2, balance=0.0)
    torch.testing.assert_close(both, (share * each).sum(dim=1).mean())


def test_balance_is_a_divergence_from_equal_use() -> None:
    net = made()
    plain = net(teachers(), rows(0), all_there(), balance=0.0)
    used = net.shares(rows(0), all_there()).mean(dim=0)
    expected = plain.item() + 2.0 * (0.5 * (0.5 / used).log()).sum().item()
    got = net(teachers(), rows(0), all_there(), balance=2.0)
    assert got.item() == pytest.approx(expected)


def test_the_router_learns_to_expect_less_and_the_student_from_the_chosen() -> None:
    net = made()
    optimiser = torch.optim.Adam(net.router.parameters(), lr=0.05)
    student = rows(0)
    # the second teacher's rows are all alike: nothing can be told apart by it
    told = [teachers()[0], torch.ones(8, 6).double()]
    net.heads[0].weight.data.zero_()[:, :4] = torch.eye(4)
    told[0] = net.heads[0](student).detach()
    for _ in range(60):
        optimiser.zero_grad()
        net(told, student, all_there(), balance=0.0).backward()
        optimiser.step()
    assert net.shares(student, all_there())[:, 0].min().item() > 0.9
    given = student.clone().requires_grad_()
    net.zero_grad()
    net(told, given, all_there(), balance=0.0).backward()
    assert float(given.grad.abs().sum()) > 0
    assert net.heads[1].weight.grad is None or float(net.heads[1].weight.grad.abs().sum()) == 0


def test_what_is_missing_does_not_matter() -> None:
    net = made()
    there = all_there()
    there[2, 0] = there[5] = False
    told = teachers()
    expected = net(told, rows(0), there)
    told[0][2] = math.nan
    told[1][5] = told[0][5] = math.inf
    student = rows(0)
    student[5] = math.nan
    student.requires_grad_()
    got = net(told, student, there)
    got.backward()
    torch.testing.assert_close(got, expected)
    assert torch.isfinite(student.grad).all()
    assert float(student.grad[5].abs().sum()) == 0


def test_no_row_with_a_teacher() -> None:
    student = rows(0).requires_grad_()
    got = made()(teachers(), student, ~all_there())
    got.backward()
    assert got.item() == 0
    assert float(student.grad.abs().sum()) == 0


def test_nan_that_was_observed_is_not_hidden() -> None:
    told = teachers()
    told[0][1, 1] = math.nan
    assert math.isnan(made()(told, rows(0), all_there(), top=2).item())


def test_gradients() -> None:
    net = made().eval()
    net.router[2].weight.data.zero_()  # the student has no gradient through the router, by intent
    student = rows(0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: net(teachers(), s, all_there(), temperature=0.5, top=2), student
    )


def test_masks_begin_at_one_and_learn() -> None:
    torch.testing.assert_close(
        made()(teachers(), rows(0), all_there(), top=2),
        made(mask=False)(teachers(), rows(0), all_there(), top=2),
    )
    net = made()
    net(teachers(), rows(0), all_there(), top=2).backward()
    assert all(float(mask.weight.grad.abs().sum()) > 0 for mask in net.masks)


def test_teachers_are_dropped_in_training_only() -> None:
    net = made()
    torch.manual_seed(1)
    hidden = net(teachers(), rows(0), all_there(), top=2, drop=0.9)
    full = net(teachers(), rows(0), all_there(), top=2)
    assert not torch.equal(hidden, full)
    net.eval()
    assert torch.equal(net(teachers(), rows(0), all_there(), top=2, drop=0.9), full)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"top": 0}, "top"),
        ({"drop": 1.0}, "drop"),
        ({"balance": -1.0}, "balance"),
        ({"hidden_channels": 0}, "hidden_channels"),
        ({"weight": 0.0}, "weight"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        TypeAdapter(Routed).validate_python({"op": "routed", **settings})


def test_one_teacher_needs_no_router() -> None:
    with pytest.raises(ValueError, match="two teachers"):
        RoutedTeachers(5, (4,))
    with pytest.raises(ConfigError, match="two teachers"):
        Routed().build(channels=5, source_channels=(4,))


# The op.


def test_the_op_leaves_out_what_is_not_valid() -> None:
    op = Routed(top=2)
    torch.manual_seed(0)
    net = op.build(channels=5, source_channels=WIDTHS)
    valid = torch.arange(8) != 3
    told = [embedding(one.float(), valid) for one in teachers()]
    told[0].rows[3] = math.nan
    student = rows(0).float().requires_grad_()
    op(*told, embedding(student), net=net).backward()
    assert float(student.grad[3].abs().sum()) == 0
    assert float(student.grad[4].abs().sum()) > 0


def test_the_op_wants_equal_numbers_and_its_module() -> None:
    op = Routed()
    net = op.build(channels=5, source_channels=WIDTHS)
    told = [embedding(one.float()) for one in teachers()]
    with pytest.raises(DataError, match="8, 8, 7 rows"):
        op(*told, embedding(rows(0, 7).float()), net=net)
    with pytest.raises(TypeError, match="pass the module"):
        op(*told, embedding(rows(0).float()))


GRAPH = """\
name: x
nodes:
  mic: {kind: audio}
  truth: {kind: labels}
  heard: {kind: embedding, channels: 1024}
  words: {kind: embedding, channels: 384}
  sound: {kind: embedding, channels: 16}
encode:
  mic -> heard: {op: yamnet}
  truth -> words: {op: label_text}
  mic -> sound: {op: audio_cnn, size: tiny}
distill:
  heard, words -> sound: {op: routed, top: 2}
"""


def test_a_graph_with_two_teachers_of_one_student() -> None:
    graph = Graph.from_yaml(GRAPH)
    nets = graph.build_nets()
    net = nets["heard, words -> sound"]
    assert isinstance(net, RoutedTeachers)
    assert [head.out_features for head in net.heads] == [1024, 384]
    with pytest.raises(ConfigError, match="truth"):
        Graph.from_yaml(GRAPH.replace("heard, words -> sound", "heard, truth -> sound"))
