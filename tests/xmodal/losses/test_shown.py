"""Pixels that teach the splats in them, against all pairs one by one."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from lifting.operator import LiftOperator
from xmodal.losses import shown_rows

CHANCE = torch.Generator().manual_seed(0)


def pairs(num_pixels: int = 7, num_splats: int = 5) -> LiftOperator:
    dense = torch.rand(num_pixels, num_splats, generator=CHANCE, dtype=torch.float64)
    dense[dense < 0.4] = 0
    row, col = dense.nonzero().unbind(1)
    return LiftOperator.from_coo(row, col, dense[row, col], shape=(num_pixels, num_splats))


def rows(num: int, *, simplex: bool = False) -> torch.Tensor:
    drawn = torch.randn(num, 4, generator=CHANCE, dtype=torch.float64)
    return drawn.softmax(1) if simplex else drawn


def one_by_one(
    pixels: torch.Tensor, splats: torch.Tensor, weights: LiftOperator, by: str
) -> torch.Tensor:
    total = mass = torch.zeros((), dtype=torch.float64)
    for p, m, w in zip(weights.row, weights.col, weights.weight, strict=True):
        if by == "cosine":
            apart = 1 - torch.cosine_similarity(pixels[p], splats[m], dim=0)
        else:
            told = pixels[p] / pixels[p].sum()
            apart = (told * (told / splats[m]).log()).sum()
        total, mass = total + w * apart, mass + w
    return total / mass


@pytest.mark.parametrize("by", ["cosine", "kl"])
def test_it_is_the_mean_over_all_pairs(by: Literal["cosine", "kl"]) -> None:
    weights, simplex = pairs(), by == "kl"
    pixels, splats = rows(7, simplex=simplex) * 0.7, rows(5, simplex=simplex)
    found = shown_rows(pixels, splats, weights, by=by)
    assert float(found) == pytest.approx(float(one_by_one(pixels, splats, weights, by)))


@pytest.mark.parametrize("by", ["cosine", "kl"])
def test_only_splats_learn(by: Literal["cosine", "kl"]) -> None:
    weights = pairs()
    pixels = rows(7, simplex=True).requires_grad_()
    splats = rows(5, simplex=True).requires_grad_()
    shown_rows(pixels, splats, weights, by=by).backward()
    assert pixels.grad is None
    assert splats.grad is not None
    held = pixels.detach()
    assert torch.autograd.gradcheck(
        lambda given: shown_rows(held, given, weights, by=by), (splats,)
    )


def test_agreement_is_no_loss() -> None:
    weights, one = pairs(), torch.tensor([[0.0, 3.0, 4.0, 0.0]], dtype=torch.float64)
    assert float(shown_rows(one.repeat(7, 1), one.repeat(5, 1) * 2, weights)) == pytest.approx(0)
    even = torch.full((1, 4), 0.25, dtype=torch.float64)
    found = shown_rows(even.repeat(7, 1) * 0.3, even.repeat(5, 1), weights, by="kl")
    assert float(found) == pytest.approx(0, abs=1e-12)


def test_pixels_that_show_nothing_teach_nothing() -> None:
    weights, splats = pairs(), rows(5)
    pixels = rows(7)
    pixels[3] = 0
    kept = torch.tensor([0, 1, 2, 4, 5, 6])
    without = shown_rows(pixels[kept], splats, weights.select_rows(kept))
    assert float(shown_rows(pixels, splats, weights)) == pytest.approx(float(without))


def test_without_pairs_there_is_no_loss() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    weights = LiftOperator.from_coo(empty, empty, torch.zeros(0), shape=(7, 5))
    splats = torch.randn(5, 4, requires_grad=True)
    loss = shown_rows(torch.randn(7, 4), splats, weights)
    loss.backward()
    assert float(loss.detach()) == 0
    assert splats.grad is not None
    assert float(splats.grad.abs().max()) == 0


def test_nan_is_not_hidden() -> None:
    weights, splats = pairs(), rows(5)
    splats[int(weights.col[0])] = float("nan")
    assert bool(shown_rows(rows(7), splats, weights).isnan())
