"""Training of a field begins with the closed form of its sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detectors.splat_field import SplatField
from lifting.operator import LiftOperator
from xmodal.edges.distill.set_cosine import SetCosine
from xmodal.edges.distill.set_kl import SetKl
from xmodal.edges.encode.splat_field import SplatFieldOp
from xmodal.train.loop import Distill, Student, TrainOptions, fit
from xmodal.values import Points, PointSets

SPLATS, SETS, CHANNELS = 30, 200, 8
# Nothing learns: what training begins with is what is left.
STILL = TrainOptions(
    steps=1, lr=1e-9, weight_decay=0.0, crops=1, crop_points=SPLATS, loss_rows=SPLATS,
    min_set_points=1,
)  # fmt: skip


def scene(*, simplex: bool = False) -> dict[str, Any]:
    """Splats with true rows of two directions, and sets of three splats each that show them."""
    chance = torch.Generator().manual_seed(0)
    truth = torch.randn(SPLATS, 2, generator=chance) @ torch.randn(2, CHANNELS, generator=chance)
    col = torch.stack([torch.randperm(SPLATS, generator=chance)[:3] for _ in range(SETS)])
    sets = LiftOperator.from_coo(
        torch.arange(SETS).repeat_interleave(3),
        col.reshape(-1),
        torch.rand(3 * SETS, generator=chance) + 0.1,
        shape=(SETS, SPLATS),
    )
    rows = sets.mean().apply(truth)
    cloud = Points(xyz=torch.rand(SPLATS, 3, generator=chance), offsets=torch.tensor([0, SPLATS]))
    seen = PointSets(
        rows=rows.softmax(dim=1) if simplex else rows,
        valid=torch.ones(SETS, dtype=torch.bool),
        weight=torch.ones(SETS),
        membership=sets,
    )
    return {"cloud": cloud, "seen": seen}


def trained(
    op: Any, nodes: dict[str, Any], out: Path, *, start: str = "lifted", width: int = 3
) -> tuple[Tensor, nn.Module | None]:
    """Rows of a field after a step that changes nothing, and the head of its edge."""
    torch.manual_seed(1)
    net = SplatField(SPLATS, width, space="raw", start=start)  # pyright: ignore[reportArgumentType]
    given: dict[str, Any] = {"space": "raw"} if op.op == "set_kl" else {}
    head = op.build(channels=width, teacher_channels=CHANNELS, **given)
    fit({"field": Student(SplatFieldOp(), net)}, [Distill(op, "seen", "field", head)], [nodes],
        STILL, out)  # fmt: skip
    return net.rows.detach(), head


def closed_form(nodes: dict[str, Any]) -> Tensor:
    return nodes["seen"].membership.transpose().lift(nodes["seen"].rows).rows


@pytest.mark.parametrize("project", ["linear", "mlp"])
@pytest.mark.parametrize("standardise", ["none", "channel"])
def test_a_field_begins_with_the_closed_form(
    tmp_path: Path, project: str, standardise: str
) -> None:
    nodes = scene()
    op = SetCosine(project=project, decode="sets", standardise=standardise)  # pyright: ignore[reportArgumentType]
    rows, head = trained(op, nodes, tmp_path)
    assert head is not None
    assert torch.allclose(head.in_teacher_space(rows), closed_form(nodes), atol=1e-3)  # pyright: ignore[reportCallIssue]


def test_without_a_decoder_rows_are_the_closed_form(tmp_path: Path) -> None:
    nodes = scene()
    rows, _ = trained(SetCosine(), nodes, tmp_path, width=CHANNELS)
    assert torch.allclose(rows, closed_form(nodes), atol=1e-5)


def test_a_field_of_probabilities_begins_near_what_is_seen(tmp_path: Path) -> None:
    nodes = scene(simplex=True)
    op = SetKl(project="mlp")
    losses = {}
    for start in ("lifted", "random"):
        rows, head = trained(op, nodes, tmp_path / start, start=start)
        points = replace(nodes["cloud"], rows=rows)
        losses[start] = op(nodes["seen"], points, net=head).item()
    assert losses["lifted"] < 0.3 * losses["random"]


@pytest.mark.parametrize(("project", "start"), [("linear", "random"), ("orthogonal", "lifted")])
def test_a_field_begins_at_random_where_it_must(tmp_path: Path, project: str, start: str) -> None:
    op = SetCosine(project=project, decode="sets")  # pyright: ignore[reportArgumentType]
    rows, _ = trained(op, scene(), tmp_path, start=start)
    assert rows.abs().max() < 0.1


def test_a_field_that_was_trained_before_keeps_its_rows(tmp_path: Path) -> None:
    op: Any = SetCosine(project="linear", decode="sets")
    net = SplatField(SPLATS, 3, space="raw")
    before = net.rows.detach().clone()
    head = op.build(channels=3, teacher_channels=CHANNELS)
    student = Student(SplatFieldOp(), net, warm=True)
    fit({"field": student}, [Distill(op, "seen", "field", head)], [scene()], STILL, tmp_path)
    assert torch.allclose(net.rows, before, atol=1e-6)
